"""The catalogue: the table against the classes, plugins, and what is said of calls that do not fit."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from collections.abc import Iterator
from importlib.metadata import EntryPoint

import pytest
from hypothesis import given
from hypothesis import strategies as st

from computed import registry
from computed.entry import REQUIRED, Entry, Parameter, parameters_of
from computed.registry import GROUP, WHOLE_SPECS, PluginError, UnknownConstraintError, catalogue, check_call, lookup
from computed.spec import Call, is_identifier, parse_spec
from computed.spec_error import SpecError
from computed.table import BUILT_IN

EVERY_ENTRY = [pytest.param(entry, id=entry.name) for entry in BUILT_IN]


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[EntryPoint]]:
    """Entry points that installed packages would have; the catalogue is read anew before and after."""
    points: list[EntryPoint] = []

    def found(*, group: str) -> list[EntryPoint]:
        assert group == GROUP
        return points

    monkeypatch.setattr(registry, "entry_points", found)
    catalogue.cache_clear()
    yield points
    catalogue.cache_clear()


# The table


@pytest.mark.parametrize("entry", EVERY_ENTRY)
def test_an_entry_is_called_as_its_class(entry: Entry):
    signature = inspect.signature(entry.load())
    kinds = {inspect.Parameter.POSITIONAL_OR_KEYWORD: False, inspect.Parameter.KEYWORD_ONLY: True}
    assert entry.parameters == tuple(
        Parameter(each.name, REQUIRED if each.default is inspect.Parameter.empty else each.default, kinds[each.kind])
        for each in signature.parameters.values()
    )
    assert entry.signature == f"{entry.name}{re.sub(': [^,=)]+( =)?', lambda m: '=' if m[1] else '', _bare(signature))}"


def _bare(signature: inspect.Signature) -> str:
    """The signature without annotations, as Python writes it."""
    parameters = [each.replace(annotation=inspect.Parameter.empty) for each in signature.parameters.values()]
    return str(inspect.Signature(parameters))


@pytest.mark.parametrize("entry", EVERY_ENTRY)
def test_an_entry_is_consistent(entry: Entry):
    assert is_identifier(entry.name)
    assert entry.name not in WHOLE_SPECS
    assert lookup(entry.name) is entry
    assert entry.parameters is not None
    names = {parameter.name for parameter in entry.parameters}
    assert set(entry.misnomers.values()) <= names
    assert names.isdisjoint(entry.misnomers), "what is right is no misnomer"
    assert entry.summary == entry.summary.strip(". ")
    assert entry.target == f"{entry.module}:{entry.qualname}"
    assert pickle.loads(pickle.dumps(entry)) == copy.deepcopy(entry) == entry
    assert len({entry, copy.deepcopy(entry)}) == 1


def test_names_and_other_names_are_all_different():
    names = [entry.name for entry in BUILT_IN]
    others = [other for entry in BUILT_IN for other in entry.also_called]
    assert len({*names, *others}) == len(names) + len(others)
    assert {"spectral", "orthogonal", "lora", "weight_norm"} <= set(names)


def test_the_catalogue_cannot_be_changed():
    with pytest.raises(TypeError, match="does not support item assignment"):
        catalogue()["mine"] = BUILT_IN[0]  # type: ignore[index]


# Names


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("spectrall", "unknown constraint 'spectrall', did you mean 'spectral'? (computed.catalogue() lists all)"),
        ("Spectral", "unknown constraint 'Spectral', did you mean 'spectral'?"),
        ("spectral_norm", "unknown constraint 'spectral_norm', did you mean 'spectral'"),
        ("SN", "unknown constraint 'SN', did you mean 'spectral'?"),
        ("softplus", "unknown constraint 'softplus', did you mean 'positive'?"),
        ("clamp", "unknown constraint 'clamp', did you mean 'interval'?"),
        ("qqq", "unknown constraint 'qqq' (known are affine, almost_orthogonal, "),
        ("none", "'none' is a spec of its own, not a constraint: it stands alone and without arguments"),
        ("frozen", "'frozen' is a spec of its own"),
    ],
)
def test_an_unknown_name_is_told_what_is_near(name: str, told: str):
    with pytest.raises(UnknownConstraintError, match=re.escape(told)):
        lookup(name)


@pytest.mark.parametrize("entry", EVERY_ENTRY)
def test_each_other_name_leads_to_its_constraint(entry: Entry):
    for other in entry.also_called:
        with pytest.raises(UnknownConstraintError, match=rf"'{other}', did you mean '{entry.name}'"):
            lookup(other)


# Calls


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("spectral(bund=2)", "spectral has no argument 'bund', did you mean 'bound'?"),
        ("spectral(sigma=2)", "spectral has no argument 'sigma', did you mean 'norm'?"),
        ("lora(8, lora_alpha=2)", "lora has no argument 'lora_alpha', did you mean 'alpha'"),
        ("lora(r=8)", "lora has no argument 'r', did you mean 'rank'?"),
        ("spectral(qqq=2)", "spectral has no argument 'qqq'; it is called as spectral(norm=None, *, bound=None, "),
        ("spectral(1, norm=2)", "spectral got 'norm' twice; it is called as spectral("),
        ("spectral(1, 2)", "spectral takes 1 argument by position, got 2; it is called as spectral("),
        ("symmetric(1)", "symmetric takes no arguments by position, got 1; it is called as symmetric()"),
        ("interval(1, 2, 3)", "interval takes 2 arguments by position, got 3; it is called as interval(low, high)"),
        ("interval", "interval needs low and high; it is called as interval(low, high)"),
        ("interval(high=1)", "interval needs low; it is called as interval(low, high)"),
        ("lora(alpha=2)", "lora needs rank; it is called as lora(rank, *, alpha=None, "),
    ],
)
def test_a_call_that_does_not_fit_is_told_why(text: str, told: str):
    (call,) = parse_spec(text)
    with pytest.raises(SpecError, match=re.escape(told)) as caught:
        check_call(call)
    assert str(caught.value).startswith(f"spec {text!r}: ")


@pytest.mark.parametrize(
    "text", ["spectral", "spectral(2.0)", "spectral(bound=2, eps=1e-6)", "lora(8)", "lora(rank=8, alpha=2)", "skew()"]
)
def test_a_call_that_fits_passes(text: str):
    for call in parse_spec(text):
        check_call(call)


ARGUMENTS = st.sampled_from(["norm", "bound", "rank", "alpha", "low", "high", "dim", "eps", "qqq"])


@given(
    st.sampled_from([entry.name for entry in BUILT_IN]),
    st.lists(st.integers(1, 3), max_size=3).map(tuple),
    st.lists(ARGUMENTS, max_size=3, unique=True).map(lambda names: tuple((name, 1) for name in names)),
)
def test_a_call_is_refused_exactly_where_python_refuses_it(name: str, args: tuple[int, ...], kwargs: tuple):
    call = Call(name, args, kwargs)
    signature = inspect.signature(lookup(name).load())
    try:
        signature.bind(*call.args, **dict(call.kwargs))
    except TypeError:
        with pytest.raises(SpecError, match=name):
            check_call(call)
    else:
        check_call(call)


# Plugins


def test_an_installed_package_adds_a_constraint(plugins: list[EntryPoint]):
    plugins.append(EntryPoint("ours", "collections:OrderedDict.fromkeys", GROUP))
    entry = lookup("ours")
    assert entry.load() == __import__("collections").OrderedDict.fromkeys
    assert entry.signature == "ours(...)"
    assert entry.parameters is None
    assert "from the package" in entry.summary
    check_call(Call("ours", (1, 2), (("anything", 3),)))  # only the class knows
    assert list(catalogue())[-1] == "ours", "behind the built-in ones"
    with pytest.raises(UnknownConstraintError, match="'our', did you mean 'ours'"):
        lookup("our")


def test_one_home_under_one_name_twice_is_no_conflict(plugins: list[EntryPoint]):
    plugins += [EntryPoint("ours", "a:B", GROUP), EntryPoint("ours", "a:B", GROUP)]
    plugins += [EntryPoint("spectral", "computed.constraints.spectral:Spectral", GROUP)]
    assert lookup("spectral") in BUILT_IN
    assert lookup("ours").target == "a:B"


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        (
            "spectral",
            "a:B",
            "constraint 'spectral' has two homes: computed.constraints.spectral:Spectral (built in) and a:B",
        ),
        ("none", "a:B", "package 'a' calls a constraint 'none', which no spec can write; ask its author to rename it"),
        ("frozen", "a:B", "'frozen', which no spec can write"),
        ("a-b", "a:B", "'a-b', which no spec can write"),
        ("lambda", "a:B", "'lambda', which no spec can write"),
        ("ﬁ", "a:B", "which no spec can write"),
        (
            "ours",
            "a.b",
            "package 'a.b' offers the module 'a.b' as constraint 'ours'; ask its author to write 'module:Class'",
        ),
    ],
)
def test_a_plugin_that_cannot_be_called_is_refused(plugins: list[EntryPoint], name: str, value: str, told: str):
    plugins.append(EntryPoint(name, value, GROUP))
    with pytest.raises(PluginError, match=re.escape(told)):
        catalogue()


def test_two_plugins_of_one_name_are_refused(plugins: list[EntryPoint]):
    plugins += [EntryPoint("ours", "a:B", GROUP), EntryPoint("ours", "a:C", GROUP)]
    with pytest.raises(
        PluginError, match=r"'ours' has two homes: a:B \(from the package a\) and a:C \(from .*uninstall"
    ):
        lookup("spectral")


@pytest.mark.parametrize(
    "value", ["no_such_package_is_there:C", "collections:NoSuchClass", "collections:OrderedDict.no"]
)
def test_a_home_that_is_not_there_is_named(plugins: list[EntryPoint], value: str):
    plugins.append(EntryPoint("ours", value, GROUP))
    with pytest.raises(ImportError, match=rf"constraint 'ours': cannot load {value}: "):
        lookup("ours").load()


def test_parameters_are_read_from_a_signature():
    read = parameters_of("a, b=-1, *, c, d=(1, 'x'), e=None")
    assert [(each.name, each.default, each.keyword_only) for each in read] == [
        ("a", REQUIRED, False),
        ("b", -1, False),
        ("c", REQUIRED, True),
        ("d", (1, "x"), True),
        ("e", None, True),
    ]
    assert list(map(str, read)) == ["a", "b=-1", "c", "d=(1, 'x')", "e=None"]
    assert parameters_of("") == ()
    entry = Entry("x", "m", "C", read, "")
    assert entry.signature == "x(a, b=-1, *, c, d=(1, 'x'), e=None)"
    assert pickle.loads(pickle.dumps(REQUIRED)) is REQUIRED
