"""What a model does with its parameters: which operations use each of them, and as which argument."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

from computed.site import Site, class_of
from surgery.graph.operations.op_module import OpModule
from surgery.graph.ops import (
    OPERATIONS,
    SPACES,
    Operation,
    by_function,
    by_method,
    only_moves,
    operation_named,
    packet,
)


@dataclass(frozen=True)
class Use:
    """One use of a parameter by an operation.

    ``op`` is the operation's name (``"F.conv2d"``), whatever form it has in the code, ``arg`` the argument that the
    parameter is (``"weight"``), ``node`` the node of the traced graph, whose module is ``root``.
    """

    site: Site
    op: str
    arg: str
    node: fx.Node = field(repr=False)
    root: nn.Module = field(repr=False)

    def feeds(self, op: object, through: Collection[type[nn.Module]] = ()) -> bool:
        """Whether the result goes into ``op``: a function, a module's class, or an operation's name.

        Modules of the classes in ``through`` may stand between.

        Example:
            >>> import torch
            >>> from surgery.constraining import apply_constraints
            >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
            >>> rules = {lambda use: use.arg == "weight" and use.feeds(torch.nn.ReLU): "positive"}
            >>> graph = apply_constraints(net, rules, via="fx")
            >>> [node.target for node in graph.graph.nodes if node.op == "call_module" and not node.args]
            ['0.weight']
        """
        return any(_is(user, op, self.root) or self._passes(user, op, through) for user in self.node.users)

    def _passes(self, user: fx.Node, op: object, through: Collection[type[nn.Module]]) -> bool:
        if not any(_is(user, kind, self.root) for kind in through):
            return False
        return Use(self.site, self.op, self.arg, user, self.root).feeds(op, through)


def uses_of(site: Site, node: fx.Node, root: nn.Module) -> Iterator[Use]:
    """The uses of a parameter whose value is ``node``; what only moves numbers is passed through."""
    for user in node.users:
        if only_moves(user):
            yield from uses_of(site, user, root)
            continue
        operation = operation_of_node(user, root)
        for argument in _arguments(user, node, operation):
            named = site.attribute if argument == "weights" else argument  # one of a recurrent layer's list
            yield Use(site, _name(user, operation), named, user, root)


def operation_of_node(node: fx.Node, root: nn.Module) -> Operation | None:
    """The operation that a node does, where it has a name."""
    if node.op == "call_function":
        return by_function(node.target)  # type: ignore[arg-type] # fx types it widely
    if node.op == "call_method":
        return by_method(str(node.target))
    module = module_of(node, root)
    if module is None:
        return None
    return next((one for one in OPERATIONS if type(module) in one.modules and _in_mode(one, module)), None)


def module_of(node: fx.Node, root: nn.Module) -> nn.Module | None:
    """The module that a node calls, or None."""
    return root.get_submodule(str(node.target)) if node.op == "call_module" else None


def _in_mode(operation: Operation, module: nn.Module) -> bool:
    """One class does several operations, by its mode or by its nonlinearity."""
    said = vars(module).get("mode", vars(module).get("nonlinearity"))
    if not isinstance(said, str) or not isinstance(module, OpModule):
        return True
    return said.lower() in operation.name or operation.name in ("F.embedding_bag", "torch.lstm")


def _name(node: fx.Node, operation: Operation | None) -> str:
    if operation is not None:
        return operation.name
    if node.op == "call_method":
        return f"Tensor.{node.target}"
    form = packet(node.target)
    name = getattr(form, "__name__", str(form))
    space = next((space for space, holder in SPACES.items() if getattr(holder, name, None) is form), None)
    return name if space is None else f"{space}.{name}"


def _arguments(user: fx.Node, node: fx.Node, operation: Operation | None) -> Iterator[str]:
    """The names of the arguments of ``user`` that are ``node``; of a list the name is the list's."""
    for position, argument in enumerate(user.args):
        if _contains(argument, node):
            yield str(position) if operation is None else operation.argument(packet(user.target), position)
    for name, argument in user.kwargs.items():
        if isinstance(argument, dict):
            yield from (key for key, value in argument.items() if value is node)
        elif _contains(argument, node):
            yield name


def _contains(argument: Any, node: fx.Node) -> bool:
    if isinstance(argument, tuple | list):
        return any(_contains(each, node) for each in argument)
    return argument is node


def _is(node: fx.Node, op: object, root: nn.Module) -> bool:
    module = module_of(node, root)
    if isinstance(op, type):
        known = operation_of_node(node, root)
        kinds = known.modules if known is not None and (module is None or isinstance(module, OpModule)) else ()
        stood = (*kinds, *(() if module is None else (class_of(module),)))
        return any(issubclass(kind, op) for kind in stood)
    operation = operation_of_node(node, root)
    if isinstance(op, str):
        named = operation_named(op)
        return _name(node, operation) == (op if named is None else named.name)
    if operation is not None and any(packet(op) is function for function in operation.functions):
        return True
    return node.op == "call_function" and node.target is op
