"""The left side of a rule: which parameters, by dotted name, by the class of their host, by operation."""

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

from surgery.rules.automaton import Automaton
from surgery.rules.errors import PatternError
from surgery.rules.filters import split_operation, split_type
from surgery.rules.lexing import Kind, lex
from surgery.rules.words import last_name, name_word, spellings

EXPRESSION = "re:"


@dataclass(frozen=True)
class Pattern:
    r"""Which parameters a rule is about. Two patterns are equal if their texts are.

    ======================= ================================================================================
    ``*`` between dots      any number of whole names, none included; at the end at least one
    ``*`` at the very start any beginning, dots included
    any other ``*``, ``?``  any characters, one character of one name
    ``**``                  any characters, dots included (between dots, unlike ``*``, at least one name)
    ``{a,b}``               either; multiplied out first, so ``{*,a}.b`` says what ``*.b`` and ``a.b`` say
    ``[0-3]``, ``[!0-3]``   one character of the set, or one not of it; never a dot
    ``re:...``              a regular expression that describes the whole name
    ``*@Linear.weight``     parameters whose host is a Linear, by the name of its class or of any base
    ``*.weight@F.linear``   parameters used by an operation; only a graph knows
    ======================= ================================================================================

    ``@Type`` stands directly before the last name, since it is the host that it describes, and the host is
    what the name before the last dot says: ``encoder@Encoder.*.weight`` is refused. The last name is then one
    name: ``*@Linear.*`` is every parameter of each Linear itself.

    ``automaton`` takes the dotted name and ``host_type`` the class name; ``automaton`` is None where the
    pattern is a regular expression, which is then ``expression``. ``operation`` is the operation's name or
    None. ``names_leaf``: the last name is written out, letter by letter; only then does the pattern reach a
    buffer.

    >>> pattern = Pattern.parse("*.conv*.weight")
    >>> pattern.matches("layer1.0.conv1.weight"), pattern.matches("conv_stem.bn.weight")
    (True, False)
    >>> Pattern.parse("*@Conv2d.weight").matches("stem.0.weight", ("Conv2d", "_ConvNd", "Module"))
    True
    """

    text: str
    automaton: Automaton | None = field(compare=False, repr=False)
    expression: re.Pattern[str] | None = field(compare=False, repr=False)
    host_type: Automaton | None = field(compare=False, repr=False)
    operation: str | None = field(compare=False, repr=False)
    names_leaf: bool = field(compare=False, repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The pattern that ``text`` says; raises `PatternError` with the column and what to write instead."""
        if text.startswith(EXPRESSION):
            return cls(text, None, _expression(text), None, None, names_leaf=False)
        if not text:
            raise PatternError("it is empty; write '*' for every parameter", text)
        tokens, operation = split_operation(text, lex(text))
        tokens, host_type = split_type(text, tokens)
        spelled = spellings(text, tokens)
        words = [name_word(text, spelling, host_known=host_type is not None) for spelling in spelled]
        names_leaf = all(token.kind is Kind.TEXT for spelling in spelled for token in last_name(spelling))
        return cls(text, Automaton(words), None, host_type, operation, names_leaf)

    def matches(self, name: str, host_types: Sequence[str] = ()) -> bool:
        """Whether ``name`` fits, and, where a type is asked for, one of ``host_types``.

        ``host_types`` are the names of the classes in the method resolution order of the parameter's host.
        The operation plays no part: who has no graph refuses patterns that have one.
        """
        if self.host_type is not None and not any(map(self.host_type.accepts, host_types)):
            return False
        if self.automaton is not None:
            return self.automaton.accepts(name)
        return self.expression is not None and self.expression.fullmatch(name) is not None

    # A pattern is its text: what was made of it is made again, not copied or pickled.
    def __reduce__(self) -> tuple[Callable[[str], "Pattern"], tuple[str]]:
        return type(self).parse, (self.text,)


def _expression(text: str) -> re.Pattern[str]:
    begin = len(EXPRESSION)
    if len(text) == begin:
        raise PatternError("no regular expression follows 're:'; write 're:.*' for every parameter", text, begin)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # sets that may once nest mean today what they say
            return re.compile(text[begin:])
    except re.error as error:
        reason, position = error.msg, begin + (error.pos or 0)
    except (OverflowError, RecursionError, ValueError) as error:  # flags that exclude each other: ValueError
        reason, position = str(error), begin
    raise PatternError(f"not a regular expression of Python: {reason}", text, position)
