"""The operator norm of a convolution is set, or capped: what spectral does not do, whose norm is a matrix's."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from computed.constraint import State
from computed.constraints.one_operator import undilated, why_not_one_operator
from computed.constraints.refusing import exempt, require, whole_number
from computed.constraints.sigma_scaling import sigma_along
from computed.constraints.sigma_target import SigmaTarget
from computed.linalg import as_matrix, in_double
from computed.site import Site
from computed.symbol_bound import operator_norm_bound
from computed.symbol_following import follow, grid_shape
from computed.symbol_peak import leading_waves, operator_norm

NAME = "operator_norm"


class OperatorScale(SigmaTarget):
    """The norm of the layer as an operator is set to ``norm``, or capped at ``bound``; 1.0 where nothing is said.

    ``value = W * norm / s`` or ``W * min(1, bound / s)``, where ``s`` is the Lipschitz constant of ``x -> layer(x)``
    without its bias, in the Euclidean norm, over inputs of every size: the largest singular value over groups and
    angles ``a`` of ``H(a) = sum_t W[:, :, t] exp(i a t)``, (out, in) matrices, with the phases of a stride among the
    inputs. It holds for zero padding of any width and for none, for transposed convolutions, and for circular padding
    that is no wider than the kernel needs, at sizes that the stride divides. On small images with zeros around them
    the layer's norm is a little lower: by 1 to 2 % at 16 x 16, by 3 to 8 % at 8 x 8. The weight of a linear layer is
    a matrix, with which this is ``spectral``.

    In training ``u`` (2, rows) and ``v`` (2, columns), the real and imaginary parts of one angle's vectors, are found
    by ``n_power_iterations`` steps of the power iteration with each evaluation, at the ``angle`` where they are and on
    a grid of ``waves`` of all angles, and are constants of the derivative; ``s`` is an estimate from below then. In
    eval they are found anew, from the weight alone: to 1e-3, and to about 1e-6 as a rule.

    Args:
        norm: what the operator norm is set to.
        bound: what it is capped at; instead of ``norm``.
        n_power_iterations: steps with each evaluation in training.
        eps: an operator norm below this counts as this, so that a raw of zeros gives zeros.
        stride: that of the convolution, one number or one a dimension; by default the host's.
        groups: that of the convolution; by default the host's.

    It is computed in at least float32; the state stays there under casts.

    Weight decay shrinks the raw: a norm that is set stays, a value under its bound shrinks.

    Errors:
        ValueError: both ``norm`` and ``bound``, or numbers that are not positive.

    Reference: Sedghi, Gupta and Long, "The singular values of convolutional layers", 2019 (arXiv:1805.10408); for the
    power iteration on images, Ryu et al., "Plug-and-play methods provably converge with properly trained denoisers",
    2019 (arXiv:1905.05406), section 4.2.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> taps = torch.tensor([[[1.0, 2.0, 1.0]]])
        >>> ComputedParameter.from_value(taps, OperatorScale(bound=2.0, stride=1, groups=1)).tolist()
        [[[0.5, 1.0, 0.5]]]
    """

    spec_name: ClassVar[str] = NAME
    state_names: ClassVar[tuple[str, ...]] = ("u", "v", "angle", "waves")
    settles_from: ClassVar[tuple[str, ...]] = ()
    strides: list[int]
    u: Tensor
    v: Tensor
    angle: Tensor
    waves: Tensor
    pending_u: Tensor
    pending_v: Tensor
    pending_angle: Tensor
    pending_waves: Tensor
    settled_u: Tensor
    settled_v: Tensor
    settled_angle: Tensor
    settled_waves: Tensor

    def __init__(
        self,
        norm: float | None = None,
        *,
        bound: float | None = None,
        n_power_iterations: int = 1,
        eps: float = 1e-12,
        stride: int | tuple[int, ...] | None = None,
        groups: int | None = None,
    ) -> None:
        super().__init__(norm, bound, n_power_iterations, eps)
        self.stride = _strides(stride)
        self.groups = None if groups is None else whole_number(f"{NAME}: groups", groups)
        require(self.groups is None or self.groups > 0, f"{NAME} needs groups >= 1, got {groups!r}")
        self.strides = []
        self.parts = 1

    def described_beside(self) -> dict[str, object]:
        """Stride and groups, where they were given."""
        given = {"stride": self.stride, "groups": self.groups}
        return {name: setting for name, setting in given.items() if setting is not None}

    def why_not(self, site: Site) -> str | None:
        """It takes matrices, and convolutions that it knows to be one operator for inputs of every size."""
        shape = site.shape
        if shape is None:
            return None
        if len(shape) < 2 or shape.numel() == 0:
            return f"{NAME} needs 2 or more dimensions and entries, got shape {tuple(shape)}; {exempt(site)}"
        if len(shape) == 2:
            return None
        if site.convolution is not None:
            return why_not_one_operator(NAME, site) or self._why_not_divided(site, shape)
        if self.stride is None or self.groups is None:
            return (
                f"{NAME} does not know how {site.host_type.__name__} uses its weight of shape {tuple(shape)}: give "
                f"stride= and groups= of the convolution, or {exempt(site)}"
            )
        return self._why_not_divided(site, shape)

    def bind(self, site: Site) -> None:
        """Find out the stride and the groups."""
        if site.convolution is not None:
            self.stride, self.groups = undilated(site.convolution), site.convolution.groups
        self.strides = list(_for_each(self.stride, len(site.shape or ()) - 2) or (1,))
        self.parts = self.groups or 1

    def forward(self, raw: Tensor) -> Tensor:
        """The value in a graph."""
        return raw * self.scale_in_graph(raw)

    def scale_in_graph(self, raw: Tensor) -> Tensor:
        """The scale in a graph: in training with state that a step commits, else with the settled one."""
        u, v = self.settled_u, self.settled_v
        if self.training:
            with torch.no_grad():
                u, v, angle, waves = self.followed(raw.detach())
                self.pending_u.copy_(u)
                self.pending_v.copy_(v)
                self.pending_angle.copy_(angle)
                self.pending_waves.copy_(waves)
                # a scripted module is told of no optimizer's step; torch does not say that it exports is_scripting, and
                # TorchScript takes no second comment behind that
                if torch.jit.is_scripting():  # type: ignore[attr-defined]
                    self.u.copy_(u)
                    self.v.copy_(v)
                    self.angle.copy_(angle)
                    self.waves.copy_(waves)
                    self.settled_u.copy_(u)
                    self.settled_v.copy_(v)
        return self.scale_for(raw, u, v)

    def stepped(self, raw: Tensor) -> tuple[State, Tensor]:
        """The vectors and waves after one evaluation's steps from the committed waves, and the norm along them."""
        state = self.followed(raw.detach())
        return state, sigma_along(as_matrix(raw.detach(), 0), state[0], state[1])

    def followed(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The next of each tensor of the state."""
        kernel, steps = with_taps(weight), self.n_power_iterations
        return follow(kernel, self.u, self.v, self.angle, self.waves, self.parts, self.strides, steps)

    def settled_state(self, raw: Tensor) -> tuple[Tensor, ...]:
        """The converged vectors, from the weight alone."""
        return self.cold_state(raw.detach())

    def cold_state(self, value: Tensor) -> tuple[Tensor, ...]:
        """The converged vectors, and waves that start at theirs."""
        return leading_waves(with_taps(value), self.parts, self.strides)

    def state_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        """Two vectors each as long as rows, and as columns; an angle; groups, inputs and points of the waves."""
        grid = grid_shape(list(shape[2:]) or [1], shape[1], self.parts, self.strides)
        vectors = torch.Size((2, shape[0])), torch.Size((2, shape[1:].numel()))
        return *vectors, torch.Size((len(self.strides),)), torch.Size(grid)

    def certain(self, value: Tensor) -> float:
        """By the symbol on a grid, and what it can be between its points."""
        return operator_norm_bound(with_taps(in_double(value)), self.parts, self.strides)

    def measured(self, value: Tensor) -> float:
        """The norm of the operator, in float64 and from the weight alone."""
        return operator_norm(with_taps(in_double(value)), self.parts, self.strides)

    def _why_not_divided(self, site: Site, shape: torch.Size) -> str | None:
        geometry = site.convolution
        groups = geometry.groups if geometry is not None else self.groups
        dims = len(shape) - 2
        if geometry is not None:
            strides = (None, geometry.stride, undilated(geometry))
            if self.groups not in (None, groups) or _for_each(self.stride, dims) not in strides:
                return (
                    f"{NAME} was given stride={self.stride!r} and groups={self.groups!r}, but "
                    f"{site.host_type.__name__} has stride={geometry.stride} and groups={groups}: leave them out"
                )
        elif isinstance(self.stride, tuple) and len(self.stride) != dims:
            return f"{NAME} was given stride={self.stride!r}, but shape {tuple(shape)} has {dims} dimensions of taps"
        if groups and shape[0] % groups:
            return f"{NAME} was given groups={groups}, which does not divide the {shape[0]} rows of {tuple(shape)}"
        return None


def with_taps(weight: Tensor) -> Tensor:
    """The weight of a linear layer (out, in) as that of a convolution with one tap; others as they are."""
    return weight.unsqueeze(-1) if weight.dim() == 2 else weight


def _for_each(stride: int | tuple[int, ...] | None, dims: int) -> tuple[int, ...] | None:
    return (stride,) * dims if isinstance(stride, int) else stride


def _strides(stride: int | Sequence[int] | None) -> int | tuple[int, ...] | None:
    given = () if stride is None else (stride,) if isinstance(stride, int) else tuple(stride)
    numbers = tuple(whole_number(f"{NAME}: stride", number) for number in given)
    require(all(number > 0 for number in numbers), f"{NAME} needs a stride >= 1, got {stride!r}")
    return None if stride is None else numbers[0] if isinstance(stride, int) else numbers
