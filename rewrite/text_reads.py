"""Attributes that are read by a text, as by ``getattr(x, "conv1")`` and ``x._modules["conv1"]``."""

from __future__ import annotations

import ast

from rewrite.scopes import Scoped

Read = tuple[ast.AST, ast.expr]


def text_reads(file: Scoped, name: str) -> list[Read]:
    """Reads that may be of the attribute ``name``, each with the object that it is read from."""
    if file not in _KNOWN:
        _KNOWN.clear()  # one file is asked about many times, and then no more
        _KNOWN[file] = _all(file)
    return [(node, host) for node, host, text in _KNOWN[file] if text is None or text == name]


_KNOWN: dict[Scoped, list[tuple[ast.AST, ast.expr, str | None]]] = {}


def _all(file: Scoped) -> list[tuple[ast.AST, ast.expr, str | None]]:
    """Every such read, with the name; None for one that the program computes."""
    found: list[tuple[ast.AST, ast.expr, str | None]] = []
    for call in file.calls:
        match call:
            case ast.Call(func=ast.Name(id="getattr"), args=[host, key, *_]):
                found.append((call, host, _text(key)))
            case ast.Call(func=ast.Attribute(value=host, attr="get_submodule"), args=[key]):
                found.append((call, host, _text(key)))
    for read in file.attributes.get("_modules", ()):
        parent = file.parents.get(read)
        if isinstance(parent, ast.Subscript):
            found.append((parent, read.value, _text(parent.slice)))
    return found


def _text(node: ast.expr) -> str | None:
    match node:
        case ast.Constant(value=str(text)):
            return text
    return None
