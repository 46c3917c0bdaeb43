"""Sources that make a model, before and after rules are written into them, held against rules applied to the model."""

from __future__ import annotations

import ast
import difflib
import re
import sys
import types
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

import surgery
from rewrite.analysis import UnknownRootError
from rewrite.diagnostics import Diagnostic
from rewrite.outcome import Outcome
from rewrite.rewriting import rewrite_source
from tests.rewrite.forms import ELSEWHERE

Rules = Mapping[str, str | None]

SEED = 7
WRITTEN = re.compile(r"\b_*constrain(ed)?\b")
# what is left at one place, while the rule is written at others
ONE_PLACE = frozenset({"CS114", "CS115", "CS116"})
NOTED = frozenset({"CS124", "CS125"})  # what comes from elsewhere may match too; a weight is initialised in steps


@dataclass(frozen=True, eq=False)
class Made:
    """What a model is made of: its state, its computed parameters and their specs, and which parameters train."""

    state: dict[str, Tensor]
    computed: dict[str, str]
    trained: dict[str, bool]

    @classmethod
    def of(cls, model: nn.Module) -> Made:
        """Read a model."""
        computed = {name: repr(each) for name, each in surgery.computed_parameters(model).items()}
        trained = {name: each.requires_grad for name, each in model.named_parameters()}
        return cls(dict(model.state_dict()), computed, trained)


def build(source: str) -> nn.Module:
    """Execute a source in a module of its own, and make its ``Net``."""
    elsewhere = types.ModuleType("elsewhere")
    exec(ELSEWHERE, elsewhere.__dict__)
    this = types.ModuleType("form")
    kept = {name: sys.modules.get(name) for name in ("elsewhere", "form")}
    sys.modules.update({"elsewhere": elsewhere, "form": this})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(compile(source, "form.py", "exec"), this.__dict__)
            torch.default_generator.manual_seed(SEED)
            return this.Net()
    finally:
        torch.set_default_dtype(torch.float32)
        for name, module in kept.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


@lru_cache(maxsize=20_000)
def _tried(source: str, rules: tuple[tuple[str, str | None], ...] | None) -> Made | Exception:
    """What a source makes, with rules applied or without; or how it fails."""
    try:
        model = build(source)
        if rules is not None:
            surgery.apply_constraints(model, dict(rules), strict=False)
        return Made.of(model)
    except Exception as error:
        return error


@lru_cache(maxsize=20_000)
def _deciding(source: str, rules: tuple[tuple[str, str | None], ...]) -> dict[str, str]:
    """For each tensor that a rule takes, the last rule that does."""
    return {row.name: row.rule for row in surgery.plan(build(source), dict(rules), strict=False).sites}


def problems(source: str, rules: Rules, roots: Sequence[str] = (), style: str = "auto") -> list[str]:
    """All that is wrong with what is written into a source."""
    try:
        outcome = rewrite_source(source, rules, path="form.py", roots=roots, style=style)
    except UnknownRootError:
        return []
    except Exception as error:
        return [f"raised {type(error).__name__}: {error}"]
    told = [str(each) for each in outcome.diagnostics if each.code == "CS131"]
    return told or [*_of_text(outcome, rules, roots, style), *_of_model(outcome, rules)]


def _of_text(outcome: Outcome, rules: Rules, roots: Sequence[str], style: str) -> list[str]:
    """The result is Python, a second run leaves it, and what is not written stays as it was."""
    found = []
    try:
        ast.parse(outcome.after)
    except SyntaxError as error:
        return [f"no Python: {error}"]
    if outcome.changed and rewrite_source(outcome.after, rules, roots=roots, style=style).after != outcome.after:
        found.append("a second run changes it")
    before, after = (
        [line.strip() for line in re.split(r"\r\n|\r|\n", text)] for text in (outcome.before, outcome.after)
    )
    for line in difflib.ndiff(before, after) if outcome.changed else ():
        if line[0] == "+" and not WRITTEN.search(line) and not any(f'="{spec}"' in line for spec in rules.values()):
            found.append(f"changed: {line[2:]!r}")
    return found


