"""Sources that are cut, doubled, shuffled and misspelt: no crash, and no result that is no Python or not settled."""

from __future__ import annotations

import importlib.util
import io
import random
import tokenize
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from rewrite.code import Weight
from rewrite.codes import CODES
from rewrite.migration.migrating import migrate_sources
from rewrite.rewriting import How, rewrite_sources, ruleset
from rewrite.source import Source, UnreadableError, lines_of, parsed
from tests.rewrite.forms import FORMS

RULES = (
    {"*.weight": "spectral"},
    {"*.conv*.weight": "spectral", "*.bias": "positive"},
    {"*@Linear.*": "interval(-1, 1)"},
)
OTHERS = (
    "nn",
    "self",
    "(",
    ")",
    ",",
    "=",
    "[",
    "]",
    "{",
    "}",
    ":",
    "*",
    "**",
    "None",
    "lambda",
    "for",
    "if",
    "@",
    "0",
    "weight",
)


def seeds() -> list[str]:
    """Texts that are mutated: forms of models, and published ones of moderate size."""
    found = [form.source for form in FORMS.values()]
    transformers = importlib.util.find_spec("transformers")
    if transformers is not None and transformers.submodule_search_locations:
        folder = Path(transformers.submodule_search_locations[0], "models")
        files = sorted(folder.glob("*/modeling_*.py"), key=lambda file: file.stat().st_size)[:60]
        found += [file.read_text() for file in files]
    return found


def by_lines(text: str, chance: random.Random) -> str:
    lines = lines_of(text)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(lines))
        match chance.randrange(4):
            case 0:
                del lines[at]
            case 1:
                lines.insert(chance.randrange(len(lines)), lines[at])
            case 2:
                lines[at] = lines[at].replace("    ", "", 1) if chance.random() < 0.5 else "    " + lines[at]
            case _:
                other = chance.randrange(len(lines))
                lines[at], lines[other] = lines[other], lines[at]
        if not lines:
            return ""
    return "".join(lines)


def by_tokens(text: str, chance: random.Random) -> str:
    tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    words = [token for token in tokens if token.string.strip() and token.start[0] == token.end[0]]
    lines = lines_of(text)
    for token in chance.sample(words, min(len(words), chance.randint(1, 3))):
        row, (begin, end) = token.start[0] - 1, (token.start[1], token.end[1])
        if lines[row][begin:end] == token.string:
            put = chance.choice(("", token.string * 2, chance.choice(OTHERS), chance.choice(words).string))
            lines[row] = lines[row][:begin] + put + lines[row][end:]
    return "".join(lines)


def mutated(text: str, chance: random.Random) -> str:
    """A mutation; most often one that is still Python, if one is found among some."""
    for _ in range(8):
        try:
            found = chance.choice((by_lines, by_tokens))(text, chance) or "x = 1\n"
        except (tokenize.TokenError, IndentationError, SyntaxError):
            continue
        if chance.random() < 0.1 or is_python(found):
            return found
    return by_lines(text, chance) or "x = 1\n"


def is_python(text: str) -> bool:
    try:
        parsed(text)
    except UnreadableError:
        return False
    return True


def outcome(text: str, chance: random.Random) -> str:
    """What became of it: "no Python", or the heaviest thing that was told; all else fails."""
    try:
        source = Source.read("m.py", text.encode())
    except UnreadableError:
        return "no Python"
    if chance.random() < 0.2:
        [found] = migrate_sources([(source, "m")], unsafe=chance.random() < 0.5)
    else:
        style = chance.choice(("auto", "auto", "inline", "class"))
        [found] = rewrite_sources([(source, "m")], How(ruleset(chance.choice(RULES)), style=style))
    assert not found.failed, (text, found.diagnostics)
    parsed(found.after)
    weights = {CODES[each.code].weight for each in found.diagnostics}
    return next((each.value for each in (Weight.EDIT, Weight.LEFT, Weight.NOTE) if each in weights), "nothing")


def test_mutated_sources(size: str, evidence: Callable[[str, str], None]):
    """Each result was read again, and rewritten again without a change: a file that fails so is told as failed."""
    texts, chance = seeds(), random.Random(11)
    many = 2000 if size == "full" else 120
    counts = Counter(outcome(mutated(chance.choice(texts), chance), chance) for _ in range(many))
    assert counts["edit"] > many // 5
    assert 0 < counts["no Python"] < many // 2
    told = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    evidence("mutated sources: no crash, no result that is no Python or not settled", f"{many}: {told}")


def test_what_fails_would_be_seen(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rewrite.rewriting.inserted", lambda text, insertions: text + "(")
    with pytest.raises(AssertionError, match="never closed"):
        outcome(next(iter(FORMS.values())).source, random.Random(1))
