"""A constraint whose value is random: a sample for each read in train mode, held in eval, drawn again by a checkpoint.

Truth is the constraint's formula, called with torch's generator set to where the model found it.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import computed
import surgery
from computed.constraint import Constraint, Preimage

X = torch.linspace(-1, 1, 12).view(3, 4)


def noisy(raw: Tensor) -> Tensor:
    """Its slope depends on the sample."""
    return raw * (1 + torch.randn_like(raw) / 10) + raw.square() * torch.randn_like(raw)


class Noisy(Constraint):
    """A sample around ``raw`` in training, ``raw`` itself in eval."""

    stochastic: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.values: list[Tensor] = []

    def forward(self, raw: Tensor) -> Tensor:
        value = noisy(raw) if self.training else raw * 1
        self.values.append(value.detach().clone())
        return value

    def right_inverse(self, value: Tensor) -> Preimage:
        return Preimage((value,))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        return 0.0


class WithoutMean(Noisy):
    """A sample in eval as well: it states no mean."""

    def forward(self, raw: Tensor) -> Tensor:
        value = noisy(raw)
        self.values.append(value.detach().clone())
        return value


def layer(spec: object = Noisy) -> nn.Linear:
    """A layer that has been read, so that nothing waits."""
    model = surgery.apply_constraints(nn.Linear(4, 4), {"weight": spec})
    model(X)
    return model


def drawn(model: nn.Linear) -> list[Tensor]:
    """What the constraint gave since this was last asked."""
    values = model.weight.constraints[-1].values
    found = list(values)
    values.clear()
    return found


def differ(*tensors: Tensor) -> bool:
    return len({tensor.detach().numpy().tobytes() for tensor in tensors}) == len(tensors)


@pytest.mark.parametrize("caching", [True, False], ids=["caching", "no caching"])
@pytest.mark.parametrize(
    "spec", [Noisy, [Noisy, "interval(-9, 9)"], ["symmetric", Noisy]], ids=["alone", "first", "last"]
)
@pytest.mark.parametrize("gradients", [True, False], ids=["grad", "no_grad"])
def test_two_forwards_have_two_samples(spec: object, gradients: bool, caching: bool):
    model = computed.caching(layer(spec), caching)
    with torch.set_grad_enabled(gradients):
        assert differ(model(X), model(X), model(X))


@pytest.mark.parametrize("reading", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_a_sample_is_that_of_the_formula(reading: Callable[[], AbstractContextManager[object]]):
    """Each read draws as much as the formula does, and nothing more."""
    model = layer()
    start = torch.get_rng_state()
    with reading():
        outputs = [model(X), model(X)]
    end = torch.get_rng_state()
    torch.set_rng_state(start)
    with torch.no_grad():
        expected = [F.linear(X, noisy(model.weight.raws["raw"]), model.bias) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), end)
    assert all(map(torch.equal, outputs, expected))


def test_two_forwards_and_then_two_backwards_keep_their_samples_apart():
    model = layer()
    start = torch.get_rng_state()
    losses = [model(X).square().sum(), model(2 * X).sum()]
    for loss in losses:
        loss.backward()
    torch.set_rng_state(start)
    raw = model.weight.raws["raw"].detach().requires_grad_()
    first = F.linear(X, noisy(raw), model.bias).square().sum()
    (first + F.linear(2 * X, noisy(raw), model.bias).sum()).backward()
    torch.testing.assert_close(model.weight.raws["raw"].grad, raw.grad)


def gradients_of(model: nn.Linear, **settings: bool) -> tuple[Tensor, Tensor]:
    """The output and the gradient of the raw, with a checkpoint where there are settings."""
    x = X.clone().requires_grad_()
    output = checkpoint(model, x, **settings) if settings else model(x)
    output.square().sum().backward()
    return output.detach(), model.weight.raws["raw"].grad


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
@pytest.mark.parametrize("caching", [True, False], ids=["caching", "no caching"])
def test_a_checkpoint_draws_the_same_sample_again(reentrant: bool, caching: bool):
    model = computed.caching(layer(), caching)
    twin = copy.deepcopy(model)
    drawn(model)
    start = torch.get_rng_state()
    output, gradient = gradients_of(model, use_reentrant=reentrant)
    first, again = drawn(model)
    assert torch.equal(first, again)
    torch.set_rng_state(start)
    expected, slope = gradients_of(twin)
    assert torch.equal(output, expected)
    torch.testing.assert_close(
        gradient, slope, rtol=0, atol=8 * torch.finfo(slope.dtype).eps * float(slope.abs().max())
    )
    # and the next forward, checkpointed or not, has a sample of its own
    gradients_of(model, use_reentrant=reentrant), gradients_of(model)
    assert differ(first, *drawn(model)[1:])


def test_a_checkpoint_that_keeps_no_random_state_draws_another():
    """torch's own switch: what is shown above can fail."""
    model = layer()
    drawn(model)
    gradients_of(model, use_reentrant=False, preserve_rng_state=False)
    assert differ(*drawn(model))


@pytest.mark.parametrize("kind", [Noisy, WithoutMean])
def test_in_eval_the_value_is_held(kind: type[Noisy]):
    """Its mean where it states one."""
    model = layer(kind).eval()
    drawn(model)
    with torch.no_grad():
        outputs = [model(X) for _ in range(3)]
    assert not differ(*outputs)
    assert len(drawn(model)) == 1
    assert torch.equal(outputs[0], outputs[2])
    if kind is Noisy:
        assert torch.equal(model.weight, model.weight.raws["raw"])
    model.train()
    assert differ(outputs[0], model(X), model(X))


def test_who_only_looks_draws_nothing():
    model = layer()
    before = torch.get_rng_state()
    assert "Noisy" in repr(model)
    assert surgery.check(model).ok
    model.state_dict(), list(model.parameters()), copy.deepcopy(model), pickle.dumps(model)
    surgery.state_dict(model, format="plain"), surgery.bake(copy.deepcopy(model))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("how", [surgery.plan, surgery.apply_constraints])
def test_planning_and_making_one_draw_nothing(how: Callable[..., object]):
    model = nn.Linear(4, 4)
    before = torch.get_rng_state()
    how(model, {"weight": Noisy})
    assert torch.equal(torch.get_rng_state(), before)


def test_a_write_to_a_sample_is_the_value_that_noise_is_added_to():
    model = layer()
    with torch.no_grad():
        model.weight.fill_(0.5)
    assert torch.equal(model.weight.raws["raw"], torch.full((4, 4), 0.5))
    assert torch.equal(model.eval().weight.detach(), torch.full((4, 4), 0.5))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_compiled_forwards_have_samples_in_training_alone(training: bool):
    torch.compiler.reset()
    model = layer().train(training)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    outputs = [compiled(X).detach() for _ in range(2)]
    assert differ(*outputs) is training
    torch.compiler.reset()
