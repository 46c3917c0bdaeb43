"""Rules and options of a project: from ``pyproject.toml``, from a file of rules, from one argument."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from computed.nearmiss import did_you_mean
from rewrite.toml_table import ConfigurationError, Table, load

PROJECT = "pyproject.toml"
TABLE = "computed-surgery"
WHOLE_TABLE = f"tool.{TABLE}"
RULES = "rules"
EXEMPTION = "none"
KEYS = (RULES, "extend-exclude", "select", "ignore", "root", "style", "target")
OTHER_NAMES = {"exclude": "extend-exclude", "extend-select": "select", "enable": "select", "disable": "ignore"}
RULES_FORM = "a table, 'pattern' = 'spec', or an array of pairs, ['pattern', 'spec']"
EXAMPLE = "write PATTERN=SPEC, such as '*.weight=spectral'"
PAIRS = {"(": ")", "[": "]", "{": "}"}

Rule = tuple[str, str | None]


class RuleTextError(ValueError):
    """A rule of one argument is wrong: ``reason`` says how, ``position`` is the offset in ``text``.

    >>> print(RuleTextError("write PATTERN=SPEC", "*.weight", 8))
    rule '*.weight', column 9: write PATTERN=SPEC
    """

    # The text and the position have defaults since unpickling calls an error with its message alone.
    def __init__(self, reason: str, text: str | None = None, position: int = 0) -> None:
        super().__init__(reason if text is None else f"rule {text!r}, column {position + 1}: {reason}")
        self.reason = reason
        self.text = text
        self.position = position


@dataclass(frozen=True)
class Configuration:
    """What a project asks for; ``file`` says where, None where nothing does.

    ``rules`` are pairs of a pattern and a spec, in their order, where None exempts. ``root`` are names of
    classes; the patterns of ``extend_exclude`` are for paths from the folder of ``file``.
    """

    file: Path | None = None
    rules: tuple[Rule, ...] = ()
    extend_exclude: tuple[str, ...] = ()
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    root: tuple[str, ...] = ()
    style: str | None = None
    target: str | None = None

    @property
    def anchor(self) -> Path | None:
        """The folder of the file; None where there is none."""
        return None if self.file is None else self.file.parent


def configured(
    paths: Sequence[Path], *, config: Path | None = None, isolated: bool = False, rules: Path | None = None
) -> Configuration:
    """What is to be done with ``paths``, as files say.

    The nearest ``pyproject.toml`` at or above the first path that has a table ``tool.computed-surgery`` counts,
    unless ``config`` names another file, where the keys may stand at the top too, or ``isolated`` is true. The rules
    of the file ``rules`` stand in place of those of the project. Raises `ConfigurationError` with all that is wrong.
    """
    problems: list[str] = []
    found = Configuration()
    if config is not None:
        found = _from_file(config, problems)
    elif not isolated:
        found = _nearest(paths[0] if paths else Path(), problems)
    if config is not None and isolated:
        problems.append(f"{config}: to be isolated from files and to read this one exclude each other")
    if rules is not None:
        found = replace(found, rules=_from_file_of_rules(rules, problems))
    if problems:
        raise ConfigurationError(problems)
    return found


def split_rule(text: str) -> Rule:
    """Pattern and spec of ``PATTERN=SPEC``; the spec ``none``, which exempts, is None.

    The last ``=`` outside brackets and quotes splits. Raises `RuleTextError` where there is none, or nothing on a
    side of it.

    >>> split_rule("*.conv*.weight=spectral(bound=2.0)"), split_rule("*.bias=none")
    (('*.conv*.weight', 'spectral(bound=2.0)'), ('*.bias', None))
    """
    at = _last_equals_sign(text)
    pattern, spec = text[:at].strip(), text[at + 1 :].strip()
    if not pattern:
        raise RuleTextError(f"no pattern stands before '='; {EXAMPLE}", text, at)
    if not spec:
        raise RuleTextError(f"no spec follows '='; write {EXEMPTION!r} to exempt what the pattern matches", text, at)
    if "(" in pattern and not pattern.startswith("re:"):  # no other pattern has one: it belongs to the spec
        raise RuleTextError("'(' is not closed; write ')' after the last argument", text, text.index("("))
    return pattern, None if spec == EXEMPTION else spec


def _last_equals_sign(text: str) -> int:
    """Where it is, read from the end: brackets of a spec are pairs, while those of a pattern need not be."""
    opened: list[int] = []
    at = len(text) - 1
    while at >= 0:
        char = text[at]
        if char == "=" and not opened:
            return at
        if char in PAIRS.values():
            opened.append(at)
        elif char in PAIRS and not (opened and text[opened.pop()] == PAIRS[char]):
            raise RuleTextError(f"{char!r} is not closed", text, at)
        elif char in "'\"":
            before = text.rfind(char, 0, at)
            if before < 0:
                raise RuleTextError("the quote has no other end", text, at)
            at = before
        at -= 1
    if opened:
        raise RuleTextError(f"{text[opened[0]]!r} closes what nothing opens", text, opened[0])
    raise RuleTextError(f"there is no '=' between a pattern and a spec; {EXAMPLE}", text, len(text))


def _nearest(path: Path, problems: list[str]) -> Configuration:
    start = path.resolve()
    for folder in (start, *start.parents):
        file = folder / PROJECT
        tool = load(file, problems, must_exist=False).get("tool")
        if problems:  # it may have the table: who knows
            break
        tools = tool if isinstance(tool, dict) else {}
        problems += [
            f"{file}: tool.{name}: unknown table{did_you_mean([TABLE])}"
            for name in tools
            if name != TABLE and name.lower().replace("_", "-") == TABLE
        ]
        if TABLE in tools:
            return _read(Table.of(file, WHOLE_TABLE, tools[TABLE], problems))
    return Configuration()


def _from_file(file: Path, problems: list[str]) -> Configuration:
    data = load(file, problems)
    tool = data.get("tool")
    if isinstance(tool, dict) and TABLE in tool:
        return _read(Table.of(file, WHOLE_TABLE, tool[TABLE], problems))
    if file.name == PROJECT:
        problems += [] if problems else [f"{file}: there is no table {WHOLE_TABLE}"]
        return Configuration(file)
    return _read(Table(file, "", data, problems))


def _read(table: Table) -> Configuration:
    table.check_keys(KEYS, OTHER_NAMES)
    return Configuration(
        file=table.file,
        rules=_rules(table, RULES, table.keys.get(RULES, {})),
        extend_exclude=table.texts("extend-exclude"),
        select=table.texts("select"),
        ignore=table.texts("ignore"),
        root=table.texts("root"),
        style=table.text("style"),
        target=table.text("target"),
    )


def _from_file_of_rules(file: Path, problems: list[str]) -> tuple[Rule, ...]:
    """The rules below ``rules``, or at the top where there is no such table."""
    table = Table(file, "", load(file, problems), problems)
    if isinstance(table.keys.get(RULES, ""), str):
        return _rules(table, "", dict(table.keys))
    for key in table.keys:
        if key != RULES:
            table.problem(key, f"unknown key; beside {RULES!r} nothing is read from this file")
    return _rules(table, RULES, table.keys[RULES])


def _rules(table: Table, key: str, value: object) -> tuple[Rule, ...]:
    match value:
        case dict(pairs):
            rules = [_rule(table, key, pattern, spec) for pattern, spec in pairs.items()]
        case list(pairs):
            rules = [_rule(table, key, pattern, spec) for pattern, spec in _pairs(table, pairs)]
        case _:
            table.wrong(key, RULES_FORM, value)
            rules = []
    return tuple(rule for rule in rules if rule is not None)


def _pairs(table: Table, array: Iterable[object]) -> Iterator[tuple[str, object]]:
    for place, each in enumerate(array, 1):
        match each:
            case [str(pattern), spec]:
                yield pattern, spec
            case _:
                table.problem(RULES, f"entry {place}: expected a pair, ['pattern', 'spec'], got {each!r}")


def _rule(table: Table, key: str, pattern: str, spec: object) -> Rule | None:
    place = f"{key}.{pattern!r}" if key else repr(pattern)
    match spec:
        case str() if spec.strip():
            return pattern, None if spec.strip() == EXEMPTION else spec.strip()
        case str():
            table.problem(place, f"it is empty; write {EXEMPTION!r} to exempt what the pattern matches")
        case dict() if spec:
            whole = f"{pattern}.{next(iter(spec))}"
            table.problem(place, f"expected a text, got a table; a pattern with dots needs quotes, {whole!r}")
        case _:
            table.wrong(place, f"a text such as 'spectral', or {EXEMPTION!r}", spec)
    return None
