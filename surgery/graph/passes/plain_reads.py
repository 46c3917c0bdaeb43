"""The pass behind `bake`: what was a call of a computed parameter, and is none any more, reads a Parameter."""

from torch import Tensor, fx, nn


def with_plain_reads(module: nn.Module) -> nn.Module:
    """Let nodes read the tensors that stand where they called computed parameters; in place, idempotent.

    The graph is then the one that the same tracer gives of the plain model.
    """
    assert isinstance(module, fx.GraphModule)
    for node in module.graph.nodes:
        if node.op == "call_module" and isinstance(_standing(module, str(node.target)), Tensor):
            node.op = "get_attr"
    module.recompile()
    return module


def _standing(module: nn.Module, path: str) -> object:
    owner, _, attribute = path.rpartition(".")
    return getattr(module.get_submodule(owner), attribute)
