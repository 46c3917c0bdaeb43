"""How much a whole model can stretch a difference of inputs: constants of layers, put together along its graph."""

import copy
import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from surgery.errors import SurgeryError
from surgery.layer_constants import FUNCTIONS, METHODS, Constant, Unknown, constant_of
from surgery.tables import Tabular
from surgery.wording import folded

SUMS = (operator.add, operator.iadd, torch.add, operator.sub, operator.isub, torch.sub)
PRODUCTS = (operator.mul, operator.imul, torch.mul)
NO_NUMBERS = ("shape", "dtype", "device", "ndim")
QUOTIENTS = (operator.truediv, operator.itruediv, torch.div)


@dataclass(frozen=True)
class Stretch:
    """One layer or operation: its name, its kind, and its constant, or why none is known."""

    name: str
    kind: str
    constant: Constant


@dataclass(frozen=True)
class LipschitzBound(Tabular):
    """What a model stretches differences of inputs by, at most; prints as a table."""

    layers: tuple[Stretch, ...]
    bound: float

    @property
    def unknown(self) -> tuple[Stretch, ...]:
        """The layers of which no constant is known; where there are some, ``bound`` is infinite."""
        return tuple(layer for layer in self.layers if isinstance(layer.constant, Unknown))

    def columns(self) -> tuple[str, ...]:
        """The heads of the table."""
        return "layer", "kind", "constant"

    def lines(self) -> list[tuple[str, ...]]:
        """The cells of the table."""
        return [(folded(layer.name), layer.kind, _told(layer.constant)) for layer in self.layers]

    def footer(self) -> list[str]:
        """What the table comes to."""
        if self.unknown:
            missing = ", ".join(layer.name for layer in self.unknown)
            return [f"no bound: {missing} not known; give known={{{self.unknown[0].kind}: ...}} where you know it"]
        return [f"at most {self.bound:.6g} in the Euclidean norm, in eval"]


def _told(constant: Constant) -> str:
    return constant.reason if isinstance(constant, Unknown) else f"{constant:.6g}"


def lipschitz_bound(
    model: nn.Module,
    input_shape: Sequence[int] | None = None,
    *,
    known: Mapping[type[nn.Module], float] | None = None,
) -> LipschitzBound:
    """A number that ``|f(x) - f(y)| / |x - y|`` is not above, for all inputs, in the Euclidean norm and in eval.

    Constants of layers are multiplied along a path, added where paths meet, and joined as ``sqrt(a² + b²)`` where
    outputs are put side by side: right for every model that can be traced, and the closer the fewer branches and the
    closer to orthogonal its layers are. Those of linear layers and convolutions are measured on the weights that eval
    uses (see `surgery.certify`). What is not known is named, and the bound is infinite then. Changes nothing.

    Args:
        model: any module with one tensor as its input, which ``torch.fx`` can trace.
        input_shape: of one sample, without the batch; only some poolings and means need it.
        known: constants of classes of your own, or of others that are not known here.

    Errors: SurgeryError for a model that cannot be traced, or has several inputs.

    Reference: Szegedy et al., "Intriguing properties of neural networks", 2014 (arXiv:1312.6199), section 4.3.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU())
        >>> _ = net[0].weight.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
        >>> print(lipschitz_bound(net))
        layer  kind    constant
        0      Linear         3
        1      ReLU           1
        at most 3 in the Euclidean norm, in eval
    """
    root = nn.Sequential(copy.deepcopy(model)).eval()
    known = dict(known or {})
    try:
        graph = _Tracer(tuple(known)).trace(root)
    except Exception as error:  # whatever the author's code says of a proxy
        raise SurgeryError(f"{type(model).__name__} cannot be traced, so no bound is known: {error}") from error
    traced = fx.GraphModule(root, graph)
    if input_shape is not None:
        floating = [each for each in model.state_dict().values() if each.is_floating_point()]
        like = floating[0] if floating else torch.zeros(())
        with torch.no_grad():
            ShapeProp(traced).propagate(torch.zeros(1, *input_shape, dtype=like.dtype, device=like.device))
    return _Along(traced, known).bound(type(model).__name__)


