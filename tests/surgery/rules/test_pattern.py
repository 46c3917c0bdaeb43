"""What patterns match, against the table of the design and against a second reading of it; what they refuse."""

from __future__ import annotations

import copy
import pickle
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.rules.automaton import Automaton
from surgery.rules.errors import PatternError
from surgery.rules.pattern import Pattern
from tests.surgery.rules.translation import ALPHABET, pattern_for, random_name, translated, without_braces

CONV = ("Conv2d", "_ConvNd", "Module", "object")
LINEAR = ("NonDynamicallyQuantizableLinear", "Linear", "Module", "object")
PAIRS = {"small": 24_000, "full": 300_000}

# pattern, what it matches, what it leaves alone
TABLE = [
    ("*.conv*.weight", ["conv1.weight", "a.b.conv_in.weight"], ["conv_stem.bn.weight", "a.myconv.weight"]),
    ("encoder.*.weight", ["encoder.weight", "encoder.0.fc.weight"], ["x.encoder.0.weight"]),
    (
        "encoder.*",
        ["encoder.weight", "encoder.0.fc.bias"],
        ["encoder_norm.bias", "encoder", "x.encoder.weight"],
    ),
    ("*_proj.weight", ["q_proj.weight", "layers.0.q_proj.weight"], ["q_proj.sub.weight"]),
    ("layers.?.fc.weight", ["layers.3.fc.weight"], ["layers.10.fc.weight"]),
    ("*.{q,v}_proj.weight", ["layers.0.q_proj.weight", "v_proj.weight"], ["layers.0.k_proj.weight"]),
    (r"re:layers\.[01]\..*weight", ["layers.1.fc.weight"], ["x.layers.1.fc.weight"]),
    # a star alone between dots: any number of names; at the end one or more; at the very start also
    ("*", ["weight", "a.b.c"], [""]),
    ("*.weight", ["weight", "a.b.weight"], ["a.b.myweight", "weight.a"]),
    ("a.*.*.b", ["a.b", "a.x.b", "a.x.y.z.b"], ["a.xb", "ab"]),
    ("a.*.*", ["a.x", "a.x.y"], ["a", "a."]),
    # any other star stays within its name; a doubled one does not
    ("a.x*y.b", ["a.xy.b", "a.x1y.b"], ["a.x.y.b"]),
    ("a.*x.b", ["a.x.b", "a.zx.b"], ["a.z.x.b"]),
    ("a*b", ["ab", "acb"], ["a.b"]),
    ("a**b", ["ab", "a.b", "a.x.y.b"], ["b.a"]),
    ("**", ["a", "a.b"], []),
    ("a.**.b", ["a.x.b", "a.x.y.b"], ["a.b"]),
    ("*a*b", ["ab", "x.ab", "x.acb"], ["a.b", "ab.c"]),
    # braces are multiplied out before stars get their meaning
    ("{*,a}.b", ["b", "a.b", "x.y.b"], ["a"]),
    ("{*_proj,fc}.weight", ["x.q_proj.weight", "fc.weight"], ["x.fc.weight"]),
    ("a{.b,}.c", ["a.b.c", "a.c"], ["ab.c"]),
    ("{a,{b,c}d}.w", ["a.w", "bd.w", "cd.w"], ["b.w", "d.w"]),
    ("a,b", ["a,b"], ["a", "b"]),
    # sets and ?
    ("layers.[0-2].w", ["layers.0.w", "layers.2.w"], ["layers.3.w", "layers.10.w"]),
    ("layers.[!0-2].w", ["layers.3.w", "layers.x.w"], ["layers.0.w", "layers...w"]),
    ("a[]]b", ["a]b"], ["ab"]),
    ("a[!]]b", ["acb"], ["a]b", "a.b"]),
    ("a[--z]b", ["a-b", "azb"], ["a.b"]),
    ("a[x-]b", ["axb", "a-b"], ["ayb"]),
    ("a?b", ["axb"], ["a.b", "ab", "axxb"]),
    # characters that mean something only to regular expressions
    ("a+(b)|c^$", ["a+(b)|c^$"], ["aab", "c"]),
    ("größe.*", ["größe.weight"], ["groesse.weight"]),
    ("a\nb.*", ["a\nb.x"], ["a.x"]),
    ("re:.*", ["a", "a.b"], []),
]
MATCHING = [(pattern, name) for pattern, names, _ in TABLE for name in names]
SPARED = [(pattern, name) for pattern, _, names in TABLE for name in names]


@pytest.mark.parametrize(("pattern", "name"), MATCHING)
def test_a_pattern_matches(pattern: str, name: str):
    assert Pattern.parse(pattern).matches(name)


