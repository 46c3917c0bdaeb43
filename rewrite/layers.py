"""The layers of torch.nn as a source file names them: which parameters and buffers a constructor call makes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Final

from computed.entry import REQUIRED, Parameter, parameters_of
from rewrite.layer_names import COUNTED, ROW_OF, Conditional, Name, conditionals, told, truth
from rewrite.layer_names import UNKNOWN as UNKNOWN

ARGS: Final = "*args"  # stands for the arguments by position that have no name
KWARGS: Final = "**kwargs"  # stands for keywords that are not told
CONTAINERS: Final = "modules.container"
# Arguments that bring modules or parameters along, whose names the call then does not tell.
BRINGING: Final[Mapping[str, tuple[str, ...]]] = {
    "Container": (KWARGS,),
    "DataParallel": ("module",),
    "ModuleDict": ("modules",),
    "ModuleList": ("modules",),
    "ParameterDict": ("parameters",),
    "ParameterList": ("values",),
    "Sequential": (ARGS,),
    "Transformer": ("custom_encoder", "custom_decoder"),
    "TransformerDecoder": ("decoder_layer",),
    "TransformerEncoder": ("encoder_layer",),
}


@dataclass(frozen=True)
class Layer:
    """One class of torch.nn.

    ``bases`` are the names of the classes in its method resolution order, itself first, without ``object``.
    The default of a parameter is `computed.entry.REQUIRED` where there is none, and `UNKNOWN` where it is no
    literal. ``variadic`` holds `ARGS` and `KWARGS` where the constructor takes such as well. ``container``: it
    is there to hold modules or parameters under names that the program gives. ``own`` and ``own_buffers`` are
    what its arguments make one by one; `tensors` says all that a call makes.
    """

    name: str
    full_name: str
    bases: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    variadic: tuple[str, ...] = ()
    container: bool = False
    own: tuple[Conditional, ...] = ()
    own_buffers: tuple[Conditional, ...] = ()

    @property
    def arguments(self) -> tuple[str, ...]:
        """The names of what the constructor takes, keyword-only ones last."""
        return tuple(parameter.name for parameter in self.parameters)

    @property
    def positional(self) -> tuple[str, ...]:
        """The names of what can be given by position."""
        return tuple(parameter.name for parameter in self.parameters if not parameter.keyword_only)


@dataclass(frozen=True)
class Tensors:
    """The names of what a layer holds, each tuple in the order of a state dict.

    ``certain`` parameters are there, ``possible`` ones may be, depending on what is unknown; buffers likewise.
    ``open``: there may be others, whose names the call does not tell.
    """

    certain: tuple[str, ...] = ()
    possible: tuple[str, ...] = ()
    buffers: tuple[str, ...] = ()
    possible_buffers: tuple[str, ...] = ()
    open: bool = False


@cache
def layer(full_name: str) -> Layer | None:
    """The layer of a dotted name, also by the modules where torch keeps it; None where torch.nn has no such class.

    >>> layer("torch.nn.modules.conv.Conv2d").full_name
    'torch.nn.Conv2d'
    >>> layer("torch.nn.functional.linear") is None
    True
    """
    place, _, name = full_name.rpartition(".")
    if name not in ROW_OF:
        return None
    home, _, bases, signature, own, buffers = ROW_OF[name]
    if place == "torch" or not f"torch.nn.{home}.".startswith(f"{place}."):
        return None
    return Layer(
        name,
        f"torch.nn.{name}",
        (name, *bases.replace("?d", name[-2:]).split()),
        tuple(_parameter(each) for each in parameters_of(signature)),
        tuple(each for each in (ARGS, KWARGS) if each in signature.split(", ")),
        home == CONTAINERS,
        conditionals(own),
        conditionals(buffers),
    )


def bound(
    layer: Layer, positional: Sequence[object], keywords: Mapping[str, object], *, starred: bool = False
) -> Mapping[str, object]:
    """The arguments of a call by name, defaults filled in; each value is a literal or `UNKNOWN`.

    ``positional`` are those before the first ``*iterable``. ``starred``: the call has ``*iterable`` or
    ``**mapping`` too, so that all it does not name is unknown. What is required and not given is unknown as
    well. What the layer has no name for stays: keywords as they are, a tuple of further positions as `ARGS`.

    >>> linear = layer("torch.nn.Linear")
    >>> bound(linear, [3, UNKNOWN], {"bias": False})["bias"]
    False
    >>> bound(linear, [3], {}, starred=True)["bias"]
    <Unknown.UNKNOWN: 'unknown'>
    """
    names = layer.positional
    given: dict[str, object] = dict(zip(names, positional, strict=False))
    given |= {name: UNKNOWN if name in given else value for name, value in keywords.items()}
    if len(positional) > len(names):
        given[ARGS] = tuple(positional[len(names) :])
    if starred:
        given |= dict.fromkeys(layer.variadic, UNKNOWN)
    for parameter in layer.parameters:
        known = parameter.default is not REQUIRED and not starred
        given.setdefault(parameter.name, parameter.default if known else UNKNOWN)
    return given


def tensors(layer: Layer, arguments: Mapping[str, object]) -> Tensors:
    """What a layer holds that is made with ``arguments``, which are as `bound` gives them.

    A parameter of the layer that they leave out is unknown. An argument that the layer has no name for makes
    the set open: another release of torch may have one.

    >>> linear = layer("torch.nn.Linear")
    >>> tensors(linear, bound(linear, [3, 4], {"bias": UNKNOWN}))
    Tensors(certain=('weight',), possible=('bias',), buffers=(), possible_buffers=(), open=False)
    """
    known = dict.fromkeys(layer.arguments, UNKNOWN) | dict(arguments)
    counted = COUNTED.get(layer.name)
    names, uncounted = counted(known) if counted else (told(layer.own, known), False)
    certain, possible = _apart(names)
    buffers, possible_buffers = _apart(told(layer.own_buffers, known))
    return Tensors(certain, possible, buffers, possible_buffers, uncounted or _may_bring(layer, known))


def _parameter(parameter: Parameter) -> Parameter:
    """The table writes ``...`` for a default that is no literal."""
    return replace(parameter, default=UNKNOWN) if parameter.default is ... else parameter


def _apart(names: Iterable[Name]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Those that are there, and those that may be."""
    names = tuple(names)
    return tuple(name for name, there in names if there), tuple(name for name, there in names if there is None)


