"""Adapters stay factored in a graph: the op rule stands in the place of the operation, and a bake brings that back."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

import surgery
from computed.constraint import Constraint, Preimage, Role
from computed.parameter import ComputedParameter
from surgery.graph.factored import FactoredOp
from tests.surgery.graph.networks import ConvNet, Tied
from tests.surgery.graph.sides import calls_of_values, graph_of, observed
from tests.surgery.graph.ways import pickled, saved, scripted

pytestmark = pytest.mark.filterwarnings("ignore:The TorchScript type system doesn't support instance-level:UserWarning")

LORA = "lora(rank=2, alpha=3)"
Rules = dict[str, object]


class ByHand(nn.Module):
    """An author's own linear layer, with its weight at the root."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 4))
        self.bias = nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(bias=self.bias, weight=self.weight, input=x)


class Twice(ByHand):
    """One weight with two uses, by the operation both."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight) + F.linear(x * 2, self.weight, self.bias)


class Elsewhere(ByHand):
    """A weight that something else uses, too."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.weight.square().mean()


class Atens(ByHand):
    """An ATen form in the author's code."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.aten.linear.default(x, self.weight, self.bias)


FACTORED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "Linear": (lambda: nn.Linear(4, 5), (3, 4)),
    "Linear without bias": (lambda: nn.Linear(4, 5, bias=False), (3, 4)),
    "Linear of a sequence": (lambda: nn.Linear(4, 5), (2, 3, 4)),
    "Conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1), (2, 4, 9)),
    "Conv2d": (lambda: nn.Conv2d(4, 6, 3, dilation=2, bias=False), (2, 4, 9, 9)),
    "Conv2d same": (lambda: nn.Conv2d(4, 6, 3, padding="same"), (2, 4, 7, 7)),
    "Conv2d circular": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (2, 4, 7, 7)),
    "Conv3d": (lambda: nn.Conv3d(4, 6, (1, 2, 3), stride=(1, 2, 1)), (2, 4, 4, 5, 5)),
    "F.linear": (ByHand, (3, 4)),
    "two uses": (Twice, (3, 4)),
    "aten.linear": (Atens, (3, 4)),
}
DENSE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "groups": (lambda: nn.Conv2d(4, 6, 3, groups=2), (2, 4, 7, 7)),
    "transposed 1d": (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2), (2, 4, 7)),
    "transposed 2d": (lambda: nn.ConvTranspose2d(4, 6, 3), (2, 4, 7, 7)),
}


def moved(model: nn.Module) -> nn.Module:
    """The same with factors that do something: where ``B`` is zero, the value is its base."""
    with torch.no_grad():
        for name, raw in model.named_parameters():
            if name.endswith((".A", ".B")):
                raw.normal_()
    return model


def both(model: nn.Module, rules: Rules) -> tuple[nn.Module, nn.Module]:
    """The graph and the tree, with equal factors."""
    graph = moved(graph_of(model, rules))
    tree = surgery.apply_constraints(copy.deepcopy(model), rules)
    tree.load_state_dict(graph.state_dict())
    return graph, tree


def assert_both_agree(graph: nn.Module, tree: nn.Module, *inputs: Tensor) -> None:
    for training in (True, False):
        sides = (graph.train(training), tree.train(training))
        torch.testing.assert_close(*(observed(side, inputs) for side in sides), rtol=1e-4, atol=1e-4)


def nodes(graph: nn.Module) -> list[tuple[str, str, str, str]]:
    return [(node.op, str(node.target), str(node.args), str(node.kwargs)) for node in graph.graph.nodes]


def rules_in(graph: nn.Module) -> list[str]:
    return [name for name, module in graph.named_modules() if isinstance(module, FactoredOp)]


@pytest.mark.parametrize("case", FACTORED)
def test_the_rule_stands_in_the_place_of_the_operation(case: str):
    make, shape = FACTORED[case]
    graph, tree = both(make(), {"weight": LORA})
    assert calls_of_values(graph) == []
    assert len(rules_in(graph)) == (2 if case == "two uses" else 1)
    assert_both_agree(graph, tree, torch.randn(shape))
    assert graph.weight.base.grad is None
    assert list(graph.state_dict()) == list(tree.state_dict())


@pytest.mark.parametrize("case", FACTORED)
def test_the_dense_value_is_never_made(case: str, monkeypatch: pytest.MonkeyPatch):
    make, shape = FACTORED[case]
    graph = graph_of(make(), {"weight": LORA})

    def never(*_: object) -> None:
        raise AssertionError("the value was made")

    monkeypatch.setattr(ComputedParameter, "forward", never)
    for training in (True, False):
        assert graph.train(training)(torch.randn(shape)).requires_grad


@pytest.mark.parametrize("case", DENSE)
def test_what_has_no_rule_uses_the_value(case: str):
    make, shape = DENSE[case]
    graph, tree = both(make(), {"weight": LORA})
    assert calls_of_values(graph) == ["weight"]
    assert rules_in(graph) == []
    assert_both_agree(graph, tree, torch.randn(shape))


def test_an_embedding_uses_the_value():
    graph, tree = both(nn.Embedding(6, 4), {"weight": LORA})
    assert calls_of_values(graph) == ["weight"]
    assert_both_agree(graph, tree, torch.randint(6, (2, 3)))


def test_value_and_rule_stand_side_by_side():
    graph, tree = both(Elsewhere(), {"weight": LORA})
    assert calls_of_values(graph) == ["weight"]
    assert len(rules_in(graph)) == 1
    assert_both_agree(graph, tree, torch.randn(3, 4))
    assert nodes(surgery.bake(graph)) == nodes(plain(Elsewhere(), ["weight"]))


def plain(model: nn.Module, names: Sequence[str]) -> nn.Module:
    """The graph that the same tracer gives of the plain model: of one without rules, baked."""
    return surgery.bake(graph_of(model, dict.fromkeys(names, Same)))


class Same(Constraint):
    """The identity."""

    def forward(self, raw: Tensor) -> Tensor:
        return raw

    def right_inverse(self, value: Tensor) -> Preimage:
        return Preimage((value,))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        return 0.0


def test_a_tie_has_a_rule_at_each_operation_and_one_value():
    graph, tree = both(Tied(), {"table.weight": LORA})
    assert calls_of_values(graph) == ["table.weight"]
    assert len(rules_in(graph)) == 2
    assert_both_agree(graph, tree, torch.randint(6, (2, 3)))
    baked = surgery.bake(graph)
    assert baked.one.weight is baked.two.weight is baked.table.weight
    assert rules_in(baked) == []
    assert nodes(baked) == nodes(plain(Tied(), ["table.weight"]))


class Multiplied(ByHand):
    """A weight that is read as a value in either mode: a product has no op rule."""

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.t() + self.bias


def written_between_forwards(side: nn.Module, raw: str, x: Tensor) -> None:
    """One forward, then numbers of one seed into a raw that is not trained."""
    side(x)
    target = side.get_parameter(raw)
    assert not target.requires_grad
    with torch.no_grad():
        target.copy_(torch.randn(target.shape, generator=torch.Generator().manual_seed(2)))


@pytest.mark.parametrize(
    ("make", "spec", "raw"),
    [
        (lambda: nn.Linear(4, 5), f"{LORA} | spectral", "weight.base"),
        (Multiplied, f"spectral | {LORA}", "weight.raw"),
    ],
    ids=["adapter first", "adapter last"],
)
def test_a_write_to_a_frozen_raw_moves_the_state_of_the_power_iteration_as_on_the_tree(
    make: Callable[[], nn.Module], spec: str, raw: str
):
    """In training outputs and vectors are the tree's at each step of an optimizer, and follow the new numbers."""
    graph, tree = both(make(), {"weight": spec})
    before = {key: one.clone() for key, one in tree.state_dict().items() if key.endswith((".u", ".v"))}
    x, ends = torch.randn(3, 4), []
    for side in (graph.train(), tree.train()):
        optimizer = torch.optim.SGD([one for one in side.parameters() if one.requires_grad], lr=0.1)
        written_between_forwards(side, raw, x)
        outputs = []
        for _ in range(3):
            optimizer.zero_grad()
            outputs.append(side(x))
            outputs[-1].square().mean().backward()
            optimizer.step()
        ends.append((outputs, side.state_dict()))
    torch.testing.assert_close(*ends)
    assert len(before) == 2
    assert all(float((tree.state_dict()[key] - one).abs().max()) > 0.1 for key, one in before.items())


