"""Rules applied to source text: from files to what becomes of each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from computed.registry import joint_arguments
from rewrite.analysis import analysed
from rewrite.choosing import Styles, choose
from rewrite.code import Weight
from rewrite.codes import CODES
from rewrite.constraining import Edit
from rewrite.diagnostics import Diagnostic
from rewrite.editing import edits_of, wishes
from rewrite.insertion import inserted
from rewrite.noting import notes
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
    found = ruleset(rules)
    outcome = rewrite_sources([(source, "source")], How(found, tuple(roots), style))[0]
    return replace(outcome, diagnostics=(*outcome.diagnostics, *unmatched(found, outcome.matched, path)))


def ruleset(rules: Mapping[str, str | None] | Iterable[tuple[str, str | None]]) -> RuleSet:
    """The rules, if they can be written in source text; raises `RuleError` with all that is wrong."""
    found, problems = RuleSet.read(rules)
    told = [*problems, *found.refused_operations("source")]
    for rule in found.rules:
        if not (rule.spec is None or isinstance(rule.spec, str)):
            told.append(f"rule {rule}: source text needs a spec that is a text, such as 'spectral', or None")
        elif rule.spec is not None and not (rule.exempts or rule.freezes):
            told += [f"rule {rule}: {reason}" for reason in joint_arguments(rule.spec)]
    if told:
        raise RuleError(told)
    return found


def unmatched(rules: RuleSet, matched: Collection[int], path: str) -> list[Diagnostic]:
    """What is said of rules that match nothing."""
    return [
        Diagnostic(path, 1, 1, "CS117", f"rule {rule} matches nothing that the given files make")
        for index, rule in enumerate(rules.rules)
        if index not in matched
    ]


@dataclass(frozen=True)
class How:
    """What is asked for: rules, names of root classes, a style, and which codes are edited and told."""

    rules: RuleSet
    roots: tuple[str, ...] = ()
    style: str = Styles.AUTO
    find_root: bool = True
    selected: Callable[[str], bool] = lambda code: True


def rewrite_sources(sources: Sequence[tuple[Source, str]], how: How, *, again: bool = True) -> list[Outcome]:
    """Write rules into files that belong together, each with its dotted module name; in their order.

    The result is read again; ``again``: and rewritten again, which must change nothing. A file for which that is not so
    is refused. Raises `UnknownRootError`.
    """
    return settled(sources, lambda each: _pass(each, how), again=again)


def settled(
    sources: Sequence[tuple[Source, str]],
    run: Callable[[Sequence[tuple[Source, str]]], list[Outcome]],
    *,
    again: bool = True,
) -> list[Outcome]:
    """What ``run`` makes of files; what is no Python then, or what ``run`` would change ``again``, is refused."""
    first = run(sources)
    changed = [each for each in first if each.changed]
    if not changed:
        return first
    try:
        after = [(Source.checked(each.path, each.after), name) for each, (_, name) in zip(first, sources, strict=True)]
        second = run(after) if again else first
    except UnreadableError as error:
        return [_refused(each, f"the result is no Python: {error}") for each in first]
    return [
        _refused(each, "a second run would change the result") if again and other.changed else each
        for each, other in zip(first, second, strict=True)
    ]


def _pass(sources: Sequence[tuple[Source, str]], how: How) -> list[Outcome]:
    analysis = analysed(sources, how.roots, find_root=how.find_root)
    choice = choose(analysis, how.rules, how.style)
    wished, told = wishes(analysis, how.rules, choice)
    problems = (*choice.problems, *choice.notes)
    first = sources[0][0].path if sources else ""
    told += [Diagnostic(each.file or first, each.line, each.column, each.code, each.message) for each in problems]
    told += notes(analysis, choice)
    # comments are looked for only where there is something that they could silence
    asked_of = [each for each in told if CODES[each.code].weight is not Weight.NOTE]
    concerned = {wish.file.source.path for wish in wished} | {each.path for each in asked_of}
    pragmas = {source.path: Pragmas.of(source) for source, _ in sources if source.path in concerned}
    kept = [
        wish
        for wish in wished
        if how.selected(wish.code) and not silences(pragmas[wish.file.source.path], wish.lines, wish.code)
    ]
    edits = edits_of(kept)
    told += edits.said
    matched = frozenset(choice.matched)
    outcomes = []
    for source, _ in sources:
        mine = [each for each in told if each.path == source.path and how.selected(each.code)]
        made = edits.by_path.get(source.path, [])
        outcome = outcome_of(source, pragmas.get(source.path, NOTHING_ASKED), made, mine)
        outcomes.append(replace(outcome, matched=matched))
    return outcomes


NOTHING_ASKED = Pragmas()


def silences(pragmas: Pragmas, lines: tuple[int, int], code: str) -> bool:
    """Whether the comments of a file forbid an edit on these lines, the last one included."""
    return pragmas.skip_file or pragmas.generated or pragmas.silences(*lines, code)


def outcome_of(source: Source, pragmas: Pragmas, edits: Sequence[Edit], said: Sequence[Diagnostic]) -> Outcome:
    """What becomes of a file by ``edits``, and what is told of it: as far as its comments allow."""
    if pragmas.skip_file or pragmas.generated:
        why = "it says skip-file" if pragmas.skip_file else "it says @generated"
        return Outcome(source.path, source.text, source.text, (Diagnostic(source.path, 1, 1, "CS133", why),))
    after = inserted(source.text, [each for edit in edits for each in edit.insertions])
    found = [each for each in said if not pragmas.silences(each.line, each.line, each.code)]
    for edit in edits:
        if edit.code:
            found.append(Diagnostic(source.path, *source.position(edit.offset), edit.code, edit.message))
    return Outcome(source.path, source.text, after, tuple(sorted(found)))


def _refused(outcome: Outcome, reason: str) -> Outcome:
    told = Diagnostic(outcome.path, 1, 1, "CS131", reason)
    kept = [each for each in outcome.diagnostics if CODES[each.code].weight is not Weight.EDIT]
    return Outcome(outcome.path, outcome.before, outcome.before, (told, *kept))
