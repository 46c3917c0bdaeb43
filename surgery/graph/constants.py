"""Tensors that a forward makes without any input: their numbers are constants of the graph, new at each call."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, fx

from computed.torch_private import without_torch_function
from surgery.graph.eager import written_by
from surgery.graph.ops import only_moves


class Constant(NamedTuple):
    """A tensor that a forward makes, and the node that it is: a copy of its numbers."""

    tensor: Tensor
    node: fx.Node


class Constants:
    """The constants of a trace, by object and by version: what is written to eagerly has other numbers afterwards.

    What the graph itself writes to is no constant any more; from then on the trace must record what is done with it.
    """

    def __init__(self, refuse: Callable[[str], None]) -> None:
        self.refuse = refuse
        self.known: dict[tuple[int, int], Constant] = {}
        self.written: set[int] = set()

    def node_of(self, tensor: Tensor, make: Callable[[Tensor], fx.Node]) -> fx.Node:
        """The node of a tensor, with its numbers of now; ``make`` makes it of a copy."""
        key = id(tensor), tensor._version
        if key not in self.known:
            self.written_node(tensor)  # refused where it is a part of one
            self.known[key] = Constant(tensor, make(tensor.detach().clone()))
        return self.known[key].node

    def note_writes(self, node: fx.Node) -> None:
        """Note the constants that a node writes to."""
        for written in written_by(node):
            source = origin(written)
            for (key, _), constant in self.known.items():
                if constant.node is source:
                    self.written.add(key)
                    others = [one for (other, _), one in self.known.items() if other != key]
                    if any(_share(one.tensor, constant.tensor) for one in others):
                        self.refuse("writes to a tensor that it makes and has a view of")

    def written_node(self, tensor: Tensor) -> fx.Node | None:
        """The node of a tensor that the graph has written to; None for others."""
        for (key, _), constant in self.known.items():
            if key in self.written and _share(tensor, constant.tensor):
                if tensor is constant.tensor:
                    return constant.node
                self.refuse("reads a view of a tensor that it makes and that the graph has written to")
        return None


def origin(node: fx.Node) -> fx.Node:
    """The tensor that a node is a view of, as far as its operation says so."""
    while node.target != "clone" and only_moves(node) and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node


def _share(first: Tensor, second: Tensor) -> bool:
    with without_torch_function():
        return first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()
