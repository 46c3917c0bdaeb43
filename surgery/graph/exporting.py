"""The second tracer: `torch.export` runs a model where symbolic tracing cannot follow it.

The plain model is exported, in the mode that it is in; reads of its constrained parameters then become calls of the
computed ones. The result is a plain GraphModule that trains, evaluates and pickles.
"""

import copy
import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import export
from torch.fx.graph import CodeGen

from computed.parameter import ComputedParameter
from computed.torch_private import tree_map, tree_unflatten
from surgery.baking import bake_in_place
from surgery.errors import SurgeryError, TraceRefusedError
from surgery.graph.arguments import Call
from surgery.graph.factored import put_rules_in_place
from surgery.graph.locating import spots
from surgery.graph.module import ConstrainedGraph, assembled
from surgery.graph.names import fresh_name
from surgery.graph.ops import packet
from surgery.graph.order import at_first_use, renumbered
from surgery.graph.tracing import paths_of_values

aten: Any = torch.ops.aten
# by the number of dimensions, where several do; 0 is any other
_CHANNELS: Mapping[int, Any] = {3: nn.Dropout1d, 4: nn.Dropout2d, 5: nn.Dropout3d}
DROPOUTS: Mapping[Any, Mapping[int, Any]] = {
    aten.dropout: {0: nn.Dropout},
    aten.dropout_: {0: nn.Dropout},
    aten.alpha_dropout: {0: nn.AlphaDropout},
    aten.alpha_dropout_: {0: nn.AlphaDropout},
    aten.feature_dropout: _CHANNELS,
    aten.feature_dropout_: _CHANNELS,
    aten.feature_alpha_dropout: {0: nn.FeatureAlphaDropout},
    aten.feature_alpha_dropout_: {0: nn.FeatureAlphaDropout},
}
MODEL = "model"  # its name in what calls it


def exported(model: nn.Module, call: Call, dynamic_shapes: Any) -> fx.GraphModule:
    """The graph of ``model`` with plain reads of every parameter, by running it on the values of ``call``.

    Errors: TraceRefusedError, with the line of the model's code.
    """
    caller = _caller(bake_in_place(copy.deepcopy(model), None, ()), call)
    shapes = dynamic_shapes
    if isinstance(shapes, Mapping):
        constant = {one.name for one in call.arguments if not one.traced}
        inputs = {one.name for one in call.arguments if one.traced}
        unknown = [name for name in shapes if name not in inputs and (name not in constant or shapes[name] is not None)]
        if unknown:
            names = ", ".join(one.name for one in call.arguments if one.traced)
            raise SurgeryError(f"dynamic_shapes: {unknown[0]!r} is no input of the example; these are {names}")
        shapes = {argument.name: shapes.get(argument.name) for argument in call.arguments if argument.traced}
    try:
        # of their own: one tensor under two names would be one input
        inputs = tree_map(_own, tuple(call.inputs))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r".*_flat_weights", UserWarning)  # a list that recurrent layers keep
            module = export(caller, inputs, strict=False, dynamic_shapes=shapes).module()
    except Exception as error:  # torch.export raises many kinds
        raise TraceRefusedError(_failure(error, caller.get_submodule(MODEL))) from error
    assert isinstance(module, fx.GraphModule)
    _flatten(module)
    return module


