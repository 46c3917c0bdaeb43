"""Models without data: planned and applied on meta, projected when they are materialised; lazy ones wait for shapes.

Whatever the way by which data arrive (an assigned state dict, plain or own, or `to_empty` and an initialisation), the
model equals one that was built on the CPU with the same data and then constrained, bit for bit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import surgery
from computed.parameter import ComputedParameter
from tests.surgery.models import MODELS, SPECS, SQUARE_SPECS
from tests.surgery.picture import differences, picture

ALL = [*SPECS, *SQUARE_SPECS]


def on_meta(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return make()


def constraints(model: nn.Module) -> dict[str, str]:
    return {name: repr(parameter) for name, parameter in surgery.computed_parameters(model).items()}


def assert_same_models(one: nn.Module, other: nn.Module) -> None:
    """Keys in the same order, bits, flags, classes of tensors."""
    assert list(one.state_dict()) == list(other.state_dict())
    for (name, tensor), twin in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert tensor.device.type == "cpu", name
        assert torch.equal(tensor, twin), name
    flags = [[(name, p.requires_grad, type(p)) for name, p in model.named_parameters()] for model in (one, other)]
    assert flags[0] == flags[1]
    assert constraints(one) == constraints(other)


def assert_same_life(one: nn.Module, other: nn.Module, batch: Tensor) -> None:
    """The same outputs in eval, the same training, the same baked model."""
    with torch.no_grad():
        assert torch.equal(one.eval()(batch), other.eval()(batch))
    for model in (one, other):
        optimizer = torch.optim.SGD([p for p in model.train().parameters() if p.requires_grad], lr=0.05)
        for _ in range(3):
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            optimizer.step()
        assert surgery.check(model.eval()).ok
    assert_same_models(one, other)
    with torch.no_grad():
        assert torch.equal(one(batch), other(batch))
    assert_same_models(surgery.bake(one), surgery.bake(other))


@pytest.mark.parametrize("name", MODELS)
def test_a_plan_without_data_names_the_same_sites_and_numbers_and_measures_nothing(name: str):
    make, _, rules = MODELS[name]
    real, model = surgery.plan(make(), rules), on_meta(make)
    before = picture(model)
    plan = surgery.plan(model, rules)
    assert plan.ok
    assert [(row.name, row.action, row.constraint) for row in plan.sites] == [
        (row.name, row.action, row.constraint) for row in real.sites
    ]
    assert (plan.total_after, plan.trainable_after) == (real.total_after, real.trainable_after)
    assert all(row.measures.moved is None for row in plan.sites)
    assert str(plan)
    assert differences(before, picture(model)) == []
    plan.apply()
    assert all(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    surgery.undo(model)
    assert differences(before, picture(model)) == []


@pytest.mark.parametrize("name", MODELS)
def test_a_model_on_meta_has_the_keys_and_shapes_of_a_real_one(name: str):
    make, draw, rules = MODELS[name]
    model = surgery.apply_constraints(on_meta(make), rules)
    real = surgery.apply_constraints(make(), rules)
    entries = [[(key, tensor.shape, tensor.dtype) for key, tensor in one.state_dict().items()] for one in (model, real)]
    assert entries[0] == entries[1]
    assert constraints(model) == constraints(real)
    assert model(draw().to("meta")).shape == real(draw()).shape
    rows = surgery.check(model)
    assert not rows.ok
    assert {row.note for row in rows} == {"on meta"}


@pytest.mark.parametrize("inside", [True, False], ids=["in the context", "after it"])
@pytest.mark.parametrize("way", ["plain, assigned", "own, assigned", "plain, copied", "own, copied"])
@pytest.mark.parametrize("name", MODELS)
def test_a_loaded_model_equals_one_that_was_constrained_with_data(name: str, way: str, inside: bool):
    make, draw, rules = MODELS[name]
    source, batch = make(), draw()
    expected = surgery.apply_constraints(copy.deepcopy(source), rules)
    state = source.state_dict() if way.startswith("plain") else expected.state_dict()
    state = copy.deepcopy(state)
    if inside:
        with torch.device("meta"):
            model = surgery.apply_constraints(make(), rules)
    else:
        model = surgery.apply_constraints(on_meta(make), rules)
    if way.endswith("copied"):
        model.to_empty(device="cpu")
    result = model.load_state_dict(state, strict=True, assign=way.endswith("assigned"))
    assert not result.missing_keys
    assert not result.unexpected_keys
    if name == "listed":
        # its buffer `passing` is in no state dict: its data come from elsewhere in a plain model as well
        with torch.no_grad():
            model.passing.to_empty(device="cpu").copy_(source.passing)
    assert_same_models(model, expected)
    assert_same_life(model, expected, batch)


@pytest.mark.parametrize("way", ["plain", "own"])
@pytest.mark.parametrize("spec", ALL)
def test_every_constraint_is_materialised_by_an_assigned_state_dict(spec: str, way: str, size: str):
    width = 5 if size == "small" else 64
    source, batch = nn.Sequential(nn.Linear(width, width)), torch.randn(3, width)
    expected = surgery.apply_constraints(copy.deepcopy(source), {"0.weight": spec})
    model = surgery.apply_constraints(on_meta(lambda: nn.Sequential(nn.Linear(width, width))), {"0.weight": spec})
    state = source.state_dict() if way == "plain" else expected.state_dict()
    model.load_state_dict(copy.deepcopy(state), assign=True)
    assert_same_models(model, expected)
    assert_same_life(model, expected, batch)


def initialise(model: nn.Module) -> nn.Module:
    """What `to_empty` asks for: every module draws its parameters and resets its buffers."""
    torch.manual_seed(5)
    model.to_empty(device="cpu")
    for module in model.modules():
        reset = getattr(module, "reset_parameters", None)
        if reset is not None and not isinstance(module, ComputedParameter):
            reset()
    return model


@pytest.mark.parametrize("spec", ALL)
def test_an_initialised_model_equals_one_that_was_initialised_and_then_constrained(spec: str):
    def make() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 4), nn.Linear(4, 4))

    rules: dict[str, object] = {"{3,4}.weight": spec}
    if spec in SPECS:
        rules["0.weight"] = spec
    model = initialise(surgery.apply_constraints(on_meta(make), rules))
    expected = surgery.apply_constraints(initialise(on_meta(make)), rules)
    assert_same_models(model, expected)
    assert_same_life(model, expected, torch.randn(5, 3, 3, 3))


@pytest.mark.parametrize("spec", SPECS)
def test_any_initialiser_may_follow(spec: str):
    """`nn.init` by hand, and a function that walks the model."""
    model = surgery.apply_constraints(on_meta(lambda: nn.Linear(4, 6)), {"weight": spec}).to_empty(device="cpu")
    twin = nn.Linear(4, 6)
    for each in (model, twin):
        torch.manual_seed(1)
        nn.init.xavier_normal_(each.weight)
        nn.init.zeros_(each.bias)
    expected = surgery.apply_constraints(copy.deepcopy(twin), {"weight": spec})
    assert_same_models(model, expected)

    def draw(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.orthogonal_(module.weight, gain=0.3)
            nn.init.ones_(module.bias)

    for each in (model, twin):
        torch.manual_seed(2)
        each.apply(draw)
    assert_same_models(model, surgery.apply_constraints(twin, {"weight": spec}))


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_recurrent_layers_initialise_their_raws_and_are_inside(kind: type[nn.RNNBase]):
    """Their `reset_parameters` walks over parameters, which are raws; norms by NumPy."""

    def make() -> nn.Module:
        return kind(3, 4, num_layers=2, bidirectional=True)

    model = initialise(surgery.apply_constraints(on_meta(make), {"weight_*": "spectral(bound=0.5)"})).eval()
    plain = initialise(on_meta(make))
    batch = torch.randn(5, 2, 3)
    for name, weight in surgery.computed_parameters(model).items():
        raw = weight.raws["raw"].detach().double().numpy()
        assert float(np.abs(raw).max()) <= 0.5
        norm = np.linalg.norm(raw, 2)
        np.testing.assert_allclose(weight.detach().numpy(), raw * min(1.0, 0.5 / norm), rtol=2e-3, atol=1e-6)
        assert weight.shape == getattr(plain, name).shape
    assert all(getattr(model, name) is weight for name, weight in surgery.computed_parameters(model).items())
    with torch.no_grad():
        expected = model(batch)[0]
        assert torch.equal(surgery.bake(model)(batch)[0], expected)


def test_what_a_state_dict_lacks_stays_on_meta_and_is_told():
    source = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    rules = {"*.weight": "symmetric"}
    model = surgery.apply_constraints(on_meta(lambda: nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))), rules)
    half = {key: tensor for key, tensor in source.state_dict().items() if key.startswith("0.")}
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "1\.bias", "1\.weight\.raw"'):
        model.load_state_dict(half, assign=True)
    result = model.load_state_dict(half, strict=False, assign=True)
    assert result.missing_keys == ["1.bias", "1.weight.raw"]
    assert not model[0].weight.is_meta
    assert model[1].weight.is_meta
    model.load_state_dict(source.state_dict(), assign=True)
    assert_same_models(model, surgery.apply_constraints(source, rules))


def test_an_assigned_checkpoint_of_another_dtype_decides_the_dtype():
    source = nn.Linear(4, 4).bfloat16()
    model = surgery.apply_constraints(on_meta(lambda: nn.Linear(4, 4)), {"weight": "weight_norm"})
    model.load_state_dict(source.state_dict(), assign=True)
    assert model.weight.dtype is torch.bfloat16
    assert_same_models(model, surgery.apply_constraints(source, {"weight": "weight_norm"}))


def test_to_empty_keeps_flags_ties_and_state_in_float32():
    make, _, _ = MODELS["tied"]
    model = surgery.apply_constraints(on_meta(make), {"*": "frozen", "head.weight": "spectral"})
    model.half().to_empty(device="cpu")
    assert model.head.weight is model.embedding.weight
    assert model.head.weight.dtype is torch.float16
    assert {buffer.dtype for buffer in model.buffers()} == {torch.float32}
    assert not model.mix.weight.requires_grad
    assert model.head.weight.requires_grad


LAZY: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], tuple[int, ...]]] = {
    "LazyLinear": (lambda: nn.LazyLinear(4), lambda: torch.randn(2, 6), (4, 6)),
    "LazyConv1d": (lambda: nn.LazyConv1d(4, 3), lambda: torch.randn(2, 3, 8), (4, 3, 3)),
    "LazyConv2d": (lambda: nn.LazyConv2d(4, 3), lambda: torch.randn(2, 3, 8, 8), (4, 3, 3, 3)),
    "LazyConvTranspose2d": (lambda: nn.LazyConvTranspose2d(4, 3), lambda: torch.randn(2, 3, 8, 8), (3, 4, 3, 3)),
}


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("kind", LAZY)
def test_a_lazy_layer_is_planned_refused_until_it_has_a_shape_and_then_constrained(kind: str, spec: str):
    make, draw, shape = LAZY[kind]
    model, batch = nn.Sequential(make(), nn.Flatten()), draw()
    before = picture(model)
    plan = surgery.plan(model, {"0.weight": spec})
    assert plan.ok
    assert [row.action.value for row in plan.sites] == ["shape unknown"]
    assert "(lazy: not yet)" in str(plan)
    message = r"0\.weight has no shape yet \(a lazy module\); run one batch through the model first"
    for apply in (plan.apply, lambda: surgery.apply_constraints(model, {"0.weight": spec})):
        with pytest.raises(surgery.PlanError, match=message):
            apply()
    with pytest.raises(surgery.PlanError, match=r"weight has no shape yet \(a lazy module\)"):
        surgery.constrain(model[0], weight=spec)
    assert differences(before, picture(model)) == []
    assert type(model[0]).__name__ == kind
    model(batch)
    assert type(model[0]).__name__ == kind.removeprefix("Lazy")
    weight = model[0].weight
    expected = copy.deepcopy(model)
    surgery.apply_constraints(model, {"0.weight": spec})
    assert model[0].weight.shape == shape
    assert surgery.check(model).ok
    assert_same_life(model, surgery.apply_constraints(expected, {"0.weight": spec}), batch)
    assert model[0].weight is weight or spec.startswith("weight_norm")


def test_a_lazy_model_on_meta_waits_twice():
    """For its shapes, then for its data."""
    model = on_meta(lambda: nn.Sequential(nn.LazyLinear(4), nn.LazyLinear(2)))
    with pytest.raises(surgery.PlanError, match=r"0\.weight, 1\.weight|0\.weight.* has no shape yet"):
        surgery.apply_constraints(model, {"*.weight": "orthogonal"})
    model(torch.randn(2, 3, device="meta"))
    surgery.apply_constraints(model, {"*.weight": "orthogonal"})
    assert model[0].weight.is_meta
    source = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model.load_state_dict(copy.deepcopy(source.state_dict()), assign=True)
    assert_same_models(model, surgery.apply_constraints(source, {"*.weight": "orthogonal"}))


def test_a_lazy_bias_or_neighbour_stops_only_what_is_asked_of_it():
    model = nn.Sequential(nn.Linear(3, 3), nn.LazyLinear(2))
    surgery.apply_constraints(model, {"0.weight": "orthogonal"})
    with pytest.raises(surgery.PlanError, match=r"1\.weight has no shape yet"):
        surgery.apply_constraints(model, {"1.weight": "orthogonal"})
    batch = torch.randn(2, 3)
    assert model(batch).shape == (2, 2)
    surgery.apply_constraints(model, {"1.weight": "orthogonal"})
    assert surgery.check(model).ok
    assert len(surgery.computed_parameters(model)) == 2


def test_a_decorated_class_with_a_lazy_layer_says_why_it_cannot():
    @surgery.constrained({"layer.weight": "orthogonal"})
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.LazyLinear(2)

    with pytest.raises(surgery.PlanError, match=r"layer\.weight has no shape yet \(a lazy module\)"):
        Late()


USES: dict[str, Callable[[nn.Module], object]] = {
    "state dict": lambda model: model.state_dict(),
    "to_empty": lambda model: model.to_empty(device="cpu"),
    "parameters": lambda model: list(model.parameters()),
    "undo": surgery.undo,
    "copy": copy.deepcopy,
    "forward": lambda model: model(torch.ones(2, 4, device="meta")),
    "cast": lambda model: model.half(),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("spec", ["symmetric", "spectral", "lora(2)"])
def test_an_initialiser_on_meta_writes_nothing_and_spoils_nothing(spec: str, use: str):
    """As on a plain model on meta: ``_init_weights`` runs there before the weights are loaded."""
    model = surgery.apply_constraints(on_meta(lambda: nn.Linear(4, 4)), {"weight": spec})
    model.reset_parameters()
    USES[use](model)


def test_a_materialised_model_is_held_and_its_state_is_its_own():
    """Assigned by setattr, as `from_pretrained` does: one evaluation, and a step commits what was loaded."""
    source = surgery.apply_constraints(nn.Linear(4, 4), {"weight": "spectral"})
    model = surgery.apply_constraints(on_meta(lambda: nn.Linear(4, 4)), {"weight": "spectral"})
    weight, constraint = model.weight, model.weight.constraints[0]
    weight.raw = nn.Parameter(source.weight.raws["raw"].detach().clone())
    model.bias = nn.Parameter(torch.zeros(4))
    for name, buffer in source.weight.constraints[0].named_buffers():
        setattr(constraint, name, buffer.clone() if "_" not in name else torch.full_like(buffer, float("nan")))
    expected = source(torch.eye(4)) - source.bias
    torch.testing.assert_close(model(torch.eye(4)), expected)
    assert weight.may_hold(training=True)
    assert weight.value() is weight.value()
    model(torch.eye(4)).sum().backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    assert torch.isfinite(constraint.u).all()


def test_a_load_replaces_what_was_pending():
    """A step before the next forward commits the state that was loaded, not the one from before."""
    one, other = (surgery.apply_constraints(nn.Linear(6, 5), {"weight": "spectral"}) for _ in range(2))
    one.weight.value()
    state = copy.deepcopy(other.state_dict())
    one.load_state_dict(state)
    for parameter in one.parameters():
        parameter.grad = torch.zeros_like(parameter)
    torch.optim.SGD(one.parameters(), 0.1).step()
    assert torch.equal(one.weight.constraints[0].u, state["weight.constraints.0.u"])


def test_the_first_write_after_to_empty_counts_whatever_is_in_the_memory():
    """An initialiser may write the very bits that are there already; the other raws are still not theirs."""
    expected = surgery.apply_constraints(nn.Linear(4, 4), {"weight": "lora(2)"})
    model = surgery.apply_constraints(on_meta(lambda: nn.Linear(4, 4)), {"weight": "lora(2)"}).to_empty(device="cpu")
    for role, raw in model.weight._parameters.items():
        raw.data.fill_(1.0 if role == "base" else 0.0)
    for each in (model, expected):
        with torch.no_grad():
            nn.init.ones_(each.weight)
    assert torch.equal(model.weight.raws["A"], expected.weight.raws["A"])
