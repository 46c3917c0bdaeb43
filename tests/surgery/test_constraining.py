"""`constrain` by names and the `constrained` decorator: pending writes, projected once, equal to constraining later."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import init

import surgery
from computed.constraint import Constraint, Preimage
from computed.parameter import ComputedParameter
from tests.surgery.models import SPECS, SQUARE_SPECS, Listed, Recurrent, ResNet, TiedLM
from tests.surgery.picture import bits, differences, picture


class Counted(Constraint):
    """Counts its projections."""

    calls = 0

    def forward(self, raw: Tensor) -> Tensor:
        return raw * 2

    def right_inverse(self, value: Tensor) -> Preimage:
        type(self).calls += 1
        return Preimage((value / 2,))

    def violation(self, value: Tensor, raws: object) -> float:
        return 0.0


@pytest.fixture
def projections() -> Callable[[], int]:
    """How many projections there were since the last question."""
    Counted.calls = 0

    def asked() -> int:
        found, Counted.calls = Counted.calls, 0
        return found

    return asked


# constrain


def test_names_with_and_without_dots():
    model = Listed()
    assert surgery.constrain(model, {"first.weight": "spectral", "weights.1": "orthogonal"}, scale="positive") is model
    specs = {name: weight.spec for name, weight in surgery.computed_parameters(model).items()}
    assert specs == {"scale": "positive", "first.weight": "spectral(norm=1.0)", "weights.1": "orthogonal"}
    surgery.constrain(model, shift="positive")
    surgery.constrain(model)
    assert surgery.check(model).ok


def test_a_parameter_named_like_an_argument_is_a_name():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Parameter(torch.rand(3))
            self.constraints = nn.Parameter(torch.rand(3))

    model = surgery.constrain(Odd(), module="positive", constraints="interval(-1, 1)")
    assert model.module.spec == "positive"
    assert model.constraints.spec == "interval(low=-1.0, high=1.0)"


@pytest.mark.parametrize("name", ["*.weight", "w?ight", "weigh[t]", "{weight,bias}", "*@Linear.weight", "re:weight"])
def test_a_pattern_is_an_error_that_names_the_other_function(name: str):
    model = nn.Linear(3, 3)
    before = picture(model)
    message = re.escape(
        f"constrain: {name!r} is a pattern, and constrain takes names; use apply_constraints(module, {{{name!r}: ...}})"
    )
    with pytest.raises(surgery.SurgeryError, match=message):
        surgery.constrain(model, {"bias": "positive", name: "spectral"})
    assert differences(before, picture(model)) == []


def test_all_problems_are_told_at_once():
    model = nn.Linear(3, 2)
    before = picture(model)
    with pytest.raises(surgery.PlanError, match=r"3 problems, nothing was changed") as raised:
        surgery.constrain(model, {"weigth": "spectral"}, weight="symmetric", bias="positiv")
    assert "did you mean 'weight'" in str(raised.value)
    assert differences(before, picture(model)) == []


def test_a_second_constraint_is_chained():
    layer = nn.Linear(4, 4)
    surgery.constrain(layer, weight="symmetric")
    surgery.constrain(layer, weight="spectral(bound=0.5)")
    assert layer.weight.spec == "symmetric | spectral(bound=0.5)"
    surgery.constrain(layer, weight="symmetric | spectral(bound=0.5)")
    assert layer.weight.spec == "symmetric | spectral(bound=0.5)"
    assert surgery.check(layer).ok


def test_it_is_taken_back():
    model = Listed()
    before = picture(model)
    surgery.constrain(model, {"first.weight": "lora(2)"}, scale="positive")
    surgery.constrain(model, scale="interval(0, 1)")
    surgery.undo(model)
    surgery.undo(model)
    assert differences(before, picture(model)) == []


# pending writes


def test_nothing_is_projected_before_the_first_use(projections: Callable[[], int]):
    layer = surgery.constrain(nn.Linear(4, 4), weight=Counted)
    assert projections() == 0
    repr(layer), layer.weight.shape, layer.weight.requires_grad, layer.weight.spec
    surgery.constrain(layer, bias="positive")
    assert projections() == 0
    layer(torch.ones(4))
    assert projections() == 1
    layer(torch.ones(4))
    assert projections() == 0


def test_what_is_initialised_afterwards_is_projected_once(projections: Callable[[], int]):
    layer = surgery.constrain(nn.Linear(4, 4), weight=Counted)
    with torch.no_grad():
        init.normal_(layer.weight)
    layer(torch.ones(4))
    assert projections() == 1
    with torch.no_grad():
        init.orthogonal_(layer.weight)
        layer.weight.add_(1.0)
        layer.weight[0] = 0.0
        layer.weight.data.mul_(2.0)
    layer(torch.ones(4))
    assert projections() == 1


@pytest.mark.parametrize("initialise", [init.normal_, init.uniform_, init.kaiming_uniform_])
def test_what_is_initialised_with_gradients_on(initialise: Callable[[Tensor], object]):
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    surgery.constrain(first, weight="symmetric")
    for layer in (first, second):
        torch.manual_seed(3)
        initialise(layer.weight)
    half = second.weight.detach() / 2
    assert torch.equal(first.weight, half + half.T)
    first.reset_parameters()


def test_what_is_loaded_afterwards_is_projected_once(projections: Callable[[], int]):
    layer = surgery.constrain(nn.Linear(4, 4), weight=Counted)
    source = nn.Linear(4, 4)
    layer.load_state_dict(source.state_dict())
    assert torch.equal(layer.weight, source.weight)
    assert projections() == 1
    again = surgery.constrain(nn.Linear(4, 4), weight=Counted)
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again.weight, source.weight)
    assert projections() == 0


def test_a_load_wins_over_an_initialisation_that_is_not_projected(projections: Callable[[], int]):
    layer, source = surgery.constrain(nn.Linear(4, 4), weight=Counted), nn.Linear(4, 4)
    with torch.no_grad():
        init.normal_(layer.weight)
    layer.load_state_dict(source.state_dict())
    assert torch.equal(layer.weight, source.weight)
    assert projections() == 1


def test_a_pending_write_survives_a_load_of_other_keys():
    layer = nn.Linear(4, 4)
    expected = layer.weight.detach().clone()
    surgery.constrain(layer, weight=Counted)
    layer.load_state_dict({"bias": torch.ones(4)}, strict=False)
    assert torch.equal(layer.weight, expected)


@pytest.mark.parametrize("key", ["weight", "weight.raw"])
def test_a_pending_write_survives_a_load_that_fails(key: str):
    layer = nn.Linear(4, 4)
    expected = layer.weight.detach().clone()
    surgery.constrain(layer, weight=Counted)
    message = (
        rf"size mismatch for {key}: copying a param with shape torch\.Size\(\[5, 5\]\) from checkpoint, the shape in"
    )
    for strict in (True, False):
        with pytest.raises(RuntimeError, match=message):
            layer.load_state_dict({key: torch.ones(5, 5), "bias": torch.ones(4)}, strict=strict)
    assert torch.equal(layer.weight, expected)


@pytest.mark.parametrize(
    "use",
    [
        lambda layer: layer.state_dict(),
        copy.deepcopy,
        lambda layer: pickle.loads(pickle.dumps(layer)),
        lambda layer: layer.half().float(),
        lambda layer: layer.eval().train(),
        lambda layer: layer.weight.raws,
        surgery.check,
        surgery.plan and (lambda layer: surgery.plan(layer, {"weight": Counted})),
    ],
)
def test_a_pending_write_is_projected_by_whatever_looks(use: Callable[[nn.Module], Any]):
    layer = nn.Linear(4, 4)
    expected = layer.weight.detach().clone()
    surgery.constrain(layer, weight=Counted)
    use(layer)
    torch.testing.assert_close(layer.weight.detach(), expected, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(layer.weight.raws["raw"].detach(), expected / 2, atol=1e-3, rtol=1e-3)


INITIALISERS = {
    "normal": lambda w: init.normal_(w),
    "kaiming": lambda w: init.kaiming_uniform_(w, a=5**0.5),
    "orthogonal": lambda w: init.orthogonal_(w),
    "data": lambda w: w.data.uniform_(-1, 1),
    "none": lambda w: None,
}


@pytest.mark.parametrize("initialise", INITIALISERS.values(), ids=INITIALISERS)
@pytest.mark.parametrize("spec", [*SPECS, *SQUARE_SPECS])
def test_constrained_then_initialised_is_initialised_then_constrained(
    spec: str, initialise: Callable[[Tensor], object]
):
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.load_state_dict(first.state_dict())
    surgery.constrain(first, weight=spec)
    for layer in (first, second):
        torch.manual_seed(11)
        with torch.no_grad():
            initialise(layer.weight)
    after = torch.get_rng_state()
    surgery.constrain(second, weight=spec)
    batch = torch.randn(3, 4)
    for layer in (first, second):
        layer(batch).square().sum().backward()
    assert [(name, bits(raw)) for name, raw in first.weight.raws.items()] == [
        (name, bits(raw)) for name, raw in second.weight.raws.items()
    ]
    assert {key: bits(value) for key, value in first.state_dict().items()} == {
        key: bits(value) for key, value in second.state_dict().items()
    }
    torch.set_rng_state(after)


def test_a_write_to_a_raw_is_not_lost():
    """`reset_parameters` of an RNN, and every walk over `parameters()`, write to raws."""
    model = nn.LSTM(3, 4)
    surgery.constrain(model, weight_hh_l0="spectral(bound=9.0)")
    before = model.weight_ih_l0.detach().clone()
    model.reset_parameters()
    raw = next(raw for name, raw in model.named_parameters() if name == "weight_hh_l0.raw")
    assert not torch.equal(before, model.weight_ih_l0)
    expected = raw.detach().clone()
    assert torch.equal(model.weight_hh_l0.detach(), expected)


def test_a_walk_over_parameters_finds_the_value_before_it_is_projected():
    layer = nn.Linear(4, 4)
    weight = layer.weight.detach().clone()
    surgery.constrain(layer, weight="symmetric")
    assert torch.equal(dict(layer.named_parameters())["weight.raw"], weight)
    surgery.constrain(layer, bias="weight_norm")
    assert bool(dict(layer.named_parameters())["bias.v"].abs().sum() > 0)


def test_a_frozen_spec_and_an_exemption_by_name():
    layer = surgery.constrain(nn.Linear(3, 3), weight="frozen")
    assert not layer.weight.requires_grad
    with pytest.raises(surgery.PlanError, match=r"rule 'bias': None exempts what no earlier rule takes"):
        surgery.constrain(layer, bias=None)


# the decorator


@surgery.constrained({"*.weight": "spectral(bound=0.5)", "head.weight": "orthogonal", "scale": "positive"})
class Decorated(nn.Module):
    """The docstring of Decorated."""

    def __init__(self, width: int = 4, *, early: bool = False) -> None:
        """Make it."""
        super().__init__()
        self.body = nn.Linear(width, width)
        self.head = nn.Linear(width, 3)
        self.scale = nn.Parameter(torch.rand(3) + 0.1)
        if early:
            return
        self.other = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)) * self.scale


class Derived(Decorated):
    """Not decorated itself."""


@surgery.constrained({"body.bias": "positive"})
class Decorated2(Decorated):
    """Decorated itself."""


@surgery.constrained({"weight": "symmetric"})
class WithoutInit(nn.Linear):
    """Has no __init__ of its own."""


@surgery.constrained({"head.weight": "spectral(bound=0.5)"})
class DecoratedLM(TiedLM):
    """Ties in __init__, and may tie again."""

    def tie_weights(self) -> None:
        self.head.weight = self.embedding.weight


@surgery.constrained({"inner.weight": "spectral(bound=0.5)"}, existing="chain")
class Outer(nn.Module):
    """Holds an instance of a decorated class."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = WithoutInit(4, 4)
        self.twin = Decorated()


