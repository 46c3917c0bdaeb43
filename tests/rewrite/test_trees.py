"""Whole trees of other people's sources: nothing crashes, what is not matched stays, what is changed is Python."""

from __future__ import annotations

import ast
import importlib.util
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from rewrite.code import Weight
from rewrite.codes import CODES
from rewrite.outcome import Outcome
from rewrite.rewriting import ruleset
from rewrite.running import Asked, Read, read_files, run
from tests.architecture import ROOT

RULES = (
    {"*.conv*.weight": "spectral"},
    {"*@Linear.weight": "spectral", "*.{q,v}_proj.weight": "lora(4)"},
    {"*.weight": "spectral", "*norm*.*": None, "*@{LayerNorm,BatchNorm2d,GroupNorm,Embedding}.weight": None},
    {"*.bias": "interval(-1, 1)", "*.{scale,gamma,beta,temperature}": "positive"},
)
TREES = ROOT / ".trees"


def transformers_files() -> list[Path]:
    found = importlib.util.find_spec("transformers")
    if found is None or not found.submodule_search_locations:
        pytest.skip("transformers is in the extra 'examples'")
    return sorted(Path(found.submodule_search_locations[0], "models").glob("*/modeling_*.py"))


def timm_files() -> list[Path]:
    files = sorted(TREES.glob("timm-*/**/*.py"))
    if not files:
        pytest.skip("the sources of timm are not there: make trees")
    return files


class Undoing(ast.NodeTransformer):
    """Takes out what the source route writes."""

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        return node.args[0] if is_ours(node) else node

    def visit_Expr(self, node: ast.Expr) -> ast.stmt | None:
        if isinstance(node.value, ast.Call) and is_ours(node.value) and isinstance(node.value.args[0], ast.Name):
            return None
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.stmt:
        node.decorator_list = [
            each for each in node.decorator_list if not (isinstance(each, ast.Call) and is_ours(each))
        ]
        return self.generic_visit(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.stmt | None:
        return None if node.module == "surgery" else node


def is_ours(node: ast.Call) -> bool:
    return isinstance(node.func, ast.Name) and node.func.id.lstrip("_") in ("constrain", "constrained")


def problems(files: Iterable[Read | Outcome], outcomes: Iterable[Outcome]) -> list[str]:
    """What is wrong with the results: files that failed, and those that are more than edited."""
    found = []
    for file, outcome in zip(files, outcomes, strict=True):
        assert isinstance(file, Read)
        if outcome.failed:
            found += map(str, outcome.diagnostics)
        elif outcome.changed:
            undone = Undoing().visit(ast.parse(outcome.after))
            same = ast.dump(undone) == ast.dump(ast.parse(file.data))
            if not same or outcome.before.encode() != file.data or not outcome.edits:
                found.append(outcome.path)
        elif outcome.edits:
            found.append(f"{outcome.path}: edits that change nothing")
    return found


@pytest.mark.parametrize("rules", RULES, ids=lambda rules: next(iter(rules)))
@pytest.mark.parametrize("tree", [transformers_files, timm_files], ids=["transformers", "timm"])
def test_a_tree_of_real_sources(
    tree: Callable[[], list[Path]], rules: dict[str, str | None], size: str, evidence: Callable[[str, str], None]
):
    every = tree()
    files = read_files(every if size == "full" else every[::16])
    outcomes = list(run(Asked(ruleset(rules)), files, jobs=1))
    assert problems(files, outcomes) == []
    counts = Counter(each.code for outcome in outcomes for each in outcome.diagnostics)
    changed = sum(outcome.changed for outcome in outcomes)
    assert changed or counts
    assert all(CODES[code].weight is not Weight.FAILED for code in counts)
    told = ", ".join(f"{count} {code}" for code, count in sorted(counts.items()))
    name = tree.__name__.partition("_")[0]
    evidence(f"rules {rules} written into {name}, as text", f"{changed} of {len(files)} files changed: {told}")


def test_a_line_that_is_lost_would_be_seen():
    before = "from torch import nn\nx = 1\n"
    bad = Outcome("a.py", before, "from torch import nn\ny = 1\n", ())
    assert problems([Read("a.py", before.encode(), "a")], [bad])
