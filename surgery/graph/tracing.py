"""From a constrained copy of a model to its graph: traced in both modes, and refused where it would be wrong."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import fx, nn

from computed.loading import accept_plain_keys
from computed.parameter import ComputedParameter
from surgery.errors import TraceRefusedError
from surgery.graph.arguments import Call
from surgery.graph.constants import origin
from surgery.graph.eager import written_by
from surgery.graph.factored import put_rules_in_place
from surgery.graph.handing_on import hand_on_weights
from surgery.graph.locating import innermost_in_torch, spots
from surgery.graph.lowering import FORWARDS, Lowering, put_operation_under
from surgery.graph.modes import CONSTANT, Recorded, is_constant, joined, modes_of
from surgery.graph.module import ConstrainedGraph, assembled
from surgery.graph.names import fresh_name
from surgery.graph.operations.op_module import OpModule
from surgery.graph.order import at_first_use, renumbered
from surgery.graph.tracer import SurgeryTracer

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# those of the root, which is another module in the graph; parts stay where they were, and keep theirs
ROOT_HOOKS = ("_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks")
RECORDED = "traced symbolically, for training and eval"
WAYS_OUT = (
    "ways out: via='tree', which traces nothing; lower={Type: function}, a function that is traced in the place of a "
    "module's forward; via='export' with an example, which runs the model in one mode; a rule that exempts what is in "
    "it, so that the module is kept whole"
)
AN_EXAMPLE = "example=(args, kwargs), by which branches on sizes and dtypes are decided"


def traced(
    root: nn.Module, call: Call, *, inlined: frozenset[str], lower: Mapping[type[nn.Module], Lowering]
) -> ConstrainedGraph:
    """The graph of ``root``, whose objects it takes over.

    Errors: TraceRefusedError, with file, line and statement, for what cannot be traced or would be wrong in a graph.
    """
    stands_for = type(root)
    forwards = {**FORWARDS, **lower}
    if stands_for not in forwards:
        put_operation_under(root)
    found = []
    for training in modes_of(root):
        tracer = SurgeryTracer(inlined, call, forwards)
        found.append(Recorded(recorded(tracer, root, training=training), tracer.made))
    graph = joined(root, *found)
    _drop_clones(root, graph)
    _keep_constants(root, graph)
    put_rules_in_place(graph, root)
    hand_on_weights(graph, root)
    at_first_use(graph, set(paths_of_values(root)))
    return assembled(root, renumbered(graph), stands_for, call.constants, RECORDED)


def recorded(tracer: SurgeryTracer, root: nn.Module, *, training: bool) -> fx.Graph:
    """The graph of ``root``, whose modules are in that mode.

    Errors: TraceRefusedError.
    """
    try:
        graph = tracer.record(root, training=training)
    except TraceRefusedError:
        raise
    except (
        Exception
    ) as error:  # every kind occurs: https://pytorch.org/docs/stable/fx.html#limitations-of-symbolic-tracing
        raise tracer.refusal or TraceRefusedError(failure(error, root, by_example=tracer.call.by_example)) from error
    changed = tracer.attributes.changes()
    if changed:
        raise TraceRefusedError(f"{'; '.join(changed)}: a graph does not do that")
    return graph


def failure(error: Exception, root: nn.Module, *, by_example: bool) -> str:
    """What to say of a trace that failed: where, why, and the ways out."""
    below = list(spots(error.__traceback__))
    where = f"{below[-1].told(root)}: " if below else ""
    inner = innermost_in_torch(error.__traceback__)
    torch_line = f" (in torch: {inner})" if inner else ""
    reason = str(error).splitlines()[0] if str(error) else ""
    return (
        f"{type(root).__name__} cannot be traced: {where}{type(error).__name__}: {reason}{torch_line}\n"
        f"the model is untouched; {WAYS_OUT if by_example else f'{WAYS_OUT}; {AN_EXAMPLE}'}"
    )


def modules_to_inline(root: nn.Module) -> frozenset[str]:
    """The names of all modules that have a computed parameter, themselves or below."""
    found: set[str] = set()
    for path in paths_of_values(root, remove_duplicate=False):
        parts = path.split(".")
        found |= {".".join(parts[:length]) for length in range(len(parts))}
    return frozenset(found | {name for name, module in root.named_modules() if isinstance(module, OpModule)})


def paths_of_values(root: nn.Module, *, remove_duplicate: bool = True) -> Iterator[str]:
    """The names of all computed parameters, each under its first name alone unless asked for all."""
    named = root.named_modules(remove_duplicate=remove_duplicate)
    return (name for name, module in named if isinstance(module, ComputedParameter))


def hook_refusals(root: nn.Module, inlined: frozenset[str]) -> list[str]:
    """The hooks of modules that a graph does not call, which would be lost or run once."""
    found = []
    for name, module in root.named_modules():
        kinds = [kind.strip("_") for kind in HOOKS if getattr(module, kind)]
        kinds += [] if name else [kind.strip("_") for kind in ROOT_HOOKS if _of_its_author(getattr(root, kind))]
        if kinds and (name in inlined or not name):
            found.append(f"{name or 'the model itself'} ({type(module).__name__}) has {' and '.join(kinds)}")
    return found


def _of_its_author(hooks: Mapping[int, Any]) -> bool:
    """Whether there is a hook beside the one that hosts of computed parameters have."""
    return any(getattr(hook, "hook", hook) is not accept_plain_keys for hook in hooks.values())


def drop_hooks(root: nn.Module, inlined: frozenset[str]) -> None:
    """Remove the hooks that a graph cannot keep."""
    for name, module in root.named_modules():
        if name in inlined or not name:
            for kind in HOOKS:
                getattr(module, kind).clear()


def _drop_clones(root: nn.Module, graph: fx.Graph) -> None:
    """Constants that nothing writes to need not be new at each call."""
    written = {origin(one) for node in graph.nodes for one in written_by(node)}
    for node in list(graph.nodes):
        if node.op == "call_method" and node.target == "clone" and node not in written:
            source = node.args[0]
            if isinstance(source, fx.Node) and is_constant(source, root):
                node.replace_all_uses_with(source)
                graph.erase_node(node)


def _keep_constants(root: nn.Module, graph: fx.Graph) -> None:
    """Tensors that the code makes and that do not depend on inputs move with the model, and are no state of it."""
    kept: dict[str, str] = {}
    for node in graph.nodes:
        if is_constant(node, root):
            made = str(node.target)
            if made not in kept:
                kept[made] = fresh_name(root, "constant")
                # of its own: what the code has made may be one tensor for all models
                root.register_buffer(kept[made], vars(root)[made].detach().clone(), persistent=False)
            node.target = kept[made]
    for name in [name for name in vars(root) if name.startswith(CONSTANT)]:
        del vars(root)[name]
