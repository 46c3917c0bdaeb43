"""OrthogonalKernel: a convolution that keeps the length of every image."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from computed.constraint import Constraint, Preimage, Role, state_dtype
from computed.constraints.describing import Described
from computed.constraints.one_operator import why_not_one_operator
from computed.constraints.refusing import exempt
from computed.linalg import in_double, newton_schulz_correction, scaled_to_one
from computed.paraunitary import factors_of, loss_of_length, order_of, ranks_of, with_factor
from computed.retractions import cayley_retraction, horizontal
from computed.site import Site


def steadied(frame: Tensor) -> Tensor:
    """``frame`` without the errors of a dtype that it was stored in: bfloat16's 1e-2 becomes 1e-8."""
    once = frame + newton_schulz_correction(frame)
    return once + newton_schulz_correction(once)


class OrthogonalKernel(Described, Constraint):
    """A convolution (out, in, *k) that keeps the length of images, or whose transpose does where in > out.

    ``value = F_m ... F_1 Q`` of `computed.paraunitary`: an orthonormal ``Q`` as one tap, and factors ``P + (I - P) x``
    of a projection and a shift, which add one tap each. ``Q`` and the ranges of the projections are turned by Cayley
    retractions of the raws ``turn`` (N, n) and ``turns`` (m, N, N / 2), N >= n the channels, from ``frame`` and
    ``frames``, fixed. All singular values of the layer are one with circular padding; with zeros around the image they
    are at most one. With ``Orthogonal`` (``orthogonal``) only the kernel as a matrix is orthonormal: the layer's norm
    then is anything up to the root of the number of taps.

    At insertion a kernel that is such a product is kept to rounding, the identity among them. Of any other the factors
    are peeled off, each by the projection that keeps most of the first tap and least of the last: not the nearest
    point, which nobody knows, but one that depends on all of the weight. Not every orthogonal convolution in two or
    three dimensions is such a product, and the set has several parts, of which the ranks choose one. Weight decay turns
    the value back to where it was inserted.

    Errors:
        Another host than a convolution is refused, and strides and groups.

    Reference: Li et al., "Preventing gradient attenuation in Lipschitz constrained convolutional networks", 2019
    (arXiv:1911.00937), section 4 (BCOP).

    Example:
        >>> from computed.paraunitary import loss_of_length
        >>> from computed.site import site_of
        >>> from computed.parameter import ComputedParameter
        >>> layer = torch.nn.Conv2d(4, 8, 3)
        >>> constraint = OrthogonalKernel()
        >>> constraint.bind(site_of(layer, ("weight",), layer.weight, shape=layer.weight.shape))
        >>> w = ComputedParameter.from_value(layer.weight.detach(), constraint)
        >>> loss_of_length(w.detach()) < 1e-5
        True
    """

    spec_name: ClassVar[str] = "orthogonal_conv"
    roles: ClassVar[tuple[Role, ...]] = (
        Role("turn"),
        Role("turns"),
        Role("frame", trained=False),
        Role("frames", trained=False),
    )

    taps: list[int]

    def __init__(self) -> None:
        super().__init__()
        self.taps = []
        self.wide = False

    def why_not(self, site: Site) -> str | None:
        """It takes convolutions without strides and groups."""
        shape, geometry = site.shape, site.convolution
        if shape is not None and (len(shape) < 3 or shape.numel() == 0):
            return (
                f"orthogonal_conv needs a convolution's weight with entries, got shape {tuple(shape)}; use orthogonal "
                f"or {exempt(site)}"
            )
        if geometry is None:
            return self._why_not_free(site)
        if math.prod(geometry.stride) * geometry.groups != 1:
            return (
                f"orthogonal_conv takes no stride and no groups, got stride={geometry.stride} and "
                f"groups={geometry.groups}; use aol, operator_norm or {exempt(site)}"
            )
        return why_not_one_operator("orthogonal_conv", site)

    def _why_not_free(self, site: Site) -> str | None:
        """Outside a convolution it takes four dimensions, which are (out, in, *k), or what it was bound to."""
        shape = site.shape
        if shape is None or len(shape) == 4 or (self.taps and list(shape[2:]) == self.taps):
            return None
        return (
            f"orthogonal_conv does not know how {site.host_type.__name__} uses its weight of shape {tuple(shape)}: it "
            f"takes convolutions, and weights of four dimensions; use orthogonal(dim=...) or {exempt(site)}"
        )

    def raw_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        """Those of the turns of ``Q`` and of all projections, and of what they turn."""
        rows, columns = max(shape[:2]), min(shape[:2])
        one = torch.Size((rows, columns))
        every = torch.Size((sum(shape[2:]) - len(shape[2:]), rows, (rows + 1) // 2))
        # a kernel has taps along so many axes, which no raw but the value tells
        return one, every, one, every

    def bind(self, site: Site) -> None:
        """Keep the shape of the kernel."""
        if site.shape is not None:
            self.taps = list(site.shape[2:])
            self.wide = site.shape[0] < site.shape[1]

    def forward(self, turn: Tensor, turns: Tensor, frame: Tensor, frames: Tensor) -> Tensor:
        """Turn all, and multiply from the inside out."""
        kernel = cayley_retraction(steadied(frame), turn)
        for _ in self.taps:
            kernel = kernel.unsqueeze(-1)
        axes = order_of(self.taps)
        ranks = ranks_of(axes, frame.shape[0])
        for place, axis in enumerate(axes):
            base = steadied(frames[place].narrow(1, 0, ranks[place]))
            step = turns[place].narrow(1, 0, ranks[place])
            kernel = with_factor(kernel, cayley_retraction(base, horizontal(base, step)), axis)
        return kernel.transpose(0, 1).contiguous() if self.wide else kernel

    def right_inverse(self, value: Tensor) -> Preimage:
        """The factors of the kernel, peeled off; no turns."""
        shapes = self.raw_shapes(value.shape)
        kernel = scaled_to_one(in_double(value))[0]
        inmost, found = factors_of(kernel.transpose(0, 1) if self.wide else kernel)
        frames = kernel.new_zeros(shapes[3])
        for place, frame in enumerate(found):
            frames[place, :, : frame.shape[1]] = frame
        return Preimage(
            (value.new_zeros(shapes[0]), value.new_zeros(shapes[1]), inmost.to(value), frames.to(value)),
        )

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """How far the layer is from keeping lengths: the largest entry of ``Kᵀ * K - I``, over all shifts."""
        if not bool(value.isfinite().all()):
            return math.inf
        kernel = in_double(value)
        return loss_of_length(kernel.transpose(0, 1) if self.wide else kernel)

    def tolerance(self, dtype: torch.dtype) -> float:
        """Rounding of the entries, of the frames, and of the retractions."""
        return 64 * float(torch.finfo(dtype).eps) + 64 * float(torch.finfo(state_dtype(dtype)).eps)
