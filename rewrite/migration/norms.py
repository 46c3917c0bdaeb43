"""Norms of torch that are applied by a function: what all of their rules share."""

from __future__ import annotations

import ast
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import ClassVar

from computed.spec import Call
from rewrite.constraining import WRAPPER, written_arguments
from rewrite.migration.arguments import NotUnderstoodError, arguments_of, name_in
from rewrite.migration.codes import PASSED_ON
from rewrite.migration.contract import Change, Finding, Part, Rule, Safety
from rewrite.migration.modules import Made, made
from rewrite.migration.recasting import recast, renamed
from rewrite.migration.references import Reference, Use, variable_of
from rewrite.migration.torch_names import torch_name
from rewrite.migration.tree import Tree
from rewrite.scopes import Scoped

NORM_KINDS = frozenset({"spectral", "weight_norm", "orthogonal", "register"})

DRAWS = (
    "Random numbers: torch draws the two vectors of its power iteration from the global generator, this package draws "
    "none, so a model that is built anew under the same seed gets other numbers from there on. "
)


class NormRule(Rule):
    """``norm(module, name, options)`` becomes ``constrain(module, name="spec(options)")``."""

    names: ClassVar[tuple[str, ...]]  # the full names of the functions
    order: ClassVar[tuple[str, ...]]  # their arguments: module, name of the parameter, options
    successor: ClassVar[str | None] = None  # of torch's own
    to_torch: ClassVar[Safety] = Safety.SAFE

    @abstractmethod
    def spec(self, function: str, given: Mapping[str, ast.expr], module: Made, name: str) -> str:
        """The spec of a call; raises `NotUnderstoodError` where there is none that means the same."""

    def find(self, tree: Tree, file: Scoped) -> Iterator[Finding]:
        """Calls, choices, and where the function is passed on."""
        if tree.target == "torch" and self.successor is None:
            return
        for each in tree.references(file):
            if each.known[0].name in self.names and each.use is not Use.ALIAS:
                yield self._found(tree, file, each)

    def _found(self, tree: Tree, file: Scoped, reference: Reference) -> Finding:
        node, use, function = reference.node, reference.use, reference.known[0].name
        parent = file.parents[node]
        place = parent if use is Use.CALLED and isinstance(parent, ast.Call) else node
        found = Finding(file, place, self.code, "", None, self.safety, reference.families, Part.APPLIES)
        if tree.target == "torch":
            found = replace(found, safety=self.to_torch)
        if isinstance(place, ast.Call) and place.args:
            taken = made(tree, file, place.args[0]).norms
            found = replace(found, takes=frozenset(call for call, kind in taken if kind in NORM_KINDS))
        if use is Use.STARRED:
            return found.left(f"{function} comes by a star import, and another may have the name: import it by name")
        if use is Use.PASSED_ON:
            return found.left(f"{function} is passed on as a value, so that its calls cannot all be seen", PASSED_ON)
        try:
            told, change = self._change(tree, file, reference, place)
        except NotUnderstoodError as error:
            return found.left(f"{function}: {error}")
        return replace(found, message=told, change=change)

    def _change(self, tree: Tree, file: Scoped, reference: Reference, place: ast.expr) -> tuple[str, Change]:
        if tree.target == "torch":
            assert self.successor is not None
            text = torch_name(tree, file, place, self.successor)
            if isinstance(place, ast.Call):
                self._understood(tree, file, reference, place)
            insertion = renamed(file, reference.node, text)
            return text, Change(frozenset(), lambda names: (insertion,))
        if isinstance(place, ast.Call):
            arguments = written_arguments(dict([self._understood(tree, file, reference, place)]))
            recast(file, place, WRAPPER, arguments)
            change = Change(frozenset({WRAPPER}), lambda names: recast(file, place, names[WRAPPER], arguments))
            return f"{WRAPPER}(..., {arguments})", change
        arguments = written_arguments({"weight": self.spec(reference.known[0].name, {}, Made(), "weight")})
        _only_called(file, place)
        return (
            f"lambda module: {WRAPPER}(module, {arguments})",
            Change(
                frozenset({WRAPPER}),
                lambda names: (renamed(file, place, f"(lambda module: {names[WRAPPER]}(module, {arguments}))"),),
            ),
        )

    def _understood(self, tree: Tree, file: Scoped, reference: Reference, call: ast.Call) -> tuple[str, str]:
        """The parameter and its spec."""
        given = arguments_of(call, self.order)
        name = name_in(given, self.order[1])
        module = made(tree, file, given["module"])
        if any(kind in NORM_KINDS for _, kind in module.norms):
            raise NotUnderstoodError("its module has another norm already")
        return name, self.spec(reference.known[0].name, given, module, name)


def written(name: str, options: Mapping[str, object]) -> str:
    """The text of a spec."""
    return str(Call(name, (), tuple(options.items())))


def _only_called(file: Scoped, node: ast.expr) -> None:
    """Raise `NotUnderstoodError` where the variable that holds a function is more than called with a module."""
    variable = variable_of(file, node)
    assert variable is not None
    home, name = variable
    if home is file.top:
        raise NotUnderstoodError(f"{name} is chosen for the whole file, and may be used by others")
    if file.climb(node, ast.ClassDef) is home.node:
        raise NotUnderstoodError(f"{name} is an attribute of a class")
    for read in file.reads(home, name):
        match file.parents.get(read):
            case ast.Call(func=function, args=[argument], keywords=[]) if function is read:
                if isinstance(argument, ast.Starred):
                    raise NotUnderstoodError(f"{name} is called with a star in line {read.lineno}")
            case _:
                raise NotUnderstoodError(
                    f"{name} is more than called with a module alone in line {read.lineno}: call constrain there"
                )
