"""An optimizer that holds what a change has replaced trains nothing, silently: its next step is refused.

A public global hook of torch sees every step. What an optimizer holds is looked at once, and again when its groups
grow or shrink or another change is made.
"""

import gc
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from computed.torch_private import outside_compilation
from surgery.errors import StaleOptimizerError
from surgery.optimizers import Exchange, parameters_held

SHOWN = 8


@dataclass(frozen=True, eq=False)
class Replacement:
    """Parameters of one site that stand there no longer, or train no longer, and those that train instead."""

    name: str
    old: tuple["weakref.ref[nn.Parameter]", ...]
    new: tuple[tuple[str, "weakref.ref[nn.Parameter]"], ...]

    def alive(self) -> bool:
        """Whether an optimizer could still hold one of the old ones."""
        return any(reference() is not None for reference in self.old)

    def wanted(self) -> dict[str, nn.Parameter]:
        """The new ones that are to be trained."""
        found = {name: reference() for name, reference in self.new}
        return {name: one for name, one in found.items() if one is not None and one.requires_grad}

    def old_in(self, held: set[int]) -> bool:
        """Whether an optimizer that holds ``held`` holds an old one."""
        return any(id(one) in held for one in (reference() for reference in self.old) if one is not None)

    def new_in(self, held: set[int]) -> bool:
        """Whether an optimizer that holds ``held`` holds a new one."""
        return any(id(one) in held for one in (reference() for _, reference in self.new) if one is not None)

    def without(self, gone: set[int]) -> "Replacement":
        """The same where some of the new ones are gone again."""
        return replace(self, new=tuple((name, one) for name, one in self.new if id(one()) not in gone))


def replacement_of(exchange: Exchange) -> Replacement | None:
    """What no optimizer must hold alone after ``exchange``, and what it should hold; None where all is as it was."""
    if exchange.split:
        return None
    new, old = exchange.coming(), list(exchange.old.values())
    if not new:
        new, old = dict(exchange.new), exchange.leaving()
    if not new or not old:
        return None
    references = tuple((name, weakref.ref(parameter)) for name, parameter in new.items())
    return Replacement(exchange.name, tuple(weakref.ref(parameter) for parameter in old), references)


class Replacements:
    """The replacements that have been made, with a count of their changes."""

    def __init__(self) -> None:
        self.changes = 0
        self._made: list[Replacement] = []
        self._passed: weakref.WeakKeyDictionary[Optimizer, tuple[int, int]] = weakref.WeakKeyDictionary()

    def note(self, exchanges: Sequence[Exchange]) -> None:
        """Note that ``exchanges`` were made; what has left is no longer to be trained for an earlier one."""
        gone = {id(parameter) for exchange in exchanges for parameter in exchange.leaving()}
        kept = [one.without(gone) for one in self._made if one.alive()]
        made = [one for one in map(replacement_of, exchanges) if one is not None]
        self._made = [one for one in (*kept, *made) if one.new]
        self.changes += 1

    def stale(self, optimizer: Optimizer) -> list[Replacement]:
        """Those whose old Parameters ``optimizer`` holds, while no optimizer at all holds the new ones."""
        key = (self.changes, sum(len(group["params"]) for group in optimizer.param_groups))
        if not self._made or self._passed.get(optimizer) == key:
            return []
        held = parameters_held(optimizer)
        suspected = [one for one in self._made if one.old_in(held) and not one.new_in(held)]
        if not suspected:
            self._passed[optimizer] = key
        wanted = [one for one in suspected if one.wanted()]
        if not wanted:
            return []
        everywhere = set().union(*map(parameters_held, living_optimizers()))
        missing = [one for one in wanted if not one.new_in(everywhere)]
        if not missing and len(wanted) == len(suspected):
            self._passed[optimizer] = key
        return missing


def living_optimizers() -> list[Optimizer]:
    """Every optimizer there is; torch keeps no list, so only who is about to raise asks."""
    return [found for found in gc.get_objects() if issubclass(type(found), Optimizer)]


replacements = Replacements()


@outside_compilation
def before_step(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse a step that would train what has been replaced."""
    stale = replacements.stale(optimizer)
    if stale:
        lines = [f"  - {one.name}: {', '.join(one.wanted())}" for one in stale[:SHOWN]]
        more = [f"  - and {len(stale) - SHOWN} more"] if len(stale) > SHOWN else []
        raise StaleOptimizerError(
            "\n".join(
                (
                    f"{type(optimizer).__name__}.step(): what it holds is computed from other parameters now, and no "
                    f"optimizer holds these:",
                    *lines,
                    *more,
                    "pass optimizer=... to the call that changes the model (apply_constraints, bake), or make the "
                    "optimizer after it",
                )
            )
        )


register_optimizer_step_pre_hook(before_step)
