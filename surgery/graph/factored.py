"""Operations that are done by an op rule of a constraint, without making the weight: low-rank adapters stay factored.

In a graph such an operation is one call of a module that has no tensors: the rule, traced, with the raws as arguments.
It remembers the operation and its arguments, so that a bake can put them back.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor, fx, nn
from torch.fx.proxy import GraphAppendingTracer

from computed.constraint import Constraint
from computed.parameter import ComputedParameter
from computed.torch_private import tree_map
from surgery.graph.following import FOLLOWING
from surgery.graph.modes import follow_mode
from surgery.graph.names import fresh_name
from surgery.graph.ops import by_function
from surgery.graph.proxies import TensorProxy
from surgery.graph.written import function_of, mapped, named

RULE = "rule"


class Given(NamedTuple):
    """An argument of the operation that the graph gives: the first, the second... of the rule's module."""

    position: int


class Weight(NamedTuple):
    """The argument of the operation that is the weight."""


class FactoredOp(nn.Module):
    """An operation by factors: ``rule`` is the module that is called, ``operation`` its name, ``target`` its function.

    ``args`` and ``kwargs`` are those of the operation, with `Given` and `Weight` for what the graph has, and ``weight``
    is the name of the weight in the host that has both.
    """

    def __init__(self, rule: fx.GraphModule, weight: str, operation: str, target: Any, args: Any, kwargs: Any) -> None:
        super().__init__()
        self.rule = rule
        self.weight = weight
        self.operation = operation
        self.target = target
        self.args = args
        self.kwargs = kwargs

    def restored(self, node: fx.Node, weight: fx.Node) -> fx.Node:
        """The operation itself, with ``weight``, before the ``node`` that calls the rule."""

        def fill(argument: Any) -> Any:
            if isinstance(argument, Given):
                return node.args[argument.position]
            if isinstance(argument, Weight):
                return weight
            if isinstance(argument, tuple | list):
                return type(argument)(fill(each) for each in argument)
            return argument

        args = tuple(fill(argument) for argument in self.args)
        kwargs = {name: fill(argument) for name, argument in self.kwargs.items()}
        with node.graph.inserting_before(node):
            return node.graph.call_function(function_of(self.target), args, kwargs)


def why_built_in(host: nn.Module, weight: str) -> str | None:
    """Why what a constraint is set to cannot be moved any more: its rule stands in a graph, with numbers in it."""
    rules = [one for one in host._modules.values() if isinstance(one, FactoredOp) and one.weight == weight]
    if not rules:
        return None
    return (
        f"{rules[0].operation} is done by its factors in this graph, which has their settings built in; change the "
        f"model that it was made of, and make the graph anew"
    )


def put_rules_in_place(graph: fx.Graph, root: nn.Module) -> None:
    """Let operations whose weight has an op rule be done by it; values that nothing else uses are gone."""
    for value in list(graph.nodes):
        parameter = _ruled(value, root)
        if parameter is not None:
            for user in list(value.users):
                _put_rule(user, value, parameter, root)


def _ruled(node: fx.Node, root: nn.Module) -> ComputedParameter | None:
    """The computed parameter that a node calls, where its only constraint has op rules."""
    if node.op != "call_module":
        return None
    module = root.get_submodule(str(node.target))
    return module if isinstance(module, ComputedParameter) and module.ruled and len(module.links) == 1 else None


def _put_rule(user: fx.Node, value: fx.Node, parameter: ComputedParameter, root: nn.Module) -> None:
    operation = by_function(user.target) if user.op == "call_function" else None  # type: ignore[arg-type]
    if operation is None or not _is_weight(user, value):
        return
    constraint = parameter.links[0].module
    assert isinstance(constraint, Constraint)
    rule = constraint.op_rule(operation.functions[0])
    made = None if rule is None else _traced_rule(rule, user, value, parameter)
    if made is None:
        return
    module, given = made
    args, kwargs = _template(user, value, given)
    owner, _, attribute = str(value.target).rpartition(".")
    host = root.get_submodule(owner)
    name = fresh_name(host, f"{attribute}_{operation.name.rpartition('.')[2]}")
    host.add_module(name, FactoredOp(module, attribute, operation.name, named(user.target), args, kwargs))
    host._modules[name].train(host.training)  # type: ignore[union-attr] # fx types it widely
    with user.graph.inserting_before(user):
        raws = list(_raws(user.graph, str(value.target), parameter))
        path = ".".join(part for part in (owner, name, RULE) if part)
        node = user.graph.create_node("call_module", path, (*given, *raws))
    user.replace_all_uses_with(node)
    user.graph.erase_node(user)


def _is_weight(user: fx.Node, value: fx.Node) -> bool:
    """Whether the value is the weight of the operation, and nothing else of it."""
    as_weight = (len(user.args) > 1 and user.args[1] is value) or user.kwargs.get("weight") is value
    count = sum(argument is value for argument in (*user.args, *user.kwargs.values()))
    return as_weight and count == 1


def _raws(graph: fx.Graph, path: str, parameter: ComputedParameter) -> Iterator[fx.Node]:
    for raw in parameter.raw_slots():
        node = graph.create_node("get_attr", f"{path}.{raw.name}")
        yield node if raw.role.trained else graph.call_method("detach", (node,))


def _template(user: fx.Node, value: fx.Node, given: list[fx.Node]) -> tuple[Any, Any]:
    return mapped(user, lambda node: Weight() if node is value else Given(given.index(node)))


def _not_set(reason: str) -> None:
    raise TypeError(f"an op rule {reason}")


def _traced_rule(
    rule: Any, user: fx.Node, value: fx.Node, parameter: ComputedParameter
) -> tuple[fx.GraphModule, list[fx.Node]] | None:
    """The rule as a module, and the nodes that are its first arguments; None where it does not do this operation."""
    given = [node for node in user.all_input_nodes if node is not value]
    graph = fx.Graph()
    tracer = GraphAppendingTracer(graph)
    inputs = {node: fx.Proxy(graph.placeholder(f"given_{index}"), tracer) for index, node in enumerate(given)}
    raws = tuple(
        TensorProxy(graph.placeholder(raw.name), tracer, _not_set, raw.tensor) for raw in parameter.raw_slots()
    )
    args, kwargs = mapped(user, lambda node: raws if node is value else inputs[node])
    result = rule(*args, **kwargs)
    if result is NotImplemented or any(map(_has_tensor, graph.nodes)):  # a tensor of the constraint would be frozen
        return None
    graph.output(result.node)
    root = nn.Module()
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in FOLLOWING:  # a dropout, recorded in the mode of now
            follow_mode(root, node, "")
    return fx.GraphModule(root, graph, class_name="Rule"), given


def _has_tensor(node: fx.Node) -> bool:
    leaves: list[Any] = []
    tree_map(leaves.append, (node.args, dict(node.kwargs)))
    return any(isinstance(leaf, Tensor) for leaf in leaves)
