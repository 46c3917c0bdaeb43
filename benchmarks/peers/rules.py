"""9: rules that match nothing."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

import surgery
from benchmarks.peers.libraries import OURS, PEFT
from benchmarks.peers.observing import Measure, Probe, grouped, shortened

# "second" is meant
WRONG_NAMES = {"beside one that is there": ("first", "secnd"), "alone": ("secnd",)}


@dataclass(frozen=True, kw_only=True)
class Told(Measure):
    """How many mistakes are told, and how many with the name that was meant; whether a plan lists all beforehand."""

    told: int
    named: int
    planned: bool

    def right(self) -> bool:
        """All."""
        return self.told == self.named == len(WRONG_NAMES) and self.planned

    def fact(self) -> str:
        """The counts."""
        return f"{self.told} of {len(WRONG_NAMES)} told, {self.named} with the name"


def model() -> nn.Module:
    """Two layers with names."""
    return nn.Sequential(OrderedDict(first=nn.Linear(3, 3), second=nn.Linear(3, 3)))


def mistakes(apply: Callable[[nn.Module, Sequence[str]], object]) -> list[str]:
    """What is told of the wrong names."""
    messages = []
    for names in WRONG_NAMES.values():
        try:
            apply(model(), names)
        except ValueError as error:
            messages.append(str(error))
    return messages


def measured(messages: list[str], *, planned: bool) -> Told:
    """Counts of messages, and of those that have the name that was meant."""
    notes = grouped(("a name alone", shortened(message)) for message in messages[-1:])
    return Told(told=len(messages), named=sum("second" in each for each in messages), planned=planned, notes=notes)


def ours() -> Told:
    """Rules of whole names, and a plan, which must leave the model as it is."""
    plain = model()
    before = {key: tensor.clone() for key, tensor in plain.state_dict().items()}
    listed = str(surgery.plan(plain, {"second.weight": "spectral"}))
    planned = all(word in listed for word in ("second.weight", "spectral", "Linear 3x3"))
    untouched = all(tensor.equal(plain.state_dict()[key]) for key, tensor in before.items())
    messages = mistakes(
        lambda model, names: surgery.apply_constraints(model, {f"{name}.weight": "spectral" for name in names})
    )
    return measured(messages, planned=planned and untouched)


def peft() -> Told:
    """``target_modules``."""
    from peft import LoraConfig, get_peft_model

    messages = mistakes(lambda model, names: get_peft_model(model, LoraConfig(r=2, target_modules=list(names))))
    return measured(messages, planned=False)


PROBE = Probe(
    9,
    "A rule without a match",
    "A misspelt name, beside one that is there and alone. torch and GeoTorch take no rules.",
    "each is an error with the name that was meant, and a plan lists what would be done",
    "tests/life/test_ranked.py::test_09_rules_that_match_nothing",
    {OURS: ours, PEFT: peft},
)
