"""One file's tree, with parents, scopes, what each name is bound to, and where it is read."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from rewrite.source import Source

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(eq=False)
class Scope:
    """A module, class, function or comprehension: its names with the nodes that bind them and those that read them."""

    node: ast.AST
    outer: Scope | None
    bound: dict[str, list[ast.AST]] = field(default_factory=dict)
    read: dict[str, list[ast.Name]] = field(default_factory=dict)
    passed_on: set[str] = field(default_factory=set)
    inner: list[Scope] = field(default_factory=list)

    @property
    def is_class(self) -> bool:
        """Whether the names are those of a class, which its methods do not see."""
        return isinstance(self.node, ast.ClassDef)

    def home(self, name: str) -> Scope | None:
        """The scope whose ``name`` is meant here; None for built-in names and what is bound nowhere."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.bound and name not in scope.passed_on and (scope is self or not scope.is_class):
                return scope
            scope = scope.outer
        return None


class Scoped:
    """The scopes of one source file."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.parents: dict[ast.AST, ast.AST] = {}
        self.calls: list[ast.Call] = []
        self.classes: list[ast.ClassDef] = []
        self.attributes: dict[str, list[ast.Attribute]] = {}
        self.star_imports: list[ast.ImportFrom] = []
        self._scopes: dict[ast.AST, Scope] = {}
        self._reads: dict[tuple[int, str], list[ast.Name]] | None = None
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
        for inner in _below(scope):
            if name in inner.passed_on:
                found += inner.bound.get(name, ())
        return found

    def reads(self, scope: Scope, name: str) -> list[ast.Name]:
        """Every place that reads this very ``name``, in inner scopes too."""
        found = list(scope.read.get(name, ()))
        for inner in _below(scope):
            found += [read for read in inner.read.get(name, ()) if inner.home(name) is scope]
        return found

    @cached_property
    def methods(self) -> frozenset[str]:
        """The names of all functions that class bodies of this file define."""
        return frozenset(
            name
            for scope in (self._scopes[each] for each in self.classes)
            for name, bound in scope.bound.items()
            if any(isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) for each in bound)
        )

    @cached_property
    def building(self) -> frozenset[ast.AST]:
        """The functions that call something that is named like a class: those that may make modules."""
        found = set[ast.AST]()
        for call in self.calls:
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            function = self.function_of(call) if name[:1].isupper() else None
            if function is not None and function.name != "forward":
                found.add(function)
        return frozenset(found)

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

    def class_of(self, function: ast.AST) -> ast.ClassDef | None:
        """The class that ``function`` is a method of."""
        above = self.parents.get(function)
        while isinstance(above, ast.If | ast.Try | ast.With):
            above = self.parents.get(above)
        return above if isinstance(above, ast.ClassDef) else None

    def _scope(self, node: ast.AST, outer: Scope | None) -> Scope:
        scope = self._scopes[node] = Scope(node, outer)
        if outer is not None:
            outer.inner.append(scope)
        return scope

    def _walk(self) -> None:
        """Depth first, each node with the scope in which it is evaluated."""
        waiting: list[tuple[ast.AST, Scope]] = [(self.source.tree, self.top)]
        parents = self.parents
        while waiting:
            node, scope = waiting.pop()
            self._note(node, scope)
            inner = scope
            if node is not self.source.tree and isinstance(node, (*DEFINITIONS, ast.Lambda, *COMPREHENSIONS)):
                inner = self._scope(node, scope)
            for child in ast.iter_child_nodes(node):
                parents[child] = node
                outside = inner is not scope and _evaluated_outside(node, child)
                waiting.append((child, scope if outside else inner))

    def _note(self, node: ast.AST, scope: Scope) -> None:
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                scope.read.setdefault(name, []).append(node)
            case ast.Name(id=name) | ast.ExceptHandler(name=str(name)) | ast.arg(arg=name):
                _binding_scope(node, scope).bound.setdefault(name, []).append(node)
            case ast.Attribute(attr=name, ctx=ast.Load()):
                self.attributes.setdefault(name, []).append(node)
            case ast.Call():
                self.calls.append(node)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                scope.bound.setdefault(name, []).append(node)
                if isinstance(node, ast.ClassDef):
                    self.classes.append(node)
            case ast.Import() | ast.ImportFrom():
                self._note_import(node, scope)
            case ast.Global(names=names) | ast.Nonlocal(names=names):
                scope.passed_on |= set(names)
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
                scope.bound.setdefault(name, []).append(node)

    def _note_import(self, node: ast.Import | ast.ImportFrom, scope: Scope) -> None:
        for alias in node.names:
            if alias.name == "*" and isinstance(node, ast.ImportFrom):
                self.star_imports.append(node)
            else:
                scope.bound.setdefault(alias.asname or alias.name.split(".")[0], []).append(node)


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


def _below(scope: Scope) -> Iterator[Scope]:
    waiting = list(scope.inner)
    while waiting:
        inner = waiting.pop()
        yield inner
        waiting += inner.inner