def specs(model: nn.Module) -> dict[str, str]:
    return {name: weight.spec for name, weight in surgery.computed_parameters(model).items()}


def test_instances_of_the_class_are_constrained():
    expected = {
        "scale": "positive",
        "body.weight": "spectral(bound=0.5)",
        "head.weight": "orthogonal",
        "other.weight": "spectral(bound=0.5)",
    }
    model = Decorated(4)
    assert specs(model) == expected
    assert surgery.check(model).ok
    del expected["other.weight"]
    assert specs(Decorated(early=True)) == expected


def test_subclasses_are_left_alone_unless_decorated_themselves():
    assert specs(Derived()) == {}
    assert specs(Decorated2()) == {"body.bias": "positive"}


def test_the_class_is_the_same_class():
    assert Decorated.__doc__ == "The docstring of Decorated."
    assert Decorated.__init__.__doc__ == "Make it."
    assert Decorated.__init__.__qualname__ == "Decorated.__init__"
    assert str(inspect.signature(Decorated)) == "(width: 'int' = 4, *, early: 'bool' = False) -> 'None'"
    assert type(Decorated()) is Decorated
    assert Decorated.__name__ in globals()
    plain = nn.Linear(3, 3)
    assert WithoutInit.__init__ is not nn.Linear.__init__
    assert not surgery.computed_parameters(plain)
    assert isinstance(WithoutInit(3, 3).weight, ComputedParameter)


