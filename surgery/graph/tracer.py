"""Tracing a model whose parameters are computed: hosts are inlined, each value is one node."""

import operator
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

from torch import Tensor, fx, nn

from computed.parameter import ComputedParameter
from surgery.errors import TraceRefusedError
from surgery.graph.arguments import Call
from surgery.graph.attributes import Attributes
from surgery.graph.constants import Constants
from surgery.graph.deciding import Decisions, Example
from surgery.graph.eager import EagerGuard
from surgery.graph.locating import Spot, current_spot
from surgery.graph.lowering import FORWARDS, OPERATIONS, Lowering, operation_under
from surgery.graph.names import standing
from surgery.graph.operations.op_module import OpModule, become
from surgery.graph.proxies import RecordedProxy, TensorProxy
from surgery.graph.surroundings import Surroundings, known_modes


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
        self.names: dict[int, str] = {}
        self.proxies: dict[int, fx.Proxy] = {}
        self.before: Surroundings | None = None
        self.refusal: TraceRefusedError | None = None
        self.attributes = Attributes([], [])
        self.constants = Constants(self.refuse)
        self.last: Spot | None = None
        self.decisions = Decisions(None, self.create_proxy, self.refuse)

    def record(self, root: nn.Module, *, training: bool) -> fx.Graph:
        """The graph of ``root``, whose modules are in that mode.

        Errors: TraceRefusedError for what a graph would freeze without a word; whatever torch raises.
        """
        named = [*root.named_parameters(remove_duplicate=False), *root.named_buffers(remove_duplicate=False)]
        self.names = {id(tensor): name for name, tensor in reversed(named)}
        self.proxies = {}
        self.attributes = Attributes.of(root)
        example = Example(root, self.call.values) if self.call.by_example else None
        self.decisions = Decisions(example, self.create_proxy, self.refuse)
        with known_modes(training=training), EagerGuard(self.names, self.refuse, self._written_constant):
            self.before = Surroundings.now()
            try:
                graph = self.trace(root)
            finally:
                self.decisions.forget()
        if self.refusal is not None:
            raise self.refusal  # the model's code has caught it
        return graph

    def refuse(self, reason: str, *, has_place: bool = False) -> None:
        """Refuse the trace, with the place; it stays refused where the model's code catches the error."""
        spot = None if has_place else current_spot(self.root) or self.last
        where = f"{spot.told(self.root)} " if spot is not None else ""
        self.refusal = TraceRefusedError(f"{where}{reason}")
        raise self.refusal

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """The result of a node."""
        return RecordedProxy(node, self, self.refuse)

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
        own = vars(self.root).get("forward")  # set on this very model
        forward: Callable[..., Any] = root_fn if own is None else lambda host, *args, **kwargs: own(*args, **kwargs)
        forward = self.forwards.get(type(self.root), forward)
        found = operation_under(self.root)
        if found is not None and type(self.root) not in self.forwards:
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
        if m not in self.paths and not any(True for _ in (*m.parameters(), *m.buffers())):
            return forward(*args, **kwargs)  # made in a forward: nn.ReLU()(x), self.layers[:2](x)
        path = self.path_of_module(m)
        if path in self.inlined:
            lowering = self.forwards.get(type(m))
            if lowering is not None:
                return super().call_module(m, lambda *a, **k: lowering(m, *a, **k), args, kwargs)
            if type(m) in OPERATIONS:
                become(m, OPERATIONS[type(m)])
            if isinstance(m, OpModule):
                return self._call_operation(path, m, m, args, kwargs)
        else:
            changed = self.attributes.changed_now(m)  # for this call, and perhaps set back behind it
            if changed is not None:
                self.refuse(f"{changed}: a graph does not do that", has_place=True)
        return super().call_module(m, forward, args, kwargs)

    def _call_operation(
        self, path: str, operation: OpModule, host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> fx.Proxy:
        values = {keyword: standing(host, name) for keyword, name in operation.value_names().items()}
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
            node = self.create_node("get_attr", name, (), {})
            self.proxies[id(tensor)] = TensorProxy(node, self, self.refuse, tensor)
        return self.proxies[id(tensor)]

    def to_bool(self, obj: fx.Proxy) -> bool:
        """A condition on sizes and dtypes is that of the example; any other is refused."""
        found = self.decisions.condition(obj)
        return super().to_bool(obj) if found is None else found

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """The entries of a shape are as many as on the example; any other is refused."""
        length = self.decisions.length(obj)
        if length is None:
            return super().iter(obj)
        return iter([obj[i] for i in range(length)])  # type: ignore[index] # fx gives proxies their operators at run time

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        """A parameter or buffer that is read is its node."""
        found = self.tensor_of(attr_val) if isinstance(attr_val, Tensor) else None
        return attr_val if found is None else found

    def create_arg(self, a: Any) -> Any:
        """What stands as an argument: a computed parameter is its value, a tensor of the model its node."""
        if isinstance(a, ComputedParameter):
            return self.value_of(a).node
        if isinstance(a, Tensor) and a not in self.tensor_attrs:
            found = self.tensor_of(a)
            return self.constants.node_of(a, self._copied_constant) if found is None else found.node
        if isinstance(a, dict) and type(a) is not dict and is_dataclass(a):  # an output of transformers
            parts = {one.name: getattr(a, one.name) for one in fields(a)}
            given = {name: self.create_arg(part) for name, part in parts.items() if part is not None}
            return self.create_node("call_function", type(a), (), given)
        return super().create_arg(a)

    def _copied_constant(self, numbers: Tensor) -> fx.Node:
        read = super().create_arg(numbers)
        return self.create_node("call_method", "clone", (read,), {})

    def _written_constant(self, tensor: Tensor) -> fx.Proxy | None:
        node = self.constants.written_node(tensor)
        return None if node is None else self.proxy(node)

    def create_node(self, kind: str, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """Note where each node is made; refuse what changes around the model and would not be in the graph."""
        spot = current_spot(self.root)
        self.last = spot or self.last
        assert self.before is not None
        changed = Surroundings.now().difference(self.before)
        if changed is not None:
            self.refuse(changed)
        if target is operator.getitem and not self.call.by_example:
            self._refuse_parts_of(args[0][0])
        node = super().create_node(kind, target, *args, **kwargs)
        self.made[node.name] = Made(spot, self.scope.module_path)
        self.constants.note_writes(node)
        return node

    def _refuse_parts_of(self, whole: Any) -> None:
        """Without an example nobody knows which parts of an author's result are tensors, and a None is none."""
        if isinstance(whole, fx.Node) and whole.op == "call_module":
            kept = self.root.get_submodule(str(whole.target))
            known = isinstance(kept, OpModule | ComputedParameter) or type(kept).__module__.startswith("torch.nn.")
            if not known:
                self.refuse(
                    f"takes the result of {whole.target} ({type(kept).__name__}) apart, which is not traced: a part "
                    f"that is None would be taken for a tensor; pass example=(args, kwargs), and the graph is compared"
                )

    @property
    def paths(self) -> Mapping[nn.Module, str]:
        """The modules of the model, with their names."""
        return self.submodule_paths or {}
