"""The classes of a project: what each derives from, and which of them are modules."""

from __future__ import annotations

import ast
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field

from rewrite.layers import Layer, layer
from rewrite.project import Project, qualified
from rewrite.scopes import Scoped

ROOT_OF_ALL = "torch.nn.Module"
# bases outside the given files that make no parameters of their own
WITHOUT_PARAMETERS = frozenset(
    {
        *("PreTrainedModel", "GenerationMixin", "GradientCheckpointingLayer", "GenericForSequenceClassification"),
        *("GenericForTokenClassification", "GenericForQuestionAnswering", "LightningModule", "ScriptModule"),
        *("PyTorchModelHubMixin", "BackboneMixin", "EmbeddingAccessMixin"),
    }
)
NO_MODULES = (
    *("builtins", "typing", "typing_extensions", "abc", "enum", "collections", "dataclasses", "torch.utils.data"),
    *("torch.autograd", "torch.optim", "torch.distributions", "numpy", "unittest"),
)


@dataclass(eq=False)
class Class:
    """A class of the project. ``outside`` are the full names of bases elsewhere, None for one that is unclear."""

    file: Scoped
    node: ast.ClassDef
    full_name: str
    bases: list[Class] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)
    outside: list[str | None] = field(default_factory=list)
    # weak, so that a project is freed as soon as it is done with, without a search for cycles
    derived: list[weakref.ref[Class]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The class's own name."""
        return self.node.name

    @property
    def subclasses(self) -> tuple[Class, ...]:
        """The classes of the project that derive from this one directly."""
        return tuple(each for reference in self.derived if (each := reference()) is not None)

    def line(self) -> tuple[Class, ...]:
        """This class and all its bases in the project, nearest first."""
        return tuple(dict.fromkeys(self._line()))

    def below(self) -> tuple[Class, ...]:
        """This class and all its subclasses in the project."""
        found = dict.fromkeys([self])
        waiting = [self]
        while waiting:
            for each in waiting.pop().subclasses:
                if each not in found:
                    found[each] = None
                    waiting.append(each)
        return tuple(found)

    def types(self) -> tuple[str, ...]:
        """The names of the classes that an instance is of, as far as they are known."""
        names = [each.name for each in self.line()]
        for each in self.line():
            names += [name for base in each.layers for name in base.bases]
            names += [name.rpartition(".")[2] for name in each.outside if name is not None]
        return tuple(dict.fromkeys(names))

    def inherited(self) -> Layer | None:
        """The layer of torch that this class is a kind of, where that has tensors or children of its own."""
        found = [base for each in self.line() for base in each.layers if base.full_name != ROOT_OF_ALL]
        return found[0] if found else None

    def method(self, name: str) -> tuple[Class, ast.FunctionDef | ast.AsyncFunctionDef] | None:
        """The definition of a method, here or in the nearest base in the project."""
        for each in self.line():
            for node in own_methods(each.node):
                if node.name == name:
                    return each, node
        return None

    def is_known_outside(self) -> bool:
        """Whether the class derives from one of another package, which may keep a register of such classes."""
        return any(name is None or not _no_module(name) for each in self.line() for name in each.outside)

    def unclear_bases(self) -> tuple[str, ...]:
        """Bases outside the project that may make parameters."""
        found = [name for each in self.line() for name in each.outside]
        return tuple(name or "(unclear)" for name in found if not _harmless(name))

    def _line(self) -> Iterator[Class]:
        waiting, seen = [self], set[Class]()
        while waiting:
            here = waiting.pop(0)
            if here not in seen:
                seen.add(here)
                yield here
                waiting += here.bases


def own_methods(node: ast.ClassDef) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """The functions that a class body defines, also under a condition."""
    waiting: list[ast.stmt] = list(reversed(node.body))
    while waiting:
        statement = waiting.pop()
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            yield statement
        elif isinstance(statement, ast.If | ast.Try):
            waiting += [*reversed(statement.orelse), *reversed(statement.body)]


@dataclass(eq=False)
class Classes:
    """All classes of a project that are modules, by node and by full name."""

    project: Project
    by_node: dict[ast.ClassDef, Class]
    by_name: dict[str, Class]

    @classmethod
    def of(cls, project: Project) -> Classes:
        """Find them: what derives, through bases in the project, from a module or from something outside."""
        every = {
            node: Class(file, node, qualified(project.names[file], file, node))
            for file in project.files
            for node in file.classes
        }
        for each in every.values():
            _find_bases(project, each, every)
        modules = {node: each for node, each in every.items() if _is_module(each)}
        for each in modules.values():
            each.bases = [base for base in each.bases if base.node in modules]
            for base in each.bases:
                base.derived.append(weakref.ref(each))
        return cls(project, modules, {each.full_name: each for each in modules.values()})

    def named(self, full_name: str | None) -> Class | None:
        """The module class of the project with this full name."""
        if full_name in self.by_name:
            return self.by_name[full_name]
        definition = self.project.definition(full_name)
        return self.by_node.get(definition.node) if definition and isinstance(definition.node, ast.ClassDef) else None

    def around(self, file: Scoped, node: ast.AST) -> Class | None:
        """The class whose body ``node`` is in, itself or one of its methods."""
        above = file.climb(node, ast.ClassDef)
        return self.by_node.get(above) if isinstance(above, ast.ClassDef) else None


def _find_bases(project: Project, each: Class, every: dict[ast.ClassDef, Class]) -> None:
    scope = each.file.scope_of(each.node)
    for base in each.node.bases:
        name = project.full_name(each.file, base.value if isinstance(base, ast.Subscript) else base, scope)
        definition = project.definition(name)
        known = layer(name) if name is not None else None
        if definition is not None and isinstance(definition.node, ast.ClassDef):
            each.bases.append(every[definition.node])
        elif known is not None:
            each.layers.append(known)
        else:
            each.outside.append(name)


def _is_module(each: Class) -> bool:
    """Whether a class may be a module: by a layer of torch, by a base outside that may be one."""
    return any(
        base.layers or any(name is None or not _no_module(name) for name in base.outside) for base in each.line()
    )


def _no_module(name: str) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in NO_MODULES)


def _harmless(name: str | None) -> bool:
    return name is not None and (_no_module(name) or name.rpartition(".")[2] in WITHOUT_PARAMETERS)
