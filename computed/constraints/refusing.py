"""Why a constraint cannot take a parameter or an argument, and which matrix a weight is."""

import operator

import torch

from computed.site import Site


def require(condition: object, message: str) -> None:
    """Raise ValueError with ``message`` where an argument of a constraint is wrong."""
    if not condition:
        raise ValueError(message)


def whole_number(name: str, value: object) -> int:
    """``value`` as an int; raises ValueError with ``name`` where it is none."""
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise ValueError(f"{name} must be a whole number, got {value!r}") from None


def exempt(site: Site) -> str:
    """How a refusal ends: the rule that leaves the site alone."""
    return f"exempt it with {site.name!r}: None"


def why_not_dim(name: str, site: Site, dim: int | None) -> str | None:
    """Why there is no dimension ``dim`` at ``site``, or None."""
    shape = site.shape
    if shape is None or dim is None or -len(shape) <= dim < len(shape):
        return None
    has = f"dimensions 0 to {len(shape) - 1}" if shape else "no dimensions"
    return f"{name} was given dim={dim}, but shape {tuple(shape)} has {has}; give another dim or {exempt(site)}"


def why_not_matrix(name: str, site: Site, dim: int | None) -> str | None:
    """Why ``name`` cannot read the parameter at ``site`` as one matrix with rows along ``dim``, or None."""
    shape = site.shape
    if shape is None:
        return None
    if len(shape) < 2:
        return f"{name} needs 2 or more dimensions, got shape {tuple(shape)}; {exempt(site)}"
    if shape.numel() == 0:
        return f"{name} needs a weight with entries, got shape {tuple(shape)}; {exempt(site)}"
    if dim is None:
        return _why_not_unsaid(name, site, shape)
    return why_not_dim(name, site, dim)


def _why_not_unsaid(name: str, site: Site, shape: torch.Size) -> str | None:
    """Why the hosts do not say where rows run, or None."""
    first, second = (f"({shape[d]}, {shape.numel() // shape[d]})" for d in (0, 1))
    if len(shape) > 2 and site.outputs is None:
        return (
            f"{name} does not know how {site.host_type.__name__} uses its weight of shape {tuple(shape)}: "
            f"give dim=0 to read it as a matrix {first}, dim=1 for a matrix {second}, or {exempt(site)}"
        )
    if len({usage.outputs or 0 for usage in site.usages}) < 2:
        return None
    hosts = (
        f"dim={usage.outputs or 0} of {tied} ({usage.host_type.__name__})"
        for tied, usage in zip(site.names, site.usages, strict=True)
    )
    return (
        f"{name} reads a weight with its outputs as rows, and a tie has them along {' and '.join(hosts)}: "
        f"give dim=0 to read all as a matrix {first}, dim=1 for a matrix {second}, pass tie='split', or {exempt(site)}"
    )


def why_not_square(name: str, site: Site, dim: int | None, advice: str = "") -> str | None:
    """Why the parameter at ``site``, read as a matrix with rows along ``dim``, is not square, or None."""
    reason = why_not_matrix(name, site, dim)
    if reason is not None or site.shape is None:
        return reason
    side = site.shape[resolved_dim(site, dim) or 0]
    if side * side == site.shape.numel():
        return None
    other = site.shape.numel() // side
    return f"{name} needs a square matrix, got ({side}, {other}) of shape {tuple(site.shape)}; {advice}{exempt(site)}"


def resolved_dim(site: Site, dim: int | None) -> int | None:
    """The dimension that the rows of the weight's matrix run along, as an index from 0.

    Where nothing was said: that of the outputs where the host says it, so 1 for a transposed convolution and for
    ``Conv1D`` of transformers; None for any other matrix, whose rows need no saying.
    """
    if site.shape is None:
        return dim
    return site.outputs if dim is None else dim % len(site.shape)
