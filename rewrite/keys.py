"""Names that a program gives to children: by constants, by f-strings, by pairs for a dictionary."""

from __future__ import annotations

import ast
import re

from rewrite.items import SOME_NAME, Name, Part, literal
from rewrite.places import Pair

# one conversion of "%", and one field of str.format
CONVERSION = re.compile(r"%[-+ #0]*\d*(?:\.\d+)?[a-zA-Z]")
FIELD = re.compile(r"\{[^{}]*\}")
UNKNOWN: Name = (Part.IN_NAME,)


def key_of(node: ast.AST | None) -> Name:
    """The name that an expression gives.

    >>> key_of(ast.parse("'conv1'", mode="eval").body), key_of(ast.parse("f'conv{i + 1}'", mode="eval").body)
    (('conv1',), ('conv', <Part.IN_NAME: 'any characters but dots, none included'>))
    """
    found = _pieces(node) if node is not None else None
    return SOME_NAME if found is None else tuple(piece for piece in found if piece != "")


def mangled(name: str, around: ast.ClassDef | None) -> str:
    """A name as it is in a class body: https://docs.python.org/3/reference/expressions.html#private-name-mangling.

    >>> mangled("__conv", ast.parse("class _Net: pass").body[0])
    '_Net__conv'
    """
    if around is None or not name.startswith("__") or name.endswith("__"):
        return name
    owner = around.name.lstrip("_")
    return f"_{owner}{name}" if owner else name


def pair_of(around: ast.AST, node: ast.AST) -> Pair | None:
    """Where ``around`` is ``(key, node)``: the place of the second, that remembers the first."""
    match around:
        case ast.Tuple(elts=[key, value]) | ast.List(elts=[key, value]) if value is node:
            return Pair(key_of(key) if _is_text(key) else SOME_NAME)
    return None


def _pieces(node: ast.AST) -> Name | None:
    match node:
        case ast.Constant(value=str(text)):
            return literal(text)
        case ast.Constant(value=int(number)) if not isinstance(number, bool) and number >= 0:
            return literal(str(number))
        case ast.JoinedStr(values=values):
            return tuple(piece for value in values for piece in _in_f_string(value))
        case ast.BinOp(left=left, op=ast.Add(), right=right) if _is_text(left) or _is_text(right):
            return (*_part(left), *_part(right))
        case ast.BinOp(left=ast.Constant(value=str(text)), op=ast.Mod()):
            return _with_one(text, CONVERSION, "%")
        case ast.Call(func=ast.Attribute(value=ast.Constant(value=str(text)), attr="format")):
            return _with_one(text, FIELD, "{")
        case ast.Call(func=ast.Name(id="str"), args=[value]):
            return _part(value)
    return None


def _part(node: ast.AST) -> Name:
    return (_pieces(node) or UNKNOWN) if _is_text(node) or isinstance(node, ast.Constant) else UNKNOWN


def _in_f_string(node: ast.expr) -> Name:
    match node:
        case ast.FormattedValue(value=value, conversion=-1, format_spec=None):
            return _part(value)
        case ast.FormattedValue():
            return UNKNOWN
    return _part(node)


def _with_one(text: str, placeholder: re.Pattern[str], mark: str) -> Name | None:
    """A text with one placeholder; None where there are others, or doubled marks."""
    found = placeholder.search(text)
    if found is None:
        return None
    before, after = text[: found.start()], text[found.end() :]
    return None if mark in before + after else (before, Part.IN_NAME, after)


def _is_text(node: ast.AST) -> bool:
    match node:
        case ast.Constant(value=str()) | ast.JoinedStr():
            return True
        case ast.Call(func=ast.Name(id="str")) | ast.Call(func=ast.Attribute(value=ast.Constant(value=str()))):
            return True
        case ast.BinOp(left=left, right=right):
            return _is_text(left) or (isinstance(node.op, ast.Add) and _is_text(right))
    return False
