"""The smallest, the largest and the nearest numbers of a tensor's dtype, for code that TorchScript reads too."""

import torch
from torch import Tensor


def eps_of(tensor: Tensor) -> float:
    """The distance from 1 to the next number; `torch.finfo` is not known to TorchScript."""
    return 2.220446049250313e-16 if tensor.dtype == torch.float64 else 1.1920928955078125e-07


def tiny_of(tensor: Tensor) -> float:
    """The smallest normal number."""
    return 2.2250738585072014e-308 if tensor.dtype == torch.float64 else 1.1754943508222875e-38


def largest_of(tensor: Tensor) -> float:
    """The largest finite number."""
    return 1.7976931348623157e308 if tensor.dtype == torch.float64 else 3.4028234663852886e38
