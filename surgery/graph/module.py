"""The graph of a constrained model: a GraphModule that keeps all that the model had, used or not, in its order."""

import copy
from collections.abc import Mapping
from typing import Any

from torch import fx, nn

from computed.placement import take_registries
from surgery.graph.decided import decided
from surgery.graph.scripting import scriptable_root
from surgery.graph.written import WrittenNode, read, written

# what a site asks the host of a convolution's weight, where that is the root
GEOMETRY = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")


class Root(nn.Module):
    """What the root of a graph has, without the graph: what copies and pickles carry."""


class ConstrainedGraph(fx.GraphModule):
    """A GraphModule in the place of a model: its parameters, buffers and modules under their names, in their order.

    ``stands_for`` is the model's class; ``constants`` are arguments of its forward that are built into the graph, and
    ``recorded`` says how it was made and what it is good for.
    `torch.jit.script` takes it; methods and other attributes of the model are gone.
    """

    stands_for: type[nn.Module]
    constants: Mapping[str, Any]
    recorded: str

    def extra_repr(self) -> str:
        """How it was made."""
        return self.recorded

    def __deepcopy__(self, memo: dict[int, Any]) -> "ConstrainedGraph":
        """A copy that shares nothing, with the order and the flags that a GraphModule would drop."""
        root = copy.deepcopy(_root_of(self), memo)
        constants = copy.deepcopy(dict(self.constants), memo)
        made = assembled(root, copy.deepcopy(self.graph), self.stands_for, constants, self.recorded)
        memo[id(self)] = made
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """By its nodes and by its root."""
        return _restored, (_root_of(self), written(self.graph), self.stands_for, dict(self.constants), self.recorded)

    def __prepare_scriptable__(self) -> fx.GraphModule:
        """What `torch.jit.script` compiles: the same tensors and leaves, without objects that it cannot compile."""
        return scriptable_root(self)


def assembled(
    root: nn.Module, graph: fx.Graph, stands_for: type[nn.Module], constants: Mapping[str, Any], recorded: str
) -> ConstrainedGraph:
    """The module that runs ``graph`` on what ``root`` has; it takes the very objects over."""
    made = ConstrainedGraph(nn.Module(), fx.Graph(), class_name=stands_for.__name__)
    take_registries(made, root)
    vars(made).update({name: vars(root)[name] for name in GEOMETRY if name in vars(root)})
    vars(made).update(stands_for=stands_for, constants=dict(constants), recorded=recorded)
    for node in graph.nodes:
        if node.target in (decided, len):
            node.meta["is_wrapped"] = True  # other tracers record the call too
    made.graph = graph
    return made


def _root_of(module: ConstrainedGraph) -> Root:
    made = Root()
    take_registries(made, module)
    vars(made).update({name: vars(module)[name] for name in GEOMETRY if name in vars(module)})
    return made


def _restored(
    root: Root,
    nodes: tuple[WrittenNode, ...],
    stands_for: type[nn.Module],
    constants: Mapping[str, Any],
    recorded: str,
) -> ConstrainedGraph:
    return assembled(root, read(nodes), stands_for, constants, recorded)