def test_in_eval_a_write_to_a_frozen_raw_counts_as_on_the_tree():
    """With the adapter last, too: the next forward brings the power iteration to convergence on the new numbers."""
    graph, tree = both(nn.Linear(4, 5), {"weight": f"spectral | {LORA}"})
    x = torch.randn(3, 4)
    for side in (graph.eval(), tree.eval()):
        written_between_forwards(side, "weight.raw", x)
    torch.testing.assert_close(graph(x), tree(x))
    raw, spectral = graph.weight.raw, graph.weight.constraints[0]
    assert float(torch.linalg.matrix_norm(spectral(raw), 2)) == pytest.approx(1.0, abs=1e-3)
    torch.testing.assert_close(graph.state_dict(), tree.state_dict())


def test_behind_another_constraint_there_is_no_rule():
    for spec in (f"spectral | {LORA}", f"{LORA} | spectral"):
        graph, tree = both(nn.Linear(4, 5), {"weight": spec})
        assert calls_of_values(graph) == ["weight"]
        assert_both_agree(graph, tree, torch.randn(3, 4))


PICTURES = (3, 1, 5, 5)
RULES: Rules = {"one.weight": LORA, "head.out.weight": "lora(rank=1)", "norm.weight": "positive"}


def compiled(graph: nn.Module) -> nn.Module:
    return torch.compile(graph, backend="aot_eager", fullgraph=True)


