"""The documented meaning of a pattern, as one regular expression: a second reading, independent of the automaton."""

from __future__ import annotations

import random
import re

NAME = r"[^.]+"
INNERMOST = re.compile(r"\{([^{}]*)\}")
PIECE = re.compile(r"\*+|\?|\[!?\]?[^]]*\]|.", re.DOTALL)

PARTS = ("a", "b", "ab", "conv", "conv1", "conv_in", "myconv", "fc", "q_proj", "encoder", "0", "10", "weight", "bias")
ALPHABET = "abcowegq_01"


def without_braces(pattern: str) -> list[str]:
    """Every text that ``pattern`` stands for."""
    found = INNERMOST.search(pattern)
    if found is None:
        return [pattern]
    before, after = pattern[: found.start()], pattern[found.end() :]
    return [text for choice in found[1].split(",") for text in without_braces(before + choice + after)]


def translated(pattern: str, *, host_known: bool = False) -> re.Pattern[str]:
    """What matches the same dotted names as ``pattern``; with ``host_known`` the last name is one name."""
    choices = "|".join(_path(text.split("."), host_known=host_known) for text in without_braces(pattern))
    return re.compile(choices, re.DOTALL)


def _path(parts: list[str], *, host_known: bool) -> str:
    *path, last = parts
    expression = ""
    for position, part in enumerate(path):
        expression += rf"(?:{NAME}\.)*" if part == "*" else rf"{_part(part, first=position == 0)}\."
    if last != "*":
        return expression + _part(last, first=not path)
    return expression + (NAME if host_known else rf"{NAME}(?:\.{NAME})*")


def _part(part: str, *, first: bool) -> str:
    expression = ""
    for piece in PIECE.findall(part):
        if piece[0] == "*":
            expression += ".*" if len(piece) > 1 or (first and not expression) else "[^.]*"
        elif piece == "?":
            expression += "[^.]"
        elif piece[0] == "[" and len(piece) > 1:
            inverted = piece[1] == "!"
            members = re.sub(r"([\\\[\]^&~|])", r"\\\1", piece[1 + inverted : -1])
            expression += rf"(?!\.)[{'^' * inverted}{members}]"
        else:
            expression += re.escape(piece)
    return expression


def random_name(draw: random.Random) -> str:
    return ".".join(draw.choice(PARTS) for _ in range(draw.randint(1, 5)))


def pattern_for(draw: random.Random, name: str) -> str:
    """A pattern made from ``name`` by changes that keep it matching, most of the time."""
    parts = [_varied(draw, part) for part in name.split(".")]
    for _ in range(draw.randint(0, 2)):
        begin = draw.randrange(len(parts) + 1)
        end = min(len(parts), begin + draw.randint(0, 2))
        parts[begin:end] = [draw.choice(("*", "*", "**"))]
    if draw.random() < 0.2:
        parts[0] = "*" + parts[0]
    if len(parts) > 2 and draw.random() < 0.2:
        parts[:2] = [f"{{{parts[0]}.{parts[1]},{draw.choice(PARTS)}}}"]
    return ".".join(parts)


def _varied(draw: random.Random, part: str) -> str:
    at = draw.randrange(len(part))
    match draw.randrange(10):
        case 0:
            return part[:at] + "*" + part[at + draw.randint(0, 2) :]
        case 1:
            return part[:at] + "?" + part[at + 1 :]
        case 2:
            return f"{part[:at]}[{draw.choice('!aco')}{part[at]}{draw.choice(ALPHABET)}]{part[at + 1 :]}"
        case 3:
            return f"{part[:at]}{{{part[at:]},{draw.choice(PARTS)}}}"
        case 4:
            return f"{{{part},{draw.choice(PARTS)},{draw.choice(('*', 'x*', '?'))}}}"
        case _:
            return part
