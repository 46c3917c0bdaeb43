"""What a reported code is: a name, what it asks of the reader, and the text that explains it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Weight(Enum):
    """What a code asks for: an edit that can be written, something that was left, a note, a file that failed."""

    EDIT = "edit"
    LEFT = "left"
    NOTE = "note"
    FAILED = "failed"


@dataclass(frozen=True)
class Code:
    """One code, with the text of ``--explain``."""

    name: str
    weight: Weight
    title: str
    explanation: str
