"""Rules applied to source text: from files to what becomes of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rewrite.analysis import Analysis, analysed
from rewrite.choosing import Choice, Styles, choose
from rewrite.codes import CODES, Weight
from rewrite.constraining import Edit
from rewrite.diagnostics import Diagnostic
from rewrite.editing import edits_of, wishes
from rewrite.insertion import inserted
from rewrite.outcome import Outcome
from rewrite.pragmas import Pragmas
from rewrite.source import Source, UnreadableError
from surgery.rules.errors import RuleError
from surgery.rules.ruleset import RuleSet


def rewrite_source(
    text: str,
    rules: Mapping[str, str | None] | Iterable[tuple[str, str | None]],
    *,
    path: str = "<source>",
    roots: Sequence[str] = (),
    style: str = Styles.AUTO,
) -> Outcome:
    r"""Write ``rules`` into the source text of one file.

    Args:
        text: Python source.
        rules: pattern -> spec, as `surgery.apply_constraints` takes them; specs are texts or None.
        path: how messages name the file.
        roots: names of the classes at whose instances names begin.
        style: "auto", "inline" (only at calls) or "class" (only above the roots).

    Errors: RuleError with all that is wrong with the rules; UnreadableError where the text is no Python;
    UnknownRootError for a root that is not there.

    Example:
        >>> a = "import torch\nclass N(torch.nn.Module):\n  def __init__(self):\n    self.fc = torch.nn.Linear(2, 2)\n"
        >>> print(rewrite_source(a, {"*.fc.weight": "spectral"}).after.splitlines()[-1].strip())
        self.fc = constrain(torch.nn.Linear(2, 2), weight="spectral")
    """
    source = Source.checked(path, text)
    return rewrite_sources([(source, "source")], ruleset(rules), roots=roots, style=style)[0]


def ruleset(rules: Mapping[str, str | None] | Iterable[tuple[str, str | None]]) -> RuleSet:
    """The rules, if they can be written in source text; raises `RuleError` with all that is wrong."""
    found, problems = RuleSet.read(rules)
    told = [*problems, *found.refused_operations("source")]
    for rule in found.rules:
        if not (rule.spec is None or isinstance(rule.spec, str)):
            told.append(f"rule {rule}: source text needs a spec that is a text, such as 'spectral', or None")
    if told:
        raise RuleError(told)
    return found


def rewrite_sources(
    sources: Sequence[tuple[Source, str]],
    rules: RuleSet,
    *,
    roots: Sequence[str] = (),
    style: str = Styles.AUTO,
    find_root: bool = True,
) -> list[Outcome]:
    """Write rules into files that belong together, each with its dotted module name; in their order.

    Raises `UnknownRootError`.
    """
    first = _pass(sources, rules, roots, style, find_root)
    changed = [each for each in first if each.changed]
    if not changed:
        return first
    try:
        after = [(Source.checked(each.path, each.after), name) for each, (_, name) in zip(first, sources, strict=True)]
        second = _pass(after, rules, roots, style, find_root)
    except UnreadableError as error:
        return [_refused(each, f"the result is no Python: {error}") for each in first]
    return [
        _refused(each, "a second run would change the result") if again.changed else each
        for each, again in zip(first, second, strict=True)
    ]


def _pass(
    sources: Sequence[tuple[Source, str]], rules: RuleSet, roots: Sequence[str], style: str, find_root: bool
) -> list[Outcome]:
    pragmas = {source.path: Pragmas.of(source) for source, _ in sources}
    analysis = analysed(sources, roots, find_root=find_root)
    choice = choose(analysis, rules, style)
    wished, said = wishes(analysis, rules, choice)
    kept = [wish for wish in wished if not _silenced(pragmas[wish.file.source.path], wish.lines)]
    edits = edits_of(kept)
    told = [*said, *edits.said, *_notes(analysis, rules, choice)]
    told += [Diagnostic(each.file, each.line, each.column, each.code, each.message) for each in choice.problems]
    outcomes = []
    for source, _ in sources:
        mine = [each for each in told if each.path == source.path]
        outcomes.append(_outcome(source, pragmas[source.path], edits.by_path.get(source.path, []), mine))
    return outcomes


def _silenced(pragmas: Pragmas, lines: tuple[int, int]) -> bool:
    return pragmas.skip_file or pragmas.generated or any(pragmas.silences(*lines, code) for code in EDITS)


EDITS = [code.name for code in CODES.values() if code.weight is Weight.EDIT]


def _outcome(source: Source, pragmas: Pragmas, edits: Sequence[Edit], said: Sequence[Diagnostic]) -> Outcome:
    if pragmas.skip_file or pragmas.generated:
        why = "it says skip-file" if pragmas.skip_file else "it says @generated"
        return Outcome(source.path, source.text, source.text, (Diagnostic(source.path, 1, 1, "CS133", why),))
    after = inserted(source.text, [each for edit in edits for each in edit.insertions])
    found = [each for each in said if not pragmas.silences(each.line, each.line, each.code)]
    for edit in edits:
        if edit.code:
            found.append(Diagnostic(source.path, *source.position(edit.offset), edit.code, edit.message))
    return Outcome(source.path, source.text, after, tuple(sorted(found)))


def _notes(analysis: Analysis, rules: RuleSet, choice: Choice) -> list[Diagnostic]:
    """What is said of the run as a whole, at the first file's first line."""
    files = analysis.classes.project.files
    if not files:
        return []
    path = files[0].source.path
    found = [
        Diagnostic(path, 1, 1, "CS117", f"rule {rule} matches nothing that the given files make")
        for index, rule in enumerate(rules.rules)
        if index not in choice.matched
    ]
    for root in analysis.roots if analysis.found else ():
        place = root.file.source
        line, column = place.position(place.span(root.node)[0])
        found.append(Diagnostic(place.path, line, column, "CS120", f"names begin at {root.name}, which nothing builds"))
    return found


def _refused(outcome: Outcome, reason: str) -> Outcome:
    told = Diagnostic(outcome.path, 1, 1, "CS131", reason)
    kept = [each for each in outcome.diagnostics if CODES[each.code].weight is not Weight.EDIT]
    return Outcome(outcome.path, outcome.before, outcome.before, (told, *kept))
