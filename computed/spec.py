"""A spec as a value: the calls that a text such as ``"symmetric | spectral(bound=2.0)"`` stands for."""

import keyword
import math
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from computed.spec_error import SpecError as SpecError
from computed.spec_reading import read_chain

LONG_BITS = 10_000


@dataclass(frozen=True)
class Call:
    """One link of a chain: a constraint by name, with the arguments it is called with.

    Lists among the arguments become tuples, so that a call is hashable. ``str`` gives the canonical text,
    which parses back to an equal call; an argument that is no Python literal raises `SpecError` there.

    >>> str(Call("lora", (8,), (("alpha", 16.0),)))
    'lora(8, alpha=16.0)'
    """

    name: str
    args: tuple[object, ...] = ()
    kwargs: tuple[tuple[str, object], ...] = ()

    def __post_init__(self) -> None:
        for word in (self.name, *(key for key, _ in self.kwargs)):
            if not is_identifier(word):
                raise SpecError(f"{word!r} is no identifier: names and keywords of a spec are identifiers")
        object.__setattr__(self, "args", tuple(_hashable(value) for value in self.args))
        object.__setattr__(self, "kwargs", tuple((key, _hashable(value)) for key, value in self.kwargs))

    def __str__(self) -> str:
        written = [_literal_text(value) for value in self.args]
        written += [f"{key}={_literal_text(value)}" for key, value in self.kwargs]
        return f"{self.name}({', '.join(written)})" if written else self.name


@lru_cache(maxsize=1024)  # a rule has one text, and as many sites as it matches
def parse_spec(text: str) -> tuple[Call, ...]:
    """The calls of a chain, in the order in which they are applied: from left to right.

    Arguments are Python literals only (numbers, strings, True, False, None, tuples and lists of these);
    nothing is evaluated. ``none`` and ``frozen`` are plain names here. All else raises `SpecError`, with the
    text, the column and what is wrong there.

    >>> parse_spec("symmetric | spectral(bound=2.0)")
    (Call(name='symmetric', args=(), kwargs=()), Call(name='spectral', args=(), kwargs=(('bound', 2.0),)))
    """
    return tuple(Call(*link) for link in read_chain(text))


def spec_text(calls: Iterable[Call]) -> str:
    """The canonical text of a chain: ``parse_spec`` of it gives equal calls.

    >>> spec_text(parse_spec("skew()|interval( -1, 1 )"))
    'skew | interval(-1, 1)'
    """
    return " | ".join(str(call) for call in calls)


def is_identifier(word: str) -> bool:
    """Whether a spec can write ``word`` as a name, and gets the same one back.

    >>> is_identifier("spectral"), is_identifier("lambda")
    (True, False)
    """
    # Python reads identifiers in normal form: a name in another form would not come back from its own text.
    is_normal = unicodedata.normalize("NFKC", word) == word
    return word.isidentifier() and not keyword.iskeyword(word) and is_normal


def _hashable(value: object) -> object:
    return tuple(_hashable(item) for item in value) if isinstance(value, list | tuple) else value


def _literal_text(value: object) -> str:
    # The base types' own repr: that of a subclass (an enumeration, a NumPy float) need not be a literal.
    match value:
        case None | True | False:
            return repr(value)
        case int():
            # Python neither writes nor reads decimal numbers of more than 4300 digits, hexadecimal ones it does
            return int.__repr__(value) if value.bit_length() < LONG_BITS else hex(value)
        case float():
            return _float_text(value)
        case str():
            return str.__repr__(value)
        case tuple():
            items = [_literal_text(item) for item in value]
            return f"({', '.join(items)}{',' if len(items) == 1 else ''})"
        case _:
            kind = type(value).__qualname__
            raise SpecError(f"an argument of type {kind} cannot be written in a spec's text")


def _float_text(value: float) -> str:
    if math.isnan(value):
        raise SpecError("nan cannot be written in a spec's text: Python has no literal for it")
    if math.isinf(value):
        return "1e999" if value > 0 else "-1e999"  # no literal says infinity but one that overflows
    return float.__repr__(value)
