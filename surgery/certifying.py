"""Making bounds hold for certain: what eval estimates is measured, and raws are moved where it is too much."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from computed.constraints.sigma_target import SigmaTarget
from computed.evaluation import last_arguments
from computed.linalg import in_double
from computed.parameter import ComputedParameter
from surgery.errors import SurgeryError
from surgery.listing import found_computed

TRIES = 20
# so that whoever measures in float64, with rounding of its own, agrees
MARGIN = 1e-12


def certify(model: nn.Module, patterns: str | Iterable[str] | None = None) -> nn.Module:
    """Move raws so that bounds on norms certainly hold, to rounding in float64; in place, returns the model.

    ``spectral(bound=...)`` and ``operator_norm(bound=...)`` divide by an estimate from below, which in eval is
    commonly 1e-6 too small, and 1e-3 at most. Here the norm is measured: by the eigenvalues of the Gram matrix, or
    for a convolution from above, by its symbol on a grid of angles and what it can be between these. Where a raw is
    above the bound its value in eval is scaled down as needed and written, so that it is the raw itself, in training
    too. Values of other constraints, which hold as they are, and norms that are set (``norm=``), which are no bounds,
    stay. The training state stays too, but for raws that are written.

    Do it last: before `bake`, a report, or a deployment.

    Args:
        model: any module.
        patterns: one pattern or several: only these; None means all.

    Errors: SurgeryError for a pattern that matches no computed parameter, or a value that is not finite; nothing is
    changed then.

    Reference: for convolutions, `computed.symbol_bound`.

    Example:
        >>> import torch
        >>> from surgery.constraining import apply_constraints
        >>> model = apply_constraints(torch.nn.Linear(200, 300), {"weight": "spectral(bound=0.5)"})
        >>> bool(torch.linalg.svdvals(certify(model).weight.detach().double())[0] <= 0.5)
        True
    """
    written: list[tuple[ComputedParameter, Tensor]] = []
    for found in found_computed(model, patterns, "certify"):
        parameter = found.computed
        assert parameter is not None
        last = parameter.links[-1].module
        if parameter.is_meta or not isinstance(last, SigmaTarget) or last.bound is None:
            continue
        with torch.no_grad():
            carrier = last_arguments(parameter.links, parameter.raw_tensors(), training=False)[0][0]
        # a raw within the bound is its own value, in training too
        if not last.certain(in_double(carrier)) <= last.bound * (1 - MARGIN):
            written.append((parameter, _certain(found.site.name, last, parameter.baked_value())))
    with torch.no_grad():
        for parameter, value in written:
            parameter.copy_(value)
            parameter.detach()  # written now, not at the next read
    return model


def _certain(name: str, constraint: SigmaTarget, value: Tensor) -> Tensor:
    """``value`` scaled down until its norm is certainly within the bound."""
    bound = constraint.target()
    if not bool(value.isfinite().all()):
        raise SurgeryError(f"{name}: its value is not finite, so no bound holds; nothing was changed")
    scaled, exact = value, in_double(value)
    for tries in range(TRIES):
        norm = constraint.certain(in_double(scaled))
        if norm <= bound * (1 - MARGIN):
            return scaled
        # in the dtype of the weight each entry is rounded, and the norm with them
        exact = exact * (bound / norm * (1 - MARGIN - tries * float(torch.finfo(value.dtype).eps)))
        scaled = exact.to(value)
    raise SurgeryError(f"{name}: rounding in {value.dtype} keeps it above its bound; nothing was changed")