def _may_bring(layer: Layer, known: Mapping[str, object]) -> bool:
    """Whether an argument may bring names that are not the layer's own."""
    unnamed = known.keys() - {*layer.arguments, *layer.variadic}
    if unnamed and (layer.container or KWARGS not in layer.variadic):
        return True
    return any(truth(known.get(name)) is not False for name in BRINGING.get(layer.name, ()))


# the classes of what layers of torch build in themselves, by its name without a number
INSIDE: Final[Mapping[str, tuple[str, ...]]] = {
    "out_proj": ("NonDynamicallyQuantizableLinear", "Linear", "Module"),
    "self_attn": ("MultiheadAttention", "Module"),
    "multihead_attn": ("MultiheadAttention", "Module"),
    "linear": ("Linear", "Module"),
    "norm": ("LayerNorm", "Module"),
    "head": ("Linear", "Module"),
    "tail": ("Linear", "Module"),
}


def host_types(layer: Layer, name: str) -> tuple[str, ...] | None:
    """The class names of what has the tensor ``name`` of a layer; None where that is not known.

    >>> host_types(layer("torch.nn.MultiheadAttention"), "out_proj.weight")[1]
    'Linear'
    """
    *hosts, _ = name.split(".")
    if not hosts:
        return layer.bases
    words = [host.rstrip("0123456789") for host in hosts]
    return INSIDE.get(next((word for word in reversed(words) if word), ""))
