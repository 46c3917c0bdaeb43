"""Orthogonal, SpecialOrthogonal, Grassmannian: orthonormal columns, rotations, and the spans of columns."""

from typing import ClassVar

import torch
from torch import Tensor

from computed.constraints.refusing import exempt, resolved_dim, why_not_square
from computed.constraints.stepped import ByMap, FromBase
from computed.linalg import in_double, orthonormality_error, polar_factor, scaled_to_one
from computed.retractions import cayley_retraction, horizontal
from computed.site import Site


class Orthogonal(ByMap):
    """Orthonormal columns, or rows where there are fewer of them: ``QᵀQ = I`` for ``Q`` (m, n), m >= n.

    ``value = R(base, raw - base)``: a step from a fixed orthonormal ``base`` along the tangent part of the
    difference, by a retraction ``R``. To first order the value moves as the raw does, whichever it is. At insertion
    both are the weight's polar factor, which is the nearest orthonormal matrix; a weight that is orthonormal already
    is kept bit for bit. Every raw gives an orthonormal value, zero and singular ones too, and the map is smooth.
    Without a base there is no such map: orthonormal matrices cannot be contracted to one of them.

    The matrix is (out, in * k) for a convolution; ``dim`` says where rows run where the host does not.
    Computed in at least float32, accurate to about ``2e-6`` there, to ``4e-6`` for the longest steps; ``base`` stays in
    float32 under casts.

    Args:
        map: "cayley", one solve of the smaller side; "exp", the exponential of a skew matrix, along geodesics; "qr",
            the ``Q`` of a QR decomposition; "newton_schulz", the polar factor, by products alone where steps are short.
        dim: where rows run.

    Weight decay turns the value back towards ``base``, and leaves it orthonormal. `DynamicOrthogonal`
    (``dynamic_orthogonal``) has a base that follows.

    Errors:
        ValueError: a map of another name.

    Reference: Wen and Yin, "A feasible method for optimization with orthogonality constraints", 2013, lemma 4;
    for the fixed base, Lezcano-Casado, "Trivializations for gradient-based optimization on manifolds", 2019
    (arXiv:1909.09501); for the others, Absil, Mahony and Sepulchre, "Optimization algorithms on matrix manifolds",
    2008, example 4.1.3.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> q = ComputedParameter.from_value(torch.tensor([[2.0, 0.0], [0.0, -3.0]]), Orthogonal())
        >>> (q.detach() + 0.0).tolist()
        [[1.0, 0.0], [0.0, -1.0]]
    """

    spec_name: ClassVar[str] = "orthogonal"

    def __init__(self, *, map: str = "cayley", dim: int | None = None) -> None:
        super().__init__(map, dim)

    def nearest(self, matrix: Tensor) -> Tensor:
        """The polar factor."""
        return polar_factor(matrix)


class SpecialOrthogonal(ByMap):
    """A rotation: ``QᵀQ = I`` and ``det Q = 1`` for a square weight.

    As `Orthogonal`, whose maps keep the determinant. At insertion the value is the nearest rotation: the polar
    factor, with the direction of the smallest singular value turned round where its determinant is -1. Weight decay
    turns the value back towards ``base``, and leaves it a rotation.

    Errors:
        ValueError: a map of another name. A weight that is not square is refused.

    Reference: Kabsch, "A solution for the best rotation to relate two sets of vectors", 1976, for the projection.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> q = ComputedParameter.from_value(torch.tensor([[2.0, 0.0], [0.0, -1.0]]), SpecialOrthogonal())
        >>> (q.detach() + 0.0).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """

    spec_name: ClassVar[str] = "special_orthogonal"

    def __init__(self, *, map: str = "cayley", dim: int | None = None) -> None:
        super().__init__(map, dim)

    def why_not(self, site: Site) -> str | None:
        """It takes what is a square matrix."""
        return why_not_square("special_orthogonal", site, self.dim, "use orthogonal, or ")

    def nearest(self, matrix: Tensor) -> Tensor:
        """The polar factor, or the rotation next to it."""
        u, _, vh = torch.linalg.svd(scaled_to_one(in_double(matrix))[0])
        u[:, -1] *= torch.linalg.det(u @ vh).sign()
        rotation: Tensor = u @ vh
        return rotation.to(matrix)

    def excess(self, matrix: Tensor) -> float:
        """The largest entry of ``|QᵀQ - I|``; 2 for a reflection, which is as far as matrices are in any direction."""
        turned_round = bool(torch.linalg.slogdet(matrix)[0] < 0)
        return 2.0 if turned_round else orthonormality_error(matrix)


class Grassmannian(FromBase):
    """The span of orthonormal columns: a point of the Grassmann manifold, as ``Q`` (m, n) with ``QᵀQ = I``.

    As `Orthogonal` by the Cayley map, but of a step only what leaves the span of ``base`` counts: ``value = R(base, (I
    - base baseᵀ)(raw - base))``. So no two raws near the base give two bases of one span, and ``n²`` directions
    that do not change it have no gradient: for losses that depend on ``Q Qᵀ``, such as projections onto a subspace.
    Where a weight is wide, that is the span of its rows. At insertion the value is the polar factor, which has the
    weight's span. A square weight has only one span, so it does not train: it is refused. Weight decay turns the
    span back towards that of ``base``.

    Errors:
        A square weight is refused.

    Reference: Edelman, Arias and Smith, "The geometry of algorithms with orthogonality constraints", 1998, section 2.5.

    Example:
        >>> from computed.parameter import ComputedParameter
        >>> q = ComputedParameter.from_value(torch.tensor([[2.0], [0.0], [0.0]]), Grassmannian())
        >>> q.detach().flatten().tolist()
        [1.0, 0.0, 0.0]
    """

    spec_name: ClassVar[str] = "grassmannian"

    def __init__(self, *, dim: int | None = None) -> None:
        super().__init__(dim)

    def own_settings(self) -> dict[str, object]:
        """None."""
        return {}

    def why_not(self, site: Site) -> str | None:
        """It takes what is a matrix, but a square one."""
        reason = super().why_not(site)
        if reason is not None or site.shape is None:
            return reason
        side = site.shape[resolved_dim(site, self.dim) or 0]
        if side * side != site.shape.numel():
            return None
        return f"grassmannian was given a square matrix ({side}, {side}), which has one span; {exempt(site)}"

    def stepped(self, base: Tensor, delta: Tensor) -> Tensor:
        """By the part that leaves the span."""
        return cayley_retraction(base, horizontal(base, delta))

    def nearest(self, matrix: Tensor) -> Tensor:
        """The polar factor."""
        return polar_factor(matrix)
