"""Values on a grid, with the gradient of what they are rounded from."""

from torch import Tensor


def straight_through(rounded: Tensor, smooth: Tensor) -> Tensor:
    """``rounded``, bit for bit, with the derivative of ``smooth``.

    Reference: Bengio, Leonard and Courville, "Estimating or propagating gradients through stochastic neurons", 2013
    (arXiv:1308.3432), section 4.
    """
    return rounded.detach() + (smooth - smooth.detach())
