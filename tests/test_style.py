"""House style that ruff has no rule for: lengths, probing, handlers that swallow, notes to oneself."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.architecture import LAYERS, ROOT, module_name, sources

FILE_LINES = 240
FUNCTION_LINES = 45  # without the docstring
NOTES = re.compile(r"\b(TODO|FIXME|XXX)\b")
TEXT_SUFFIXES = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".json", ""}
BROAD = {"Exception", "BaseException"}
CATCHES_ALL_ONCE = {"surgery.checking"}  # `check` never raises: it tells a failure as a row of its table
EVERY_FILE = [pytest.param(file, id=module_name(file)) for file in sources(*LAYERS)]

Function = ast.FunctionDef | ast.AsyncFunctionDef


def long_functions(source: str) -> list[str]:
    """Functions with more lines than a reader keeps in mind, docstrings not counted."""
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, Function)]
    return [f"{each.name}: {length} lines" for each in functions if (length := _length(each)) > FUNCTION_LINES]


def _length(function: Function) -> int:
    lines = (function.end_lineno or 0) - function.lineno + 1
    if ast.get_docstring(function) is None:
        return lines
    docstring = function.body[0]
    return lines - ((docstring.end_lineno or 0) - docstring.lineno + 1)


def probes(source: str) -> list[str]:
    """Calls of ``hasattr``: what an object is, its type says."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return [f"line {call.lineno}: {ast.unparse(call)}" for call in calls if ast.unparse(call.func) == "hasattr"]


def swallowing_handlers(source: str) -> list[str]:
    """Handlers of all exceptions that do not end by raising one."""
    handlers = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ExceptHandler))
    return [f"line {each.lineno}" for each in handlers if _is_broad(each) and not isinstance(each.body[-1], ast.Raise)]


def _is_broad(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(ast.unparse(each) in BROAD for each in caught)


@pytest.mark.parametrize("file", EVERY_FILE)
def test_a_file_is_one_idea_long(file: Path):
    lines = len(file.read_text().splitlines())
    assert lines <= FILE_LINES


@pytest.mark.parametrize("file", EVERY_FILE)
def test_a_function_fits_a_screen(file: Path):
    assert long_functions(file.read_text()) == []


def test_a_long_function_is_seen():
    body = "\n".join(f"    x = {line}" for line in range(FUNCTION_LINES))
    docstring = '    """One.\n\n\n    Many lines.\n    """'
    assert long_functions(f"class A:\n  def f():\n{body}") == [f"f: {FUNCTION_LINES + 1} lines"]
    assert long_functions(f"def f():\n{docstring}\n" + "\n".join(body.splitlines()[1:])) == []


@pytest.mark.parametrize("file", EVERY_FILE)
def test_nothing_probes_by_hasattr(file: Path):
    assert probes(file.read_text()) == []


def test_a_probe_is_seen():
    assert probes("if hasattr(model, 'weight'): ...") == ["line 1: hasattr(model, 'weight')"]


@pytest.mark.parametrize("file", EVERY_FILE)
def test_no_handler_swallows_everything(file: Path):
    found = swallowing_handlers(file.read_text())
    assert len(found) == (module_name(file) in CATCHES_ALL_ONCE), found


@pytest.mark.parametrize("caught", ["", " Exception", " BaseException as error", " (ValueError, Exception)"])
def test_a_swallowing_handler_is_seen(caught: str):
    assert swallowing_handlers(f"try:\n    f()\nexcept{caught}:\n    g()") == ["line 3"]
    assert swallowing_handlers(f"try:\n    f()\nexcept{caught}:\n    g()\n    raise") == []


def repository_texts() -> list[Path]:
    """All texts that belong to the repository, and nothing that a tool has made."""
    made = ("build", "dist", "outputs", "__pycache__")
    roots = [each for each in ROOT.iterdir() if not each.name.startswith(".") and each.name not in made]
    files = [file for root in roots for file in (root.rglob("*") if root.is_dir() else [root])]
    return [file for file in files if file.suffix in TEXT_SUFFIXES and file.is_file()]


def test_nobody_leaves_a_note_to_oneself():
    texts = {file: file.read_text() for file in repository_texts() if file != Path(__file__)}
    assert ROOT / "computed" / "spec.py" in texts
    assert [str(file) for file, text in texts.items() if NOTES.search(text)] == []


def test_a_note_is_seen():
    assert NOTES.search("x = 1  # TODO: think")
    assert not NOTES.search("METHODOLOGY")
