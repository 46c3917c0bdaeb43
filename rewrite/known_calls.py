"""Functions and layers that are given modules, by what they do with them."""

from __future__ import annotations

from rewrite.items import INDEX, Path, literal

SEQUENTIAL = "Sequential"
LISTS = frozenset({"ModuleList", "ParameterList"})
DICTIONARIES = frozenset({"ModuleDict", "ParameterDict"})

# the value itself comes back
PASSING = frozenset(
    {
        *("copy.deepcopy", "copy.copy", "torch.jit.script", "typing.cast"),
        *("torch.nn.utils.spectral_norm", "torch.nn.utils.weight_norm"),
        *("torch.nn.utils.parametrizations.spectral_norm", "torch.nn.utils.parametrizations.weight_norm"),
        *("torch.nn.utils.parametrizations.orthogonal", "torch.nn.utils.parametrize.register_parametrization"),
        *("torch.nn.utils.remove_weight_norm", "torch.nn.utils.remove_spectral_norm"),
        *("surgery.constrain", "surgery.apply_constraints"),
    }
)
# a collection of the same elements, perhaps at other places
COLLECTING = frozenset(
    f"builtins.{name}" for name in ("list", "tuple", "reversed", "sorted", "set", "enumerate", "zip", "iter", "sum")
) | {"itertools.chain", "collections.deque", "itertools.islice"}
KEYED = frozenset({"builtins.dict", "collections.OrderedDict"})
# they look, and keep nothing
HARMLESS = frozenset(
    f"builtins.{name}"
    for name in (
        *("isinstance", "issubclass", "print", "len", "type", "repr", "str", "id", "hasattr", "bool", "int", "any"),
        *("all", "range", "delattr", "callable", "super"),
    )
)
HARMLESS_PREFIXES = ("torch.nn.init.", "torch.nn.functional.", "logging.", "warnings.", "math.")
HARMLESS_METHODS = frozenset({"apply", "load_state_dict", "debug", "info", "warning", "warning_once"})
# methods that put their argument into what they are called on, at an index or under a name
ADDING = frozenset({"append", "insert", "add", "appendleft"})
NAMING = frozenset({"add_module", "register_module", "register_parameter", "register_buffer", "setdefault"})
SETTING = frozenset({"builtins.setattr", "builtins.object.__setattr__", "torch.nn.Module.__setattr__"})
REGISTRIES = frozenset({"_modules", "_parameters", "_buffers"})
# methods of a module that return it, and of a collection that give its elements
RETURNS_ITSELF = frozenset(
    {
        *("to", "cuda", "cpu", "half", "float", "double", "bfloat16", "eval", "train", "requires_grad_", "apply"),
        *("type", "share_memory", "copy", "xpu", "append", "extend", "insert"),
    }
)
ELEMENTS = frozenset({"values", "children", "modules"})
PAIRS = frozenset({"items", "named_children", "named_modules"})
CHILDREN_OF = frozenset({"children", "modules", "named_children", "named_modules"})
ONE_ELEMENT = frozenset({"pop", "get"})
# arguments of layers that become their children: layer -> argument -> (position, path of the child)
CHILDREN: dict[str, dict[str, tuple[int, Path]]] = {
    "TransformerEncoder": {"encoder_layer": (0, (literal("layers"), INDEX)), "norm": (2, (literal("norm"),))},
    "TransformerDecoder": {"decoder_layer": (0, (literal("layers"), INDEX)), "norm": (2, (literal("norm"),))},
    "DataParallel": {"module": (0, (literal("module"),))},
    "Transformer": {"custom_encoder": (8, (literal("encoder"),)), "custom_decoder": (9, (literal("decoder"),))},
}
