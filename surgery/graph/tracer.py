"""Tracing a model whose parameters are computed: hosts are inlined, each value is one node."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from torch import Tensor, fx, nn

from computed.parameter import ComputedParameter
from surgery.errors import TraceRefusedError
from surgery.graph.arguments import Call
from surgery.graph.locating import Spot, current_spot
from surgery.graph.lowering import FORWARDS, OPERATIONS, Lowering
from surgery.graph.operations.op_module import OpModule, become, operation_of
from surgery.graph.proxies import TensorProxy
from surgery.graph.surroundings import Surroundings


class Made(NamedTuple):
    """Where a node was made: the line of the model's code, and the name of the module that it runs in."""

    spot: Spot | None
    module: str


NO_ARGUMENTS = Call(())


class SurgeryTracer(fx.Tracer):
    """A tracer for a model that is this trace's own: a copy.

    Modules named in ``inlined`` are traced through, all others are leaves. A computed parameter is one call of its
    module, whatever the number of its uses; hosts of `OPERATIONS` become op modules at their own place, and modules of
    ``forwards`` are traced by another function than their forward.
    """

    proxy_buffer_attributes = True

    def __init__(
        self,
        inlined: Collection[str] = frozenset(),
        call: Call = NO_ARGUMENTS,
        forwards: Mapping[type[nn.Module], Lowering] = FORWARDS,
    ) -> None:
        super().__init__()
        self.inlined = frozenset(inlined)
        self.call = call
        self.forwards = forwards
        self.made: dict[str, Made] = {}
        self.lowered: list[str] = []
        self.names: dict[int, str] = {}
        self.proxies: dict[int, fx.Proxy] = {}
        self.before: Surroundings | None = None

    def record(self, root: nn.Module) -> fx.Graph:
        """The graph of ``root`` in the mode that it is in.

        Errors: TraceRefusedError for what a graph would freeze without a word; whatever torch raises.
        """
        named = [*root.named_parameters(remove_duplicate=False), *root.named_buffers(remove_duplicate=False)]
        self.names = {id(tensor): name for name, tensor in reversed(named)}
        self.proxies = {}
        self.before = Surroundings.now()
        graph = self.trace(root)
        graph._tracer_cls = None  # unpickling traces the code again, with torch's own
        return graph

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        """Inputs for what is traced; the other arguments are constants."""
        positional, keyword = self.call.filled(
            [
                self.create_proxy("placeholder", argument.name, (), {}, type_expr=argument.type)
                for argument in self.call.arguments
                if argument.traced
            ]
        )
        return self._forward_of_root(root_fn, keyword), [self.root, *positional]

    def _forward_of_root(self, root_fn: Callable[..., Any], keyword: dict[str, Any]) -> Callable[..., Any]:
        forward: Callable[..., Any] = self.forwards.get(type(self.root), root_fn)
        found = operation_under(self.root)
        if found is not None and forward is root_fn:
            path, made = found

            def forward(host: nn.Module, *args: Any, **kwargs: Any) -> Any:
                return self._call_operation(path, made, host, args, kwargs)

        return lambda *args: forward(*args, **keyword)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whatever is not to be inlined."""
        return module_qualified_name not in self.inlined

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """A computed parameter is its value; a host is an op module, or traced by its function or by its forward."""
        if isinstance(m, ComputedParameter):
            return self.value_of(m)
        path = self.path_of_module(m)
        if path in self.inlined:
            if type(m) in OPERATIONS:
                self.lowered.append(path)
                become(m, OPERATIONS[type(m)])
            if isinstance(m, OpModule):
                return self._call_operation(path, m, m, args, kwargs)
            lowering = self.forwards.get(type(m))
            if lowering is not None:
                return super().call_module(m, lambda *a, **k: lowering(m, *a, **k), args, kwargs)
        return super().call_module(m, forward, args, kwargs)

    def _call_operation(
        self, path: str, operation: OpModule, host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> fx.Proxy:
        values = {keyword: _standing(host, name) for keyword, name in operation.value_names().items()}
        given = {keyword: value for keyword, value in values.items() if value is not None}
        return self.create_proxy("call_module", path, args, kwargs | given)

    def value_of(self, parameter: ComputedParameter) -> fx.Proxy:
        """The one call of a computed parameter."""
        if id(parameter) not in self.proxies:
            self.proxies[id(parameter)] = self.create_proxy("call_module", self.path_of_module(parameter), (), {})
        return self.proxies[id(parameter)]

    def tensor_of(self, tensor: Tensor) -> fx.Proxy | None:
        """The one node of a parameter or buffer of the model; None for other tensors."""
        name = self.names.get(id(tensor))
        if name is None:
            return None
        if id(tensor) not in self.proxies:
            self.proxies[id(tensor)] = TensorProxy(self.create_node("get_attr", name, (), {}), self, tensor)
        return self.proxies[id(tensor)]

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        """A parameter or buffer that is read is its node."""
        found = self.tensor_of(attr_val) if isinstance(attr_val, Tensor) else None
        return attr_val if found is None else found

    def create_arg(self, a: Any) -> Any:
        """What stands as an argument: a computed parameter is its value, a tensor of the model its node."""
        if isinstance(a, ComputedParameter):
            return self.value_of(a).node
        if isinstance(a, Tensor):
            found = self.tensor_of(a)
            if found is not None:
                return found.node
        return super().create_arg(a)

    def create_node(self, kind: str, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """Note where each node is made; refuse what changes around the model and would not be in the graph."""
        spot = current_spot(self.root)
        assert self.before is not None
        changed = Surroundings.now().difference(self.before)
        if changed is not None:
            where = f"{spot.told(self.root)} " if spot is not None else ""
            raise TraceRefusedError(f"{where}{changed}")
        node = super().create_node(kind, target, *args, **kwargs)
        self.made[node.name] = Made(spot, self.scope.module_path)
        return node


def put_operation_under(root: nn.Module) -> None:
    """Where the root itself is a host that becomes an op module: that is a module below it, a graph takes its place."""
    operation = OPERATIONS.get(type(root))
    if operation is not None and operation_under(root) is None:
        root.add_module(fresh_name(root, "operation"), operation_of(root, operation))


def operation_under(root: nn.Module) -> tuple[str, OpModule] | None:
    """The op module that does what the root did, and its name."""
    for name, child in root._modules.items():
        if isinstance(child, OpModule) and child.stands_for is type(root):
            return name, child
    return None


def fresh_name(module: nn.Module, wanted: str) -> str:
    """``wanted``, or with a number where the module has something of that name."""
    taken = {*vars(module), *module._parameters, *module._buffers, *module._modules, *dir(type(module))}
    numbered = (f"{wanted}_{number}" for number in range(1, len(taken) + 2))
    return wanted if wanted not in taken else next(name for name in numbered if name not in taken)


def _standing(host: nn.Module, name: str | list[str] | dict[str, str]) -> Any:
    """What stands at a dotted name of ``host``: a tensor, a computed parameter, or None; for several names several."""
    if isinstance(name, list):
        return [_standing(host, each) for each in name]
    if isinstance(name, dict):
        found = {key: _standing(host, each) for key, each in name.items()}
        return {key: value for key, value in found.items() if value is not None}
    *path, attribute = name.split(".")
    for part in path:
        host = host._modules[part]  # type: ignore[assignment]
    for registry in (host._parameters, host._buffers, host._modules):
        if attribute in registry:
            return registry[attribute]
    return None
