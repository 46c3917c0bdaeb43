"""What the built-in constraints have in common: a spec and a repr from their settings, and reasons for refusals."""

from typing import ClassVar

from computed.site import Site
from computed.spec import Call


class Described:
    """Writes ``repr`` and ``spec`` of a constraint from one description of its settings."""

    spec_name: ClassVar[str]

    def settings(self) -> dict[str, object]:
        """The arguments that make an equal constraint; those left at their default may be left out."""
        return {}

    def extra_repr(self) -> str:
        """The settings, as they are written in a call."""
        return ", ".join(f"{name}={value!r}" for name, value in self.settings().items())

    def spec(self) -> str:
        """The text that makes an equal constraint."""
        return str(Call(self.spec_name, (), tuple(self.settings().items())))


def exempt(site: Site) -> str:
    """How a refusal ends: the rule that leaves the site alone."""
    return f"exempt it with {site.name!r}: None"


def why_not_matrix(name: str, site: Site, dim: int | None) -> str | None:
    """Why ``name`` cannot read the parameter at ``site`` as one matrix with rows along ``dim``, or None."""
    shape = site.shape
    if shape is None:
        return None
    if len(shape) < 2:
        return f"{name} needs 2 or more dimensions, got shape {tuple(shape)}; {exempt(site)}"
    if shape.numel() == 0:
        return f"{name} needs a weight with entries, got shape {tuple(shape)}; {exempt(site)}"
    if dim is not None and not -len(shape) <= dim < len(shape):
        return f"{name} was given dim={dim} for shape {tuple(shape)}; give a dim from 0 to {len(shape) - 1}"
    if dim is None and len(shape) > 2 and site.convolution is None:
        first, second = (f"({shape[d]}, {shape.numel() // shape[d]})" for d in (0, 1))
        return (
            f"{name} cannot know how {site.host_type.__name__} reads its weight of shape {tuple(shape)}: give dim=0 "
            f"for a matrix {first} or dim=1 for a matrix {second}, or {exempt(site)}"
        )
    return None


def resolved_dim(site: Site, dim: int | None) -> int | None:
    """The dimension that rows of the matrix run along: 1 for transposed convolutions, else 0; None for a matrix."""
    if site.shape is None:
        return dim
    if dim is not None:
        return dim % len(site.shape)
    if site.convolution is None:
        return None
    return 1 if site.convolution.transposed else 0


def require(holds: bool, message: str) -> None:  # noqa: FBT001 - a condition and what it means
    """Raise ValueError with ``message`` where an argument of a constraint is wrong."""
    if not holds:
        raise ValueError(message)
