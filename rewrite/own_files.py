"""The files that a source plan may edit: those below a folder of the user's, and none of an installed package."""

from __future__ import annotations

import ast
import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath

from rewrite.analysis import Analysis, analysed
from rewrite.layers import Tensors
from rewrite.live import Made
from rewrite.places import Place
from rewrite.project import module_name
from rewrite.scopes import Scoped
from rewrite.sites import ITSELF, Kind, Site
from rewrite.source import Source, UnreadableError

INSTALLED = frozenset({"site-packages", "dist-packages"})


class OwnFiles:
    """Files below ``root``, each read and analysed once."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._known: dict[str, OwnFile | None] = {}

    def get(self, path: str) -> OwnFile | None:
        """The file, if it may be edited and can be read."""
        if path not in self._known:
            self._known[path] = self._read(path)
        return self._known[path]

    def _read(self, path: str) -> OwnFile | None:
        place = Path(path).resolve()
        if not place.is_relative_to(self.root) or INSTALLED & set(place.parts):
            return None
        try:
            data = place.read_bytes()
            source = Source.read(path, data)
        except (OSError, UnreadableError):
            return None
        return OwnFile(source, hashlib.sha256(data).hexdigest(), _module(place))


@dataclass(frozen=True, eq=False)
class OwnFile:
    """One file, alone: what a rule says of its calls holds whatever uses them."""

    source: Source
    sha256: str
    module: str

    @cached_property
    def analysis(self) -> Analysis:
        """The file as a project of its own, in which names begin anywhere."""
        return analysed([(self.source, self.module)], find_root=False)

    @property
    def scoped(self) -> Scoped:
        """The scopes of the file."""
        return self.analysis.classes.project.files[0]

    @cached_property
    def sites(self) -> dict[ast.AST, Site]:
        """The calls of which the analysis knows what they make."""
        return {site.node: site for site in self.analysis.sites if site.kind is not Kind.UNRESOLVED}

    def node(self, made: Made) -> ast.expr:
        """The expression that stands exactly where ``made`` says."""
        return self._expressions[made.line, made.column, made.end_line, made.end_column]

    def site(self, made: Made) -> Site | None:
        """The call that is edited: the constructor's, or the one whose result is assigned; None where there is none."""
        node = self.node(made)
        if made.kind == "call":
            assert isinstance(node, ast.Call)
            return self.sites.get(node) or Site(self.scoped, node, Kind.LAYER, self._around(node), Tensors())
        value = self._value(node)
        if value is None:
            return None
        inner: ast.expr = value
        while inner not in self.sites and isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute):
            inner = inner.func.value  # nn.Parameter(x).to(device)
        return self.sites.get(inner) or Site(self.scoped, value, Kind.PARAMETER, self._around(value), ITSELF)

    def class_named(self, qualname: str) -> ast.ClassDef | None:
        """The one class that has this ``__qualname__``."""
        found = [
            each for each in self.analysis.classes.by_node.values() if each.full_name == f"{self.module}.{qualname}"
        ]
        return found[0].node if len(found) == 1 else None

    def _around(self, node: ast.Call) -> frozenset[Place]:
        """Somewhere in the class that has the call: more is not known of a call that the analysis does not follow."""
        owner = self.analysis.classes.around(self.scoped, node)
        return frozenset({Place(owner, ())} if owner is not None else ())

    @cached_property
    def _expressions(self) -> dict[tuple[int, int, int | None, int | None], ast.expr]:
        return {
            (node.lineno, node.col_offset, node.end_lineno, node.end_col_offset): node
            for node in ast.walk(self.source.tree)
            if isinstance(node, ast.Call | ast.Attribute | ast.Subscript)
            and not isinstance(getattr(node, "ctx", None), ast.Load)
        }

    def _value(self, node: ast.expr) -> ast.Call | None:
        """The call whose result is registered by ``node``: a target of an assignment, or a registering call."""
        value: ast.expr | None = None
        match node, self.scoped.parents.get(node):
            case ast.Call(func=ast.Attribute(attr="register_parameter"), args=[_, given]), _:
                value = given
            case ast.Call(func=ast.Name(id="setattr"), args=[_, _, given]), _:
                value = given
            case ast.Attribute(), ast.Assign(targets=[_], value=given) | ast.AnnAssign(value=given):
                value = given
        if isinstance(value, ast.Name):
            value = self._local(value)
        return value if isinstance(value, ast.Call) else None

    def _local(self, name: ast.Name) -> ast.expr | None:
        home = self.scoped.scope_of(name).home(name.id)
        bound = self.scoped.bindings(home, name.id) if home is not None else []
        statement = self.scoped.parents.get(bound[0]) if len(bound) == 1 else None
        return statement.value if isinstance(statement, ast.Assign) else None


def _module(place: Path) -> str:
    return module_name(place, [PurePath(each) for each in place.parents if each.joinpath("__init__.py").is_file()])
