"""What a model does in training and in eval, in one graph: dropout follows the mode, anything else must not differ."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor, fx, nn

from computed.watching import same_bits
from surgery.errors import TraceRefusedError
from surgery.graph.following import FOLLOWING
from surgery.graph.names import fresh_name
from surgery.graph.tracer import Made

CONSTANT = "_tensor_constant"  # the name that fx gives them


class Recorded(NamedTuple):
    """A graph, and where each of its nodes was made."""

    graph: fx.Graph
    made: dict[str, Made]


def joined(root: nn.Module, train: Recorded, evaluation: Recorded) -> fx.Graph:
    """The graph of ``train`` with modules for what differs from ``evaluation`` by the mode alone.

    Errors: TraceRefusedError for any other difference, with its place.
    """
    pairs = list(zip(train.graph.nodes, evaluation.graph.nodes, strict=False))
    partner = dict(pairs)
    for first, second in pairs:
        if _same(first, second, partner) or _same_constant(root, first, second):
            continue
        if not _differ_by_mode_alone(first, second, partner):
            made = train.made[first.name]
            raise TraceRefusedError(_refusal(root, made if made.spot is not None else evaluation.made[second.name]))
        follow_mode(root, first, train.made[first.name].module)
    if len(train.graph.nodes) != len(evaluation.graph.nodes):
        raise TraceRefusedError(_refusal(root, train.made[pairs[-1][0].name]))
    return train.graph


def _same(first: fx.Node, second: fx.Node, partner: dict[fx.Node, fx.Node]) -> bool:
    if (first.op, first.target) != (second.op, second.target):
        return False
    mapped = fx.node.map_arg((first.args, first.kwargs), partner.__getitem__)
    return _equal(mapped, (second.args, second.kwargs))


def _same_constant(root: nn.Module, first: fx.Node, second: fx.Node) -> bool:
    """Whether both read a tensor that the code makes anew each time: each trace keeps its own."""
    if (first.op, second.op) != ("get_attr", "get_attr") or not (
        is_constant(first, root) and is_constant(second, root)
    ):
        return False
    tensors = getattr(root, str(first.target)), getattr(root, str(second.target))
    return tensors[0].dtype == tensors[1].dtype and same_bits(*tensors)


def is_constant(node: fx.Node, root: nn.Module) -> bool:
    """Whether a node reads a tensor that the trace has put on the root, unregistered."""
    name = str(node.target)
    return node.op == "get_attr" and name.startswith(CONSTANT) and isinstance(vars(root).get(name), Tensor)


def _equal(first: Any, second: Any) -> bool:
    """Whether arguments are equal; a bool is no number, and NaN is NaN."""
    numbers = {type(first), type(second)} == {int, float}
    if type(first) is not type(second) and not numbers:
        return False
    if isinstance(first, tuple | list):
        return len(first) == len(second) and all(map(_equal, first, second))
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_equal(first[key], second[key]) for key in first)
    if isinstance(first, slice):
        return _equal((first.start, first.stop, first.step), (second.start, second.stop, second.step))
    return bool(first == second) or (first != first and second != second)


def _differ_by_mode_alone(first: fx.Node, second: fx.Node, partner: dict[fx.Node, fx.Node]) -> bool:
    following = FOLLOWING.get(first.target) if first.op == "call_function" else None  # type: ignore[arg-type]
    if following is None or first.target is not second.target:
        return False
    mapped = fx.node.map_arg((first.args, first.kwargs), partner.__getitem__)
    in_training, in_eval = following.bound(*mapped), following.bound(second.args, second.kwargs)
    modes = in_training.pop(following.mode), in_eval.pop(following.mode)
    return following.by_mode(*modes) and _equal(in_training, in_eval)


def follow_mode(root: nn.Module, node: fx.Node, owner: str) -> None:
    """Let a module of its owner do what the node's function does."""
    following = FOLLOWING[node.target]  # type: ignore[index] # fx types it widely
    given = following.bound(node.args, node.kwargs)
    host = root.get_submodule(owner)
    name = fresh_name(host, str(node.target.__name__))  # type: ignore[union-attr] # fx types it widely
    made = following.make(given)
    made.training = host.training
    host.add_module(name, made)
    node.op, node.target = "call_module", f"{owner}.{name}" if owner else name
    node.args, node.kwargs = tuple(given[name] for name in following.inputs), {}


def _refusal(root: nn.Module, made: Made) -> str:
    where = f"{made.spot.told(root)} " if made.spot is not None else ""
    return (
        f"{where}does in training something else than in eval, and a graph has one course for both; a module that asks "
        f"for its mode itself can be kept whole: exempt what is in it"
    )


def modes_of(root: nn.Module) -> Iterator[bool]:
    """Set the mode of all modules to training, then to eval, then back to what each of them was in.

    By the flag alone: ``train()`` and ``eval()`` of an author's module may do more.
    """
    before = [(module, module.training) for module in root.modules()]
    try:
        for mode in (True, False):
            for module, _ in before:
                module.training = mode
            yield mode
    finally:
        for module, mode in before:
            module.training = mode
