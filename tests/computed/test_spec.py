"""Specs as texts: what is read, what canonical text comes back, and what each wrong text is told."""

from __future__ import annotations

import ast
import copy
import enum
import keyword
import math
import pickle
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from computed.spec import Call, is_identifier, parse_spec, spec_text
from computed.spec_error import SpecError, UnknownConstraintError


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("spectral", (Call("spectral"),)),
        ("  spectral \n", (Call("spectral"),)),
        ("spectral()", (Call("spectral"),)),
        ("spectral(2)", (Call("spectral", (2,)),)),
        ("spectral(bound=2.0)", (Call("spectral", (), (("bound", 2.0),)),)),
        ("lora(8, alpha=16, seed=None)", (Call("lora", (8,), (("alpha", 16), ("seed", None))),)),
        ("a|b|c", (Call("a"), Call("b"), Call("c"))),
        ("a | (b | c) | d", (Call("a"), Call("b"), Call("c"), Call("d"))),
        ("(a\n | b(1,\n 2))", (Call("a"), Call("b", (1, 2)))),
        ("x(-1, +2.5, -1e3)", (Call("x", (-1, 2.5, -1000.0)),)),
        ("x(True, False, None, 'a|b', \"c\")", (Call("x", (True, False, None, "a|b", "c")),)),
        ("x([1, (2, 3)], dims=(0,), e=())", (Call("x", ((1, (2, 3)),), (("dims", (0,)), ("e", ()))),)),
        ("x('a' 'b', 0x10, 1_000)", (Call("x", ("ab", 16, 1000)),)),
        ("x(1e999, -1e999)", (Call("x", (math.inf, -math.inf)),)),
        ("none", (Call("none"),)),
        ("frozen", (Call("frozen"),)),
        ("größe(größe=1)", (Call("größe", (), (("größe", 1),)),)),
        ("x('#')", (Call("x", ("#",)),)),
    ],
)
def test_a_text_is_read(text: str, calls: tuple[Call, ...]):
    assert parse_spec(text) == calls
    assert parse_spec(spec_text(calls)) == calls
    types = [[type(argument) for argument in call.args] for call in parse_spec(text)]
    assert types == [[type(argument) for argument in call.args] for call in calls], "1 is no 1.0, and no True"


