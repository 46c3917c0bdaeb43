"""The class of a live model, above which rules can be written; or why not, and what to write elsewhere instead."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import TYPE_CHECKING

from rewrite.classes import Class
from rewrite.constraining import DECORATOR, quoted
from rewrite.diagnostics import Diagnostic
from rewrite.live import Traced
from rewrite.live_choosing import LiveChoice, Planned
from rewrite.own_files import OwnFile, OwnFiles
from surgery.rules.ruleset import RuleSet

if TYPE_CHECKING:
    from torch import nn

PRETRAINED = "from_pretrained"


@dataclass(frozen=True)
class Above:
    """Where the rules go that are not written at calls: above ``owner``, or into a file of the user's.

    ``said`` are diagnostics, ``proposal`` is what the user may write instead; it is empty where nothing is refused.
    """

    file: OwnFile | None
    owner: Class | None
    said: tuple[Diagnostic, ...]
    proposal: str = ""


@dataclass(frozen=True, eq=False)
class Built:
    """A model, how it came to be, and what is planned on it."""

    model: nn.Module
    traced: Traced
    planned: Sequence[Planned]
    build: Callable[[], nn.Module]
    rules: RuleSet

    def late(self, above: Sequence[int]) -> str | None:
        """A tensor that these rules change, and that is not there yet when the model's constructor returns."""
        names = (
            name
            for each in self.planned
            if each.changes and not set(above).isdisjoint(each.taking)
            for name in each.names
        )
        return next((name for name in names if name in self.traced.late), None)

    def pretrained(self) -> Iterator[type[nn.Module]]:
        """The classes whose instances have changed tensors, and that load checkpoints of their own."""
        changed = {name for each in self.planned if each.changes for name in each.names}
        found: dict[type[nn.Module], None] = {}
        for place, module in self.model.named_modules():
            if any(PRETRAINED in vars(base) for base in type(module).__mro__):
                prefix = f"{place}." if place else ""
                if any(name.startswith(prefix) for name in changed):
                    found[type(module)] = None
        yield from found


def above_of(built: Built, choice: LiveChoice, files: OwnFiles) -> Above:
    """Whether the class of the model can be decorated with the rules that are not written at calls."""
    cls = type(built.model)
    file = _file_of(cls, files)
    node = file.class_named(cls.__qualname__) if file is not None else None
    owner = file.analysis.classes.by_node[node] if file is not None and node is not None else None
    said = tuple(_of_pretrained(built, files))
    if not choice.above:
        return Above(file, owner, said)
    reason = _refusal(built, choice, owner, files)
    if reason is None and file is not None and owner is not None:
        stays = f"derives from {owner.name}, and stays unconstrained"
        said += tuple(_at(each, "CS121", f"{each.name} {stays}") for each in owner.below()[1:])
        return Above(file, owner, said)
    return Above(None, None, (*said, _refused(built, choice, files, str(reason))), _proposal(built, choice))


def _refusal(built: Built, choice: LiveChoice, owner: Class | None, files: OwnFiles) -> str | None:
    cls = type(built.model)
    late = built.late(choice.above)
    if late is not None:
        return f"{late} comes into the model when the constructor of {cls.__name__} has returned"
    if any(type(each) is cls for each in built.model.modules() if each is not built.model):
        return f"a {cls.__name__} stands within another one"
    if owner is None:
        return f"the class {cls.__module__}.{cls.__qualname__} is not in a file below {files.root}"
    return None


def _of_pretrained(built: Built, files: OwnFiles) -> Iterator[Diagnostic]:
    for cls in built.pretrained():
        file = _file_of(cls, files)
        node = file.class_named(cls.__qualname__) if file is not None else None
        if file is not None and node is not None:
            message = f"a plain checkpoint loses constrained weights in {cls.__name__}.{PRETRAINED}"
            yield _at(file.analysis.classes.by_node[node], "CS122", message)


def _refused(built: Built, choice: LiveChoice, files: OwnFiles, reason: str) -> Diagnostic:
    path, line = _builder(built, files)
    rules = [repr(built.rules.rules[index].text) for index in choice.above]
    why = f" ({choice.reasons[0].message})" if choice.reasons else ""
    message = (
        f"{'rule' if len(rules) == 1 else 'rules'} {', '.join(rules)}: not written at calls{why}, nor above the class: "
        f"{reason}; where the model is built, call surgery.apply_constraints(model, {_dictionary(built, choice)})"
    )
    return Diagnostic(path, line, 1, "CS118", message)


def _builder(built: Built, files: OwnFiles) -> tuple[str, int]:
    """Where the user may write: the builder's file, else the file of the class, else that of a call."""
    code = getattr(inspect.unwrap(built.build), "__code__", None)
    if isinstance(code, CodeType) and files.get(code.co_filename) is not None:
        return code.co_filename, code.co_firstlineno
    file = _file_of(type(built.model), files)
    return (file.source.path, 1) if file is not None else ("<builder>", 1)


def _proposal(built: Built, choice: LiveChoice) -> str:
    """Code that does the same in a file of the user's."""
    cls, written = type(built.model), _dictionary(built, choice)
    applied = f"from surgery import apply_constraints\n\nmodel = apply_constraints(model, {written})\n"
    if "<" in cls.__qualname__ or cls.__module__.split(".")[0] in ("torch", "__main__") or built.late(choice.above):
        return applied
    name = cls.__qualname__
    imported = f"from {cls.__module__} import {name.partition('.')[0]}\nfrom surgery import {DECORATOR}\n\n\n"
    return f"{imported}@{DECORATOR}({written})\nclass Constrained{cls.__name__}({name}):\n    pass\n"


def _dictionary(built: Built, choice: LiveChoice) -> str:
    specs = [built.rules.rules[index] for index in choice.above]
    pairs = (f"{quoted(each.text)}: {quoted(each.spec if isinstance(each.spec, str) else None)}" for each in specs)
    return f"{{{', '.join(pairs)}}}"


def _file_of(cls: type, files: OwnFiles) -> OwnFile | None:
    path = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return files.get(path) if isinstance(path, str) else None


def _at(owner: Class, code: str, message: str) -> Diagnostic:
    source = owner.file.source
    line, column = source.position(source.span(owner.node)[0])
    return Diagnostic(source.path, line, column, code, message)
