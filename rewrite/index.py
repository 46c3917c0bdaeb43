"""Who calls a function, who reads an attribute, what ``self`` is: looked up in all files of a project."""

from __future__ import annotations

import ast
from functools import cached_property

from rewrite.classes import Class, Classes
from rewrite.scopes import Function, Scoped
from rewrite.text_reads import text_reads

Where = tuple[Scoped, ast.AST]
OVERRIDING = ("__setattr__", "__getattr__", "__getattribute__", "add_module", "register_module")
REORDERING = frozenset({"insert", "reverse", "pop", "sort", "remove", "clear"})
TRANSPARENT = frozenset({"staticmethod", "classmethod", "cache", "lru_cache"})


class Index:
    """Names that are read and called in a project."""

    def __init__(self, classes: Classes) -> None:
        self.classes = classes
        self.project = classes.project
        self._reads: dict[tuple[Class, str], list[Where]] = {}
        self._callers: dict[ast.AST, tuple[list[Where], bool]] = {}

    def self_class(self, file: Scoped, node: ast.AST) -> Class | None:
        """The class of which ``node`` is the instance: the first argument of a method, read in it or in a closure."""
        if not isinstance(node, ast.Name):
            return None
        home = file.scope_of(node).home(node.id)
        if home is None or not isinstance(home.node, ast.FunctionDef | ast.AsyncFunctionDef):
            return None
        method = home.node
        arguments = (*method.args.posonlyargs, *method.args.args)
        if not arguments or arguments[0].arg != node.id or file.bindings(home, node.id) != [arguments[0]]:
            return None
        owner = file.class_of(method)
        if owner is None or any(_name(each) in ("staticmethod", "classmethod") for each in method.decorator_list):
            return None
        return self.classes.by_node.get(owner)

    def attribute_reads(self, owner: Class, name: str) -> list[Where]:
        """Where the attribute ``name`` of an instance of ``owner`` may be read while modules are made."""
        key = owner, name
        if key not in self._reads:
            related = {*owner.line(), *owner.below()}
            self._reads[key] = [
                (file, read)
                for file in self.project.files
                for read, host in (*_plain_reads(file, name), *text_reads(file, name))
                if _while_making(file, read) and ((found := self.self_class(file, host)) is None or found in related)
            ]
        return self._reads[key]

    def calls_of(self, file: Scoped, function: Function) -> tuple[list[Where], bool]:
        """The calls of a function or method, and whether it is passed on, so that there may be others."""
        if function not in self._callers:
            self._callers[function] = self._calls_of(file, function)
        return self._callers[function]

    def is_own_registry(self, owner: Class) -> bool:
        """Whether attributes of a class are what its own code makes of them."""
        return any(name in each.file.scope_made_by(each.node).bound for each in owner.line() for name in OVERRIDING)

    def is_ordered_dict(self, file: Scoped, binding: ast.AST) -> bool:
        """Whether a variable is bound to a new ``OrderedDict``."""
        match file.parents.get(binding):
            case ast.Assign(value=ast.Call(func=function)):
                return self.project.full_name(file, function) == "collections.OrderedDict"
        return False

    def is_reordered(self, file: Scoped, read: ast.AST) -> bool:
        """Whether a list is read here to be changed otherwise than at its end."""
        parent = file.parents.get(read)
        match parent:
            case ast.Attribute(attr=attribute):
                return attribute in REORDERING
            case ast.Subscript(ctx=ast.Store() | ast.Del()):
                return True
        return False

    def _calls_of(self, file: Scoped, function: Function) -> tuple[list[Where], bool]:
        if isinstance(function, ast.Lambda):
            return [], True
        owner = file.class_of(function)
        if owner is not None:
            return self._method_calls(file, function, owner)
        scope = file.scope_of(function)
        calls: list[Where] = []
        escapes = any(_name(each) not in TRANSPARENT for each in function.decorator_list)
        if scope is not file.top:
            reads: list[tuple[Scoped, ast.AST]] = [(file, read) for read in file.reads(scope, function.name)]
        else:
            reads = self.reads_of(f"{self.project.names[file]}.{function.name}", function.name)
        for where, read in reads:
            parent = where.parents.get(read)
            if isinstance(parent, ast.Call) and parent.func is read:
                calls.append((where, parent))
            else:
                escapes = True
        return calls, escapes or _is_quoted(file, function.name)

    def reads_of(self, full_name: str, name: str) -> list[Where]:
        """Where a function or class at the top of a file is read, under any name."""
        found: list[Where] = []
        for file in self.project.files:
            names = {name, *self._other_names.get(name, ())}
            reads: list[ast.AST] = [read for each in names for _, read in file.names_read.get(each, ())]
            reads += file.attributes.get(name, ())
            found += [(file, read) for read in reads if self.project.full_name(file, read) == full_name]
        return found

    @cached_property
    def _other_names(self) -> dict[str, set[str]]:
        """The names under which imports and assignments of the project bind a name besides."""
        others: dict[str, set[str]] = {}
        for file in self.project.files:
            for bound, bindings in file.top.bound.items():
                for binding in bindings:
                    statement = file.parents.get(binding)
                    if isinstance(binding, ast.ImportFrom):
                        for alias in binding.names:
                            if alias.asname == bound:
                                others.setdefault(alias.name, set()).add(bound)
                    elif isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Name):
                        others.setdefault(statement.value.id, set()).add(bound)
        return others

    def _method_calls(self, file: Scoped, function: ast.AST, owner: ast.ClassDef) -> tuple[list[Where], bool]:
        assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        around = self.classes.by_node.get(owner)
        if around is None:
            return [], True
        decorators = {_name(each) for each in function.decorator_list}
        calls: list[Where] = []
        escapes = False
        for where, read in self.attribute_reads(around, function.name):
            parent = where.parents.get(read)
            if isinstance(parent, ast.Call) and parent.func is read:
                calls.append((where, parent))
            elif "property" in decorators or "cached_property" in decorators:
                calls.append((where, read))
            else:
                escapes = True
        return calls, escapes or _is_quoted(file, function.name)


def _while_making(file: Scoped, node: ast.AST) -> bool:
    function = file.function_of(node)
    return function is None or function in file.making


def _plain_reads(file: Scoped, name: str) -> list[tuple[ast.AST, ast.expr]]:
    """Reads of an attribute, each with the object that it is read from."""
    raw = name.partition("__")[2] if name.startswith("_") and "__" in name[1:] else None
    reads = [*file.attributes.get(name, ()), *(file.attributes.get(f"__{raw}", ()) if raw else ())]
    return [(read, read.value) for read in reads]


def _is_quoted(file: Scoped, name: str) -> bool:
    """Whether a name is written as a text, by which it may be looked up."""
    text = file.source.text
    return f'"{name}"' in text or f"'{name}'" in text


def _name(node: ast.expr) -> str | None:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return None
