"""Notes about classes that are changed: what their checkpoints would do, and who else builds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rewrite.analysis import Analysis
from rewrite.chosen import Choice
from rewrite.classes import Class
from rewrite.diagnostics import Diagnostic

LOADER = "from_pretrained"
LOADED = "PreTrainedModel"


def notes(analysis: Analysis, choice: Choice) -> Iterator[Diagnostic]:
    """What is said of classes with edits, and of roots that were found."""
    for root in analysis.roots if analysis.found else ():
        yield _at(root, "CS120", f"names begin at {root.name}, which nothing builds")
    changed = _changed(analysis, choice)
    for each in dict.fromkeys((*(analysis.roots if changed or choice.above else ()), *changed)):
        if _loads_by_name(each):
            yield _at(each, "CS122", f"a plain checkpoint loaded by {each.name}.{LOADER} would lose weights")
    if analysis.roots:
        yield from _others(analysis, set(changed))


def _changed(analysis: Analysis, choice: Choice) -> list[Class]:
    """The classes in whose bodies calls are wrapped."""
    around = (analysis.classes.around(each.site.file, each.site.node) for each in choice.inline)
    return list(dict.fromkeys(each for each in around if each is not None))


def _others(analysis: Analysis, changed: set[Class]) -> Iterator[Diagnostic]:
    """Calls of what is changed, in classes that the roots do not reach."""
    for site in analysis.idle:
        if site.made is None or not changed & set(site.made.line()):
            continue
        owner = analysis.classes.around(site.file, site.node)
        if owner is not None and owner not in analysis.reached:
            line, column = site.file.source.position(site.file.source.span(site.node)[0])
            message = f"{owner.name} builds {site.made.name} too, which is constrained for {_names(analysis.roots)}"
            yield Diagnostic(site.file.source.path, line, column, "CS123", message)


def _names(classes: Iterable[Class]) -> str:
    return ", ".join(each.name for each in classes)


def _loads_by_name(each: Class) -> bool:
    outside = [name for base in each.line() for name in base.outside if name is not None]
    return each.method(LOADER) is not None or any(name.rpartition(".")[2] == LOADED for name in outside)


def _at(owner: Class, code: str, message: str) -> Diagnostic:
    source = owner.file.source
    return Diagnostic(source.path, *source.position(source.span(owner.node)[0]), code, message)
