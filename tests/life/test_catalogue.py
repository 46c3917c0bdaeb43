"""What the life of a model asks of a constraint, asked of each in the catalogue."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import surgery
from computed.constraint import Constraint, IteratedConstraint
from computed.registry import catalogue
from tests.surgery.catalogue import CONVOLUTIONAL, SPEC_OF

STEPS = {"small": 20, "full": 200}
Closure = Callable[[], Tensor]
OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "SGD with decay": lambda raws: torch.optim.SGD(raws, 0.1, momentum=0.9, weight_decay=0.1),
    "AdamW": lambda raws: torch.optim.AdamW(raws, 1e-2, weight_decay=0.1),
    "Adam, large": lambda raws: torch.optim.Adam(raws, 1.0),
    "LBFGS": lambda raws: torch.optim.LBFGS(raws, 0.5, max_iter=3),
    "Muon": lambda raws: torch.optim.Muon(raws, 0.02, weight_decay=0.1),
}


def net(name: str) -> nn.Sequential:
    """Two square layers, or convolutions, whose weights have entries of both signs and of moderate size."""
    if name in CONVOLUTIONAL:
        first, second = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        return nn.Sequential(first, nn.Tanh(), second, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))


def batch_for(name: str, count: int) -> Tensor:
    return torch.randn(count, 6, 4, 4) if name in CONVOLUTIONAL else torch.randn(count, 6)


def applied(name: str) -> nn.Sequential:
    return surgery.apply_constraints(net(name), {"*.weight": SPEC_OF[name]})


def bits(model: nn.Module) -> dict[str, bytes]:
    return {name: each.detach().contiguous().numpy().tobytes() for name, each in model.state_dict().items()}


def factored(model: nn.Module) -> bool:
    """Whether eval computes without the value, to rounding."""
    constraints = [each for one in surgery.computed_parameters(model).values() for each in one.constraints]
    return any(isinstance(each, Constraint) and each.factored_in_eval for each in constraints)


def test_every_constraint_is_asked():
    assert set(SPEC_OF) == set(catalogue())


@pytest.mark.parametrize("name", SPEC_OF)
def test_undo_gives_the_model_back(name):
    model = net(name)
    before, objects = bits(model), list(model.parameters())
    surgery.apply_constraints(model, {"*.weight": SPEC_OF[name]})
    assert surgery.check(model.eval()).ok
    surgery.undo(model)
    assert bits(model) == before
    assert all(one is other for one, other in zip(model.parameters(), objects, strict=True))


@pytest.mark.parametrize("name", SPEC_OF)
def test_copies_and_checkpoints_give_the_same_outputs(name):
    model, x = applied(name).eval(), batch_for(name, 4)
    expected = model(x)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    loaded = applied(name).eval()
    loaded.load_state_dict(torch.load(file, weights_only=True))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), loaded):
        assert torch.equal(other(x), expected)
        assert list(other.state_dict()) == list(model.state_dict())


@pytest.mark.parametrize("name", SPEC_OF)
def test_a_plain_checkpoint_is_projected(name):
    torch.default_generator.manual_seed(1)
    plain = net(name)
    model = applied(name)
    model.load_state_dict(plain.state_dict())
    twin = surgery.apply_constraints(copy.deepcopy(plain), {"*.weight": SPEC_OF[name]})
    assert bits(model) == bits(twin)


@pytest.mark.parametrize("name", SPEC_OF)
def test_bake_holds_the_values_of_eval(name):
    model, x = applied(name), batch_for(name, 4)
    expected = model.eval()(x)
    exact = not factored(model)
    baked = surgery.bake(model)
    assert not surgery.computed_parameters(baked)
    torch.testing.assert_close(baked(x), expected, rtol=0 if exact else 1e-5, atol=0 if exact else 1e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", SPEC_OF)
def test_no_step_of_an_optimizer_leaves_the_set(name, optimizer, size):
    model = applied(name)
    raws = [raw for raw in model.parameters() if raw.requires_grad]
    if optimizer == "Muon":
        raws = [raw for one in surgery.computed_parameters(model).values() for raw in one.raws.values()]
        raws = [raw for raw in raws if raw.requires_grad]
        if any(raw.dim() != 2 for raw in raws):
            pytest.skip("Muon takes matrices, and a raw of this constraint is none")
    made = OPTIMIZERS[optimizer](raws)
    batch, target = batch_for(name, 16), torch.randn(16, 6)

    def closure() -> Tensor:
        made.zero_grad()
        loss = nn.functional.mse_loss(model(batch), target)
        loss.backward()
        return loss

    for _ in range(STEPS[size]):
        made.step(closure)
    for parameter in surgery.computed_parameters(model).values():
        assert all(raw.isfinite().all() for raw in parameter.raws.values())
    found = surgery.check(model.eval())
    assert found.ok, f"\n{found}"
    assert model(batch).isfinite().all()


@pytest.mark.parametrize("name", SPEC_OF)
def test_one_value_a_step_whatever_the_reads(name):
    """Held: a second forward, a print and a state dict evaluate nothing."""
    model, x = applied(name), batch_for(name, 4)
    model(x)
    parameter = model[0].weight
    first = parameter.detach()
    assert parameter.detach().data_ptr() == first.data_ptr()
    model(x), str(parameter), model.state_dict()
    assert parameter.detach().data_ptr() == first.data_ptr()
    assert isinstance(parameter.constraints[0], Constraint | IteratedConstraint)
