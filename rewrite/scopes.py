"""One file's tree, with parents, scopes, what each name is bound to, and where it is read."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from rewrite.making import making
from rewrite.source import Source

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
MAKES_SCOPE = frozenset((*DEFINITIONS, ast.Lambda, *COMPREHENSIONS))
WITHOUT_CHILDREN = frozenset(
    kind
    for base in (ast.expr_context, ast.operator, ast.unaryop, ast.cmpop, ast.boolop)
    for kind in base.__subclasses__()
) | {ast.Constant, ast.Pass, ast.Break, ast.Continue}


@dataclass(eq=False)
class Scope:
    """A module, class, function or comprehension: its names with the nodes that bind them and those that read them."""

    node: ast.AST
    outer: Scope | None
    bound: dict[str, list[ast.AST]] = field(default_factory=dict)
    passed_on: set[str] = field(default_factory=set)

    @property
    def is_class(self) -> bool:
        """Whether the names are those of a class, which its methods do not see."""
        return isinstance(self.node, ast.ClassDef)

    def bind(self, name: str | None, node: ast.AST) -> None:
        """``node`` gives ``name`` its meaning here, or one of its meanings."""
        if name is not None:
            self.bound.setdefault(name, []).append(node)

    def home(self, name: str) -> Scope | None:
        """The scope whose ``name`` is meant here; None for built-in names and what is bound nowhere."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.bound and name not in scope.passed_on and (scope is self or not scope.is_class):
                return scope
            scope = scope.outer
        return None

    def home_of_passed(self, name: str) -> Scope | None:
        """The scope whose ``name`` is meant by ``global`` or ``nonlocal`` here; a function's before the module's."""
        scope = self.outer
        while scope is not None:
            if name in scope.bound and name not in scope.passed_on and not scope.is_class:
                return scope
            scope = scope.outer
        return None