def _of_model(outcome: Outcome, rules: Rules) -> list[str]:
    pairs = tuple(rules.items())
    expected, made = _tried(outcome.before, pairs), _tried(outcome.after, None)
    left = [each for each in outcome.left if each.code != "CS117"]
    if isinstance(expected, Exception):
        if isinstance(made, Exception) or left or not outcome.changed:
            return []
        return [f"apply_constraints says {_short(expected)}, and it is written"]
    if isinstance(made, Exception):
        return [f"the result raises {_short(made)}"]
    noted = any(each.code in NOTED for each in outcome.diagnostics)
    if not left and not noted:
        return _differences(expected, made)
    return _partly(outcome, rules, expected, made)


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def _differences(expected: Made, made: Made) -> list[str]:
    if expected.computed.keys() != made.computed.keys():
        lacking = sorted(expected.computed.keys() - made.computed.keys())
        extra = sorted(made.computed.keys() - expected.computed.keys())
        return [f"missing {lacking}"] * bool(lacking) + [f"wrongly constrained {extra}"] * bool(extra)
    found = []
    if expected.computed != made.computed:
        found.append(f"specs {made.computed} instead of {expected.computed}")
    if list(expected.state) != list(made.state):
        found.append(f"keys {list(made.state)} instead of {list(expected.state)}")
    found += _bits(expected, made, expected.state.keys() & made.state.keys())
    if expected.trained != made.trained:
        found.append(f"trained {made.trained} instead of {expected.trained}")
    return found


def _bits(expected: Made, made: Made, names: Sequence[str] | set[str]) -> list[str]:
    other = sorted(name for name in names if not _same(expected.state[name], made.state[name]))
    return [f"other bits {other}"] if other else []


def _same(one: Tensor, other: Tensor) -> bool:
    if isinstance(one, nn.UninitializedParameter) or isinstance(other, nn.UninitializedParameter):
        return type(one) is type(other)
    return one.dtype == other.dtype and torch.equal(one, other)


def _partly(outcome: Outcome, rules: Rules, expected: Made, made: Made) -> list[str]:
    """Rules that are reported are written nowhere, all others are written wherever they decide."""
    left = [each for each in outcome.left if each.code != "CS117"]
    reported = _named(left, rules)
    one_place = any(each.code in ONE_PLACE for each in left)
    found = []
    if reported >= rules.keys() and not one_place and outcome.changed:
        found.append(f"changed, though all rules are left: {outcome.after!r}")
    extra = sorted(made.computed.keys() - expected.computed.keys())
    if extra:
        found.append(f"wrongly constrained {extra}")
    deciding = _deciding(outcome.before, tuple(rules.items()))
    told = reported | _named([each for each in outcome.diagnostics if each.code in NOTED], rules)
    lacking = [each for each in expected.computed if each not in made.computed and deciding.get(each) not in told]
    if lacking and not one_place:
        found.append(f"missing {lacking}")
    both = [name for name in expected.computed if name in made.computed]
    states = {each for each in expected.state if each.rpartition(".")[0] in both and each in made.state}
    in_steps = any(each.code == "CS125" for each in outcome.diagnostics)
    return found + ([] if in_steps else _bits(expected, made, states))


def _named(said: Sequence[Diagnostic], rules: Rules) -> set[str]:
    return {text for each in said for text in rules if repr(text) in each.message}


def true_names(source: str) -> list[str]:
    """The names of what a source's model has, under all its aliases."""
    model = build(source)
    return [name for name, _ in model.named_parameters(remove_duplicate=False)]


def near(names: Sequence[str]) -> list[str]:
    """Patterns about these names: themselves, their ends, and names that lack one part or have one more."""
    found: list[str] = []
    for name in names:
        parts = name.split(".")
        found += [name, f"*.{'.'.join(parts[-2:])}", f"{parts[0]}.*"]
        found += [".".join(parts[:at] + parts[at + 1 :]) for at in range(len(parts) - 1)]
        found += [".".join([*parts[:-1], "0", parts[-1]])]
    return [each for each in dict.fromkeys(found) if each != "*"]
