"""What `torch.jit.script` compiles of a constrained graph: the same tensors, without what it does not know.

A computed parameter is a module whose code is generated from its chain; a module that the graph does not call is an
empty one with the same tensors. State that follows training is committed at each forward of a scripted module in
training, for no optimizer tells it of its steps.
"""

from torch import Tensor, fx, nn

from computed.constraint import Constraint, state_dtype
from computed.errors import ComputedParameterError
from computed.evaluation import own_roles
from computed.parameter import ComputedParameter
from surgery.graph.operations.op_module import OpModule, settings_of


class Container(nn.Module):
    """Tensors and modules under their names, and nothing to call."""


def scriptable_root(module: fx.GraphModule) -> fx.GraphModule:
    """A GraphModule with the graph of ``module``, its tensors and what it calls, all of which can be compiled.

    Errors: ComputedParameterError for constraints that no TorchScript can be made of.
    """
    called = {str(node.target) for node in module.graph.nodes if node.op == "call_module"}
    made = fx.GraphModule(nn.Module(), fx.Graph(), class_name=type(module).__name__)
    _fill(made, module, "", called, {})
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    made.graph = graph
    return made


def _fill(made: nn.Module, source: nn.Module, prefix: str, called: set[str], known: dict[int, nn.Module]) -> None:
    made.training = source.training
    made._parameters.update(source._parameters)
    made._buffers.update(source._buffers)
    made._non_persistent_buffers_set.update(source._non_persistent_buffers_set)
    known[id(source)] = made
    vars(made).update({name: value for name, value in vars(source).items() if isinstance(value, Tensor)})
    for name, child in source._modules.items():
        if child is not None:
            made._modules[name] = _scriptable(child, prefix + name, called, known)


def _scriptable(module: nn.Module, path: str, called: set[str], known: dict[int, nn.Module]) -> nn.Module:
    if id(module) in known:
        return known[id(module)]
    if isinstance(module, ComputedParameter):
        known[id(module)] = generated(module, path)
        return known[id(module)]
    if isinstance(module, OpModule):
        made: nn.Module = settings_of(module, type(module))
    elif path in called:
        return module
    else:
        made = Container()
    _fill(made, module, f"{path}.", called, known)
    return made


def generated(parameter: ComputedParameter, path: str) -> fx.GraphModule:
    """A module without inputs that computes the value of ``parameter``, from the same raws and constraints."""
    for module in parameter.constraints:
        if isinstance(module, Constraint) and not module.scriptable:
            raise ComputedParameterError(
                f"{path}: torch.jit.script cannot compile {module!r}; make it plain first: "
                f"surgery.bake(model, {path!r})"
            )
    graph = fx.Graph()
    running: fx.Node | None = None
    slots = iter(parameter.raw_slots())
    for position, link in enumerate(parameter.links):
        own = [_raw(graph, next(slots).name, parameter) for _ in range(own_roles(link, position))]
        arguments = own if running is None else [running, *own]
        fixed = [
            argument if role.trained else graph.call_method("detach", (argument,))
            for argument, role in zip(arguments, link.roles, strict=True)
        ]
        running = graph.create_node("call_module", f"constraints.{position}", tuple(fixed))
    assert running is not None
    if state_dtype(parameter.dtype) is not parameter.dtype:
        running = graph.call_method("to", (running, parameter.dtype))
    graph.output(running)
    made = fx.GraphModule(nn.Module(), fx.Graph(), class_name="Value")
    made.training = parameter.training
    made._parameters.update(parameter._parameters)
    made._buffers.update(parameter._buffers)
    made._modules.update(parameter._modules)
    made.graph = graph
    return made


def _raw(graph: fx.Graph, name: str, parameter: ComputedParameter) -> fx.Node:
    node = graph.create_node("get_attr", name)
    wide = state_dtype(parameter.dtype)
    return node if wide is parameter.dtype else graph.call_method("to", (node, wide))
