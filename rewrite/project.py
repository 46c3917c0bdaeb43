"""The files that are given, as modules that import each other: what a name in one of them means, by its full name."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath

from rewrite.scopes import Scope, Scoped
from rewrite.source import Source

DEEP = 12  # re-exports and aliases that lead to each other


@dataclass(frozen=True)
class Definition:
    """A class or function of the project, and the file that has it."""

    file: Scoped
    node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    full_name: str


@dataclass(eq=False)
class Project:
    """Files by dotted module name. ``packages`` says of each path which folders around it are packages."""

    files: tuple[Scoped, ...]
    names: Mapping[Scoped, str]
    by_name: dict[str, Scoped | None] = field(default_factory=dict)

    @classmethod
    def of(cls, sources: Iterable[tuple[Source, str]]) -> Project:
        """The project of sources, each with its dotted module name, as `module_name` tells it."""
        files = {Scoped(source): name for source, name in sources}
        project = cls(tuple(files), files)
        for file, name in files.items():
            # two files of one name: neither can be meant by it
            project.by_name[name] = None if name in project.by_name else file
        return project

    def full_name(self, file: Scoped, node: ast.AST, scope: Scope | None = None, deep: int = 0) -> str | None:
        """What an expression of names and dots means, such as ``torch.nn.Conv2d``; None where that is not certain.

        A name that is bound several times means something only where every binding means the same.
        """
        match node:
            case ast.Attribute(value=value, attr=attribute):
                owner = self.full_name(file, value, scope, deep)
                return None if owner is None else self._exported(f"{owner}.{attribute}", deep)
            case ast.Name(id=name):
                return self._meaning(file, name, scope or file.scope_of(node), deep)
        return None

    def choices(self, file: Scoped, node: ast.AST) -> frozenset[str] | None:
        """What a variable means that is bound to one of several, ``layer = A if deep else B``; None where unclear."""
        if not isinstance(node, ast.Name):
            return None
        home = file.scope_of(node).home(node.id)
        found: set[str | None] = set()
        for binding in file.bindings(home, node.id) if home is not None else ():
            statement = file.parents[binding]
            if not (isinstance(statement, ast.Assign) and statement.targets == [binding]):
                return None
            found |= {self.full_name(file, each) for each in _arms(statement.value)}
        return None if not found or None in found else frozenset(each for each in found if each is not None)

    def definition(self, full_name: str | None) -> Definition | None:
        """The class or function of the project that has this full name."""
        if full_name is None:
            return None
        module, _, name = full_name.rpartition(".")
        file = self.by_name.get(module)
        if file is None:
            return None
        bound = file.bindings(file.top, name)
        if len(bound) == 1 and isinstance(bound[0], ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            return Definition(file, bound[0], full_name)
        return None

    def _meaning(self, file: Scoped, name: str, scope: Scope, deep: int) -> str | None:
        home = scope.home(name)
        if home is None:
            return f"builtins.{name}" if not file.star_imports else None
        if deep > DEEP:
            return None
        meanings = {self._bound_to(file, binding, name, home, deep + 1) for binding in file.bindings(home, name)}
        return meanings.pop() if len(meanings) == 1 else None

    def _bound_to(self, file: Scoped, binding: ast.AST, name: str, home: Scope, deep: int) -> str | None:
        match binding:
            case ast.Import(names=aliases):
                found = [alias for alias in aliases if (alias.asname or alias.name.split(".")[0]) == name]
                return self._exported(found[0].name, deep) if found[0].asname else name
            case ast.ImportFrom(names=aliases):
                found = [alias for alias in aliases if (alias.asname or alias.name) == name]
                module = self._imported(file, binding)
                return None if module is None else self._exported(f"{module}.{found[0].name}", deep)
            case ast.ClassDef():
                return qualified(self.names[file], file, binding)
            case ast.FunctionDef() | ast.AsyncFunctionDef() if home is file.top:
                return f"{self.names[file]}.{name}"
            case ast.Name():
                statement = file.parents[binding]
                if isinstance(statement, ast.Assign) and statement.targets == [binding]:
                    return self.full_name(file, statement.value, home, deep)
        return None

    def _imported(self, file: Scoped, node: ast.ImportFrom) -> str | None:
        """The module that an import takes names from; of a relative one by the name of the file."""
        if not node.level:
            return node.module
        package = self.names[file].split(".")
        if PurePath(file.source.path).name != "__init__.py":
            package = package[:-1]
        if node.level - 1 > len(package):
            return None
        kept = package[: len(package) - (node.level - 1)]
        return ".".join([*kept, *([node.module] if node.module else [])])

    def _exported(self, full_name: str, deep: int) -> str | None:
        """What a dotted name means that may lead into a file of the project, and from there into another."""
        module, _, name = full_name.rpartition(".")
        file = self.by_name.get(module)
        if file is None or deep > DEEP or full_name in self.by_name:
            return full_name
        if name not in file.top.bound:
            return full_name if not file.star_imports else None
        return self._meaning(file, name, file.top, deep + 1)


def _arms(node: ast.expr) -> list[ast.expr]:
    return [*_arms(node.body), *_arms(node.orelse)] if isinstance(node, ast.IfExp) else [node]


def qualified(module: str, file: Scoped, node: ast.ClassDef) -> str:
    """The full name of a class, as Python writes it."""
    parts = [node.name]
    above = file.climb(node, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    while isinstance(above, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        parts.append(above.name if isinstance(above, ast.ClassDef) else f"{above.name}.<locals>")
        above = file.climb(above, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return ".".join((module, *reversed(parts)))


def module_name(path: PurePath, packages: Iterable[PurePath]) -> str:
    """The dotted name of a file, ``packages`` being the folders that have an ``__init__.py``.

    >>> folder = PurePath("src/nets")
    >>> module_name(folder / "resnet.py", [folder]), module_name(folder / "__init__.py", [folder])
    ('nets.resnet', 'nets')
    """
    known = set(packages)
    parts = [] if path.name == "__init__.py" else [path.stem]
    folder = path.parent
    while folder in known:
        parts.append(folder.name)
        folder = folder.parent
    return ".".join(reversed(parts)) or path.stem
