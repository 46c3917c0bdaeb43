"""How much a layer can stretch a difference of inputs, in the Euclidean norm: its Lipschitz constant, in eval."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from computed.constraints.one_operator import undilated
from computed.linalg import in_double
from computed.singular_values import largest_singular_value
from computed.site import FORWARD_CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS, convolution_of
from computed.symbol_bound import operator_norm_bound


@dataclass(frozen=True)
class Unknown:
    """No constant is known, for this reason."""

    reason: str


Constant = float | Unknown
Shape = Sequence[int] | None

# suprema of derivatives, rounded up
ONE_BY_ONE: dict[type[nn.Module], float] = {
    **dict.fromkeys((nn.ReLU, nn.ReLU6, nn.Tanh, nn.Hardtanh, nn.Softplus, nn.Softsign, nn.LogSigmoid), 1.0),
    **dict.fromkeys((nn.Identity, nn.Flatten, nn.Unflatten, nn.Dropout, nn.Dropout2d, nn.AlphaDropout), 1.0),
    **dict.fromkeys((nn.ZeroPad2d, nn.ConstantPad1d, nn.ConstantPad2d, nn.PixelShuffle, nn.PixelUnshuffle), 1.0),
    **dict.fromkeys((nn.ChannelShuffle, nn.Softshrink, nn.Tanhshrink, nn.Softmax), 1.0),
    nn.Sigmoid: 0.25,
    nn.Hardsigmoid: 1 / 6,
    nn.SiLU: 1.0999,
    nn.GELU: 1.13,
    nn.Mish: 1.09,
    nn.Hardswish: 1.5,
    nn.SELU: 1.7581,
}
FUNCTIONS: dict[Callable[..., Any], float] = {
    **dict.fromkeys((torch.relu, torch.tanh, functional.relu, functional.tanh, functional.relu6, torch.flatten), 1.0),
    **dict.fromkeys((functional.softplus, functional.dropout, functional.hardtanh, torch.softmax, torch.abs), 1.0),
    **dict.fromkeys((torch.sigmoid, functional.sigmoid), 0.25),
    functional.gelu: 1.13,
    functional.silu: 1.0999,
    functional.mish: 1.09,
    functional.hardswish: 1.5,
}
METHODS: dict[str, float] = {
    **dict.fromkeys(("relu", "tanh", "flatten", "view", "reshape", "permute", "transpose", "contiguous", "abs"), 1.0),
    **dict.fromkeys(("squeeze", "unsqueeze", "clone", "unflatten", "softmax", "chunk", "split"), 1.0),
    "sigmoid": 0.25,
}


def constant_of(module: nn.Module, shape: Shape) -> Constant:
    """The constant of a layer whose input has ``shape``, one sample with a batch of one; or why none is known."""
    if type(module) in ONE_BY_ONE:
        return ONE_BY_ONE[type(module)]
    for kinds, rule in RULES:
        if isinstance(module, kinds):
            return rule(module, shape)
    return Unknown(f"{type(module).__name__} is not known")


def of_weight(module: nn.Module) -> Tensor:
    """The weight that eval uses, in float64."""
    weight: Any = module.weight
    return in_double(weight.detach())


def _linear(module: nn.Module, shape: Shape) -> Constant:
    return largest_singular_value(of_weight(module))


def _convolution(module: nn.Module, shape: Shape) -> Constant:
    geometry = convolution_of(module, "weight")
    assert geometry is not None
    if geometry.padding_mode in ("reflect", "replicate"):
        return Unknown(f"padding_mode={geometry.padding_mode!r} repeats pixels")
    if geometry.padding_mode == "circular":
        reach = [apart * (size - 1) for apart, size in zip(geometry.dilation, of_weight(module).shape[2:], strict=True)]
        padding = geometry.padding
        if isinstance(padding, str) or any(2 * pad > width for pad, width in zip(padding, reach, strict=True)):
            return Unknown("circular padding repeats pixels that no tap needs")
    return operator_norm_bound(of_weight(module), geometry.groups, list(undilated(geometry)))


def _batch_norm(module: nn.Module, shape: Shape) -> Constant:
    statistics: Any = module
    if statistics.running_var is None:
        return Unknown("it has no running statistics, so that samples depend on each other")
    scale = torch.rsqrt(in_double(statistics.running_var) + statistics.eps)
    gain = 1.0 if statistics.weight is None else of_weight(module)
    return float((scale * gain).abs().amax())


def _leaky(module: nn.Module, shape: Shape) -> Constant:
    layer: Any = module
    return max(1.0, abs(float(layer.negative_slope)))


def _exponential(module: nn.Module, shape: Shape) -> Constant:
    layer: Any = module
    return max(1.0, abs(float(layer.alpha))) if isinstance(module, nn.ELU) else 1.0


def _learned(module: nn.Module, shape: Shape) -> Constant:
    return max(1.0, float(of_weight(module).abs().amax()))


def _average(module: nn.Module, shape: Shape) -> Constant:
    layer: Any = module
    dims = 1 if isinstance(module, nn.AvgPool1d) else 2 if isinstance(module, nn.AvgPool2d) else 3
    size, stride = _each(layer.kernel_size, dims), _each(layer.stride, dims)
    divisor = getattr(module, "divisor_override", None) or math.prod(size)
    if not layer.count_include_pad and any(_each(layer.padding, dims)):
        return Unknown("averages at the border are of fewer pixels: count_include_pad=True")
    weight = torch.full((1, 1, *size), 1.0 / divisor, dtype=torch.float64)
    return operator_norm_bound(weight, 1, list(stride))


def _adaptive(module: nn.Module, shape: Shape) -> Constant:
    """A product of averages along each dimension, so of their largest singular values."""
    layer: Any = module
    dims = 1 if isinstance(module, nn.AdaptiveAvgPool1d) else 2 if isinstance(module, nn.AdaptiveAvgPool2d) else 3
    if shape is None:
        return Unknown("its constant depends on the size of its input: give input_shape")
    sizes = shape[-dims:]
    found = 1.0
    for size, wanted in zip(sizes, _each(layer.output_size, dims), strict=True):
        matrix = functional.adaptive_avg_pool1d(torch.eye(size, dtype=torch.float64).unsqueeze(0), wanted or size)
        found *= largest_singular_value(matrix.squeeze(0))
    return found


def _maximum(module: nn.Module, shape: Shape) -> Constant:
    """A pixel is the largest of as many windows as overlap there."""
    layer: Any = module
    dims = 1 if isinstance(module, nn.MaxPool1d) else 2 if isinstance(module, nn.MaxPool2d) else 3
    pairs = zip(_each(layer.kernel_size, dims), _each(layer.stride, dims), strict=True)
    return math.sqrt(math.prod(math.ceil(size / step) for size, step in pairs))


def _each(setting: Any, dims: int) -> tuple[Any, ...]:
    return (setting,) * dims if isinstance(setting, int) or setting is None else tuple(setting)


Rule = Callable[[nn.Module, Shape], Constant]
RULES: tuple[tuple[tuple[type[nn.Module], ...], Rule], ...] = (
    ((nn.Linear,), _linear),
    (FORWARD_CONVOLUTIONS + TRANSPOSED_CONVOLUTIONS, _convolution),
    ((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _batch_norm),
    ((nn.LeakyReLU,), _leaky),
    ((nn.ELU, nn.CELU), _exponential),
    ((nn.PReLU,), _learned),
    ((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), _average),
    ((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), _adaptive),
    ((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), _maximum),
)
