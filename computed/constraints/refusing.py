"""Why a constraint cannot take a parameter or an argument, and which matrix a weight is."""

import operator

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
    if dim is None and len(shape) > 2 and site.convolution is None:
        first, second = (f"({shape[d]}, {shape.numel() // shape[d]})" for d in (0, 1))
        return (
            f"{name} does not know how {site.host_type.__name__} uses its weight of shape {tuple(shape)}: "
            f"give dim=0 to read it as a matrix {first}, dim=1 for a matrix {second}, or {exempt(site)}"
        )
    return why_not_dim(name, site, dim)


def resolved_dim(site: Site, dim: int | None) -> int | None:
    """The dimension that the rows of the weight's matrix run along, as an index from 0.

    Where nothing was said: that of the outputs for a convolution, so 1 where it is transposed; None for a
    matrix, whose rows need no saying.
    """
    if site.shape is None:
        return dim
    if dim is not None:
        return dim % len(site.shape)
    if site.convolution is None:
        return None
    return 1 if site.convolution.transposed else 0