def exported(graph: nn.Module) -> nn.Module:
    module = copy.deepcopy(graph).eval()
    return torch.export.export(module, (torch.randn(PICTURES),)).module()


@pytest.mark.parametrize("way", [copy.deepcopy, pickled, scripted, saved, compiled, exported])
def test_copies_and_what_takes_plain_graphs_do_the_same(way: Callable[[nn.Module], nn.Module]):
    graph = moved(graph_of(ConvNet(), RULES)).eval()
    x = torch.randn(PICTURES)
    other = way(graph)
    torch.testing.assert_close(other(x), graph(x), rtol=1e-5, atol=1e-5)
    if way in (copy.deepcopy, pickled):
        assert nodes(other) == nodes(graph)
        assert rules_in(other) == rules_in(graph)
        assert {id(one) for one in other.parameters()} & {id(one) for one in graph.parameters()} == set()


@pytest.mark.parametrize("way", [copy.deepcopy, pickled])
def test_a_bake_brings_the_operations_back(way: Callable[[nn.Module], nn.Module]):
    model, x = ConvNet(), torch.randn(PICTURES)
    graph = moved(graph_of(model, RULES)).eval()
    baked = surgery.bake(way(graph))
    assert list(baked.state_dict()) == list(model.state_dict())
    assert [name for name, _ in baked.named_parameters()] == [name for name, _ in model.named_parameters()]
    assert [name for name, _ in baked.named_modules()] == [name for name, _ in model.named_modules()]
    assert nodes(baked) == nodes(plain(ConvNet(), ["one.weight", "head.out.weight", "norm.weight"]))
    torch.testing.assert_close(baked(x), graph(x), rtol=1e-5, atol=1e-5)
    model.load_state_dict(baked.state_dict())
    torch.testing.assert_close(model.eval()(x), graph(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", FACTORED)
def test_every_form_comes_back(case: str):
    make, shape = FACTORED[case]
    graph = moved(graph_of(make(), {"weight": LORA})).eval()
    x = torch.randn(shape)
    baked = surgery.bake(graph)
    assert nodes(baked) == nodes(plain(make(), ["weight"]))
    torch.testing.assert_close(baked(x), graph(x), rtol=1e-4, atol=1e-4)


def test_a_part_may_be_baked_and_then_the_rest():
    model, x = ConvNet(), torch.randn(PICTURES)
    graph = moved(graph_of(model, RULES)).eval()
    some = surgery.bake(graph, "one.weight")
    assert list(surgery.computed_parameters(some)) == ["norm.weight", "head.out.weight"]
    assert list(surgery.computed_parameters(graph)) == ["one.weight", "norm.weight", "head.out.weight"]
    assert rules_in(some) == ["head.out.weight_linear"]
    torch.testing.assert_close(some(x), graph(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(pickled(some)(x), graph(x), rtol=1e-5, atol=1e-5)
    rest = surgery.bake(some)
    assert nodes(rest) == nodes(surgery.bake(graph))
    assert nodes(surgery.bake(rest)) == nodes(rest)


def test_training_moves_the_factors_as_on_the_tree():
    graph, tree = both(ConvNet(), RULES)
    x, ends = torch.randn(8, 1, 5, 5), []
    for side in (graph, tree):
        side.train()
        optimizer = torch.optim.SGD(side.parameters(), lr=0.01)
        torch.default_generator.manual_seed(5)
        for _ in range(3):
            optimizer.zero_grad()
            side(x).square().mean().backward()
            optimizer.step()
        ends.append(side.state_dict())
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-4, atol=1e-5)


class Scaled(Constraint):
    """A user's own: rows times a trained gain, which an operation may apply to its output."""

    roles: ClassVar[tuple[Role, ...]] = (Role("raw"), Role("gain", added=True))
    asked: ClassVar[list[object]] = []

    def raw_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        return shape, torch.Size((shape[0],))

    def forward(self, raw: Tensor, gain: Tensor) -> Tensor:
        return raw * gain.view(-1, *[1] * (raw.dim() - 1))

    def right_inverse(self, value: Tensor) -> Preimage:
        return Preimage((value, value.new_ones(value.shape[0])))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        return 0.0

    def op_rule(self, op: Callable[..., Any]) -> Callable[..., Tensor] | None:
        self.asked.append(op)
        return self.linear if op is F.linear else None

    def linear(self, input: Tensor, weight: tuple[Tensor, Tensor], bias: Tensor | None = None) -> Tensor:
        raw, gain = weight
        product = F.linear(input, raw) * gain
        return product if bias is None else product + bias


def test_a_constraint_of_ones_own_brings_its_own_rule():
    graph = graph_of(nn.Linear(4, 5), {"weight": Scaled})
    assert calls_of_values(graph) == []
    assert F.linear in Scaled.asked
    tree = surgery.apply_constraints(nn.Linear(4, 5), {"weight": Scaled})
    nn.init.normal_(graph.weight.gain)
    tree.load_state_dict(graph.state_dict())
    assert_both_agree(graph, tree, torch.randn(3, 4))
    x = torch.randn(3, 4)
    torch.testing.assert_close(pickled(graph)(x), graph(x))
    torch.testing.assert_close(surgery.bake(graph)(x), graph(x))
    conv = graph_of(nn.Conv1d(4, 5, 1), {"weight": Scaled})
    assert calls_of_values(conv) == ["weight"]


class Masked(Scaled):
    """Its rule reads a tensor of the constraint."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("factor", torch.tensor(2.0))

    def forward(self, raw: Tensor, gain: Tensor) -> Tensor:
        return super().forward(raw, gain) * self.factor

    def right_inverse(self, value: Tensor) -> Preimage:
        return Preimage((value / self.factor, value.new_ones(value.shape[0])))

    def linear(self, input: Tensor, weight: tuple[Tensor, Tensor], bias: Tensor | None = None) -> Tensor:
        product = super().linear(input, weight) * self.factor
        return product if bias is None else product + bias


def test_a_rule_that_reads_a_buffer_is_right_or_is_not_used():
    graph, tree = both(nn.Linear(4, 5), {"weight": Masked})
    assert_both_agree(graph, tree, torch.randn(3, 4))
    for side in (graph, tree):
        surgery.computed_parameters(side)["weight"].constraints[0].factor.fill_(3.0)
    assert_both_agree(graph, tree, torch.randn(3, 4))


def test_the_model_that_carries_adapters_already_gets_rules_in_its_graph():
    model = moved(surgery.apply_constraints(ConvNet(), RULES))
    graph = graph_of(model, {})
    assert calls_of_values(graph) == ["norm.weight"]
    assert_both_agree(graph, model, torch.randn(PICTURES))


def test_symbolic_tracing_of_the_graph_keeps_the_rule():
    graph = moved(graph_of(nn.Sequential(nn.Linear(4, 5)), {"0.weight": LORA})).eval()
    again, x = fx.symbolic_trace(graph), torch.randn(3, 4)
    torch.testing.assert_close(again(x), graph(x))
