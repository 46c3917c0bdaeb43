"""What an earlier run, or an author, has constrained already: at a call, after a statement, above a class."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from enum import Enum

from rewrite.classes import Class
from rewrite.constraining import DECORATOR, WRAPPER, name_of
from rewrite.project import Project
from rewrite.scopes import Scoped
from rewrite.sites import Kind, Site
from surgery.rules.ruleset import RuleSet

PACKAGE = "surgery"


class State(Enum):
    """Whether what is asked for is there."""

    ABSENT = "absent"
    DONE = "done"
    OTHERWISE = "otherwise"


def at_site(project: Project, site: Site, name: str, spec: str) -> State:
    """Whether the tensor ``name`` of a site is constrained by ``constrain`` in the text."""
    found = dict(_around(project, site)) if site.kind is not Kind.PARAMETER else dict(_after(project, site))
    if name not in found:
        return State.ABSENT
    return State.DONE if found[name] == spec else State.OTHERWISE


def above_class(project: Project, owner: Class, rules: RuleSet, chosen: tuple[int, ...]) -> State:
    """Whether a class has a ``@constrained`` with these rules."""
    wanted = {rules.rules[index].text: rules.rules[index].spec for index in chosen}
    for decorator in owner.node.decorator_list:
        if isinstance(decorator, ast.Call) and _is(project, owner.file, decorator.func, DECORATOR):
            return State.DONE if _literal(decorator.args[0] if decorator.args else None) == wanted else State.OTHERWISE
    return State.ABSENT


def _around(project: Project, site: Site) -> Iterator[tuple[str, object]]:
    node: ast.AST = site.node
    while True:
        parent = site.file.parents.get(node)
        if not (isinstance(parent, ast.Call) and parent.args and parent.args[0] is node):
            return
        if not _is(project, site.file, parent.func, WRAPPER):
            return
        yield from _specs(parent)
        node = parent


def _after(project: Project, site: Site) -> Iterator[tuple[str, object]]:
    """The specs of ``constrain(self, ...)`` among the statements of the same body, after the site's."""
    statement = site.file.climb(site.node, ast.stmt)
    body = _body_of(site.file, statement) if statement is not None else []
    names = dict[str, object]()
    for each in body[body.index(statement) + 1 :] if statement in body else []:
        match each:
            case ast.Expr(value=ast.Call(func=function) as call) if _is(project, site.file, function, WRAPPER):
                names.update(_specs(call))
    name = name_of(site)
    if name in names:
        yield "", names[name]


def _body_of(file: Scoped, statement: ast.AST) -> list[ast.stmt]:
    parent = file.parents.get(statement)
    for _, value in ast.iter_fields(parent) if parent is not None else ():
        if isinstance(value, list) and statement in value:
            return value
    return []


def _specs(call: ast.Call) -> Iterator[tuple[str, object]]:
    for given in call.args[1:]:
        if isinstance(given, ast.Dict):
            for key, value in zip(given.keys, given.values, strict=True):
                name = _literal(key)
                if isinstance(name, str):
                    yield name, _literal(value)
                elif key is not None:  # computed: it is the same name where it is written alike
                    yield ast.unparse(key), _literal(value)
    for each in call.keywords:
        if each.arg is not None:
            yield each.arg, _literal(each.value)


def _is(project: Project, file: Scoped, function: ast.expr, name: str) -> bool:
    full_name = project.full_name(file, function)
    return full_name == f"{PACKAGE}.{name}"


def _literal(node: ast.expr | None) -> object:
    try:
        return ast.literal_eval(node) if node is not None else None
    except (ValueError, TypeError):
        return ...
