"""Branches on sizes, ranks and dtypes as authors write them: in loops, helpers, containers and kept modules."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

import surgery
from surgery.graph.decided import decided

RULES = {"lin.weight": "spectral"}
ANOTHER = "another branch on the example"


class Net(nn.Module):
    """A host, and a module that is kept whole."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 4)
        self.kept = nn.Sequential(nn.Linear(4, 4), nn.ReLU())


class OneOf(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x) * (2 if x.shape[1] in (5, 7) and x.shape[1] not in range(7, 9) else 3)


class Chained(Net):
    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        return self.lin(x) * (2 if 4 < n < 7 or n & (n - 1) == 0 else 3)


class AsSizes(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x) * (2 if torch.Size([5, 4]) == x.shape[1:] and tuple(x.shape[1:]) == (5, 4) else 3)


class AsLists(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x) * (2 if list(x.shape[1:]) == [5, 4] else 3)


class AnyAll(Net):
    def forward(self, x: Tensor) -> Tensor:
        fits = any(n == 5 for n in x.shape) and all(a >= b for a, b in zip(x.shape, (1, 2, 3), strict=True))
        return self.lin(x) * (2 if fits else 3)


class Sorted(Net):
    def forward(self, x: Tensor) -> Tensor:
        order = sorted(range(3), key=lambda i: x.shape[i])
        return self.lin(x.permute(order).reshape(-1, 4)) * max(x.shape)


class Loop(Net):
    def forward(self, x: Tensor) -> Tensor:
        while x.shape[1] > 2:
            x = F.avg_pool1d(x.transpose(1, 2), 2).transpose(1, 2)
        return self.lin(x)