@pytest.mark.parametrize(("pattern", "name"), SPARED)
def test_a_pattern_leaves_alone(pattern: str, name: str):
    assert not Pattern.parse(pattern).matches(name)


@pytest.mark.parametrize(
    ("pattern", "name", "types", "expected"),
    [
        ("*@Conv2d.weight", "weight", CONV, True),  # the root is a Conv2d
        ("*@Conv2d.weight", "a.b.weight", CONV, True),
        ("*@Conv2d.weight", "a.b.weight", LINEAR, False),
        ("*@Conv2d.weight", "a.b.bias", CONV, False),
        ("*@Linear.weight", "out_proj.weight", LINEAR, True),  # by a base
        ("*@_ConvNd.*", "a.bias", CONV, True),
        ("*@{Conv2d,Linear}.weight", "fc.weight", LINEAR, True),
        ("*@{Conv2d,Linear}.weight", "fc.weight", ("Embedding", "Module"), False),
        ("*@Conv?d.weight", "a.weight", CONV, True),
        ("*@Conv*.weight", "a.weight", CONV, True),
        ("*@conv2d.weight", "a.weight", CONV, False),
        ("a.*@Linear.*", "a.fc.weight", LINEAR, True),
        ("a@Linear.*", "a.fc.weight", LINEAR, False),  # the host of a.fc.weight is a.fc
        ("a@Linear.*", "a.weight", LINEAR, True),
        ("a@Linear.*", "a.", LINEAR, False),
        ("*conv@Conv2d.weight", "x.myconv.weight", CONV, True),
        ("*@Conv2d.{weight,bias}", "a.bias", CONV, True),
        ("*@Conv2d.weight", "a.weight", (), False),
    ],
)
def test_a_type_is_that_of_the_host(pattern: str, name: str, types: tuple[str, ...], expected: bool):
    assert Pattern.parse(pattern).matches(name, types) is expected


@pytest.mark.parametrize(
    ("text", "operation"),
    [
        ("*.weight@F.linear", "F.linear"),
        ("*.weight@torch.matmul", "torch.matmul"),
        ("a.*@torch.nn.functional.conv2d", "torch.nn.functional.conv2d"),
        ("*@operator.matmul", "operator.matmul"),
        ("*@aten.mm.default", "aten.mm.default"),
        ("*@Tensor.matmul", "Tensor.matmul"),
        ("*@Linear.weight@F.linear", "F.linear"),
        ("*.weight", None),
        ("*@Linear.weight", None),
    ],
)
def test_an_operation_stands_at_the_end(text: str, operation: str | None):
    pattern = Pattern.parse(text)
    assert pattern.operation == operation
    assert pattern.matches("a.weight", LINEAR)


@pytest.mark.parametrize(
    ("text", "written_out"),
    [
        ("*.running_mean", True),
        ("*@BatchNorm2d.running_mean", True),
        ("*.{running_mean,running_var}", True),
        ("weight", True),
        ("*.running_*", False),
        ("*.running_mea?", False),
        ("*.running_mea[n]", False),
        ("*.{running_mean,*}", False),
        ("*", False),
        ("re:.*running_mean", False),
    ],
)
def test_only_a_last_name_that_is_written_out_reaches_buffers(text: str, written_out: bool):
    assert Pattern.parse(text).names_leaf is written_out


def test_random_patterns_mean_what_a_second_reading_says(size: str):
    draw = random.Random(20)
    positives = checked = 0
    while checked < PAIRS[size]:
        name = random_name(draw)
        text = pattern_for(draw, name)
        pattern, reading = Pattern.parse(text), translated(text)
        for tried in (name, random_name(draw), _changed(draw, name)):
            expected = reading.fullmatch(tried) is not None
            assert pattern.matches(tried) is expected, (text, tried)
            positives += expected
            checked += 1
    assert 0.2 < positives / checked < 0.8


def test_random_patterns_with_types_mean_what_a_second_reading_says(size: str):
    draw = random.Random(21)
    positives = checked = 0
    while checked < PAIRS[size] // 5:
        name = random_name(draw)
        host, _, last = pattern_for(draw, name).rpartition(".")
        if last.count("{") != last.count("}"):
            continue  # the last dot stands between braces, where no type can
        if any("**" in text for text in without_braces(last)):
            continue  # refused: after a type comes one name
        kind = draw.choice(("Conv2d", "Conv?d", "Conv*", "{Linear,Conv1d}", "_ConvNd", "*"))
        pattern = Pattern.parse(f"{host or '*'}@{kind}.{last}")
        reading, hosts = translated(f"{host or '*'}.{last}", host_known=True), translated(kind)
        for tried in (name, _changed(draw, name)):
            types = draw.choice((CONV, LINEAR))
            expected = reading.fullmatch(tried) is not None and any(map(hosts.fullmatch, types))
            assert pattern.matches(tried, types) is expected, (pattern.text, tried, types)
            positives += expected
            checked += 1
    assert 0.2 < positives / checked < 0.8


