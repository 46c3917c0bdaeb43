"""What a value depends on is watched, wherever a module keeps it: the next read after a change is fresh."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

import surgery
from computed.constraint import Constraint, Preimage
from computed.parameter import ComputedParameter


class Scaled(Constraint):
    """``value = scale * raw``, with the scale where ``keep`` puts it."""

    def __init__(self, keep: Callable[[nn.Module, Tensor], None]) -> None:
        super().__init__()
        keep(self, torch.tensor(2.0))

    def forward(self, raw: Tensor) -> Tensor:
        return raw * self.scale

    def right_inverse(self, value: Tensor) -> Preimage:
        return Preimage((value / self.scale,))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        return 0.0


class ForeignScaled(nn.Module):
    """The same as a module that is not ours."""

    def __init__(self, keep: Callable[[nn.Module, Tensor], None]) -> None:
        super().__init__()
        keep(self, torch.tensor(2.0))

    def forward(self, raw: Tensor) -> Tensor:
        return raw * self.scale


def buffer(module: nn.Module, scale: Tensor) -> None:
    module.register_buffer("scale", scale)


def attribute(module: nn.Module, scale: Tensor) -> None:
    module.scale = scale


def fixed_parameter(module: nn.Module, scale: Tensor) -> None:
    module.scale = nn.Parameter(scale, requires_grad=False)


def number(module: nn.Module, scale: Tensor) -> None:
    module.scale = scale.item()


def written(module: nn.Module) -> None:
    module.scale *= 1.5


def written_by_data(module: nn.Module) -> None:
    if isinstance(module.scale, Tensor):
        module.scale.data.fill_(3.0)
    else:
        module.scale = 3.0


def bound_anew(module: nn.Module) -> None:
    if isinstance(module.scale, nn.Parameter):
        module.scale = nn.Parameter(torch.tensor(3.0), requires_grad=False)
    else:
        module.scale = torch.tensor(3.0) if isinstance(module.scale, Tensor) else 3.0


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("change", [written, written_by_data, bound_anew], ids=lambda f: f.__name__)
@pytest.mark.parametrize("keep", [buffer, attribute, fixed_parameter, number], ids=lambda f: f.__name__)
@pytest.mark.parametrize("kind", [Scaled, ForeignScaled])
def test_a_setting_that_changes_ends_the_hold(
    kind: type[nn.Module],
    keep: Callable[[nn.Module, Tensor], None],
    change: Callable[[nn.Module], None],
    training: bool,
):
    host = surgery.apply_constraints(nn.Linear(3, 3), {"weight": kind(keep)}).train(training)
    raw = host.weight.raws["raw"]
    assert torch.equal(host.weight.detach(), raw * 2)
    host.weight.value()
    change(host.weight.constraints[0])
    assert torch.equal(host.weight.detach(), raw * 3)


class Chosen(nn.Module):
    """A module with a function as a setting, in a module inside."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Module()
        self.inner.function = torch.tanh

    def forward(self, raw: Tensor) -> Tensor:
        return self.inner.function(raw)


def test_any_attribute_of_a_foreign_module_is_a_setting():
    host = surgery.apply_constraints(nn.Linear(3, 3), {"weight": Chosen()})
    raw = host.weight.raws["raw"]
    assert torch.equal(host.weight, torch.tanh(raw))
    host.weight.constraints[0].inner.function = torch.sin
    assert torch.equal(host.weight, torch.sin(raw))


class Quantised(nn.Module):
    """Integer codes and a trained scale: a module without inputs whose first parameter is no float."""

    def __init__(self) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.tensor([[1, 2], [3, -4]], dtype=torch.int8), requires_grad=False)
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self) -> Tensor:
        return self.codes * self.scale


def test_a_generator_has_the_dtype_of_what_it_gives():
    host = nn.Module()
    host.weight = ComputedParameter(Quantised())
    expected = torch.tensor([[0.5, 1.0], [1.5, -2.0]])
    assert host.weight.dtype == torch.float32
    assert torch.equal(host.weight.detach(), expected)
    host.weight.sum().backward()
    assert host.weight.constraints[0].scale.grad.item() == 2.0
    host.double()
    assert host.weight.dtype == host.weight.value().dtype == torch.float64
    assert torch.equal(host.weight.detach(), expected.double())
    host.to(torch.bfloat16)
    assert host.weight.dtype == host.weight.value().dtype == torch.bfloat16


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("backward", [False, True], ids=["read", "read and differentiated"])
def test_a_kernel_that_takes_its_arguments_as_writable_ends_no_watch(training: bool, backward: bool):
    """torch's own weight norm does: what it was given is a copy afterwards, and the raw must be watched still."""
    layer = torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    model = surgery.adopt(layer).train(training)
    for _ in range(3):
        loss = model(torch.randn(2, 4)).square().sum()
        if backward:
            loss.backward()
        with torch.no_grad():
            for raw in model.weight.raws.values():
                raw.mul_(1.1).add_(0.1)
        assert torch.equal(model.weight.detach(), model.weight.evaluated(training=training).detach())
