"""The graph of a constrained model: a GraphModule that keeps all that the model had, used or not, in its order."""

import copy
from collections.abc import Mapping
from typing import Any

from torch import fx, nn
from torch.fx.graph_module import reduce_graph_module

from computed.placement import take_registries
from surgery.graph.scripting import scriptable_root


class Root(nn.Module):
    """What the root of a graph has, without the graph: what copies and pickles carry."""


class ConstrainedGraph(fx.GraphModule):
    """A GraphModule in the place of a model: its parameters, buffers and modules under their names, in their order.

    ``stands_for`` is the model's class; ``constants`` are arguments of its forward that are built into the graph.
    `torch.jit.script` takes it; methods and other attributes of the model are gone.
    """

    stands_for: type[nn.Module]
    constants: Mapping[str, Any]

    def __deepcopy__(self, memo: dict[int, Any]) -> "ConstrainedGraph":
        """A copy that shares nothing, with the order and the flags that a GraphModule would drop."""
        root = copy.deepcopy(_root_of(self), memo)
        made = assembled(root, copy.deepcopy(self.graph), self.stands_for, copy.deepcopy(dict(self.constants), memo))
        memo[id(self)] = made
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """By its code, as every GraphModule, and by its root."""
        _, (body, imports) = super().__reduce__()
        return _restored, (_root_of(self), imports, body["_code"], self.stands_for, dict(self.constants))

    def __prepare_scriptable__(self) -> fx.GraphModule:
        """What `torch.jit.script` compiles: the same tensors and leaves, without objects that it cannot compile."""
        return scriptable_root(self)


def assembled(
    root: nn.Module, graph: fx.Graph, stands_for: type[nn.Module], constants: Mapping[str, Any]
) -> ConstrainedGraph:
    """The module that runs ``graph`` on what ``root`` has; it takes the very objects over."""
    made = ConstrainedGraph(nn.Module(), fx.Graph(), class_name=stands_for.__name__)
    take_registries(made, root)
    vars(made).update(stands_for=stands_for, constants=dict(constants))
    made.graph = graph
    return made


def _root_of(module: ConstrainedGraph) -> Root:
    made = Root()
    take_registries(made, module)
    return made


def _restored(
    root: Root, imports: str, code: str, stands_for: type[nn.Module], constants: Mapping[str, Any]
) -> ConstrainedGraph:
    body = dict(vars(root)) | {"_code": code}
    traced = reduce_graph_module(body, imports)
    assert isinstance(traced, fx.GraphModule)
    return assembled(root, traced.graph, stands_for, constants)