def _changed(draw: random.Random, name: str) -> str:
    """A name that differs in one place; never one with an empty part."""
    parts = name.split(".")
    at = draw.randrange(len(parts))
    match draw.randrange(4):
        case 0:
            parts.insert(at, draw.choice(ALPHABET))
        case 1 if len(parts) > 1:
            del parts[at]
        case 2:
            parts[at] += draw.choice(ALPHABET)
        case _:
            parts[at] = draw.choice(ALPHABET) + parts[at][1:]
    return ".".join(parts)


def test_the_second_reading_can_tell_a_wrong_one():
    assert translated("*.conv*.weight").fullmatch("conv1.weight")
    assert not translated("*.conv*.weight").fullmatch("conv_stem.bn.weight")
    assert translated("{*,a}.[!b-d]?").fullmatch("x.y.ez")
    assert not translated("{*,a}.[!b-d]?").fullmatch("x.y.cz")


# How an automaton is followed when only parts of a name are known


def automaton(text: str) -> Automaton:
    made = Pattern.parse(text).automaton
    assert made is not None
    return made


@pytest.mark.parametrize("text", ["*.conv*.weight", "a.[b-d0-4].*", "{a,b**}.x", "*@Linear.w?", "größe.[!ä-ü].*"])
def test_a_set_of_states_says_what_is_accepted(text: str):
    followed, draw = automaton(text), random.Random(3)
    for _ in range(200):
        name = "".join(draw.choice("abc.wx0ghtäöconveiz") for _ in range(draw.randint(0, 12)))
        states = frozenset((followed.start,))
        for char in name:
            states = followed.step(states, char)
        (state,) = states
        assert state.accepting is followed.accepts(name)
        assert state is followed.after(followed.start, name) or state.dead
        if state.dead:
            assert not any(followed.after(state, char).accepting for char in followed.symbols)


@pytest.mark.parametrize("text", ["*.conv*.weight", "a.[b-d0-4].*", "{a,b**}.x", "größe.[!ä-ü].*"])
def test_no_state_tells_a_character_from_its_symbol(text: str):
    followed, draw = automaton(text), random.Random(4)
    states = followed.states()
    assert followed.start in states
    assert any(state.accepting for state in states)
    for char in [*ALPHABET, ".", "\0", "ä", "ü", "\U0010ffff", *(chr(draw.randrange(0x110000)) for _ in range(300))]:
        symbol = followed.symbol(char)
        for state in states:
            here = frozenset((state,))
            assert followed.step(here, char) == followed.step(here, symbol) <= set(states)


# Errors


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("", 1, "it is empty; write '*' for every parameter"),
        ("a..b", 3, "a name is empty; write a name or '*' there, or remove a dot"),
        (".a", 1, "a name is empty"),
        ("a.", 2, "a name is empty"),
        ("{a,}.b", 5, "a name is empty"),
        ("a{", 2, "'{' is not closed; write '}' after the last choice"),
        ("a}", 2, "'}' closes no brace; write '[}]' for the character itself"),
        ("a[b", 2, "'[' is not closed; write ']' after the set's characters"),
        ("a]", 2, "']' closes no set; write '[]]' for the character itself"),
        ("a[^b]", 3, "'^' does not invert a set; write '[!...]'"),
        ("a[z-b]", 3, "the range 'z-b' is empty; write 'b-z'"),
        ("a[.]", 3, "a set never takes a dot; write the dot outside it"),
        (r"conv\d.weight", 5, "a backslash has no meaning here; begin with 're:' to write a regular expression"),
        ("{a@b}", 3, "'@' stands inside braces; write the braces after it, '*@{Conv2d,Linear}.weight'"),
        ("@Linear.weight", 1, "no name stands before '@'; write '*@Linear.weight'"),
        ("a.@Linear.weight", 3, "no name stands before '@'; write 'a.*@Linear.weight'"),
        ("@F.linear", 1, "no name stands before '@'; write '*@F.linear'"),
        ("*@Linear", 2, "no name follows the type; write '*@Linear.weight'"),
        ("*.weight@Linear", 9, "no name follows the type; write '*@Linear.weight'"),
        ("a.bias@Linear", 7, "no name follows the type; write 'a@Linear.bias'"),
        ("*@Linear@Conv2d.weight", 9, "a second '@'; write one type, before the last name"),
        ("a@Encoder.*.weight", 2, "a type is one identifier directly before the last name"),
        ("*@nn.Linear.weight", 2, "a type is one identifier directly before the last name"),
        ("*@torch.nn.Linear.weight", 3, "torch.nn.Linear is a class, and a type is one identifier; write '@Linear'"),
        ("*@Lin-ear.weight", 6, "'-' cannot stand in a type; write an identifier, with ?, * or braces"),
        ("*@[LC]inear.weight", 3, "'[' cannot stand in a type"),
        ("*@.weight", 2, "a type is empty; write for example '*@Linear.weight'"),
        ("*@Linear.**", 10, "after a type comes one name; write '*' for any"),
        ("*@F.linear.weight", 3, "'F.linear.weight' is no operation; write one name such as F.linear"),
        ("*@F.{linear,conv2d}", 3, "is no operation"),
        ("re:", 4, "no regular expression follows 're:'; write 're:.*' for every parameter"),
        ("re:(a", 4, "not a regular expression of Python: missing )"),
        ("re:(?a)(?u)x", 4, "not a regular expression of Python: ASCII and UNICODE flags"),
        ("re:a{99999999999999}", 4, "not a regular expression of Python: the repetition number is too large"),
        ("{" * 21, 21, "braces more than 20 deep; write several rules"),
        ("{a,b}" * 40, 1, "without its braces it would be more than 100000 characters long; write several rules"),
    ],
)
def test_an_error_says_where_and_what_to_write(text: str, column: int, message: str):
    with pytest.raises(PatternError, match=re.escape(message)) as caught:
        Pattern.parse(text)
    assert str(caught.value).startswith(f"pattern {text!r}, column {column}: ")
    assert caught.value.position == column - 1
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert (again.reason, again.pattern, again.position) == (caught.value.reason, text, column - 1)


