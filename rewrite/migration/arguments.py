"""The arguments of a call by name, and what their literals say."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence


class NotUnderstoodError(ValueError):
    """A place of an old idiom that stays as it is; the message says why."""


def arguments_of(call: ast.Call, order: Sequence[str]) -> dict[str, ast.expr]:
    """The arguments by the names of ``order``; raises `NotUnderstoodError` for stars and unknown names.

    >>> list(arguments_of(ast.parse("f(m, dim=1)", mode="eval").body, ["module", "name", "dim"]))
    ['module', 'dim']
    """
    if any(isinstance(each, ast.Starred) for each in call.args) or any(each.arg is None for each in call.keywords):
        raise NotUnderstoodError("its arguments are given by a star")
    if len(call.args) > len(order):
        raise NotUnderstoodError(f"it has {len(call.args)} arguments, and the function takes {len(order)}")
    found = dict(zip(order, call.args, strict=False))
    for each in call.keywords:
        if each.arg is None or each.arg not in order or each.arg in found:
            raise NotUnderstoodError(f"the function has no argument {each.arg!r} left")
        found[each.arg] = each.value
    if order[0] not in found:
        raise NotUnderstoodError("it is called without a module")
    return found


def literal(given: Mapping[str, ast.expr], name: str, default: object) -> object:
    """The value of an argument; raises `NotUnderstoodError` where it is no literal."""
    node = given.get(name)
    if node is None:
        return default
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, MemoryError, RecursionError) as error:
        raise NotUnderstoodError(f"{name}={ast.unparse(node)} is not a literal") from error


def name_in(given: Mapping[str, ast.expr], argument: str) -> str:
    """The name of a parameter; raises `NotUnderstoodError` where it cannot be told."""
    found = literal(given, argument, "weight")
    if not isinstance(found, str) or not found.isidentifier():
        raise NotUnderstoodError(f"{argument}={found!r} is no name of a parameter")
    return found


def number(given: Mapping[str, ast.expr], name: str, default: float) -> float:
    """A number that a spec can say; raises `NotUnderstoodError` for anything else."""
    found = literal(given, name, default)
    if isinstance(found, bool) or not isinstance(found, int | float) or found <= 0:
        raise NotUnderstoodError(f"{name}={found!r} is no positive number")
    return found


def dimension(given: Mapping[str, ast.expr], default: int | None) -> int | None:
    """The argument ``dim``; raises `NotUnderstoodError` for what is neither a whole number nor None."""
    found = literal(given, "dim", default)
    if found is None or (isinstance(found, int) and not isinstance(found, bool)):
        return found
    raise NotUnderstoodError(f"dim={found!r} is no dimension")
