"""The pass behind `bake`: what was a call of a computed parameter, and is none any more, reads a Parameter."""

from torch import Tensor, fx, nn

from computed.parameter import ComputedParameter
from surgery.graph.factored import RULE, FactoredOp
from surgery.graph.order import at_first_use, renumbered


def with_plain_reads(module: nn.Module) -> nn.Module:
    """Let nodes read the tensors that stand where they called computed parameters; in place, idempotent.

    What was done by the factors of a weight is the operation again. The graph is then the one that the same tracer
    gives of the plain model.
    """
    assert isinstance(module, fx.GraphModule)
    graph = module.graph
    calls = [node for node in graph.nodes if node.op == "call_module"]
    for node in calls:
        owner, _, attribute = str(node.target).rpartition(".")
        if isinstance(getattr(module.get_submodule(owner), attribute), Tensor):
            node.op = "get_attr"
    for node in calls:
        owner, _, attribute = str(node.target).rpartition(".")
        host = module.get_submodule(owner)
        if isinstance(host, FactoredOp) and attribute == RULE:
            _restore(module, node, host, owner)
    at_first_use(graph, {name for name, one in module.named_modules() if isinstance(one, ComputedParameter)})
    module.graph = renumbered(graph)
    return module


def _restore(module: fx.GraphModule, node: fx.Node, factored: FactoredOp, path: str) -> None:
    """Put the operation back, where its weight is plain now."""
    owner, _, name = path.rpartition(".")
    host, weight = module.get_submodule(owner), f"{owner}.{factored.weight}" if owner else factored.weight
    if not isinstance(getattr(host, factored.weight), Tensor):
        return
    known = [one for one in module.graph.nodes if (one.op, one.target) == ("get_attr", weight)]
    with module.graph.inserting_before(known[0] if known else next(iter(module.graph.nodes))):
        read = known[0] if known else module.graph.create_node("get_attr", weight)
    node.replace_all_uses_with(factored.restored(node, read))
    arguments = node.all_input_nodes
    module.graph.erase_node(node)
    for argument in arguments:
        if argument.op == "call_method" and not argument.users:
            module.graph.erase_node(argument)  # the detached raws of fixed roles
    del host._modules[name]