def test_it_starts_from_the_weights_of_the_class():
    torch.manual_seed(5)
    model = WithoutInit(4, 4)
    after = torch.get_rng_state()
    torch.manual_seed(5)
    plain = nn.Linear(4, 4)
    assert torch.equal(after, torch.get_rng_state())
    half = plain.weight.detach() / 2
    assert torch.equal(model.weight, half + half.T)
    assert torch.equal(model.bias, plain.bias)


def test_a_tie_is_one_computed_parameter_and_may_be_tied_again():
    model = DecoratedLM()
    assert model.head.weight is model.embedding.weight
    model.tie_weights()
    assert model.head.weight is model.embedding.weight
    assert specs(model) == {"embedding.weight": "spectral(bound=0.5)"}
    assert len(list(model.parameters())) == 3


def test_decorated_inside_decorated():
    model = Outer()
    assert specs(model)["inner.weight"] == "symmetric | spectral(bound=0.5)"
    assert specs(model)["twin.head.weight"] == "orthogonal"
    surgery.undo(model)
    assert specs(model)["inner.weight"] == "symmetric"


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_and_pickles(twin: Callable[[nn.Module], nn.Module]):
    model, batch = Decorated(), torch.randn(2, 4)
    other = twin(model)
    assert type(other) is Decorated
    assert specs(other) == specs(model)
    assert bits(other(batch)) == bits(model(batch))
    with torch.no_grad():
        other.scale.raws["raw"].add_(1.0)
    assert bits(other(batch)) != bits(model(batch))
    with pytest.raises(surgery.UndoError, match=r"copies and loaded models have none"):
        surgery.undo(other)
    surgery.undo(model)
    assert type(model.scale) is nn.Parameter


