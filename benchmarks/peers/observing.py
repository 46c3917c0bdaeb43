"""A probe asks every library for the same; a measure tells what was found, and judges it by one criterion.

What a library raises where it is asked for its own work is a finding. An error anywhere else is one of the probe.
"""

from __future__ import annotations

import pickle
import textwrap
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch._dynamo.exc import FailOnRecompileLimitHit

from benchmarks.peers.libraries import OURS, Library

# what libraries raise; an interrupt, an exit or lack of memory is nobody's finding
RAISED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.PicklingError,
    FailOnRecompileLimitHit,
)
RIGHT, WRONG, NOT_OFFERED = "right", "wrong", "not offered"
SEED = 0
LONGEST = 140  # letters of a message


class LibraryError(Exception):
    """What a library raised when it was asked for its work: type, and beginning of the message."""


@contextmanager
def asked() -> Iterator[None]:
    """Around what a library itself does."""
    try:
        yield
    except LibraryError:
        raise
    except RAISED as error:
        raise LibraryError(in_a_line(error)) from error


def in_a_line(error: BaseException) -> str:
    """Type, and the beginning of the message."""
    return f"{type(error).__name__}: {shortened(str(error))}".rstrip(": ")


def shortened(message: str) -> str:
    """The first line, or two where the first one only announces; what of them fits."""
    lines = [line.strip() for line in message.strip().splitlines()]
    told = " ".join(lines[:2]) if lines and lines[0].endswith(":") else "".join(lines[:1])
    return textwrap.shorten(told, LONGEST, placeholder=" ...")


def refusal(call: Callable[[], object]) -> str | None:
    """What a library raised during ``call``, or None where it did as it was asked."""
    try:
        with asked():
            call()
    except LibraryError as error:
        return str(error)
    return None


@dataclass(frozen=True, kw_only=True)
class Measure(ABC):
    """What was measured of one library; ``notes`` are details that no cell has room for."""

    notes: tuple[str, ...] = ()

    @abstractmethod
    def right(self) -> bool | None:
        """The probe's criterion; None where the library does not offer what is asked."""

    @abstractmethod
    def fact(self) -> str:
        """The figures, in a few words."""


@dataclass(frozen=True, eq=False)
class Probe:
    """What is asked, how it is measured, the criterion in words, and the test that shows it of this library."""

    number: int
    asks: str
    how: str
    criterion: str
    test: str
    measures: Mapping[Library, Callable[[], Measure]]
    part: str = ""

    @property
    def label(self) -> str:
        """Its number, with the part of it."""
        return f"{self.number}{self.part}"


@dataclass(frozen=True)
class Observation:
    """What a library did: a verdict, the fact it comes from, and details."""

    verdict: str
    fact: str = ""
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """A cell of the table."""
        if self.verdict == NOT_OFFERED and not self.fact:
            return "-"
        return f"{self.verdict}: {self.fact}"


def observe(probe: Probe, library: Library) -> Observation:
    """Ask one library; what a peer raises is its answer, and this library must not raise."""
    if library not in probe.measures:
        return Observation(NOT_OFFERED)
    torch.manual_seed(SEED)
    torch.compiler.reset()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = probe.measures[library]()
    except LibraryError as error:
        if library is OURS:
            raise
        return Observation(WRONG, str(error).partition(":")[0], (str(error),))
    verdict = {True: RIGHT, False: WRONG, None: NOT_OFFERED}[found.right()]
    return Observation(verdict, found.fact(), found.notes)


def by(measure: Callable[[Library], Measure], *libraries: Library) -> dict[Library, Callable[[], Measure]]:
    """The same measure for each of some libraries."""
    return {library: partial(measure, library) for library in libraries}


def grouped(told: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Notes of subject and predicate; subjects of which the same is told are told together."""
    subjects: dict[str, list[str]] = {}
    for subject, predicate in told:
        subjects.setdefault(predicate, []).append(subject)
    return tuple(f"{', '.join(dict.fromkeys(names))}: {predicate}" for predicate, names in subjects.items())


def small(number: float) -> str:
    """A number with two digits at most, or all of them before the point."""
    if number == 0 or number >= 10:
        return f"{number:.0f}"
    return f"{number:.1g}" if number < 1e-3 else f"{number:.2g}"


def plural(count: int, noun: str) -> str:
    """``1 compile``, ``2 compiles``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