class Halves(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.halved(x)

    def halved(self, x: Tensor) -> Tensor:
        if x.shape[1] <= 2:
            return self.lin(x)
        middle = x.shape[1] // 2
        return torch.cat([self.halved(x[:, :middle]), self.halved(x[:, middle:]) * 2], 1)


class Case(Net):
    def forward(self, x: Tensor) -> Tensor:
        match x.dim():
            case 2:
                x = x * 2
            case 3:
                x = x * 3
        return self.lin(x)


class Unsqueezed(Net):
    def forward(self, x: Tensor) -> Tensor:
        single = x.dim() == 2
        x = self.lin(x[None] if single else x)
        return x[0] if single else x


class Caught(Net):
    """The text of the error has the shape, which fixes it."""

    def forward(self, x: Tensor) -> Tensor:
        try:
            assert x.shape[1] == 3, f"rows: {x.shape}"
        except AssertionError:
            x = x * 2
        return self.lin(x)


class Twice(Net):
    """A module that is called with two shapes."""

    def forward(self, x: Tensor) -> Tensor:
        return self.weighed(x) + self.weighed(x[:, :3]).mean(1, keepdim=True)

    def weighed(self, x: Tensor) -> Tensor:
        return self.lin(self.kept(x)) * (2 if x.shape[1] == 5 else 3)


class Floats(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x) * (2 if x.shape[1] / 2 > 2.2 and x.shape[1] ** 0.5 < 3 else 3)


class Negative(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x) * (2 if -x.shape[1] // 2 == -3 and -x.shape[1] % 3 == 1 else 3)


class Devices(Net):
    def forward(self, x: Tensor) -> Tensor:
        if x.is_cuda or x.device.type != "cpu" or x.device != self.lin.weight.device:
            x = x.cpu()
        return self.lin(x if x.is_floating_point() else x.float() / 9)


class Floor(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x)[:, : int(x.shape[1] * 0.5)]


class Nonzero(Net):
    """The size depends on numbers: asserted on those of each call."""

    def forward(self, x: Tensor) -> Tensor:
        positive = x[x > 0]
        return self.lin(x) if positive.numel() == 0 else self.lin(x) * positive.mean()


def rows(*shape: int) -> Tensor:
    return torch.rand(*shape) + 0.1


X = rows(2, 5, 4)
# each with an example, inputs for which the branches are the same, and inputs for which one is another
KINDS: list[tuple[type[Net], Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]] = [
    (OneOf, X, (rows(3, 5, 4),), (rows(2, 7, 4), rows(2, 8, 4))),
    (Chained, X, (rows(3, 6, 4),), (rows(2, 7, 4), rows(2, 8, 4))),
    (AsSizes, X, (rows(3, 5, 4),), (rows(2, 6, 4),)),
    (AsLists, X, (rows(3, 5, 4),), (rows(2, 6, 4), rows(2, 5, 1, 4))),
    (AnyAll, X, (rows(3, 5, 4),), (rows(2, 6, 4), rows(2, 5, 4, 4))),
    (Sorted, rows(5, 2, 4), (rows(5, 3, 4), rows(6, 2, 4)), (rows(2, 5, 4),)),
    (Loop, rows(2, 8, 4), (rows(3, 11, 4), rows(2, 7, 4)), (rows(2, 5, 4), rows(2, 16, 4))),
    (Halves, rows(2, 6, 4), (rows(3, 8, 4),), (rows(2, 16, 4), rows(2, 2, 4))),
    (Case, X, (rows(3, 7, 4),), (rows(2, 4), rows(2, 3, 5, 4))),
    (Unsqueezed, rows(2, 4), (rows(3, 4),), (rows(4), X)),
    (Caught, X, (), (rows(2, 3, 4), rows(3, 7, 4))),
    (Twice, X, (rows(3, 5, 4),), (rows(2, 6, 4), rows(2, 3, 4))),
    (Floats, X, (rows(3, 8, 4),), (rows(2, 4, 4), rows(2, 9, 4))),
    (Negative, X, (rows(3, 5, 4),), (rows(2, 6, 4), rows(2, 8, 4))),
    (Devices, X, (rows(3, 7, 4),), (torch.randint(0, 9, (2, 5, 4)),)),
    (Floor, X, (rows(3, 5, 4),), (rows(2, 4, 4), rows(2, 6, 4))),
    (Nonzero, X, (rows(3, 7, 4),), (-X,)),
]
IDS = [kind.__name__ for kind, *_ in KINDS]


def both(model: nn.Module, *example: object) -> tuple[fx.GraphModule, nn.Module]:
    torch.manual_seed(0)
    graph = surgery.apply_constraints(model, RULES, via="fx", example=example)
    return graph, surgery.apply_constraints(model, RULES)


def saved(graph: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(graph), file)
    file.seek(0)
    return torch.jit.load(file)


def frozen(graph: nn.Module) -> nn.Module:
    return torch.jit.freeze(torch.jit.script(graph))


def run_by_node(graph: fx.GraphModule) -> Callable[[Tensor], Tensor]:
    return fx.Interpreter(graph).run


def transformed(graph: fx.GraphModule) -> nn.Module:
    return fx.Transformer(graph).transform()


def itself(graph: nn.Module) -> nn.Module:
    return graph


@pytest.mark.filterwarnings("ignore:The TorchScript type system doesn't support instance-level:UserWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit.(script|script_method|save|load|freeze). is:DeprecationWarning")
@pytest.mark.parametrize("way", [itself, saved])
@pytest.mark.parametrize(("kind", "example", "alike", "others"), KINDS, ids=IDS)
def test_the_graph_is_the_model_or_raises(kind, example, alike, others, way):
    """Eagerly, and saved by TorchScript."""
    graph, tree = both(kind(), example)
    made = way(graph.eval())
    for x in (example, *alike):
        torch.testing.assert_close(made(x), tree.eval()(x))
    for x in others:
        with pytest.raises(Exception, match=ANOTHER):
            made(x)


@pytest.mark.filterwarnings("ignore:The TorchScript type system doesn't support instance-level:UserWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit.(script|script_method|save|load|freeze). is:DeprecationWarning")
@pytest.mark.parametrize("way", [frozen, transformed, run_by_node, surgery.bake])
def test_what_is_made_of_a_graph_has_its_assertions(way: Callable[[fx.GraphModule], Callable[[Tensor], Tensor]]):
    """Constants folded, copied or run node by node, and baked."""
    graph, tree = both(Halves(), rows(2, 6, 4))
    made = way(graph.eval())
    torch.testing.assert_close(made(torch.ones(3, 8, 4)), tree.eval()(torch.ones(3, 8, 4)))
    with pytest.raises(Exception, match=ANOTHER):
        made(rows(2, 16, 4))


class Sum(Net):
    def forward(self, parts: list[Tensor]) -> Tensor:
        return sum(self.lin(part) for part in parts) / len(parts)


class State(Net):
    def forward(self, x: Tensor, state: tuple[Tensor, ...]) -> Tensor:
        return self.lin(x + state[-1]) if len(state) > 1 else self.lin(x)


class Named(Net):
    def forward(self, given: dict[str, list[Tensor]]) -> Tensor:
        x = given["x"][0]
        for scale in given["scales"]:
            x = x * scale if scale.dim() == 0 else x
        return self.lin(x)


class Same(Net):
    def forward(self, x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
        if x.shape == y.shape and y.dtype == x.dtype:
            x = x + y
        return self.lin(x) if mask is None or mask.dtype != torch.bool else self.lin(x).masked_fill(mask, 0.0)


ONE, TWO = torch.tensor(2.0), torch.tensor([3.0])
MASK = rows(2, 5, 4) > 0.5
CALLS: list[tuple[type[Net], tuple, tuple]] = [
    (Sum, ([X, X],), ([X, X, X],)),
    (Sum, ([X, X],), ([],)),
    (State, (X, (X, X)), (X, (X,))),
    (Named, ({"x": [X], "scales": [ONE, TWO]},), ({"x": [X], "scales": [ONE]},)),
    (Named, ({"x": [X], "scales": [ONE, TWO]},), ({"x": [X], "scales": [ONE, ONE]},)),
    (Same, (X, X), (X, X[:1])),
    (Same, (X, X[:1]), (X, X)),
    (Same, (X, X), (X, X.double())),
    (Same, (X, X, MASK), (X, X, MASK.float())),
]


@pytest.mark.parametrize(("kind", "example", "other"), CALLS, ids=[kind.__name__ for kind, *_ in CALLS])
def test_lengths_of_containers_and_sizes_of_several_inputs(kind, example, other):
    """Lists, tuples, nested containers and optional arguments of the example."""
    graph, tree = both(kind(), *example)
    torch.testing.assert_close(graph(*example), tree(*example))
    with pytest.raises(ValueError, match=ANOTHER):
        graph(*other)


class Parts(nn.Module):
    """Gives as many parts as its input has rows, fewer in training where ``cut``."""

    def __init__(self, *, cut: bool) -> None:
        super().__init__()
        self.cut = cut

    def forward(self, x: Tensor) -> list[Tensor]:
        return list(x.unbind(1))[: 3 if self.cut and self.training else None]


class Kept(Net):
    def __init__(self, *, cut: bool = False) -> None:
        super().__init__()
        self.parts = Parts(cut=cut)

    def forward(self, x: Tensor) -> Tensor:
        first, *rest = self.parts(x)
        return self.lin(first) + len(rest) + sum(rest)


def test_a_kept_module_gives_as_many_parts_as_on_the_example():
    """Its list is taken apart; another number of parts raises."""
    graph, tree = both(Kept(), X)
    for x in (X, rows(3, 5, 4)):
        torch.testing.assert_close(graph(x), tree(x))
    with pytest.raises(ValueError, match=ANOTHER):
        graph(rows(2, 6, 4))


def test_a_length_that_follows_the_mode_is_refused():
    """One course of a graph for both modes, though each of the two lengths is known."""
    with pytest.raises(surgery.TraceRefusedError, match="does in training something else than in eval"):
        both(Kept(cut=True), X)


class Made(Net):
    """Tensors that are made by the sizes of the input stay of each call's sizes."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 3:
            raise ValueError("rank")
        rows_of_each = torch.arange(x.shape[1])[None, :, None]
        return self.lin(x) + torch.zeros(x.shape) + rows_of_each + torch.linspace(0, 1, x.shape[1])[:, None]


def test_sizes_that_no_branch_asks_for_stay_free():
    """Only the rank is asserted."""
    graph, tree = both(Made(), X)
    assert sum(node.target is decided for node in graph.graph.nodes) == 1
    for x in (X, rows(3, 7, 4), rows(1, 2, 4)):
        torch.testing.assert_close(graph(x), tree(x))


class Arithmetic(Net):
    """Sizes of sizes: each step has the last one twice."""

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        for _ in range(600):
            n = (n + n % 2) // 2 + 8
        return self.lin(x) if n > 0 else x


def test_long_arithmetic_of_sizes_is_decided():
    """In linear time, and without recursion."""
    graph, tree = both(Arithmetic(), X)
    for x in (X, rows(3, 7, 4)):
        torch.testing.assert_close(graph(x), tree(x))


class Raising(nn.Module):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        raise self.error


class Broken(Net):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.broken = Raising(error)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x) if self.broken(x).dim() == 3 else x


@pytest.mark.parametrize(
    ("error", "expected"),
    [(ValueError("its own"), surgery.TraceRefusedError), (KeyboardInterrupt(), KeyboardInterrupt)],
    ids=["error", "interrupt"],
)
def test_an_error_while_asking_leaves_nothing_patched(error: BaseException, expected: type[BaseException]):
    """Calls of modules, gradients, autocast and random numbers are as before."""
    model = Broken(error)
    called, state = nn.Module.__call__, torch.get_rng_state()
    with pytest.raises(expected):
        surgery.apply_constraints(model, RULES, via="fx", example=(X,))
    assert nn.Module.__call__ is called
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")
    assert torch.equal(torch.get_rng_state(), state)
    assert nn.Linear(4, 4)(X).shape == X.shape


class Written(Net):
    """Writes to its input before it asks for a size."""

    def forward(self, given: dict[str, Tensor]) -> Tensor:
        x = given["x"].mul_(2)
        return self.lin(x) if x.shape[0] > 1 else x


def test_the_example_is_left_alone():
    """By a forward that writes to it in place."""
    given = {"x": X.clone()}
    both(Written(), given)
    assert torch.equal(given["x"], X)


class Told(Net):
    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == 5, f"größe \\ \" ' {x.shape}\n %d {{}}"
        return self.lin(x)


@pytest.mark.filterwarnings("ignore:The TorchScript type system doesn't support instance-level:UserWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit.(script|script_method|save|load|freeze). is:DeprecationWarning")
@pytest.mark.parametrize("way", [copy.deepcopy, saved])
def test_any_statement_can_be_told(way: Callable[[nn.Module], nn.Module]):
    """Quotes, escapes and letters beyond ASCII reach the error, from TorchScript too."""
    graph, _ = both(Told(), X)
    with pytest.raises(Exception, match="größe"):
        way(graph)(rows(2, 6, 4))
