"""What a plan says about one site: frozen evidence of what would be done there."""

from dataclasses import dataclass
from enum import Enum

from torch import Tensor

from computed.parameter import ComputedParameter
from computed.preparing import Prepared
from computed.site import Site
from surgery.finding import Found


class Action(Enum):
    """What would be done at a site."""

    CONSTRAIN = "constrain"
    CHAIN = "chain"
    REPLACE = "replace"
    FREEZE = "freeze"
    ALREADY = "already"
    EXEMPT = "exempt"
    UNKNOWN = "shape unknown"


@dataclass(frozen=True)
class Measures:
    """What a projection does to a value: distance relative to its Frobenius norm, largest singular values.

    ``None`` where there is nothing to measure (meta tensors; singular values of what is no matrix or convolution).
    """

    moved: float | None = None
    sigma_before: float | None = None
    sigma_after: float | None = None
    scaled_up: bool = False


@dataclass(frozen=True, eq=False)
class PlannedSite:
    """One row of a plan.

    ``parameters_before`` and ``parameters_after`` count numbers stored in Parameters; ``rule`` is the pattern that
    decided; ``copies`` says that the tensor stays with another part of a tie that is split.
    """

    site: Site
    action: Action
    rule: str
    constraint: str
    parameters_before: int
    parameters_after: int
    trainable_before: int
    trainable_after: int
    measures: Measures
    found: Found
    prepared: Prepared | None = None
    copies: bool = False

    @property
    def name(self) -> str:
        """The site's first name."""
        return self.site.name

    @property
    def changes(self) -> bool:
        """Whether anything is done here."""
        return self.action not in (Action.ALREADY, Action.EXEMPT)

    @property
    def subject(self) -> Tensor | ComputedParameter:
        """What stands at the site now."""
        return self.found.subject

    @property
    def hold_bytes(self) -> int:
        """The memory of the held value."""
        return self._bytes if self.prepared is not None else 0

    @property
    def undo_bytes(self) -> int:
        """The memory of the original bits, once the raws move."""
        return self._bytes if self.prepared is not None and not self.copies else 0

    @property
    def _bytes(self) -> int:
        shape = self.site.shape
        return 0 if shape is None else shape.numel() * self.site.dtype.itemsize

    def row(self) -> tuple[object, ...]:
        """What identifies this row: two plans that propose the same compare equal."""
        return self.site, self.action, self.rule, self.constraint, self.parameters_after, self.measures
