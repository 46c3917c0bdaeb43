"""Every constraint on weights that lie in memory in other ways: channels last, transposed, with gaps, expanded.

Truth is the twin whose weight is contiguous: the same bits where entries are only picked, scaled or rounded, and to
rounding where sums are taken in another order or a vectorised function meets other entries at its ends.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

import surgery
from computed.watching import may_overlap_itself
from tests.surgery.catalogue import SPEC_OF
from tests.surgery.picture import differences, picture


class Matrix(nn.Module):
    """A host of a matrix that lies as it is given."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight)


def convolution(kind: type[nn.Conv2d] | type[nn.Conv3d]) -> Callable[[Tensor], nn.Module]:
    def build(weight: Tensor) -> nn.Module:
        layer = kind(6, 6, tuple(weight.shape[2:]), padding=weight.shape[-1] // 2, bias=False, dtype=weight.dtype)
        layer.weight = nn.Parameter(weight)
        return layer

    return build


def with_gaps(weight: Tensor) -> Tensor:
    room = torch.zeros(weight.shape[0], 2 * weight.shape[1], dtype=weight.dtype)
    room[:, ::2] = weight
    return room[:, ::2]


def with_an_offset(weight: Tensor) -> Tensor:
    return torch.cat([torch.zeros(5, dtype=weight.dtype), weight.flatten()])[5:].view(weight.shape)


class Layout(NamedTuple):
    """A host, a shape, and how the weight is laid out; ``numbers`` are those that can lie so."""

    host: Callable[[Tensor], nn.Module]
    shape: tuple[int, ...]
    laid: Callable[[Tensor], Tensor]
    numbers: Callable[[Tensor], Tensor] = torch.clone


LAYOUTS = {
    "transposed": Layout(Matrix, (6, 6), lambda w: w.t().contiguous().t()),
    "with gaps": Layout(Matrix, (6, 6), with_gaps),
    "with an offset": Layout(Matrix, (6, 6), with_an_offset),
    "expanded": Layout(Matrix, (6, 6), lambda w: w[:1].expand(w.shape), lambda w: w[:1].repeat(6, 1)),
    "channels last": Layout(convolution(nn.Conv2d), (6, 6, 3, 3), lambda w: w.clone(memory_format=torch.channels_last)),
    "channels last, points": Layout(
        convolution(nn.Conv2d), (6, 6, 1, 1), lambda w: torch.empty_strided(w.shape, (6, 1, 6, 6)).to(w).copy_(w)
    ),
    "channels last, 3d": Layout(
        convolution(nn.Conv3d), (6, 6, 3, 3, 3), lambda w: w.clone(memory_format=torch.channels_last_3d)
    ),
    "reversed": Layout(
        convolution(nn.Conv2d), (6, 6, 3, 3), lambda w: w.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    ),
}
DTYPES = {"small": [torch.float32], "full": [torch.float32, torch.float64]}
FORMATS = {"channels last": torch.channels_last, "channels last, 3d": torch.channels_last_3d}
# no sums and no functions that are approximated: entries picked, compared, scaled by powers of two or one number
EXACT = ("nonnegative", "affine", "equalized_lr", "symmetric", "skew", "lower_triangular", "upper_triangular", "mask")
EXACT += ("n_m", "soft_threshold", "fake_quant", "lora", "loha", "lokr", "vera", "delora", "oft", "boft", "hra", "ia3")


def bits(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().numpy().tobytes()


def twins(name: str, layout: Layout, dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    """Two hosts with the same numbers: contiguous, and laid out as asked."""
    weight = layout.numbers(0.3 * torch.randn(layout.shape, dtype=dtype))
    plain, other = layout.host(weight.clone()), layout.host(layout.laid(weight.clone()))
    assert torch.equal(plain.weight, other.weight)
    return plain, other


def takes(name: str, host: nn.Module) -> bool:
    return not surgery.plan(host, {"weight": SPEC_OF[name]}).problems


def batch(layout: Layout, dtype: torch.dtype) -> Tensor:
    return torch.randn(2, 6, *[5] * (len(layout.shape) - 2), dtype=dtype)


def assert_near(ours: Tensor, theirs: Tensor, digits: float = 512) -> None:
    bound = digits * torch.finfo(ours.dtype).eps * max(1.0, float(theirs.detach().abs().max()))
    torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=0, atol=bound)


def step_aside(models: tuple[nn.Module, nn.Module]) -> None:
    """Move raws from where projections leave them: on edges the side of a derivative is decided by rounding."""
    raws = [model.weight.raws for model in models]
    with torch.no_grad():
        for role, raw in raws[0].items():
            if raw.requires_grad:
                noise = 0.05 * torch.randn(raw.shape, dtype=raw.dtype)
                for each in raws:
                    each[role].add_(noise)


def layouts(name: str, size: str) -> list[Layout]:
    """All at full size; else the two that people have, and one more in turn."""
    usual, others = ["channels last", "transposed"], ["expanded", "with gaps", "reversed", "channels last, 3d"]
    chosen = list(LAYOUTS) if size == "full" else [*usual, others[list(SPEC_OF).index(name) % len(others)]]
    return [LAYOUTS[layout] for layout in chosen]


@pytest.mark.parametrize("name", SPEC_OF)
def test_values_outputs_and_gradients_are_those_of_the_contiguous_twin(name: str, size: str):
    for layout, dtype in itertools.product(layouts(name, size), DTYPES[size]):
        models = twins(name, layout, dtype)
        if not takes(name, models[0]):
            continue
        for model in models:
            surgery.apply_constraints(model, {"weight": SPEC_OF[name]})
        plain, other = models
        assert_near(other.weight, plain.weight)
        if name in EXACT:
            assert bits(other.weight) == bits(plain.weight)
        step_aside(models)
        x = batch(layout, dtype)
        cotangent = torch.randn(plain(x).shape, dtype=dtype)
        for model in models:
            for _ in range(2):
                model.train()(x).backward(cotangent)
        assert_near(other(x), plain(x))
        slopes = {role: raw.grad for role, raw in plain.named_parameters() if raw.grad is not None}
        assert slopes
        for role, raw in other.named_parameters():
            if role in slopes:
                assert_near(raw.grad, slopes[role], 4096)
        assert_near(other.eval()(x), plain.eval()(x))
        torch.optim.SGD([raw for raw in other.parameters() if raw.requires_grad], 0.01).step()
        assert surgery.check(other).ok


@pytest.mark.parametrize("name", SPEC_OF)
def test_undo_and_bake_leave_the_weight_as_it_lay(name: str, size: str):
    """Everything after undo; after bake strides, without gaps, where the Parameter itself is a raw."""
    for layout in layouts(name, size):
        _, model = twins(name, layout, torch.float32)
        if not takes(name, model):
            continue
        weight, x, before = model.weight, batch(layout, torch.float32), picture(model)
        dense = weight.contiguous().stride() if 0 in weight.stride() else torch.empty_like(weight).stride()
        surgery.apply_constraints(model, {"weight": SPEC_OF[name]})
        model(x).square().sum().backward()
        torch.optim.SGD([raw for raw in model.parameters() if raw.requires_grad], 0.01).step()
        surgery.undo(model)
        assert differences(before, picture(model)) == []
        surgery.apply_constraints(model, {"weight": SPEC_OF[name]}).eval()
        is_factored = model.weight.constraints[0].factored_in_eval
        stays_raw = any(raw is weight for raw in model.parameters())  # else nothing is left to lie as it did
        value, laid, expected = bits(model.weight), model.weight.detach().stride(), model(x).detach()
        surgery.bake(model)
        assert (bits(model.weight), model.weight.stride()) == (value, laid)
        if stays_raw:
            assert model.weight is weight
            assert laid == dense
        assert_near(model(x), expected, 512 if is_factored else 0)


@pytest.mark.parametrize("name", SPEC_OF)
def test_a_model_that_is_moved_to_another_format_keeps_its_values(name: str):
    for layout, memory_format in FORMATS.items():
        plain, _ = twins(name, LAYOUTS[layout], torch.float32)
        if not takes(name, plain):
            continue
        surgery.apply_constraints(plain, {"weight": SPEC_OF[name]})
        other, x = copy.deepcopy(plain), batch(LAYOUTS[layout], torch.float32)
        if memory_format is torch.channels_last_3d and any(raw.dim() == 4 for raw in plain.parameters()):
            with pytest.raises(RuntimeError, match="required rank 5"):  # as torch says of any model with 4 and 5
                other.to(memory_format=memory_format)
            continue
        other.to(memory_format=memory_format)
        for training in (True, False):
            assert_near(other.train(training)(x), plain.train(training)(x))
        if next(iter(plain.weight.raws.values())).shape == plain.weight.shape:
            assert other.weight.detach().is_contiguous(memory_format=memory_format)
        with torch.no_grad():
            other.weight.copy_(0.3 * torch.randn(other.weight.shape))
        other(x)
        assert surgery.check(other).ok


def test_a_parametrization_of_torch_lays_its_value_out_as_it_does_there():
    """It stands for what torch computed, whose kernels its layout chose."""
    layer = parametrizations.orthogonal(nn.Linear(9, 6))
    laid = layer.weight.detach().stride()
    adopted = surgery.adopt(layer)
    assert adopted.weight.detach().stride() == laid


def test_weights_whose_entries_share_memory_are_told_from_those_with_gaps():
    whole = torch.zeros(40)
    for shape, strides, shares in (
        ((3, 4), (4, 1), False),
        ((3, 4), (1, 3), False),
        ((3, 4), (8, 2), False),
        ((3, 1, 4), (4, 0, 1), False),
        ((3, 4), (0, 1), True),
        ((3, 4), (1, 1), True),
        ((3, 4), (3, 1), True),
        ((0, 4), (0, 1), False),
        ((), (), False),
    ):
        assert may_overlap_itself(whole.as_strided(shape, strides)) is shares
