"""What a word gives where it stands, told from the nodes around it: a name, a call of a function or class, nothing."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from itertools import pairwise

ASKING = frozenset({"isinstance", "issubclass"})
FILLING = frozenset({"dict", "update"})
RUNNING = frozenset({"eval", "exec"})
# what names something and does nothing else
PLAIN = (ast.Attribute, ast.Name, ast.Tuple, ast.List, ast.Set, ast.Starred, ast.BinOp)

Around = Sequence[ast.AST]


def is_given(around: Around) -> bool:
    """Whether a word is a name that is stored, or a text that may be one. ``around`` it are nodes, outermost first."""
    *_, above, node = around
    match node:
        case ast.Attribute(ctx=ast.Load()):  # but a parameter of what is read may be stored
            return isinstance(above, ast.Attribute) and isinstance(above.ctx, ast.Store)
        case ast.Attribute():
            return True
        case ast.Name():
            return _is_field(around)
        case ast.keyword():
            return isinstance(above, ast.Call) and _may_fill(above.func)
    return _is_text(around)


def is_called(around: Around) -> bool:
    """Whether a word is the name of a function or class, and more is done than to ask for it."""
    node = around[-1]
    if isinstance(node, ast.Attribute | ast.Name):
        return not _is_asked_for(around) and not _is_annotation(around)
    return isinstance(node, ast.ClassDef | ast.alias) or (_is_text(around) and not _is_prose(around))


def names_another(around: Around, written: frozenset[str] | None) -> bool:
    """Whether what is called gives another name than those ``written``, or gives it to a parameter or buffer.

    A name that is written out is found where it is written.
    """
    *_, call, function = around
    if not isinstance(call, ast.Call) or call.func is not function or len(call.args) < 2:
        return False
    match call.args[-2:]:
        case [_, ast.Call(func=ast.Attribute(attr="Parameter" | "Buffer"))] | [ast.Constant(value=str()), _]:
            return True
        case [ast.JoinedStr() as name, _] if written is not None:
            return not any(map(_expression(name).fullmatch, written))
    return False


def _expression(name: ast.JoinedStr) -> re.Pattern[str]:
    """What a text with parts that are computed can be."""
    parts = (re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".*" for part in name.values)
    return re.compile("".join(parts), re.DOTALL)


def _is_field(around: Around) -> bool:
    """Whether a name is one of a class that a decorator makes attributes of, such as ``dataclass``."""
    *_, owner, statement, node = around
    match owner, statement:
        case ast.ClassDef(decorator_list=[_, *_]), ast.AnnAssign(target=target):
            return target is node
    return False


def _may_fill(function: ast.expr) -> bool:
    """Whether a function makes a dictionary of its arguments."""
    match function:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name in FILLING or "Dict" in name
    return True


def _is_asked_for(around: Around) -> bool:
    """Whether a name is only compared, ``isinstance(layer, (nn.Linear, nn.Conv2d))``."""
    at = len(around) - 1
    while at > 0 and isinstance(around[at], PLAIN):
        at -= 1
    match around[at]:
        case ast.Call(func=ast.Name(id=name)):
            return name in ASKING
        case ast.Compare():
            return True
        case ast.MatchClass(cls=asked_for):
            return at + 1 < len(around) and around[at + 1] is asked_for
    return False


def _is_annotation(around: Around) -> bool:
    for above, inner in pairwise(around):
        match above:
            case ast.arg(annotation=annotation) | ast.AnnAssign(annotation=annotation):
                found = inner is annotation
            case ast.FunctionDef(returns=returns) | ast.AsyncFunctionDef(returns=returns):
                found = inner is returns
            case _:
                continue
        if found:
            return True
    return False


def _is_text(around: Around) -> bool:
    """Whether a word is in a text that is neither documentation nor compared nor a message nor an annotation."""
    *outer, above, node = around
    if not isinstance(node, ast.Constant | ast.JoinedStr) or isinstance(above, ast.Expr | ast.Compare):
        return False
    return not any(isinstance(each, ast.Raise) for each in outer) and not _is_annotation(around)


def _is_prose(around: Around) -> bool:
    """Whether a text has words with space between them, and is not run as code."""
    *_, above, node = around
    match above:
        case ast.Call(func=ast.Name(id=name)) if name in RUNNING:
            return False
    return isinstance(node, ast.Constant) and any(map(str.isspace, str(node.value)))
