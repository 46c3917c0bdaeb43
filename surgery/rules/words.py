"""From tokens to the words of an automaton: braces are multiplied out, then stars get their meaning."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise

from surgery.rules.automaton import ANYTHING, DOT, IN_NAME, Loop, Step, Word
from surgery.rules.errors import PatternError
from surgery.rules.lexing import Kind, Token

Spelling = tuple[Token, ...]

MOST_TOKENS = 100_000


@dataclass
class _Choice:
    """A pair of braces: its options, each a sequence of tokens and inner choices."""

    options: list[list["Token | _Choice"]] = field(default_factory=lambda: [[]])


Item = Token | _Choice


def spellings(text: str, tokens: Sequence[Token]) -> list[Spelling]:
    """What ``tokens`` says without braces: one sequence for each combination of choices, in order."""
    items = _nested(tokens)
    count, size = _size(items)
    if count + size > MOST_TOKENS:
        reason = f"without its braces it would be more than {MOST_TOKENS} characters long"
        raise PatternError(f"{reason}; write several rules", text)
    return _multiplied(items)


def name_word(text: str, tokens: Spelling, *, host_known: bool) -> Word:
    """The word of a dotted name. With ``host_known`` the last name is one name: its stars do not cross dots.

    A star that is all of a name takes any number of whole names, none included, and at the end at least one;
    a star that begins the pattern, and a doubled one, take anything; others take any characters but dots.
    """
    *path, last = _names(text, tokens)
    word: list[Step] = []
    for index, name in enumerate(path):
        word += [Loop.NAMES] if is_lone_star(name) else [*_name(name, is_first=index == 0), DOT]
    if host_known:
        _refuse_doubled_star(text, last)
    if not is_lone_star(last):
        word += _name(last, is_first=not path)
    else:
        word += [IN_NAME, Loop.IN_NAME] if host_known else [ANYTHING, Loop.ANYTHING]
    return tuple(word)


def type_word(tokens: Spelling) -> Word:
    """The word of a class name: stars stay within it, since it has no dots."""
    return tuple(Loop.IN_NAME if token.kind is Kind.STAR else token.characters for token in tokens)


def last_name(tokens: Spelling) -> Spelling:
    """The tokens after the last dot."""
    dots = [index for index, token in enumerate(tokens) if token.kind is Kind.DOT]
    return tokens[dots[-1] + 1 :] if dots else tokens


def is_lone_star(name: Spelling) -> bool:
    """Whether a name is one star and nothing else."""
    return len(name) == 1 and name[0].kind is Kind.STAR


def _name(name: Spelling, *, is_first: bool) -> Iterator[Step]:
    begins = is_first
    for is_star, run in groupby(name, key=lambda token: token.kind is Kind.STAR):
        if is_star:
            yield Loop.ANYTHING if begins or len(list(run)) > 1 else Loop.IN_NAME
        else:
            yield from (token.characters for token in run)
        begins = False


def _refuse_doubled_star(text: str, name: Spelling) -> None:
    for one, two in pairwise(name):
        if one.kind is two.kind is Kind.STAR:
            raise PatternError("after a type comes one name; write '*' for any", text, one.at)


def _names(text: str, tokens: Spelling) -> list[Spelling]:
    names: list[Spelling] = []
    begin = 0
    for end in (*(index for index, token in enumerate(tokens) if token.kind is Kind.DOT), len(tokens)):
        if begin == end:
            at = tokens[min(end, len(tokens) - 1)].at if tokens else 0
            raise PatternError("a name is empty; write a name or '*' there, or remove a dot", text, at)
        names.append(tokens[begin:end])
        begin = end + 1
    return names


def _nested(tokens: Sequence[Token]) -> list[Item]:
    outermost: list[Item] = []
    levels = [outermost]
    choices: list[_Choice] = []
    for token in tokens:
        if token.kind is Kind.OPEN:
            choices.append(_Choice())
            levels[-1].append(choices[-1])
            levels.append(choices[-1].options[-1])
        elif token.kind is Kind.COMMA:
            choices[-1].options.append([])
            levels[-1] = choices[-1].options[-1]
        elif token.kind is Kind.CLOSE:
            choices.pop()
            levels.pop()
        else:
            levels[-1].append(token)
    return outermost


def _size(items: Sequence[Item]) -> tuple[int, int]:
    """How many spellings there are, and how many tokens they have together, without making them.

    Neither is counted far beyond `MOST_TOKENS`.
    """
    count, size = 1, 0
    for item in items:
        parts = [_size(option) for option in item.options] if isinstance(item, _Choice) else [(1, 1)]
        more, longer = sum(part[0] for part in parts), sum(part[1] for part in parts)
        count, size = min(count * more, 2 * MOST_TOKENS), min(size * more + longer * count, 2 * MOST_TOKENS)
    return count, size


def _multiplied(items: Sequence[Item]) -> list[Spelling]:
    made: list[Spelling] = [()]
    for is_choice, run in groupby(items, key=lambda item: isinstance(item, _Choice)):
        if not is_choice:
            plain = tuple(item for item in run if isinstance(item, Token))
            made = [before + plain for before in made]
            continue
        for choice in run:
            options = choice.options if isinstance(choice, _Choice) else []
            choices = [spelled for option in options for spelled in _multiplied(option)]
            made = [before + choice for before in made for choice in choices]
    return made
