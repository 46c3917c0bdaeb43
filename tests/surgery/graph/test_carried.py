"""What a graph must keep of a model: modes, constants, buffers, parameters wherever they stand, ties, flags, order."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

import surgery
from tests.surgery.graph.networks import Everywhere, Tied
from tests.surgery.graph.sides import RULES, Net, agree, calls_of_values, graph_of, refused, rows
from tests.surgery.graph.ways import as_it_is, pickled, saved, scripted
from tests.surgery.models import MODELS
from tests.surgery.picture import bits

pytestmark = pytest.mark.filterwarnings("ignore:The TorchScript type system doesn't support instance-level:UserWarning")


class Dropping(Net):
    drop: Callable[..., Tensor] = staticmethod(F.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lin(x).unsqueeze(0)
        return self.drop(self.drop(x, 0.5, self.training), p=0.2, training=self.training).squeeze(0)


class ChannelDropping(Dropping):
    drop = staticmethod(F.dropout2d)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[None])[0]


class AlphaDropping(Dropping):
    drop = staticmethod(F.alpha_dropout)


class FeatureDropping(Dropping):
    drop = staticmethod(F.feature_alpha_dropout)


WAYS = [as_it_is, copy.deepcopy, pickled, scripted, saved]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("author", [Dropping, ChannelDropping, AlphaDropping, FeatureDropping])
@pytest.mark.parametrize("training", [True, False], ids=["made in training", "made in eval"])
def test_dropout_follows_the_mode(author: type[Net], way: Callable[[nn.Module], nn.Module], training: bool):
    model = author().train(training)
    tree = surgery.apply_constraints(copy.deepcopy(model), RULES)
    graph, x = way(graph_of(model)), rows()
    for mode in (training, not training, training):
        assert graph.training is mode or graph.train(mode).training is mode
        tree.train(mode)
        torch.default_generator.manual_seed(1)
        expected = tree(x)
        torch.default_generator.manual_seed(1)
        torch.testing.assert_close(graph(x), expected)


def test_a_part_that_is_in_eval_stays_there():
    model = nn.Sequential(Dropping(), Dropping().eval(), nn.Dropout(0.5).eval())
    graph = graph_of(model, {"*.lin.weight": "positive"})
    for name, module in model.named_modules():
        assert graph.get_submodule(name).training is module.training, name
    tree = surgery.apply_constraints(copy.deepcopy(model), {"*.lin.weight": "positive"})
    x = rows()
    torch.default_generator.manual_seed(1)
    expected = tree(x)
    torch.default_generator.manual_seed(1)
    torch.testing.assert_close(graph(x), expected)


TABLE = torch.tensor([1.0, 2.0, 3.0, 4.0])


class Ranges(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x) + torch.arange(4) + torch.tensor([0.1, 0.2, 0.3, 0.4]) + TABLE


class OnDevice(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x) + torch.full((4,), 0.5, device=self.lin.weight.device, dtype=self.lin.weight.dtype)


class AsAttribute(Net):
    def build(self) -> None:
        self.table = torch.arange(4.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x) + self.table


@pytest.mark.parametrize("author", [Ranges, OnDevice, AsAttribute])
@pytest.mark.parametrize("way", WAYS)
def test_constants_are_right_and_no_state(author: type[Net], way: Callable[[nn.Module], nn.Module]):
    graph, x = agree(author(), rows()), rows()
    other = way(graph)
    torch.testing.assert_close(other(x), graph(x))
    if way in (as_it_is, copy.deepcopy, pickled):  # TorchScript knows no flag for buffers
        assert list(other.state_dict()) == list(surgery.apply_constraints(author(), RULES).state_dict())


@pytest.mark.parametrize("author", [Ranges, OnDevice])
def test_constants_move_with_the_model(author: type[Net]):
    graph = graph_of(author()).to(torch.float64)
    assert graph(rows().double()).dtype is torch.float64
    assert graph.to("meta")(rows().to("meta")).is_meta


def test_constants_of_a_program_are_copied():
    graph = graph_of(Ranges())
    assert all(buffer.data_ptr() != TABLE.data_ptr() for buffer in graph.buffers())


class Accumulates(Net):
    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(3, 4)
        total += self.lin(x)
        return total


class AddsInPlace(Net):
    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(3, 4)
        total.add_(self.lin(x))
        total.add_(x)
        return total * 2


class FillsRows(Net):
    def forward(self, x: Tensor) -> Tensor:
        out = torch.zeros(3, 4)
        out[0] = self.lin(x)[0]
        return out + x


class WritesOut(Net):
    def forward(self, x: Tensor) -> Tensor:
        total = torch.ones(4)
        total.mul_(self.lin(x).detach().sum(0))
        return total + self.lin(x)


class MovesOn(Net):
    def forward(self, x: Tensor) -> Tensor:
        shift = torch.zeros(4)
        first = self.lin(x) + shift
        shift.add_(1)
        return first * 2 + shift


@pytest.mark.parametrize("author", [Accumulates, AddsInPlace, FillsRows, WritesOut, MovesOn])
def test_a_constant_that_is_written_to_is_new_at_each_call(author: type[Net]):
    """Made in each forward: a graph that kept it would add up from call to call."""
    agree(author(), rows(), calls=3)


@pytest.mark.parametrize("author", [Accumulates, Ranges])
def test_a_graph_can_be_traced_again(author: type[Net]):
    graph, x = graph_of(author()), rows()
    again = surgery.apply_constraints(graph, {}, via="fx")
    torch.testing.assert_close(again(x), graph(x))
    assert list(again.state_dict()) == list(graph.state_dict())


def test_a_stock_graph_can_be_constrained():
    agree(fx.symbolic_trace(Ranges()), rows())


class Writing(Net):
    """Buffers that the forward writes to, in the ways that authors write."""

    def build(self) -> None:
        self.register_buffer("n", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("passing", torch.zeros(4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.n.add_(1)
        y = self.lin(x)
        self.mean.copy_(0.9 * self.mean + 0.1 * y.detach().mean(0))
        self.passing.lerp_(y.detach().amax(0), 0.5)
        return y - self.mean + self.passing * self.n


class Adding(Net):
    def build(self) -> None:
        self.register_buffer("n", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.n += 1
        return self.lin(x) + self.n


class Replacing(Adding):
    def forward(self, x: Tensor) -> Tensor:
        self.n = self.n + 1
        return self.lin(x) + self.n


@pytest.mark.parametrize("nested", [False, True], ids=["root", "nested"])
def test_buffers_that_a_forward_writes_are_written_by_the_graph_and_never_by_the_trace(nested: bool):
    model = nn.Sequential(Writing()) if nested else Writing()
    graph = agree(model, rows(), rules={"*lin.weight": "positive"}, calls=3)
    part, of_graph = (model[0], graph.get_submodule("0")) if nested else (model, graph)
    for name, buffer in part.named_buffers():
        assert not buffer.any(), name
        assert not of_graph.get_buffer(name).any(), name
        assert of_graph.get_buffer(name) is not buffer


@pytest.mark.parametrize(
    ("author", "statement"), [(Adding, "self.n += 1"), (Replacing, "self.n = self.n + 1")], ids=["adds", "assigns"]
)
def test_a_buffer_that_a_forward_sets_is_refused(author: type[Net], statement: str):
    """Setting the attribute is refused, by ``+=`` too; the error says which write in place a graph records."""
    refused(author(), statement, "sets self.n (write self.n.copy_(...), which a graph records)")


@pytest.mark.parametrize(
    "rules",
    [
        {"*": "positive"},
        {"scale": "positive", "stack.1": "orthogonal"},
        {"quiet.weight": "spectral", "nested.*.weight": "orthogonal"},
        {"named.*": "positive"},
        {"layers.0.weight": "positive"},
        {"unused.weight": "symmetric"},
        {},
    ],
    ids=["all", "root and list", "never called", "dict", "frozen", "unused", "none"],
)
def test_parameters_are_found_wherever_they_stand(rules: dict[str, object]):
    graph, model = agree(source := Everywhere(), rows(), rules=rules), source
    tree = surgery.apply_constraints(copy.deepcopy(model), rules)
    assert [name for name, _ in graph.named_parameters()] == [name for name, _ in tree.named_parameters()]
    flags = [one.requires_grad for one in graph.parameters()]
    assert flags == [one.requires_grad for one in tree.parameters()]
    assert [name for name, _ in graph.named_buffers()] == [name for name, _ in tree.named_buffers()]
    assert not {one.data_ptr() for one in graph.parameters()} & {one.data_ptr() for one in model.parameters()}


class Asking(Net):
    """A forward that asks its weights for what they are."""

    def build(self) -> None:
        self.scale = nn.Parameter(torch.rand(4))

    def forward(self, x: Tensor) -> Tensor:
        for weight in (self.lin.weight, self.scale):
            assert weight.size(0) == weight.shape[0] == 4
            assert weight.dim() == weight.ndim == len(weight.shape) == len(weight.size())
            assert weight.numel() == weight.nelement() > 0
            assert weight.is_floating_point()
            assert not weight.is_complex()
            assert not weight.is_cuda
            assert weight.requires_grad
            assert weight.element_size() == 4
            assert weight.dtype == torch.float32
            assert weight.device == torch.device("cpu")
            assert weight is not None
        return self.lin(x.to(self.scale.dtype)) / self.lin.weight.numel() ** 0.5


@pytest.mark.parametrize("rules", [RULES, {"scale": "positive"}, {"*": "positive"}], ids=["lin", "scale", "all"])
def test_a_forward_may_ask_its_weights_for_shapes_and_dtypes(rules: dict[str, object]):
    agree(Asking(), rows(), rules=rules)


class AskingForLength(Net):
    def build(self) -> None:
        self.scale = nn.Parameter(torch.rand(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x) / len(self.lin.weight) / len(self.scale)


@pytest.mark.parametrize("rules", [RULES, {"scale": "positive"}], ids=["lin", "scale"])
def test_a_forward_may_ask_its_weights_for_their_length(rules: dict[str, object]):
    agree(AskingForLength(), rows(), rules=rules)


class OnlyWeights(Net):
    """Operations with no input among their arguments."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.lin.weight.t().contiguous()
        w = w / w.norm() + torch.eye(4)
        both = torch.cat([self.lin.weight, w])[:4]
        return x @ w + x @ both + self.lin.weight[0] + self.lin.bias.exp() + self.lin.weight.sum().item()


