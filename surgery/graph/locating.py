"""Where in a user's code something happened: file, line, whole statement, function and module."""

import ast
import functools
import inspect
import linecache
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType, TracebackType

import torch
from torch import nn

from computed.parameter import ComputedParameter

# code of libraries is no place that a user can change: torch, computed, surgery
FILES = (torch.__file__ or "", inspect.getfile(ComputedParameter), str(Path(__file__).parent))
LIBRARIES = tuple(f"{Path(file).parent}/" for file in FILES)


@dataclass(frozen=True)
class Spot:
    """A line that ran: ``owner`` is the module whose method it is in, where there is one."""

    file: str
    line: int
    function: str
    owner: nn.Module | None

    @property
    def statement(self) -> str:
        """The whole statement around the line, on one line; of a compound one its head. Empty without a source."""
        source = "".join(linecache.getlines(self.file))
        around = [node for node in _statements(source) if _covers(node, self.line)]
        if not around:
            return ""
        smallest = min(around, key=lambda node: (node.end_lineno or 0) - node.lineno)
        return " ".join(_head(smallest, source).split())

    def told(self, root: nn.Module) -> str:
        """The spot as messages write it; ``root`` is the model whose modules have names."""
        statement = self.statement
        code = f" `{statement}`" if statement else ""
        return f"{self.file}:{self.line}:{code} in {self.function}{_module_text(self.owner, root)}"


def spots(trace: TracebackType | None) -> Iterator[Spot]:
    """The spots of a traceback that are in users' code, the innermost last."""
    owner: nn.Module | None = None
    while trace is not None:
        if not _in_library(trace.tb_frame):
            spot = _spot(trace.tb_frame, trace.tb_lineno)
            owner = spot.owner or owner
            yield replace(spot, owner=owner)  # a function runs in the module that calls it
        trace = trace.tb_next


def current_spot(root: nn.Module) -> Spot | None:
    """Where the code stands that is traced at this moment: the innermost frame of a user's, below the trace."""
    frame: FrameType | None = sys._getframe(1)
    found: Spot | None = None
    while frame is not None:
        if frame.f_code.co_name == "trace" and frame.f_locals.get("root") is root:
            break  # what called the trace is not traced
        if not _in_library(frame):
            spot = _spot(frame, frame.f_lineno)
            found = spot if found is None else replace(found, owner=spot.owner)
            if found.owner is not None:
                break
        frame = frame.f_back
    return found


def innermost_in_torch(trace: TracebackType | None) -> str:
    """The last line of torch's own modules in a traceback, or an empty text."""
    found = ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if "/torch/nn/" in file:
            found = f"{file.partition('/torch/')[2]}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found


def _in_library(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(LIBRARIES)


def _spot(frame: FrameType, line: int) -> Spot:
    code = frame.f_code
    first = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
    return Spot(code.co_filename, line, code.co_qualname, first if isinstance(first, nn.Module) else None)


@functools.lru_cache(maxsize=64)
def _statements(source: str) -> tuple[ast.stmt, ...]:
    try:
        return tuple(node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt))
    except (SyntaxError, ValueError):
        return ()


def _covers(node: ast.stmt, line: int) -> bool:
    return node.lineno <= line <= (node.end_lineno or node.lineno)


def _head(node: ast.stmt, source: str) -> str:
    lines = source.splitlines()[node.lineno - 1 : node.end_lineno]
    body = getattr(node, "body", None)
    if body and body[0].lineno > node.lineno:
        lines = lines[: body[0].lineno - node.lineno]
    return "\n".join(_without_comments(lines))


def _without_comments(lines: list[str]) -> list[str]:
    kept = list(lines)
    try:
        for token in tokenize.generate_tokens(iter(f"{line}\n" for line in lines).__next__):
            if token.type == tokenize.COMMENT:
                row, column = token.start
                kept[row - 1] = kept[row - 1][:column]
    except (tokenize.TokenError, IndentationError):
        pass  # the head of a statement alone may end in the midst of a bracket
    return kept


def _module_text(owner: nn.Module | None, root: nn.Module) -> str:
    if owner is None:
        return ""
    name = next((name for name, module in root.named_modules() if module is owner), None)
    if name is None:
        return ""
    return f", module {name!r} ({type(owner).__name__})" if name else f", the model itself ({type(owner).__name__})"
