"""Names that a program gives to children: by constants, by f-strings, by pairs for a dictionary."""

from __future__ import annotations

import ast

from rewrite.items import INDEX, SOME_NAME, Name, Part, literal
from rewrite.places import Pair


def key_of(node: ast.AST | None) -> Name:
    """The name that an expression gives.

    >>> key_of(ast.parse("'conv1'", mode="eval").body), key_of(ast.parse("f'conv{i}'", mode="eval").body)
    (('conv1',), ('conv', <Part.IN_NAME: 'any characters but dots, none included'>))
    """
    match node:
        case ast.Constant(value=str(text)):
            return literal(text)
        case ast.Constant(value=bool()):
            return SOME_NAME
        case ast.Constant(value=int(number)) if number >= 0:
            return literal(str(number))
        case ast.JoinedStr(values=values):
            return tuple(part for value in values for part in key_of(value))
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return (*key_of(left), *key_of(right))
        case ast.BinOp(left=ast.Constant(value=str(text)), op=ast.Mod()) if text.count("%") == 1:
            before, _, after = text.partition("%")
            return (before, Part.IN_NAME, after[1:])
        case ast.FormattedValue(value=value) | ast.Call(func=ast.Name(id="str"), args=[value]):
            return key_of(value)
        case ast.Slice():
            return INDEX
    return SOME_NAME


def pair_of(around: ast.AST, node: ast.AST) -> Pair | None:
    """Where ``around`` is ``(key, node)``: the place of the second, that remembers the first."""
    match around:
        case ast.Tuple(elts=[key, value]) | ast.List(elts=[key, value]) if value is node:
            if isinstance(key, ast.JoinedStr) or (isinstance(key, ast.Constant) and isinstance(key.value, str)):
                return Pair(key_of(key))
    return None
