"""The edits of a migration: a call of an old function becomes one of a new function; around it all text stays."""

from __future__ import annotations

import ast

from rewrite.insertion import Insertion
from rewrite.migration.arguments import NotUnderstoodError
from rewrite.scopes import Scoped


def recast(file: Scoped, call: ast.Call, function: str, arguments: str) -> tuple[Insertion, ...]:
    """``old(module, name="weight", dim=0)`` becomes ``function(module, arguments)``.

    The module's own text stays, with what may be rewritten in it. Raises `NotUnderstoodError` where a comment would be
    lost, or the module does not come first.
    """
    source = file.source
    text = source.text
    if file.climb(call, ast.JoinedStr) is not None:
        raise NotUnderstoodError("it stands in an f-string")
    _, stop = source.span(call)
    module, insertions = _first(file, call)
    if isinstance(module, ast.GeneratorExp | ast.Starred | ast.Yield | ast.YieldFrom):
        raise NotUnderstoodError("its module is no plain expression")
    first_end = closed_end(text, source.span(module)[1], stop - 1)
    values = [*call.args, *(each.value for each in call.keywords)]
    last_end = max(closed_end(text, source.span(each)[1], stop - 1) for each in values)
    if "#" in text[first_end:last_end]:
        raise NotUnderstoodError("a comment among its arguments would be lost")
    new = f", {arguments}" if arguments else ""
    return (
        renamed(file, call.func, function),
        *insertions,
        Insertion(first_end, 0, new, removed=last_end - first_end),
    )


def renamed(file: Scoped, node: ast.expr, text: str) -> Insertion:
    """``text`` in the place of an expression; raises `NotUnderstoodError` where a comment would be lost."""
    begin, end = file.source.span(node)
    if "#" in file.source.text[begin:end]:
        raise NotUnderstoodError("a comment in its name would be lost")
    return Insertion(begin, 0, text, removed=end - begin)


def closed_end(text: str, end: int, limit: int) -> int:
    """Where an expression ends that ends at ``end``, with the parentheses that close behind it, before ``limit``."""
    at = found = end
    while at < limit:
        if text[at] == "#":
            while at < limit and text[at] not in "\r\n":
                at += 1
        elif text[at] == ")":
            found = at = at + 1
        elif text[at].isspace() or text[at] == "\\":
            at += 1
        else:
            break
    return found


def _first(file: Scoped, call: ast.Call) -> tuple[ast.expr, tuple[Insertion, ...]]:
    """The module, and what takes ``module=`` away before it."""
    if call.args:
        return call.args[0], ()
    keyword = call.keywords[0]
    if keyword.arg != "module":
        raise NotUnderstoodError("its module does not come first")
    begin = file.source.offset(keyword.lineno, keyword.col_offset)
    equals = file.source.text.index("=", begin)
    blanks = len(file.source.text[equals + 1 :]) - len(file.source.text[equals + 1 :].lstrip(" "))
    return keyword.value, (Insertion(begin, 0, "", removed=equals + 1 + blanks - begin),)