@pytest.mark.parametrize(
    "text",
    ["*@Linear.weight", "a.*@Linear.weight", "a@Linear.bias", "*@F.linear", "[}]", "[]]", "[!a]", "re:.*"],
)
def test_what_errors_propose_can_be_read(text: str):
    assert Pattern.parse(text).text == text


def parsed(text: str) -> tuple[Pattern | None, PatternError | None]:
    try:
        return Pattern.parse(text), None
    except PatternError as error:
        return None, error


MARKED = st.text("*?[]{},.@!^-\\abF0_", max_size=40)


@given(st.one_of(MARKED, st.text(), MARKED.map("re:{}".format)), st.text("ab.F0_", max_size=12))
def test_any_text_is_a_pattern_or_a_pattern_error(text: str, name: str):
    pattern, error = parsed(text)
    if error is not None:
        assert 0 <= error.position <= len(text)
        assert f"column {error.position + 1}: {error.reason}" in str(error)
    if pattern is not None:
        assert pattern.text == text
        assert pattern.matches(name, ("ab",)) in (True, False)


@pytest.mark.parametrize(
    "text",
    [
        "{a,b}" * 2_000,
        "{" * 10_000,
        "{a,b}" * 20_000,  # as many spellings as a number of 6,021 digits says
        "{" * 19 + "a" + ",{b,c}}" * 19,
        "*" * 10_000,
        "*a" * 5_000,
        "a." * 5_000 + "b",
        "[a-z]" * 2_000,
        "?" * 10_000,
        "{" + ",".join(map(str, range(4_000))) + "}.w",
        "re:" + "(" * 10_000,
        "re:" + "(?:" * 3_000 + "a" + ")" * 3_000,
    ],
    ids=lambda text: text[:12],
)
def test_a_hostile_pattern_is_read_or_refused(text: str):
    pattern, error = parsed(text)
    if error is not None:
        assert error.reason
    if pattern is not None:
        assert pattern.matches("a.b.c" * 20) in (True, False)


def test_a_pattern_of_many_stars_does_not_backtrack():
    pattern = Pattern.parse("*a" * 200 + "*b")
    assert not pattern.matches("a" * 5_000)  # a regular expression of this form would never come back
    assert pattern.matches("a" * 5_000 + "b")


# Values


@pytest.mark.parametrize("text", ["*.conv*.weight", "*@{Conv2d,Linear}.weight", "*.weight@F.linear", r"re:a\.b"])
def test_a_pattern_is_a_value(text: str):
    pattern = Pattern.parse(text)
    for other in (Pattern.parse(text), copy.copy(pattern), copy.deepcopy(pattern), pickle.loads(pickle.dumps(pattern))):
        assert other == pattern
        assert hash(other) == hash(pattern)
        assert other.matches("a.conv.weight", CONV) is pattern.matches("a.conv.weight", CONV)
        assert (other.operation, other.names_leaf) == (pattern.operation, pattern.names_leaf)
    assert pattern != Pattern.parse("*")
    assert repr(pattern) == f"Pattern(text={text!r})"
