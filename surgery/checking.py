"""Checking that every computed parameter is where its constraint says: exact measures, and never an error."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from computed.constraint import Constraint, IteratedConstraint
from computed.evaluation import evaluate, full_precision, last_arguments
from computed.linalg import in_double
from computed.parameter import ComputedParameter
from surgery.finding import Found, find_computed
from surgery.tables import Tabular
from surgery.wording import folded


@dataclass(frozen=True)
class Row:
    """One computed parameter: how far outside its set the value is that eval uses.

    ``violation`` is None where the constraint has no measure (what is not ours) or where measuring failed; ``note``
    says which. ``in_training`` is the violation of the value that training reads now, where that is another one: an
    iterated constraint takes a step of its iteration with each evaluation there, and lags behind large steps of an
    optimizer. It is None in eval mode.
    """

    name: str
    constraint: str
    violation: float | None
    tolerance: float | None
    note: str = ""
    in_training: float | None = None

    @property
    def ok(self) -> bool:
        """Whether the value is inside, to the stated tolerance; what cannot be measured is not."""
        return self.violation is not None and self.tolerance is not None and self.violation <= self.tolerance

    @property
    def verdict(self) -> str:
        """What stands in the last column."""
        return "ok" if self.ok else self.note or "NO"


@dataclass(frozen=True)
class Check(Tabular):
    """The rows of a check; prints as a table."""

    rows: tuple[Row, ...]

    @property
    def ok(self) -> bool:
        """Whether every row is."""
        return all(row.ok for row in self.rows)

    def __iter__(self) -> Iterator[Row]:
        """Over the rows."""
        return iter(self.rows)

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.rows)

    def columns(self) -> tuple[str, ...]:
        """The heads of the table."""
        heads = ("parameter", "constraint", "violation", "tolerance", "")
        return (*heads[:3], "in training", *heads[3:]) if self._tells_training() else heads

    def lines(self) -> list[tuple[str, ...]]:
        """The cells of the table."""
        wide = self._tells_training()
        return [
            (
                *(folded(row.name), row.constraint, _number(row.violation)),
                *((_number(row.in_training),) if wide else ()),
                *(_number(row.tolerance), row.verdict),
            )
            for row in self.rows
        ]

    def _tells_training(self) -> bool:
        return any(row.in_training is not None for row in self.rows)

    def footer(self) -> list[str]:
        """What the table comes to."""
        if not self.rows:
            return ["no computed parameters"]
        inside = sum(row.ok for row in self.rows)
        said = [f"{inside} of {len(self.rows)} inside their constraint"]
        lagging = [row for row in self.rows if (row.in_training or 0.0) > (row.tolerance or 0.0)]
        if lagging:
            worst = max(lagging, key=lambda row: row.in_training or 0.0)
            said.append(
                f"in training {len(lagging)} of them lag behind the last step, {worst.name} by "
                f"{_number(worst.in_training)}; eval and bake do not"
            )
        return said


def check(model: nn.Module) -> Check:
    """Measure every computed parameter of ``model`` on the value that eval uses; changes nothing, never raises.

    In train mode iterated constraints are measured on the value that training uses, too: their overshoot.

    Returns a `Check` with ``.rows`` and ``.ok``, which prints as a table.

    Example:
        >>> import torch
        >>> from surgery.constraining import apply_constraints
        >>> model = apply_constraints(torch.nn.Linear(3, 3), {"weight": "orthogonal"})
        >>> check(model).ok
        True
    """
    return Check(tuple(_row(found, computed) for found, computed in find_computed(model)))


def _row(found: Found, parameter: ComputedParameter) -> Row:
    name, spec = found.site.name, "?"
    try:
        spec = parameter.spec
        return _measured(name, spec, parameter)
    except Exception as error:  # a report tells every failure, it does not become one
        return Row(name, spec, None, None, f"{type(error).__name__}: {error}")


def _measured(name: str, spec: str, parameter: ComputedParameter) -> Row:
    last = parameter.links[-1].module
    if not isinstance(last, Constraint):
        return Row(name, spec, None, None, "no measure")
    if parameter.is_meta:
        return Row(name, spec, None, None, "on meta")
    with torch.no_grad():
        value = parameter.baked_value()
        if not bool(value.isfinite().all()):
            return Row(name, spec, math.inf, float(last.tolerance(value.dtype)), "not finite")
        # in the dtype that stores the value, a bound would be rounded as the value is
        raws = [in_double(raw) for raw in last_arguments(parameter.links, parameter.raw_tensors(), training=False)[0]]
        violation = float(last.violation(in_double(value), raws))
        overshoot = _in_training(parameter, last, raws)
    return Row(name, spec, violation, float(last.tolerance(value.dtype)), in_training=overshoot)


def _in_training(parameter: ComputedParameter, last: Constraint, raws: Sequence[Tensor]) -> float | None:
    """The violation of the value that training reads, where an iteration makes it another one."""
    modules = [link.module for link in parameter.links]
    moves = any(isinstance(module, IteratedConstraint) and module.state_moves for module in modules)
    if not parameter.training or not moves:
        return None
    with full_precision(parameter.device):
        value = evaluate(parameter.links, parameter.raw_tensors(), parameter.dtype, training=True)[0]
    if not bool(value.isfinite().all()):
        return math.inf
    return float(last.violation(in_double(value), raws))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}" if value else "0"