@pytest.mark.parametrize(
    ("text", "column", "reason"),
    [
        ("", None, "it is empty; a spec is a name, name(argument=literal), or a chain of these, a | b; to exempt a"),
        ("  ", None, "it is empty"),
        ("None", 1, "None is no name; to exempt a parameter write 'none'"),
        ("skew |", 7, "nothing follows the last '|'"),
        ("  skew |", 9, "nothing follows the last '|'"),
        ("  skew # it", 8, "a spec has no comments"),
        ("| skew", 1, "nothing stands before the first '|'"),
        ("skew || spectral", 7, "nothing stands between '|' and '|'"),
        ("  skew | 3", 10, "'3' is neither a name nor a call of one"),
        ("'spectral'", 1, "a name stands without quotes"),
        ("torch.nn.Linear", 1, "a name has no dots; pass a class of your own itself, not its name"),
        ("a.b(2)", 1, "a name has no dots"),
        ("weight-norm", 1, "a name has no hyphen, did you mean 'weight_norm'?"),
        ("spectral(bound=2", 9, "'(' was never closed"),
        ("spectral bound", 10, "this cannot be read; a spec is a name"),
        ("spectral(true)", 10, "'true' is a name, did you mean 'True'? an argument is a literal"),
        ("spectral(mode=max)", 15, "'max' is a name, did you mean \"'max'\"?"),
        ("spectral(2*3)", 10, "'2*3' is not a literal; an argument is a literal: a number, 'text', True"),
        ("spectral(f())", 10, "'f()' is not a literal"),
        ("spectral(b'x')", 10, "is not a literal"),
        ("spectral(1j)", 10, "is not a literal"),
        ("spectral(-True)", 10, "is not a literal"),
        ("spectral({1: 2})", 10, "is not a literal"),
        ("spectral(f'{x}')", 10, "is not a literal"),
        ("spectral(...)", 10, "is not a literal"),
        ("spectral(*a)", 10, "'*' cannot be used"),
        ("spectral(**a)", 10, "'**' cannot be used"),
        ("spectral(bound=1, bound=2)", 19, "the argument 'bound' is given twice"),
        ("a or b", 1, "'a or b' is neither a name nor a call of one"),
        ("a & b", 1, "'a & b' is neither a name nor a call of one"),
        ("a(1)(2)", 1, "'a(1)(2)' is neither a name nor a call of one"),
        ("spectral # the best", 10, "a spec has no comments"),
        ("größe(ä=x)", 9, "'x' is a name"),  # columns count characters, not bytes
        ("(a\n | 'b')", 7, "a name stands without quotes"),
        ("a\0b", None, "characters that stand for no text|null"),
        ("x('\ud800')", None, "characters that stand for no text"),
        ("(" * 300 + "a" + ")" * 300, None, "nested"),
        ("|".join("a" * 20_000), None, "nested too deeply"),
        ("x(" + "-" * 20_000 + "1)", None, "nested too deeply"),
        ("x('\\d')", None, "invalid escape sequence"),
        ("x(" + "1" * 5_000 + ")", None, "Exceeds the limit"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_a_wrong_text_is_told_where_and_why(text: str, column: int | None, reason: str):
    pattern = reason if reason.endswith("null") else re.escape(reason)
    with pytest.raises(SpecError, match=pattern) as caught:
        parse_spec(text)
    error = caught.value
    assert str(error).startswith(f"spec {text!r}")
    assert error.text == text
    if column is not None:
        assert error.position == column - 1
        assert str(error).startswith(f"spec {text!r}, column {column}: ")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.reason, again.position) == (str(error), error.reason, error.position)
    assert copy.copy(error).text == text


LITERALS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=6,
)
NAMES = st.from_regex(r"[a-zA-Zäß_][a-z0-9_]{0,8}", fullmatch=True).filter(is_identifier)
CALLS = st.builds(
    Call,
    NAMES,
    st.lists(LITERALS, max_size=3).map(tuple),
    st.dictionaries(NAMES, LITERALS, max_size=3).map(lambda taken: tuple(taken.items())),
)


@given(st.lists(CALLS, min_size=1, max_size=4).map(tuple))
def test_the_canonical_text_gives_the_same_calls(calls: tuple[Call, ...]):
    text = spec_text(calls)
    assert parse_spec(text) == calls
    assert repr(parse_spec(text)) == repr(calls), "types too, and the sign of zero"
    assert spec_text(parse_spec(text)) == text
    assert hash(parse_spec(text)) == hash(calls)


def parsed(text: str) -> tuple[tuple[Call, ...], SpecError | None]:
    try:
        return parse_spec(text), None
    except SpecError as error:
        return (), error


WRITTEN = st.text("spectral()[]{}|=,. 23'\"#\\\n\t\r*-+:é\f", max_size=40)


@given(st.one_of(st.text(), WRITTEN, WRITTEN.map("spectral({})".format)))
def test_any_text_is_a_spec_or_a_spec_error(text: str):
    calls, error = parsed(text)
    if error is not None:
        assert error.reason
        assert error.position is None or 0 <= error.position <= len(text)
        assert str(error).startswith(f"spec {text!r}")
    else:
        assert parse_spec(spec_text(calls)) == calls


@given(LITERALS)
def test_arguments_are_what_python_reads(value: object):
    text = repr(value)
    assume("inf" not in text)  # Python writes no literal for it
    assert repr(parse_spec(f"x({text})")[0].args) == repr((ast.literal_eval(text),))


def test_what_python_writes_otherwise_is_written_as_a_literal():
    class Level(enum.IntEnum):
        HIGH = 3

    assert str(Call("x", (Level.HIGH, math.inf, (1,), ()))) == "x(3, 1e999, (1,), ())"
    assert str(Call("x", ([1, [2]],))) == "x((1, (2,)))"
    assert repr(parse_spec("x(-0.0)")[0].args) == "(-0.0,)"


@pytest.mark.parametrize("exponent", [100, 9_999, 10_000, 14_300, 50_000])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_number_of_any_length_comes_back(exponent: int, sign: int):
    for number in (sign * 2**exponent, sign * (2**exponent - 1)):
        assert parse_spec(spec_text([Call("x", (number,))])) == (Call("x", (number,)),)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (math.nan, "nan cannot be written in a spec's text"),
        (NotImplemented, "an argument of type NotImplementedType cannot be written in a spec's text"),
        (1j, "an argument of type complex cannot be written"),
        (b"x", "an argument of type bytes cannot be written"),
        ({}, "an argument of type dict cannot be written"),
        ((1, {2}), "an argument of type set cannot be written"),
    ],
    ids=repr,
)
def test_what_no_text_can_say_is_refused_when_it_is_written(value: object, reason: str):
    with pytest.raises(SpecError, match=re.escape(reason)):
        spec_text([Call("x", (value,))])


@pytest.mark.parametrize("name", ["", "a b", "a.b", "2a", "class", "None", "True", "ﬁ", "a|b", "a\n"])
def test_a_call_has_names_that_a_text_can_say(name: str):
    assert not is_identifier(name)
    with pytest.raises(SpecError, match="is no identifier: names and keywords of a spec are identifiers"):
        Call(name)
    with pytest.raises(SpecError, match="is no identifier"):
        Call("x", (), ((name, 1),))


def test_soft_keywords_are_names():
    assert all(parse_spec(word) == (Call(word),) for word in keyword.softkwlist)


def test_calls_are_values():
    call = Call("x", ([1, 2],), (("a", [3]),))
    assert call == Call("x", ((1, 2),), (("a", (3,)),))
    assert len({call, pickle.loads(pickle.dumps(call)), copy.deepcopy(call)}) == 1
    assert call != Call("x", ((1, 2),))


def test_errors_of_specs_are_value_errors():
    assert issubclass(UnknownConstraintError, SpecError)
    assert issubclass(SpecError, ValueError)
    assert str(SpecError("what", "text", 3)) == "spec 'text', column 4: what"
    assert str(SpecError("what", "text")) == "spec 'text': what"
    assert str(SpecError("what")) == "what"