def _own(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _caller(model: nn.Module, call: Call) -> nn.Module:
    """A module with the inputs of ``call`` as its arguments, by their names, that calls ``model`` with all of it.

    `torch.export` reads the names of inputs from a signature, and gets lost in decorated ones and in ``**kwargs``.
    """

    def forward(self: nn.Module, *inputs: Any) -> Any:
        args, kwargs = call.filled(inputs)
        return self.get_submodule(MODEL)(*args, **kwargs)

    names = ["self", *(argument.name for argument in call.arguments if argument.traced)]
    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    vars(forward)["__signature__"] = inspect.Signature(parameters)
    caller: nn.Module = type("Caller", (nn.Module,), {"forward": forward})()
    caller.add_module(MODEL, model)
    return caller


def placed(module: fx.GraphModule, root: nn.Module, recorded: str) -> ConstrainedGraph:
    """The exported graph with what ``root`` has, a constrained copy of the model: what is computed there is called."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.op == "get_attr":
            _read(node, module, root)
        elif node.op == "call_function":
            node.target = packet(node.target)
            if node.target in DROPOUTS and node.args[2] is root.training:  # what drops in eval, too, does so
                _follow_mode(node, root)
    for node in graph.nodes:
        node.meta.clear()  # example tensors of the export
    put_rules_in_place(graph, root)
    at_first_use(graph, set(paths_of_values(root, remove_duplicate=False)))
    return assembled(root, renumbered(graph), type(root), {}, recorded)


def recorded_text(model: nn.Module, call: Call, dynamic_shapes: Any) -> str:
    """What an export is good for: its mode, and the shapes that are built in."""
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors_in(call))
    fixed = "other sizes as dynamic_shapes says" if dynamic_shapes is not None else "and no others"
    return f"exported in {'training' if model.training else 'eval'}, for inputs of shapes {shapes}, {fixed}"


def tensors_in(call: Call) -> list[Tensor]:
    """The tensors of a call in the order of the graph's inputs."""
    found: list[Any] = []
    tree_map(found.append, call.inputs)
    return [leaf for leaf in found if isinstance(leaf, Tensor)]


def _flatten(module: fx.GraphModule) -> None:
    """Take guards and containers off: inputs are tensors, one by one; names are those of the model."""
    graph = module.graph
    for node in graph.nodes:
        if node.op == "get_attr":
            node.target = str(node.target).removeprefix(f"{MODEL}.")
    for node in reversed(list(graph.nodes)):
        is_guard = node.op == "call_module" and node.target == "_guards_fn"
        is_constant = node.op == "placeholder" and not isinstance(node.meta.get("val"), Tensor | torch.SymInt)
        if not node.users and (is_guard or is_constant):
            graph.erase_node(node)
    output = graph.output_node()
    results = tree_unflatten(list(output.args[0]), graph._codegen.pytree_info.out_spec)  # type: ignore[attr-defined, arg-type]
    output.args = (_plain(results),)
    graph.set_codegen(CodeGen())


def _plain(results: Any) -> Any:
    """The structure of outputs in plain containers: a graph makes no others."""
    if isinstance(results, Mapping):
        return {key: _plain(each) for key, each in results.items()}
    if isinstance(results, tuple | list):
        return (list if isinstance(results, list) else tuple)(_plain(each) for each in results)
    return results


def _read(node: fx.Node, module: fx.GraphModule, root: nn.Module) -> None:
    """A computed parameter is called; a constant of the export comes along, as a buffer that is no state."""
    path = str(node.target)
    attribute = path.rpartition(".")[2]
    standing = _standing(root, path)
    if isinstance(standing, ComputedParameter):
        node.op = "call_module"
    elif standing is None:
        found = _standing(module, path)  # of the caller, not of the model
        host, name = root, attribute
        if isinstance(found, Tensor):
            name = fresh_name(host, f"constant_{path.replace('.', '_')}")
            host.register_buffer(name, found.detach().clone(), persistent=False)
        elif isinstance(found, nn.Module):
            name = fresh_name(host, attribute)
            host.add_module(name, found)
        node.target = name


def _standing(module: nn.Module, path: str) -> Any:
    """What stands at a path, or None."""
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part, None)
    return found


def _follow_mode(node: fx.Node, root: nn.Module) -> None:
    """Dropout follows train() and eval(), as a module of the module that it was in."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path.removeprefix(f"{MODEL}.").removeprefix(MODEL) for path, _ in reversed(list(stack.values()))]
    owner = next((path for path in paths if path and isinstance(_standing(root, path), nn.Module)), "")
    host = root.get_submodule(owner)
    name = fresh_name(host, "dropout")
    source = node.args[0]
    assert isinstance(source, fx.Node)
    kind = DROPOUTS[node.target].get(source.meta["val"].dim(), None) or DROPOUTS[node.target].get(0)
    if kind is None:
        return
    made = kind(float(node.args[1]), inplace=packet(node.target).__name__.endswith("_"))  # type: ignore[arg-type]
    made.training = host.training
    host.add_module(name, made)
    node.op, node.target = "call_module", f"{owner}.{name}" if owner else name
    node.args = node.args[:1]


def _failure(error: Exception, root: nn.Module) -> str:
    below = [spot for spot in spots(error.__traceback__) if spot.owner is not None]
    where = f"{below[-1].told(root)}: " if below else ""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
    return (
        f"{type(root).__name__} cannot be exported: {where}{type(error).__name__}: {reason}\n"
        f"the model is untouched; ways out: via='tree', which traces nothing; dynamic_shapes= and example= as "
        f"torch.export documents them"
    )
