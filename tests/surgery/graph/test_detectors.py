"""What a plain trace would freeze or lose without a word is refused with its place, or is right in the graph."""

from __future__ import annotations

import contextlib
import itertools
import random
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import surgery
from tests.surgery.graph.sides import RULES, Net, agree, graph_of, refused, rows
from tests.surgery.picture import bits

GRADIENTS = "changes the mode of gradients"
AUTOCAST = "changes the mode of autocast"
MODES = "does in training something else than in eval"


class UnderNoGrad(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            hidden = self.lin(x)
        return hidden + self.lin.bias


class UnderEnableGrad(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            return self.lin(x) * 2


class UnderInference(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            return self.lin(x) * 3


class UnderAutocast(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.lin(x) * 4


class WithoutAutocast(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return self.lin(x) * 5


class Decorated(Net):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x) * 6


class Switched(Net):
    def forward(self, x: Tensor) -> Tensor:
        torch.set_grad_enabled(False)
        hidden = self.lin(x) * 7
        torch.set_grad_enabled(True)
        return hidden


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sign() * 8

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class StraightThrough(Net):
    def forward(self, x: Tensor) -> Tensor:
        return Straight.apply(self.lin(x))


CONTEXTS = [
    (UnderNoGrad, "hidden = self.lin(x)", GRADIENTS),
    (UnderInference, "return self.lin(x) * 3", GRADIENTS),
    (UnderAutocast, "return self.lin(x) * 4", AUTOCAST),
    (Decorated, "return self.lin(x) * 6", GRADIENTS),
    (Switched, "hidden = self.lin(x) * 7", GRADIENTS),
    (StraightThrough, "return x.sign() * 8", GRADIENTS),
]


@pytest.mark.parametrize(("author", "statement", "reason"), CONTEXTS)
@pytest.mark.parametrize("nested", [False, True], ids=["root", "nested"])
def test_a_mode_that_a_forward_changes_is_refused(author: type[Net], statement: str, reason: str, nested: bool):
    try:
        message = refused(nn.Sequential(nn.ReLU(), author()) if nested else author(), statement, reason)
        assert author is StraightThrough or ("module '1'" if nested else "the model itself") in message
    finally:
        torch.set_grad_enabled(True)  # a forward that was left half-way


@pytest.mark.parametrize("author", [UnderNoGrad, StraightThrough])
def test_a_mode_is_refused_also_where_the_caller_has_it_already(author: type[Net]):
    """`apply_constraints` under no_grad, as set-up code often runs: the graph trains later."""
    with torch.no_grad(), pytest.raises(surgery.TraceRefusedError, match=GRADIENTS):
        graph_of(author(), example=rows())


@pytest.mark.parametrize(("author", "reason"), [(UnderEnableGrad, GRADIENTS), (WithoutAutocast, AUTOCAST)])
def test_a_mode_that_only_matters_to_a_later_caller_is_refused(author: type[Net], reason: str):
    """A graph that runs under no_grad or autocast must do what the model does there."""
    with pytest.raises(surgery.TraceRefusedError, match=reason):
        graph_of(author())


def test_a_branch_on_the_gradient_mode_is_refused():
    class Asking(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.lin(x) if torch.is_grad_enabled() else self.lin(x) * 2

    with pytest.raises(surgery.TraceRefusedError, match="return self"):
        graph_of(Asking())


def test_a_refusal_that_the_forward_swallows_is_still_a_refusal():
    class Swallowing(Net):
        def forward(self, x: Tensor) -> Tensor:
            with contextlib.suppress(RuntimeError), torch.no_grad():
                x = self.lin(x)
            return x * 2

    refused(Swallowing(), "x = self.lin(x)", GRADIENTS)


class Noisy(Net):
    def forward(self, x: Tensor) -> Tensor:
        noise = torch.rand(4)
        return self.lin(x) + noise


class Standing(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x) + torch.empty(4).normal_()


class PythonNoise(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x) * random.uniform(0.5, 1.0)


class NumpyNoise(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x) * float(np.random.rand())


class LayerDrop(Net):
    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            if random.random() < 0.5:
                x = self.lin(x)
        return x


class LateCoin(Net):
    def forward(self, x: Tensor) -> Tensor:
        hidden = self.lin(x)
        if random.random() < 2.0:
            return hidden
        return x


RANDOM = [(Noisy, "torch"), (Standing, "torch"), (PythonNoise, "random"), (NumpyNoise, "numpy.random")]
RANDOM += [(LayerDrop, "random"), (LateCoin, "random")]


@pytest.mark.parametrize(("author", "source"), RANDOM)
def test_random_numbers_that_no_node_draws_are_refused(author: type[Net], source: str):
    with pytest.raises(surgery.TraceRefusedError, match=f"draws random numbers from {source}") as caught:
        graph_of(author())
    assert __file__ in str(caught.value)  # the place


def generators() -> tuple[object, ...]:
    _, keys, position, *_ = np.random.get_state()
    return bits(torch.get_rng_state()), random.getstate(), keys.tobytes(), position


@pytest.mark.parametrize("author", [*(author for author, _ in RANDOM), UnderNoGrad, UnderEnableGrad])
def test_the_generators_stand_where_they_stood(author: type[Net]):
    model, before = author(), generators()
    with contextlib.suppress(surgery.TraceRefusedError):
        graph_of(model)
    assert generators() == before


class Coin(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * random.random() * float(np.random.rand()) * torch.rand(())


class WithCoin(Net):
    def build(self) -> None:
        self.coin = Coin()

    def forward(self, x: Tensor) -> Tensor:
        return self.coin(self.lin(x))


def test_the_check_on_an_example_leaves_the_generators_and_gives_both_sides_the_same_numbers():
    """What a leaf draws is its own affair."""
    model, x = WithCoin(), rows()
    before = generators()
    graph_of(model, example=x)
    assert generators() == before


GENERATOR, COINS, NUMBERS = torch.Generator(), random.Random(0), np.random.default_rng(0)


class Forked(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            noise = torch.rand(4)
        return self.lin(x) + noise


class OwnGenerator(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x) + torch.rand(4, generator=GENERATOR)


class OwnCoins(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x) * COINS.random()


class OwnNumbers(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x) * float(NUMBERS.random())


@pytest.mark.parametrize("author", [Forked, OwnGenerator, OwnCoins, OwnNumbers])
def test_random_numbers_of_other_generators_are_refused(author: type[Net]):
    with pytest.raises(surgery.TraceRefusedError, match=r"test_detectors\.py:\d+: `"):
        graph_of(author())


@pytest.mark.parametrize(
    "draw",
    [torch.randn_like, lambda y: F.dropout(y, 0.5), lambda y: torch.bernoulli(torch.sigmoid(y))],
    ids=["randn_like", "dropout that is always on", "bernoulli"],
)
def test_random_numbers_that_a_node_draws_are_new_at_each_call(draw: Callable[[Tensor], Tensor]):
    class Drawing(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.lin(x) + draw(x)

    graph, x = agree(Drawing(), rows()), rows()
    assert not torch.equal(graph(x), graph(x))


class Branch(Net):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            x = x * 2
        return self.lin(x)


class ByHand(Net):
    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(self.lin(x), None, torch.ones(4), training=self.training)


class Scaled(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x) * float(self.training)


class Attending(Net):
    p = 0.1

    def forward(self, x: Tensor) -> Tensor:
        y = self.lin(x)[None]
        return F.scaled_dot_product_attention(y, y, y, dropout_p=self.p if self.training else 0.0)


class Leaky(Net):
    def forward(self, x: Tensor) -> Tensor:
        return F.rrelu(self.lin(x), training=self.training)


class MoreInEval(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.lin(x)
        return y if self.training else y.softmax(-1)


class TwoRates(Net):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.lin(x), 0.5 if self.training else 0.2, self.training)


BY_MODE = [
    (Branch, "x = x * 2"),
    (ByHand, "return F.batch_norm(self.lin(x), None, torch.ones(4), training=self.training)"),
    (Scaled, "return self.lin(x) * float(self.training)"),
    (Leaky, "return F.rrelu(self.lin(x), training=self.training)"),
    (MoreInEval, "return y if self.training else y.softmax(-1)"),
    (TwoRates, "return F.dropout(self.lin(x), 0.5 if self.training else 0.2, self.training)"),
]


@pytest.mark.parametrize("p", [0.1, 0.0])
def test_attention_drops_in_training_alone(p: float):
    """The idiom of attention layers: a module that knows its mode stands in the graph."""
    model = Attending()
    model.p = p
    graph = agree(model, rows(), example=(rows(),))
    assert any("scaled_dot_product_attention" in str(node.target) for node in graph.graph.nodes)


@pytest.mark.parametrize(("author", "statement"), BY_MODE)
def test_what_differs_by_the_mode_is_refused(author: type[Net], statement: str):
    refused(author(), statement, MODES)


def test_a_mode_that_a_forward_sets_is_refused():
    class Frozen(Net):
        def build(self) -> None:
            self.norm = nn.BatchNorm1d(4)

        def forward(self, x: Tensor) -> Tensor:
            self.norm.eval()
            return self.lin(self.norm(x))

    refused(Frozen(), "self.norm.eval()", "")


@pytest.mark.parametrize("nested", [False, True], ids=["root", "nested"])
def test_a_train_method_of_its_own_is_kept_or_refused(nested: bool):
    class Stubborn(Net):
        def build(self) -> None:
            self.norm = nn.BatchNorm1d(4)

        def train(self, mode: bool = True) -> Stubborn:
            super().train(mode)
            self.norm.eval()
            return self

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.lin(x))

    if nested:
        agree(nn.Sequential(Stubborn()), rows(), rules={"0.lin.weight": "positive"})
    else:
        with pytest.raises(surgery.TraceRefusedError, match="train"):
            graph_of(Stubborn())


def test_a_forward_of_an_instance_is_the_one_that_is_traced():
    class Plain(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.lin(x)

    model = Plain()
    model.forward = types.MethodType(lambda self, x: self.lin(x) * 2, model)
    agree(model, rows())


SEEN: list[Any] = []
COUNTER = itertools.count()


class SetsLast(Net):
    def forward(self, x: Tensor) -> Tensor:
        self.last = self.lin(x)
        return self.last


class Counts(Net):
    k = 0

    def forward(self, x: Tensor) -> Tensor:
        self.k += 1
        return self.lin(x)


class SetsByName(Net):
    def forward(self, x: Tensor) -> Tensor:
        setattr(self, "last", self.lin(x))  # noqa: B010
        return x


class Inherits(SetsLast):
    """The assignment is in the class above."""


class Appends(Net):
    def build(self) -> None:
        self.features: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.features.append(self.lin(x))
        return self.features[-1]


class Files(Net):
    def build(self) -> None:
        self.features: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        self.features["y"] = self.lin(x)
        return self.features["y"]


class SetsOfAChild(Net):
    def build(self) -> None:
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        self.drop.p = 0.1
        return self.drop(self.lin(x))


class StoresABuffer(Net):
    def build(self) -> None:
        self.register_buffer("last", torch.zeros(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        self.last = x.detach()
        return self.lin(x)


class CountsOnTheClass(Net):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        type(self).calls += 1
        return self.lin(x)


class Iterates(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x) * next(COUNTER)


SETTING = [
    (SetsLast, "self.last = self.lin(x)", "sets self.last"),
    (Counts, "self.k += 1", "sets self.k"),
    (Inherits, "self.last = self.lin(x)", "sets self.last"),
    (SetsOfAChild, "self.drop.p = 0.1", "p"),
    (StoresABuffer, "self.last = x.detach()", "sets self.last"),
    (Iterates, "return self.lin(x) * next(COUNTER)", MODES),
]


@pytest.mark.parametrize(("author", "statement", "reason"), SETTING)
def test_an_attribute_that_a_forward_sets_is_refused(author: type[Net], statement: str, reason: str):
    refused(author(), statement, reason)


@pytest.mark.parametrize("author", [SetsByName, Appends, Files, CountsOnTheClass])
def test_what_a_forward_keeps_elsewhere_is_refused(author: type[Net]):
    with pytest.raises(surgery.TraceRefusedError, match=r"last|features|calls"):
        graph_of(author())


def test_a_weight_that_a_forward_replaces_by_data_is_refused():
    class Clamping(Net):
        def build(self) -> None:
            self.scale = nn.Parameter(torch.full((4,), 3.0))

        def forward(self, x: Tensor) -> Tensor:
            self.scale.data = self.scale.data.clamp(-1, 1)
            return self.lin(x) * self.scale

    refused(Clamping(), "self.scale.data = self.scale.data.clamp(-1, 1)", "")


class WritesAround(Net):
    def build(self) -> None:
        self.register_buffer("n", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self._buffers["n"].add_(1)
        return self.lin(x) + self.n


class Penalty(Net):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.lin(x), sum(one.square().sum() for one in self.parameters())


class AllBuffers(WritesAround):
    def forward(self, x: Tensor) -> Tensor:
        for buffer in self.buffers():
            buffer.add_(1)
        return self.lin(x) + self.n


@pytest.mark.parametrize("author", [WritesAround, Penalty, AllBuffers])
def test_an_operation_that_runs_on_the_model_while_it_is_traced_is_refused(author: type[Net]):
    """`parameters()` and the registries give tensors, which no trace sees."""
    with pytest.raises(surgery.TraceRefusedError, match=r"square|add_"):
        graph_of(author())


HOOKED = ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"]
HOOKED += ["register_full_backward_pre_hook"]


class Deep(Net):
    def build(self) -> None:
        self.norm = nn.BatchNorm1d(4)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.lin(x)))


@pytest.mark.parametrize("kind", HOOKED)
@pytest.mark.parametrize("path", ["", "lin", "norm"], ids=["root", "inlined", "lowered"])
def test_hooks_of_what_a_graph_does_not_call_are_refused_or_ignored(kind: str, path: str):
    model = Deep()
    calls: list[int] = []
    getattr(model.get_submodule(path), kind)(lambda *args: calls.append(1))
    with pytest.raises(surgery.TraceRefusedError, match=f"{path or 'the model itself'} .*hooks='ignore'"):
        graph_of(model, {"*.weight": "positive"})
    graph = graph_of(model, {"*.weight": "positive"}, hooks="ignore")
    graph(rows()).sum().backward()
    assert calls == []
    model(rows().requires_grad_()).sum().backward()
    assert calls == [1]


STATE_HOOKS = {
    "register_load_state_dict_pre_hook": lambda *args: None,
    "register_load_state_dict_post_hook": lambda *args: None,
    "register_state_dict_pre_hook": lambda *args: None,
    "register_state_dict_post_hook": lambda *args: None,
}


@pytest.mark.parametrize("register", STATE_HOOKS)
@pytest.mark.parametrize("via", ["fx", "export"])
def test_hooks_on_the_state_dict_of_the_root_are_refused_or_ignored(register: str, via: str):
    """The root is another module in the graph, and its checkpoints would be read by other rules; parts keep theirs."""
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    getattr(model[0], register)(STATE_HOOKS[register])
    example = (torch.randn(2, 3),)
    surgery.apply_constraints(model, {"*.weight": "positive"}, via=via, example=example)
    getattr(model, register)(STATE_HOOKS[register])
    with pytest.raises(
        surgery.TraceRefusedError, match=r"the model itself \(Sequential\) has .*state_dict.*hooks='ignore'"
    ):
        surgery.apply_constraints(model, {"*.weight": "positive"}, via=via, example=example)
    surgery.apply_constraints(model, {"*.weight": "positive"}, via=via, example=example, hooks="ignore")


@pytest.mark.parametrize("kind", HOOKED)
def test_hooks_of_leaves_work_on(kind: str):
    model, calls = Deep(), []
    getattr(model.act, kind)(lambda *args: calls.append(1))
    graph = graph_of(model, RULES)
    assert calls == []
    graph(rows()).sum().backward()
    assert calls == [1]


class ByType(Net):
    wrong: Callable[[Tensor], Tensor] = staticmethod(torch.neg)

    def forward(self, x: Tensor) -> Tensor:
        y = self.lin(x)
        return y if isinstance(x, Tensor) else self.wrong(y)


@pytest.mark.parametrize(
    "wrong",
    [torch.neg, lambda y: y * float("nan"), lambda y: y.double(), lambda y: (y, y), lambda y: y[0], lambda y: y + 1e-2],
    ids=["values", "nan", "dtype", "number", "shape", "slightly"],
)
def test_a_branch_on_the_type_of_an_input_is_found_by_the_example(wrong: Callable[[Tensor], Any]):
    class Wrong(ByType):
        pass

    Wrong.wrong = staticmethod(wrong)
    with pytest.raises(surgery.TraceRefusedError, match="Wrong: the graph is not the model"):
        graph_of(Wrong(), example=rows())


def test_a_small_output_is_checked_as_a_large_one_is():
    class Small(ByType):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 1e-6

    with pytest.raises(surgery.TraceRefusedError, match="the graph is not the model"):
        graph_of(Small(), example=rows())


def test_state_that_a_call_moves_is_checked_too():
    class Moves(Net):
        def build(self) -> None:
            self.register_buffer("n", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            if isinstance(x, Tensor):
                self.n.add_(1)
            return self.lin(x)

    with pytest.raises(surgery.TraceRefusedError, match=r"the graph is not the model.*n"):
        graph_of(Moves(), example=rows())


def test_an_attribute_of_a_leaf_that_a_forward_sets_for_one_call_is_refused():
    """It is what it was at the end of the trace: the two calls of the graph are the same."""

    class TwoRatesOfOneModule(Net):
        def build(self) -> None:
            self.rate = 0.5
            self.drop = nn.Dropout(self.rate)

        def forward(self, x: Tensor) -> Tensor:
            self.drop.p = 0.0
            y = self.drop(self.lin(x))
            self.drop.p = self.rate
            return self.drop(y)

    with pytest.raises(surgery.TraceRefusedError, match=r"drop.*\bp\b"):
        graph_of(TwoRatesOfOneModule())


class WithNothing(nn.Module):
    """A part of what it returns is None."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.inner(x), None


class TakesApart(Net):
    def build(self) -> None:
        self.other = WithNothing()

    def forward(self, x: Tensor) -> Tensor:
        y, extra = self.other(x)
        if extra is not None:
            y = y * 0 + 7
        return self.lin(y)


def test_parts_of_a_result_that_is_not_traced_need_an_example():
    """A proxy is never None: without an example nothing shows that, and with one the comparison does."""
    refused(TakesApart(), "y, extra = self.other(x)", "pass example=(args, kwargs)")
    with pytest.raises(surgery.TraceRefusedError, match=r"TakesApart: the graph is not the model, output 0 differs"):
        graph_of(TakesApart(), example=(rows(),))


class UsesNothing(TakesApart):
    def forward(self, x: Tensor) -> Tensor:
        y, extra = self.other(x)
        if extra is not None:
            y = y + extra.unsqueeze(0)
        return self.lin(y)


def test_a_graph_that_does_not_run_where_the_model_does_is_refused():
    with pytest.raises(surgery.TraceRefusedError, match=r"UsesNothing: the graph does not run where the model does"):
        graph_of(UsesNothing(), example=(rows(),))


def test_attention_and_recurrent_layers_may_be_taken_apart_without_an_example():
    class Attends(Net):
        def build(self) -> None:
            self.attention = nn.MultiheadAttention(4, 2)
            self.memory = nn.LSTM(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            attended, _ = self.attention(x, x, x)
            return self.lin(self.memory(attended)[0])

    agree(Attends(), rows(), rules={"*lin.weight": "positive", "memory.weight_ih_l0": "spectral"})
