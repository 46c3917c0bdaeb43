"""Where values stand in a graph: right before their first use, so that memory is taken late and graphs compare."""

from collections.abc import Collection

from torch import fx


def at_first_use(graph: fx.Graph, computed: Collection[str]) -> None:
    """Move what reads the model (tensors, and calls of the modules in ``computed``) to its first use, or drop it."""
    reads = [node for node in graph.nodes if _reads(node, computed)]
    placed: set[fx.Node] = set()
    for user in list(graph.nodes):
        for node in user.all_input_nodes:
            if node not in placed and _reads(node, computed):
                user.prepend(node)
                placed.add(node)
    for node in reads:
        if not node.users:
            graph.erase_node(node)


def _reads(node: fx.Node, computed: Collection[str]) -> bool:
    return node.op == "get_attr" or (node.op == "call_module" and node.target in computed)


def renumbered(graph: fx.Graph) -> fx.Graph:
    """The same graph with nodes named in its order, as if it had been recorded so."""
    made = fx.Graph()
    known: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
        known[node] = made.create_node(node.op, node.target, args, kwargs, type_expr=node.type)
        known[node].meta = dict(node.meta)
    return made
