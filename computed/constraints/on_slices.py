"""What constraints on slices share: parts that are constraints themselves, made from specs and checked."""

import abc
import dataclasses
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from computed.constraint import Constraint, IteratedConstraint, Preimage
from computed.constraints.describing import Described
from computed.constraints.refusing import exempt, require, whole_number, why_not_dim
from computed.constraints.stored import Stored
from computed.registry import check_call, lookup
from computed.site import Site
from computed.spec import parse_spec


class OnSlices(Described, Stored, abc.ABC):
    """A constraint for each slice along ``dim``; a subclass says how a weight is cut."""

    def __init__(self, specs: Sequence[str | None], dim: int) -> None:
        super().__init__()
        right = isinstance(specs, list | tuple) and len(specs) > 0
        require(right, f"{self.spec_name} needs a list with one spec for each slice, got {specs!r}")
        self.parts = nn.ModuleList(_part(self.spec_name, spec) for spec in specs)
        self.dim = whole_number(f"{self.spec_name}: dim", dim)
        self.stored = torch.float32

    @abc.abstractmethod
    def cut(self, whole: Tensor) -> list[Tensor]:
        """The slices of a tensor of the weight's shape."""

    @abc.abstractmethod
    def joined(self, slices: list[Tensor]) -> Tensor:
        """The inverse of `cut`."""

    @abc.abstractmethod
    def shapes(self, shape: torch.Size) -> list[torch.Size]:
        """The shapes of the slices."""

    @abc.abstractmethod
    def misfit(self, shape: torch.Size) -> str | None:
        """Why the slices do not make up ``shape``, which has ``dim``, or None."""

    def specs(self) -> tuple[str, ...]:
        """The specs of the slices, with what was found out."""
        return tuple(part.spec() if isinstance(part, Constraint) else "none" for part in self.parts)

    def settings(self) -> dict[str, object]:
        """The specs, and the dimension where it is not the first."""
        given: dict[str, object] = {"specs": self.specs()}
        return given | ({"dim": self.dim} if self.dim else {})

    def constrained(self, shape: torch.Size) -> Iterator[tuple[int, Constraint, torch.Size]]:
        """The slices that have a constraint: index, constraint, shape."""
        for index, (part, own) in enumerate(zip(self.parts, self.shapes(shape), strict=True)):
            if isinstance(part, Constraint):
                yield index, part, own

    def why_not(self, site: Site) -> str | None:
        """It takes what the slices make up, where each constraint takes its own."""
        shape = site.shape
        if shape is None:
            return None
        if len(shape) == 0:
            return f"{self.spec_name} needs 1 or more dimensions, got shape (); {exempt(site)}"
        reason = why_not_dim(self.spec_name, site, self.dim)
        if reason is None and (misfit := self.misfit(shape)) is not None:
            reason = f"{self.spec_name} {misfit}; {exempt(site)}"
        if reason is not None:
            return reason
        for index, part, own in self.constrained(shape):
            if (why := part.why_not(_slice_site(site, own))) is not None:
                return f"{self.spec_name}: slice {index} along dim={self.dim} of shape {tuple(shape)}: {why}"
        return None

    def bind(self, site: Site) -> None:
        """Count the dimension from the front, and bind each constraint to its slice."""
        super().bind(site)
        if site.shape is not None:
            self.dim = self.dim % len(site.shape)
            for _, part, own in self.constrained(site.shape):
                part.bind(_slice_site(site, own))

    def forward(self, raw: Tensor) -> Tensor:
        """Slice by slice."""
        slices = self.cut(raw)
        made: list[Tensor] = []
        for index, part in enumerate(self.parts):
            made.append(part(slices[index]))
        return self.joined(made)

    def right_inverse(self, value: Tensor) -> Preimage:
        """Slice by slice: the nearest where each has a nearest one."""
        parts = zip(self.parts, self.cut(value), strict=True)
        raws = [part.right_inverse(own).raws[0] if isinstance(part, Constraint) else own for part, own in parts]
        return Preimage((self.joined(raws),))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """The largest violation among the slices that are outside by more than their own tolerance."""
        own_raws = [self.cut(raw) for raw in raws]
        found = [0.0]
        for index, (part, own) in enumerate(zip(self.parts, self.cut(value), strict=True)):
            if isinstance(part, Constraint):
                outside = part.violation(own, [slices[index] for slices in own_raws])
                found.append(outside if outside > part.tolerance(self.stored) or math.isnan(outside) else 0.0)
        return math.inf if any(map(math.isnan, found)) else max(found)

    def tolerance(self, dtype: torch.dtype) -> float:
        """None beside those of the slices, which the violation takes into account."""
        return 0.0


def _part(called: str, spec: object) -> nn.Module:
    """The constraint of a slice, or what leaves it as it is; raises ValueError."""
    if spec is None or spec == "none":
        return nn.Identity()
    require(isinstance(spec, str), f"{called} takes specs as texts, such as 'positive', got {spec!r}")
    calls = parse_spec(str(spec))
    require(len(calls) == 1, f"{called} takes one constraint for each slice, got the chain {spec!r}")
    check_call(calls[0])
    made = lookup(calls[0].name).load()(*calls[0].args, **dict(calls[0].kwargs))
    reason = _why_no_part(made)
    require(reason is None, f"{called} cannot have {spec!r} for a slice: {reason}")
    return made  # type: ignore[no-any-return] # it is a Constraint


def _why_no_part(made: object) -> str | None:
    if not isinstance(made, Constraint):
        return "it is no constraint"
    if isinstance(made, IteratedConstraint):
        return "it keeps state"
    if len(made.roles) != 1 or not made.roles[0].trained:
        return f"its raws are {', '.join(role.name for role in made.roles)}, and one trained raw is needed"
    if type(made).raw_shapes is not Constraint.raw_shapes:
        return "its raw has another shape than its value"
    if made.stochastic:
        return "its value is random"
    return None if made.scriptable else "it cannot be a part of a scripted graph"


def _slice_site(site: Site, shape: torch.Size) -> Site:
    """The site of a slice: no host says how that is used."""
    return dataclasses.replace(site, shape=shape, usages=())