class _Tracer(fx.Tracer):
    """Layers of torch, and those whose constant is given, are leaves."""

    def __init__(self, known: tuple[type[nn.Module], ...]) -> None:
        super().__init__()
        self.known = known

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Containers are traced through."""
        if isinstance(m, self.known):
            return True
        return super().is_leaf_module(m, module_qualified_name) and not isinstance(m, nn.Sequential | nn.ModuleList)


class _Along:
    """Constants of all nodes of a graph, each with respect to the input."""

    def __init__(self, traced: fx.GraphModule, known: Mapping[type[nn.Module], float]) -> None:
        self.traced = traced
        self.known = known
        self.found: dict[fx.Node, float] = {}
        self.layers: list[Stretch] = []

    def bound(self, model: str) -> LipschitzBound:
        """The constant of the output."""
        inputs = [node for node in self.traced.graph.nodes if node.op == "placeholder" and node.users]
        if len(inputs) > 1:
            raise SurgeryError(f"{model} has several inputs, {', '.join(node.name for node in inputs)}: wrap it in one")
        result = 0.0
        for node in self.traced.graph.nodes:
            if node.op == "output":
                result = _joined([self.found[each] for each in _nodes(node.args)])
            else:
                self.found[node] = self._constant(node)
        return LipschitzBound(tuple(self.layers), result)

    def _constant(self, node: fx.Node) -> float:
        if node.op == "placeholder":
            return 1.0
        before = [self.found[each] for each in _nodes((node.args, node.kwargs))]
        of_shape = node.target is getattr and node.args[1] in NO_NUMBERS
        of_shape |= node.op == "call_method" and node.target in ("size", "dim", "numel")
        if of_shape or not any(before):  # it does not depend on the numbers of the input
            return 0.0
        name, kind, own = self._own(node)
        if own is None:
            return self._put_together(node, before)
        if node.op == "call_module" or isinstance(own, Unknown) or own != 1.0:
            self.layers.append(Stretch(name, kind, own))
        if isinstance(own, Unknown) or len([each for each in before if each]) > 1:
            return math.inf
        return own * max(before)

    def _own(self, node: fx.Node) -> tuple[str, str, Constant | None]:
        """Name, kind and constant of a node by itself; None for what puts several inputs together."""
        shape = _shape(node.args[0]) if node.args else None
        if node.op == "call_module":
            module = self.traced.get_submodule(str(node.target))
            given = [self.known[kind] for kind in type(module).__mro__ if kind in self.known]
            constant = float(given[0]) if given else constant_of(module, shape)
            return str(node.target).partition(".")[2] or "(it)", type(module).__name__, constant
        if node.target in (*SUMS, torch.cat) or node.target in ("add", "sub"):
            return node.name, "", None
        called = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        return node.name, str(called), self._operation(node, shape)

    def _operation(self, node: fx.Node, shape: Sequence[int] | None) -> Constant:
        target: Any = node.target
        numbers = [each for each in node.args if isinstance(each, int | float) and not isinstance(each, bool)]
        if target in (*PRODUCTS, *QUOTIENTS) and len(numbers) == 1 and isinstance(node.args[-1], int | float | fx.Node):
            if target in PRODUCTS:
                return abs(float(numbers[0]))
            if node.args[1] is numbers[0] and numbers[0]:
                return 1 / abs(float(numbers[0]))
        if target is operator.getitem or (node.op == "call_function" and target in FUNCTIONS):
            return FUNCTIONS.get(target, 1.0)
        if node.op == "call_method" and target in METHODS:
            return METHODS[target]
        if target in ("mean", torch.mean):
            return _mean(node, shape)
        return Unknown(f"{getattr(target, '__name__', target)} is not known")

    def _put_together(self, node: fx.Node, before: list[float]) -> float:
        if node.target is torch.cat:
            return _joined(before)
        if "alpha" in node.kwargs:
            self.layers.append(Stretch(node.name, "add", Unknown("alpha= is not known")))
            return math.inf
        return sum(before)


def _mean(node: fx.Node, shape: Sequence[int] | None) -> Constant:
    """A mean of ``n`` numbers stretches by ``1 / sqrt(n)``."""
    dims = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
    if shape is None or dims is None:
        return Unknown("its constant depends on the size of its input: give input_shape")
    listed = [dims] if isinstance(dims, int) else list(dims)  # type: ignore[arg-type] # of a node of fx nothing is known
    return 1 / math.sqrt(math.prod(shape[int(dim)] for dim in listed))


def _shape(argument: Any) -> Sequence[int] | None:
    meta = argument.meta.get("tensor_meta") if isinstance(argument, fx.Node) else None
    return None if meta is None else tuple(meta.shape)


def _joined(constants: Sequence[float]) -> float:
    return math.sqrt(sum(each**2 for each in constants))


def _nodes(arguments: Any) -> Iterator[fx.Node]:
    """The nodes among arguments, each as often as it is there."""
    found: list[fx.Node] = []

    def note(node: fx.Node) -> fx.Node:
        found.append(node)
        return node

    fx.map_arg(arguments, note)
    return iter(found)
