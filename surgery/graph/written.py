"""A graph as plain data, for pickles: nodes in order, whose targets are what pickle can name.

A GraphModule of torch pickles its code and traces that again, which freezes what reads a buffer or makes a constant.
"""

from importlib import import_module
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import fx

from surgery.graph.ops import OVERLOAD, PACKET


class Reference(NamedTuple):
    """An earlier node, by its position."""

    position: int


class TorchOperator(NamedTuple):
    """An operator of `torch.ops`, by its dotted name there; pickle takes no such object."""

    path: str


class WrittenNode(NamedTuple):
    """One node of a graph."""

    op: str
    target: Any
    args: Any
    kwargs: Any
    type: Any


def written(graph: fx.Graph) -> tuple[WrittenNode, ...]:
    """The nodes of a graph as data."""
    position = {node: Reference(index) for index, node in enumerate(graph.nodes)}
    found = []
    for node in graph.nodes:
        args, kwargs = mapped(node, position.__getitem__)
        found.append(WrittenNode(node.op, named(node.target), args, kwargs, node.type))
    return tuple(found)


def read(nodes: tuple[WrittenNode, ...]) -> fx.Graph:
    """The graph that `written` gave."""
    graph, made = fx.Graph(), list[fx.Node]()
    for node in nodes:
        args, kwargs = _filled(node.args, made), _filled(node.kwargs, made)
        made.append(graph.create_node(node.op, function_of(node.target), args, kwargs, type_expr=node.type))
    return graph


def mapped(node: fx.Node, stand_in: Any) -> tuple[Any, Any]:
    """Arguments of a node, by position and by name, with stand-ins for other nodes."""
    args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), stand_in)
    return args, kwargs


class ModuleFunction(NamedTuple):
    """A function by its module and its name there: some, as ``F.max_pool2d``, have another qualified name."""

    module: str
    name: str


def named(target: Any) -> Any:
    """The target of a node as pickle can name it."""
    if isinstance(target, FunctionType) and "<locals>" in target.__qualname__:
        place = ModuleFunction(target.__module__, target.__name__)
        return place if getattr(import_module(place.module), place.name, None) is target else target
    if isinstance(target, PACKET | OVERLOAD):
        return TorchOperator(str(target))
    higher = f"higher_order.{target}"
    return TorchOperator(higher) if not isinstance(target, str) and _operator(higher) is target else target


def function_of(target: Any) -> Any:
    """The target that `named` gave a name."""
    if isinstance(target, ModuleFunction):
        return getattr(import_module(target.module), target.name)
    return _operator(target.path) if isinstance(target, TorchOperator) else target


def _operator(path: str) -> Any:
    found: Any = torch.ops
    for part in path.split("."):
        found = vars(found).get(part) if found is torch.ops.higher_order else getattr(found, part, None)
    return found


def _filled(argument: Any, made: list[fx.Node]) -> Any:
    if isinstance(argument, Reference):
        return made[argument.position]
    if isinstance(argument, dict):
        return {key: _filled(each, made) for key, each in argument.items()}
    if isinstance(argument, slice):
        return slice(*(_filled(each, made) for each in (argument.start, argument.stop, argument.step)))
    if isinstance(argument, tuple | list):
        filled = [_filled(each, made) for each in argument]
        return (
            type(argument)(*filled)
            if isinstance(argument, tuple) and type(argument) is not tuple
            else type(argument)(filled)
        )
    return argument