def test_operations_on_weights_alone_are_recorded():
    agree(OnlyWeights(), rows())


@pytest.mark.parametrize("name", ["table.weight", "one.weight", "two.weight"])
def test_a_tie_is_one_call_for_all_its_uses(name: str):
    """Whichever of its names a rule has, a tied parameter is one computed parameter with one node."""
    x = torch.randint(6, (2, 3))
    graph = agree(Tied(), x, rules={name: "positive"})
    assert calls_of_values(graph) == ["table.weight"]
    torch.testing.assert_close(torch.jit.script(graph)(x), graph(x))


class Twice(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.lin(torch.tanh(self.lin(x)))


class Shared(nn.Module):
    """One host under two parents, one of which has nothing else of its own."""

    def __init__(self, host: nn.Module) -> None:
        super().__init__()
        self.a = nn.Sequential(host, nn.Linear(4, 4))
        self.b = nn.Sequential(host, nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


@pytest.mark.parametrize(
    ("model", "pattern"),
    [
        (Twice, "lin.weight"),
        (lambda: Shared(nn.Linear(4, 4)), "a.0.weight"),
        (lambda: Shared(nn.BatchNorm1d(4)), "a.0.weight"),
        (lambda: Shared(nn.GRUCell(4, 4)), "a.0.weight_hh"),
    ],
    ids=["twice", "shared linear", "shared norm", "shared cell"],
)
def test_a_module_that_is_called_twice_has_one_value(model: Callable[[], nn.Module], pattern: str):
    graph = agree(model(), rows(), rules={pattern: "spectral" if pattern.endswith("hh") else "positive"}, calls=3)
    assert calls_of_values(graph) == [pattern]


@pytest.mark.parametrize("name", MODELS)
def test_a_constrained_model_is_carried_into_a_graph_bit_for_bit(name: str):
    build, inputs, rules = MODELS[name]
    model = surgery.apply_constraints(build(), rules)
    x = inputs()
    model.train()(x)  # state that follows training has moved
    graph = graph_of(model.eval(), {})
    expected, found = model.state_dict(), graph.state_dict()
    assert list(found) == list(expected)
    assert {key: bits(value) for key, value in found.items()} == {key: bits(value) for key, value in expected.items()}
    values, others = surgery.computed_parameters(graph), surgery.computed_parameters(model)
    assert list(values) == list(others)
    for path, value in values.items():
        assert bits(value.value()) == bits(others[path].value()), path
    torch.testing.assert_close(graph(x), model(x), rtol=1e-4, atol=1e-5)


class Remembering(Net):
    """State that no registry holds."""

    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x)

    def get_extra_state(self) -> Any:
        return {"version": 2}

    def set_extra_state(self, state: Any) -> None:
        assert state == {"version": 2}


def test_extra_state_of_a_part_is_kept():
    """The module stands in the graph as it was, so the state dict asks it and loads into it."""
    model = nn.Sequential(Remembering())
    graph = graph_of(model)
    tree = surgery.apply_constraints(copy.deepcopy(model), RULES)
    assert list(graph.state_dict()) == list(tree.state_dict())
    assert graph.state_dict()["0._extra_state"] == {"version": 2}
    graph.load_state_dict(tree.state_dict())


def test_extra_state_of_the_root_is_refused():
    """The graph stands in the place of the root and has no methods of its class."""
    with pytest.raises(surgery.TraceRefusedError, match=r"^Remembering has state of its own \(get_extra_state\)"):
        graph_of(Remembering())


class OwnSwitch(Net):
    """A function of its own that looks at the module it was made in."""

    def build(self) -> None:
        self.act = lambda y: F.dropout(y, 0.5, self.training)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.lin(x))


def test_a_function_that_holds_on_to_the_model_is_refused():
    """A copy of the model has the same function, which still asks the model that was copied."""
    with pytest.raises(surgery.SurgeryError, match="act"):
        graph_of(OwnSwitch())


class Inline(Net):
    def build(self) -> None:
        self.steps = nn.Sequential(nn.ReLU(), nn.Tanh(), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return self.steps[:2](nn.Softplus()(self.lin(x)))


def test_modules_that_a_forward_makes_are_traced_through():
    agree(Inline(), rows())
