"""What a computed parameter prints: its constraint, shape and raws; the numbers on request."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import surgery
from computed.parameter import ComputedParameter


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("spectral(norm=1.0)", "ComputedParameter(Spectral(norm=1.0), shape=(4, 3), raw=float32[4, 3])"),
        (
            "lora(2)",
            "ComputedParameter(LoRA(rank=2), shape=(4, 3), base=float32[4, 3], A=float32[2, 3], B=float32[4, 2])",
        ),
        ("weight_norm", "ComputedParameter(WeightScale(dim=0), shape=(4, 3), v=float32[4, 3], g=float32[4, 1])"),
        (
            "interval(-1, 1) | spectral",
            "ComputedParameter(Interval(low=-1.0, high=1.0) | Spectral(norm=1.0), shape=(4, 3), raw=float32[4, 3])",
        ),
    ],
)
def test_repr_is_one_line(spec: str, expected: str) -> None:
    """Constraint, shape, raws."""
    assert repr(ComputedParameter.from_value(torch.randn(4, 3), spec)) == expected


def test_a_host_shows_it_among_its_children() -> None:
    """As the model is printed."""
    layer = surgery.constrain(nn.Linear(3, 4), weight="spectral(norm=1.0)")
    assert "(weight): ComputedParameter(Spectral(norm=1.0), shape=(4, 3), raw=float32[4, 3])" in repr(layer)


def test_str_and_format_show_the_numbers() -> None:
    """As a tensor's."""
    weight = ComputedParameter.from_value(torch.tensor([[1.0, 2.0], [2.0, 3.0]]), "symmetric")
    assert str(weight.detach()) == str(torch.tensor([[1.0, 2.0], [2.0, 3.0]]))
    assert "2." in str(weight)
    assert f"{ComputedParameter.from_value(torch.tensor(0.25), 'interval(0, 1)'):.2f}" == "0.25"


def test_printing_evaluates_nothing() -> None:
    """repr reads no value, so a pending write stays pending."""
    layer = nn.Linear(3, 3)
    surgery.constrain(layer, weight="spectral")
    before = layer.weight._written
    assert before is not None
    repr(layer)
    assert layer.weight._written is before
