"""The routes that rules can take, and the arguments that each has."""

from collections.abc import Mapping

from torch import fx, nn

from surgery.errors import SurgeryError

ROUTES = ("tree", "fx", "export")
# which route each argument is for, and what to do instead
ROUTES_OF = {
    "example": (("fx", "export"), "is for a graph: pass via='fx' or via='export'"),
    "hooks": (("fx", "export"), "is for a graph: pass via='fx' or via='export'"),
    "lower": (("fx",), "is for via='fx', which traces what an author has written"),
    "dynamic_shapes": (("export",), "is for via='export'; what is traced symbolically has no fixed shapes"),
    "optimizer": (("tree",), "follows a change in place; a graph has new Parameters: make a new optimizer"),
}


def check_arguments(model: nn.Module, via: str, given: Mapping[str, object]) -> None:
    """Refuse arguments of other routes, and a graph where a tree is meant."""
    if not isinstance(model, nn.Module):
        raise SurgeryError(f"expected a torch.nn.Module, got {type(model).__name__}")
    for name, value in given.items():
        routes, cure = ROUTES_OF[name]
        if value is not None and via not in routes:
            raise SurgeryError(f"{name}= {cure}")
    if via == "tree" and isinstance(model, fx.GraphModule) and _is_ours(model):
        raise SurgeryError(
            "the model is a graph, which reads plain tensors by name: pass via='fx', which traces it anew"
        )


def _is_ours(graph: fx.GraphModule) -> bool:
    # loaded for a graph only
    from surgery.graph.module import ConstrainedGraph

    return isinstance(graph, ConstrainedGraph)


def check_route(via: str) -> None:
    """Refuse a route that does not exist."""
    if via not in ROUTES:
        raise SurgeryError(
            f"via={via!r}: the route is 'tree', which changes the live module tree in place, or 'fx' or "
            f"'export', which make a graph of a copy"
        )
