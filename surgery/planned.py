"""A plan: what rules would do to a model, printable, comparable, and ready to be carried out."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn
from torch.optim import Optimizer

from computed.uncollected import uncollected
from surgery.applying import carry_out
from surgery.errors import PlanError, SurgeryError
from surgery.evidence import Evidence, evidence_of
from surgery.optimizers import Optimizers, listed, refusals
from surgery.planning import Draft, Options, Resolve, Rules, draft
from surgery.proposal import Action, PlannedSite
from surgery.routes import check_route
from surgery.tables import Tabular
from surgery.undoing import Undo
from surgery.wording import bytes_text, heads, rows_text, trainable_text


@dataclass(frozen=True, eq=False)
class Plan(Tabular):
    """What `plan` found. Frozen; changes nothing until `apply`.

    ``sites`` are the rows in the order of the model, ``problems`` what forbids an apply (all of it), ``notes`` what
    ``strict=False`` lets pass and how a model of transformers is saved. Two plans are equal where they propose the
    same for the same sites.
    """

    sites: tuple[PlannedSite, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    untouched: int
    total_before: int
    total_after: int
    trainable_before: int
    trainable_after: int
    model: nn.Module = field(repr=False)
    evidence: Evidence = field(repr=False)

    @property
    def ok(self) -> bool:
        """Whether nothing forbids an apply."""
        return not self.problems

    @property
    def hold_bytes(self) -> int:
        """The memory that held values will take, in bytes."""
        return sum(row.hold_bytes for row in self.sites)

    @property
    def undo_bytes(self) -> int:
        """The memory that undo will take once the raws have moved, in bytes."""
        return sum(row.undo_bytes for row in self.sites)

    def __eq__(self, other: object) -> bool:
        """Whether both propose the same."""
        return isinstance(other, Plan) and self._key() == other._key()

    def __hash__(self) -> int:
        """By what it proposes."""
        return hash((len(self.sites), self.problems, self.notes))

    def __repr__(self) -> str:
        """One line; ``str`` is the table."""
        return f"Plan({len(self.sites)} sites, {len(self.problems)} problems)"

    @uncollected()
    def apply(self, *, optimizer: Optimizers = None, keep_undo: bool = True) -> Undo:
        """Do what the plan says, all of it or nothing; returns an `Undo`. ``optimizer`` is as in `apply_constraints`.

        Errors: PlanError with every problem; SurgeryError where the model has changed since the plan was made.
        """
        if self.problems:
            raise PlanError(self.problems)
        changed = self.evidence.changes(self.model)
        if changed is not None:
            raise SurgeryError(f"the model has changed since it was planned: {changed}; make a new plan")
        return apply_rows(self.model, self.sites, optimizers=listed(optimizer), keep_undo=keep_undo)

    def columns(self) -> tuple[str, ...]:
        """The heads of the table."""
        return heads()

    def lines(self) -> list[tuple[str, ...]]:
        """The cells of the table."""
        return rows_text(self.sites)

    def footer(self) -> list[str]:
        """Totals, memory, notes and problems."""
        changing = sum(row.changes for row in self.sites)
        frozen = sum(row.action is Action.FREEZE for row in self.sites)
        done = f"{changing - frozen} to constrain" + (f", {frozen} to freeze" if frozen else "")
        left = f"{len(self.sites) - changing} left alone by a rule, {self.untouched} that no rule matches"
        before = trainable_text(self.trainable_before, self.total_before)
        after = trainable_text(self.trainable_after, self.total_after)
        trained = f"trainable: {before}" if before == after else f"trainable: {before} before\n           {after} after"
        lines = ["", f"{done}, {left}", trained]
        lines.append(f"memory: held values {bytes_text(self.hold_bytes)}, undo {bytes_text(self.undo_bytes)}")
        if any(row.measures.scaled_up for row in self.sites):
            lines.append("^ scaled up: the weight was smaller than what the constraint sets")
        lines += [f"note: {text}" for text in self.notes]
        lines += [f"problem: {text}" for text in self.problems]
        return lines

    def _key(self) -> tuple[object, ...]:
        return tuple(row.row() for row in self.sites), self.problems, self.notes, self.untouched


@uncollected()
def plan(
    model: nn.Module,
    rules: Rules,
    *,
    via: str = "tree",
    strict: bool = True,
    existing: str = "error",
    tie: str = "share",
    unsafe: bool = False,
    example: object = None,
) -> Plan:
    """What `apply_constraints` would do with the same arguments, site by site; changes nothing.

    Prints as a table: name (and the names it is tied to), host type, shape, constraint, numbers stored before and
    after, how far the projection moves the weight (relative Frobenius distance), for matrices and convolutions the
    largest singular value before and after; below it trainable against total numbers and the memory of holds and undo.

    Args:
        model: any module.
        rules: pattern -> spec, later rules win; see `apply_constraints`.
        via: "tree", or "fx" or "export", which trace a copy to see what rules about operations are about.
        strict: False turns "matched nothing" and "shadowed by later rules" into notes.
        existing: what to do at a site that another spec constrains already: "error", "chain" or "replace".
        tie: "share" (one computed parameter in all places), "error" or "split".
        unsafe: True lets modules and functions change the shape of a weight.
        example: for a graph: (args, kwargs) of a call.

    Example:
        >>> import torch
        >>> proposed = plan(torch.nn.Linear(3, 2), {"weight": "spectral(bound=2.0)"})
        >>> proposed.ok, [(row.name, row.constraint) for row in proposed.sites]
        (True, [('weight', 'spectral(bound=2.0)')])
    """
    check_route(via)
    options = Options(strict=strict, existing=existing, tie=tie, unsafe=unsafe)
    return _plan_of(model, draft(model, rules, options, _resolver(model, via, example)))


def _resolver(model: nn.Module, via: str, example: object) -> Resolve | None:
    """What finds out what rules about operations are about; None for a tree, which cannot."""
    if via == "tree":
        return None
    # loaded for a graph only
    from surgery.graph.arguments import call_of, example_of
    from surgery.graph.choosing import resolved, uses_by_trace, uses_in_export
    from surgery.graph.exporting import exported

    given = example_of(example)
    call = call_of(model, given)
    if via == "fx":
        return lambda ruleset: resolved(ruleset, lambda some: uses_by_trace(some, model, call, {}))
    return lambda ruleset: resolved(ruleset, lambda some: uses_in_export(some, model, exported(model, call, None)))


def apply_rows(
    model: nn.Module, rows: tuple[PlannedSite, ...], *, optimizers: Sequence[Optimizer] = (), keep_undo: bool
) -> Undo:
    """Carry out rows without problems, and remember how to take them back."""
    lazy = [row.name for row in rows if row.action is Action.UNKNOWN]
    if lazy:
        cure = "has no shape yet (a lazy module); run one batch through the model first"
        raise PlanError([f"{name} {cure}" for name in lazy])
    problems = refusals(optimizers, rows)
    if problems:
        raise PlanError(problems)
    kept = keep_undo and any(row.changes for row in rows)
    record = carry_out(model, rows, optimizers, keep_undo=kept)
    return Undo(model, record, len(record.places))


def _plan_of(model: nn.Module, made: Draft) -> Plan:
    total, trainable = _totals(model)
    return Plan(
        made.rows,
        made.problems,
        made.notes + made.advice,
        made.untouched,
        total,
        total + sum(row.parameters_after - row.parameters_before for row in made.rows),
        trainable,
        trainable + sum(row.trainable_after - row.trainable_before for row in made.rows),
        model,
        evidence_of(made.found, tuple(row.found for row in made.rows)),
    )


def _totals(model: nn.Module) -> tuple[int, int]:
    sizes = [
        (0 if nn.parameter.is_lazy(parameter) else parameter.numel(), parameter.requires_grad)
        for parameter in model.parameters()
    ]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)