class Scoped:
    """The scopes of one source file."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.parents: dict[ast.AST, ast.AST] = {}
        self.calls: list[ast.Call] = []
        self.assignments: list[ast.Assign] = []
        self.deletions: list[ast.Delete] = []
        self.classes: list[ast.ClassDef] = []
        self.functions: list[ast.FunctionDef | ast.AsyncFunctionDef] = []
        self.attributes: dict[str, list[ast.Attribute]] = {}
        self.star_imports: list[ast.ImportFrom] = []
        self._scopes: dict[ast.AST, Scope] = {}
        self.names_read: dict[str, list[tuple[Scope, ast.Name]]] = {}
        self._passing: list[Scope] = []
        self.top = self._scope(source.tree, None)
        self._walk()

    def scope_of(self, node: ast.AST) -> Scope:
        """The scope in which ``node`` is evaluated."""
        inside, above = node, self.parents.get(node)
        while above is not None:
            if above in self._scopes and not _evaluated_outside(above, inside):
                return self._scopes[above]
            inside, above = above, self.parents.get(above)
        return self.top

    def scope_made_by(self, node: ast.AST) -> Scope:
        """The scope that a class, function or comprehension makes."""
        return self._scopes[node]

    def bindings(self, scope: Scope, name: str) -> list[ast.AST]:
        """What binds ``name`` of ``scope``, also from inner scopes that say global or nonlocal."""
        found = list(scope.bound.get(name, ()))
        for inner in self._passing:
            if name in inner.passed_on and inner.home_of_passed(name) is scope:
                found += inner.bound.get(name, ())
        return found

    def reads(self, scope: Scope, name: str) -> list[ast.Name]:
        """Every place that reads this very ``name``, in inner scopes too."""
        return [read for inner, read in self.names_read.get(name, ()) if inner.home(name) is scope]

    @cached_property
    def making(self) -> frozenset[ast.AST]:
        """The functions that may make modules: constructors, the methods they call, functions outside classes."""
        return making(self)

    def climb(self, node: ast.AST, *kinds: type[ast.AST]) -> ast.AST | None:
        """The nearest node around ``node`` of one of ``kinds``."""
        above = self.parents.get(node)
        while above is not None and not isinstance(above, kinds):
            above = self.parents.get(above)
        return above

    def statement_of(self, node: ast.AST) -> ast.stmt:
        """The statement that ``node`` is in."""
        found = self.climb(node, ast.stmt)
        assert isinstance(found, ast.stmt)
        return found

    def function_of(self, node: ast.AST) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
        """The function whose body ``node`` is in, with lambdas left out."""
        found = self.climb(node, ast.FunctionDef, ast.AsyncFunctionDef)
        return found if isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef) else None

    def class_around(self, node: ast.AST) -> ast.ClassDef | None:
        """The class whose body ``node`` is in, at any depth."""
        found = self.climb(node, ast.ClassDef)
        return found if isinstance(found, ast.ClassDef) else None

    def class_of(self, function: ast.AST) -> ast.ClassDef | None:
        """The class that ``function`` is a method of."""
        above = self.parents.get(function)
        while isinstance(above, ast.If | ast.Try | ast.With):
            above = self.parents.get(above)
        return above if isinstance(above, ast.ClassDef) else None

    def _scope(self, node: ast.AST, outer: Scope | None) -> Scope:
        return self._scopes.setdefault(node, Scope(node, outer))

    def _walk(self) -> None:
        """Depth first, each node with the scope in which it is evaluated. Most of the time of a file is spent here."""
        waiting: list[tuple[ast.AST, Scope]] = [(self.source.tree, self.top)]
        parents, noting = self.parents, self._noting()
        while waiting:
            node, scope = waiting.pop()
            kind = type(node)
            if (note := noting.get(kind)) is not None:
                note(node, scope)
            if kind in MAKES_SCOPE:
                inner = self._scope(node, scope)
                for child in ast.iter_child_nodes(node):
                    parents[child] = node
                    waiting.append((child, scope if _evaluated_outside(node, child) else inner))
                continue
            for name in kind._fields:
                value = getattr(node, name, None)
                if type(value) is list:
                    for child in value:
                        if isinstance(child, ast.AST) and type(child) not in WITHOUT_CHILDREN:
                            parents[child] = node
                            waiting.append((child, scope))
                elif isinstance(value, ast.AST) and type(value) not in WITHOUT_CHILDREN:
                    parents[value] = node
                    waiting.append((value, scope))

    def _noting(self) -> dict[type[ast.AST], Callable[[Any, Scope], None]]:
        """What is noted of each kind of node."""
        return {
            ast.Name: self._note_name,
            ast.arg: lambda node, scope: scope.bind(node.arg, node),
            ast.ExceptHandler: lambda node, scope: scope.bind(node.name, node),
            ast.MatchAs: lambda node, scope: scope.bind(node.name, node),
            ast.MatchStar: lambda node, scope: scope.bind(node.name, node),
            ast.MatchMapping: lambda node, scope: scope.bind(node.rest, node),
            ast.Attribute: self._note_attribute,
            ast.Call: lambda node, _: self.calls.append(node),
            ast.Assign: lambda node, _: self.assignments.append(node),
            ast.Delete: lambda node, _: self.deletions.append(node),
            **dict.fromkeys(DEFINITIONS, self._note_definition),
            **dict.fromkeys((ast.Import, ast.ImportFrom), self._note_import),
            **dict.fromkeys((ast.Global, ast.Nonlocal), self._note_passing),
        }

    def _note_name(self, node: ast.Name, scope: Scope) -> None:
        if isinstance(node.ctx, ast.Load):
            self.names_read.setdefault(node.id, []).append((scope, node))
        else:
            _binding_scope(node, scope).bind(node.id, node)

    def _note_attribute(self, node: ast.Attribute, _: Scope) -> None:
        if isinstance(node.ctx, ast.Load):
            self.attributes.setdefault(node.attr, []).append(node)

    def _note_definition(self, node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, scope: Scope) -> None:
        scope.bind(node.name, node)
        if isinstance(node, ast.ClassDef):
            self.classes.append(node)
        else:
            self.functions.append(node)

    def _note_passing(self, node: ast.Global | ast.Nonlocal, scope: Scope) -> None:
        scope.passed_on |= set(node.names)
        self._passing.append(scope)

    def _note_import(self, node: ast.Import | ast.ImportFrom, scope: Scope) -> None:
        for alias in node.names:
            if alias.name == "*" and isinstance(node, ast.ImportFrom):
                self.star_imports.append(node)
            else:
                scope.bind(alias.asname or alias.name.split(".")[0], node)


def _binding_scope(node: ast.AST, scope: Scope) -> Scope:
    """A walrus binds outside its comprehension; this takes every store for one, which binds no less."""
    while isinstance(node, ast.Name) and isinstance(scope.node, COMPREHENSIONS) and scope.outer is not None:
        if any(node is target for each in scope.node.generators for target in ast.walk(each.target)):
            return scope
        scope = scope.outer
    return scope


def _evaluated_outside(owner: ast.AST, child: ast.AST) -> bool:
    """Whether a child of what makes a scope is evaluated around it: decorators, bases, defaults, annotations."""
    match owner:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            return child in owner.decorator_list or child is owner.returns
        case ast.ClassDef():
            return child in owner.decorator_list or child in owner.bases or child in owner.keywords
    return False