def test_two_instances_do_not_share():
    first, second = Decorated(), Decorated()
    assert first.scale is not second.scale
    assert first.scale.constraints[0] is not second.scale.constraints[0]


def test_a_plain_checkpoint_loads_into_an_instance_and_is_projected_once(projections: Callable[[], int]):
    @surgery.constrained({"weight": Counted})
    class Layer(nn.Linear):
        """A layer."""

    source = nn.Linear(4, 4)
    model = Layer(4, 4)
    model.load_state_dict(source.state_dict())
    assert torch.equal(model.weight, source.weight)
    assert projections() == 1


def test_options_are_those_of_apply():
    @surgery.constrained({"weight": "symmetric", "nothing": "spectral"}, strict=False)
    class Lenient(nn.Linear):
        """A layer."""

    assert specs(Lenient(3, 3)) == {"weight": "symmetric"}
    with pytest.raises(surgery.SurgeryError, match=r"tie='both'; it is one of"):
        surgery.constrained({"weight": "symmetric"}, tie="both")
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'stricct'"):
        surgery.constrained({"weight": "symmetric"}, stricct=False)


def test_errors_are_raised_where_an_instance_is_made():
    @surgery.constrained({"weight": "symmetric", "nothing": "spectral"})
    class Strict(nn.Linear):
        """A layer."""

    with pytest.raises(surgery.PlanError, match=r"rule 'nothing': 'spectral' matches none"):
        Strict(3, 3)


def test_rules_that_change_later_do_not_change_the_class():
    rules = {"weight": "symmetric"}

    @surgery.constrained(rules)
    class Fixed(nn.Linear):
        """A layer."""

    rules["weight"] = "orthogonal"
    assert specs(Fixed(3, 3)) == {"weight": "symmetric"}
    pairs = iter([("weight", "symmetric")])
    decorated = surgery.constrained(pairs)(type("Other", (nn.Linear,), {}))
    assert [specs(decorated(3, 3)) for _ in range(2)] == [{"weight": "symmetric"}] * 2


def test_init_that_fails_or_runs_again():
    @surgery.constrained({"weight": "symmetric"})
    class Restarted(nn.Linear):
        """A layer whose __init__ may be called again."""

        def __init__(self, size: int, *, fail: bool = False) -> None:
            super().__init__(size, size)
            if fail:
                raise ValueError("no size")

    with pytest.raises(ValueError, match="no size"):
        Restarted(3, fail=True)
    model = Restarted(3)
    model.__init__(4)
    assert specs(model) == {"weight": "symmetric"}
    assert model.weight.shape == (4, 4)


def test_on_meta_and_materialised():
    with torch.device("meta"):
        model = Decorated()
    assert model.scale.is_meta
    source = Decorated()
    model.to_empty(device="cpu").load_state_dict(source.state_dict())
    batch = torch.randn(2, 4)
    assert bits(model.eval()(batch)) == bits(source.eval()(batch))


def test_models_of_every_kind_are_constrained_by_name():
    assert surgery.check(surgery.constrain(ResNet(), {"blocks.0.conv1.weight": "spectral"})).ok
    assert surgery.check(surgery.constrain(Recurrent(nn.GRU), {"rnn.weight_ih_l1_reverse": "orthogonal"})).ok
    model = surgery.constrain(TiedLM(), {"head.weight": "spectral"})
    assert model.embedding.weight is model.head.weight
