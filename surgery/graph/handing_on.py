"""Weights that a graph hands on to their layers as computed parameters, so that these are done as on the tree.

On the tree a layer asks its weight how it is done (`computed.ruling`); in a graph the weight is the result of a call, a
plain tensor. Where all that takes it are layers, the call may give the computed parameter itself, eagerly and in
training. The graph stays as it is: what is scripted, exported, traced or compiled has the value.
"""

from torch import fx, nn

from computed.parameter import ComputedParameter
from computed.scaled import DIMENSIONS


def hand_on_weights(graph: fx.Graph, root: nn.Module) -> None:
    """Let the calls of computed parameters that only layers take give these themselves."""
    for node in graph.nodes:
        module = root.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, ComputedParameter):
            vars(module)["handed_on"] = all(_is_layer_of(user, node) for user in node.users)


def _is_layer_of(user: fx.Node, weight: fx.Node) -> bool:
    """Whether a node is a layer with this weight, which is no other of its arguments."""
    if user.op != "call_function" or user.target not in DIMENSIONS:
        return False
    is_weight = (len(user.args) > 1 and user.args[1] is weight) or user.kwargs.get("weight") is weight
    return is_weight and sum(argument is weight for argument in (*user.args, *user.kwargs.values())) == 1
