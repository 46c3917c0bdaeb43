"""What is said of torch's layers without torch, against layers that are made: the table, and names for any call."""

from __future__ import annotations

import inspect
import random
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import product

import pytest
import torch
from torch import nn

from computed.entry import REQUIRED
from rewrite import layer_table
from rewrite.layer_names import MOST_COUNTED
from rewrite.layers import ARGS, KWARGS, UNKNOWN, Layer, Tensors, bound, host_types, layer, tensors
from tests.architecture import ROOT, modules_loaded
from tests.rewrite import layer_probe

AS_PINNED = layer_probe.VERSION == layer_table.TORCH
IN_TABLE = sorted(name for row in layer_table.ROWS for name in row[1].split())
KINDS = {name: kind for name, kind in layer_probe.public_layers().items() if name in IN_TABLE}
CALLS = {"small": 60, "full": 600}
VARIADIC = {inspect.Parameter.VAR_POSITIONAL: ARGS, inspect.Parameter.VAR_KEYWORD: KWARGS}
CHANCES = (0.0, 0.3, 1.0)  # that a value is unknown
# What else an argument can be, of all layers that have one of that name.
FURTHER: Mapping[str, tuple[object, ...]] = {
    "cutoffs": ([1], [1, 2], (1, 2, 3)),
    "embed_dim": (4, 6),
    "kdim": (None, 3, 4),
    "vdim": (None, 3, 4),
    "mode": ("LSTM", "GRU", "RNN_TANH", "sum", "nearest"),
    "modules": (None, [], {}, {"a": nn.Linear(2, 2)}, [nn.Linear(2, 2)]),
    "num_decoder_layers": (0, 1, 2),
    "num_encoder_layers": (0, 1, 2),
    "num_layers": (1, 2, 3),
    "padding_mode": ("zeros", "circular"),
    "parameters": (None, {}, {"a": torch.ones(2)}),
    "proj_size": (0, 2),
    "values": (None, [], [torch.ones(2)]),
}

every_layer = pytest.mark.parametrize("name", KINDS)


@dataclass
class Names:
    """What a layer holds."""

    parameters: list[str]
    buffers: list[str]


@dataclass
class Call:
    """A constructor call."""

    positional: list[object]
    keywords: dict[str, object]

    def true_names(self, name: str) -> Names | None:
        """What torch makes of it; None where it refuses."""
        made = layer_probe.made(KINDS[name], self.positional, self.keywords)
        return None if made is None else Names(layer_probe.parameter_names(made), layer_probe.buffer_names(made))

    def said(self, name: str, *, starred: bool = False) -> Tensors:
        """What is said of it without torch."""
        return tensors(known(name), bound(known(name), self.positional, self.keywords, starred=starred))

    def all_are_literals(self) -> bool:
        return all(map(is_literal, [*self.positional, *self.keywords.values()]))

    def with_unknown(self, chance: float) -> Call:
        """As a source file shows it: some values are no literals."""

        def shown(value: object) -> object:
            return value if is_literal(value) and random.random() >= chance else UNKNOWN

        return Call(list(map(shown, self.positional)), {name: shown(value) for name, value in self.keywords.items()})


def is_literal(value: object) -> bool:
    parts = value if isinstance(value, list | tuple) else value.values() if isinstance(value, dict) else [value]
    return not any(isinstance(part, nn.Module | torch.Tensor) or callable(part) for part in parts)


def known(name: str) -> Layer:
    found = layer(f"torch.nn.{name}")
    assert found is not None
    return found


def said_of(name: str, *positional: object, **keywords: object) -> Tensors:
    return Call([*positional], keywords).said(name)


def options(name: str) -> dict[str, tuple[object, ...]]:
    """What each argument of a layer can be; numbers stand for truth values too."""
    found = {each: way for each, way in layer_probe.choices(KINDS[name]).items() if each in known(name).arguments}
    wider = {each: (False, True, 0, 1) for each, way in found.items() if way == (False, True)}
    return found | wider | {each: FURTHER[each] for each in found.keys() & FURTHER.keys()}


def calls(name: str, number: int) -> Iterator[tuple[Call, Names]]:
    """Calls at random that torch takes: some arguments by position, some by keyword, some left out."""
    required = {each.name for each in known(name).parameters if each.default is REQUIRED}
    ways, place = options(name), layer_probe.without_memory(KINDS[name])
    for _ in range(number):
        given = {each: random.choice(way) for each, way in ways.items()}
        filled = list(given)[: random.randint(0, len(given))]
        by_position = [each for each, expected in zip(filled, known(name).positional, strict=False) if each == expected]
        by_keyword = [each for each in given if each not in by_position]
        kept = {each for each in by_keyword if each in required or random.random() < 0.7}
        call = Call(
            [given[each] for each in by_position], {each: given[each] for each in by_keyword if each in kept} | place
        )
        true = call.true_names(name)
        if true is not None:
            yield call, true


def assert_holds(said: Tensors, true: Names) -> None:
    """What is certain is there, in order; what is there is said, if the set is not open."""
    assert_names_hold(said.certain, said.possible, true.parameters, said.open)
    assert_names_hold(said.buffers, said.possible_buffers, true.buffers, said.open)


def assert_names_hold(certain: Collection[str], possible: Collection[str], true: list[str], is_open: bool) -> None:
    assert [name for name in true if name in certain] == [*certain]
    assert [name for name in true if name in possible] == [name for name in possible if name in true]
    assert not {*certain} & {*possible}
    assert is_open or {*true} <= {*certain, *possible}


def assert_tight(certain: Collection[str], possible: Collection[str], cases: list[list[str]]) -> None:
    """Of all that the unknown can be: what is certain always is, what is possible sometimes is."""
    always = set.intersection(*map(set, cases))
    assert {*certain} == always
    assert {*possible} == set.union(*map(set, cases)) - always


@pytest.mark.skipif(not AS_PINNED, reason="the table tells of another release of torch")
def test_the_table_is_what_layers_of_torch_show():
    assert layer_probe.FILE.read_text() == layer_probe.rendered(layer_probe.rows())


def test_the_table_is_of_the_release_that_is_pinned():
    assert f"torch=={layer_table.TORCH}\n" in ROOT.joinpath("constraints.txt").read_text()


@pytest.mark.skipif(not AS_PINNED, reason="another release of torch may have more")
def test_every_public_layer_of_torch_is_in_the_table_once():
    assert list(layer_probe.public_layers()) == IN_TABLE


def test_nothing_here_imports_torch():
    loaded = modules_loaded("import rewrite.layers")
    assert "rewrite.layer_table" in loaded
    assert "torch" not in loaded


@every_layer
def test_a_layer_has_the_names_of_its_class(name: str):
    kind, place = KINDS[name], KINDS[name].__module__
    assert known(name).full_name == f"torch.nn.{name}"
    assert known(name).bases == layer_probe.bases(kind)
    assert layer(f"{place}.{name}") == layer(f"{place.rpartition('.')[0]}.{name}") == known(name)
    assert known(name).container == (place == nn.Sequential.__module__)


@pytest.mark.parametrize(
    "full_name",
    [
        "",
        "Conv2d",
        "nn.Conv2d",
        "torch.Conv2d",
        "torch.nn.",
        "torch.nn.conv2d",
        "torch.nn.functional.conv2d",
        "torch.nn.modules.linear.Conv2d",
        "torch.nn.mod.Conv2d",
        "torch.nn.parallel.Conv2d",
        "torch.nn.modules.conv.Conv2d.weight",
        "other.torch.nn.Conv2d",
    ],
)
def test_other_names_are_no_layers(full_name: str):
    assert layer(full_name) is None


@every_layer
def test_a_layer_takes_what_its_class_takes(name: str):
    described, declared = known(name), layer_probe.declared(KINDS[name])
    taken = [each for each in declared if each.kind not in VARIADIC]
    if not AS_PINNED:  # another release of torch may take more
        taken = [each for each in taken if each.name in described.arguments]
    assert described.arguments == tuple(each.name for each in taken)
    assert described.variadic == tuple(VARIADIC[each.kind] for each in declared if each.kind in VARIADIC)
    for said, true in zip(described.parameters, taken, strict=True):
        assert said.keyword_only == (true.kind is true.KEYWORD_ONLY)
        default = REQUIRED if true.default is inspect.Parameter.empty else true.default
        assert said.default == (default if is_literal(default) else UNKNOWN)


@every_layer
def test_names_of_calls_at_random(name: str, size: str):
    compared = 0
    for call, true in calls(name, CALLS[size]):
        for chance in CHANCES:
            assert_holds(call.with_unknown(chance).said(name), true)
            compared += 1
    assert compared


@every_layer
def test_names_of_calls_with_stars(name: str, size: str):
    for call, true in calls(name, CALLS[size]):
        seen = call.with_unknown(0.1)
        seen.positional = seen.positional[: random.randint(0, len(seen.positional))]
        seen.keywords = {each: value for each, value in seen.keywords.items() if random.random() < 0.5}
        assert_holds(seen.said(name, starred=True), true)


@every_layer
def test_literals_leave_nothing_unsure(name: str, size: str):
    for call, true in calls(name, CALLS[size]):
        if call.all_are_literals():
            assert call.said(name) == Tensors(tuple(true.parameters), (), tuple(true.buffers), (), False)


@every_layer
def test_no_more_is_unsure_than_depends_on_the_unknown(name: str, size: str):
    varied = {each: way for each, way in options(name).items() if len(way) > 1 and each != "embed_dim"}
    for call, _ in calls(name, CALLS[size] // 4):
        free = sorted(varied.keys() & call.keywords.keys())
        unknown = random.sample(free, min(2, len(free)))
        said = Call(call.positional, call.keywords | dict.fromkeys(unknown, UNKNOWN)).said(name)
        ways = (dict(zip(unknown, way, strict=True)) for way in product(*(varied[each] for each in unknown)))
        cases = [Call(call.positional, call.keywords | way).true_names(name) for way in ways]
        if not said.open:
            assert_tight(said.certain, said.possible, [case.parameters for case in cases if case is not None])
            assert_tight(said.buffers, said.possible_buffers, [case.buffers for case in cases if case is not None])


def test_a_name_that_is_left_out_or_too_much_is_seen():
    with pytest.raises(AssertionError):
        assert_holds(Tensors(("weight",)), Names(["weight", "bias"], []))
    with pytest.raises(AssertionError):
        assert_holds(Tensors(("weight", "bias"), open=True), Names(["weight"], []))
    with pytest.raises(AssertionError):
        assert_holds(Tensors(("bias", "weight")), Names(["weight", "bias"], []))
    with pytest.raises(AssertionError):
        assert_tight(["weight"], ["bias"], [["weight"], ["weight"]])


@pytest.mark.parametrize("name", ["Sequential", "ModuleList", "ModuleDict", "ParameterList", "ParameterDict"])
def test_what_is_put_into_a_container_is_not_told(name: str):
    assert known(name).container
    assert said_of(name) == Tensors()
    assert said_of(name, UNKNOWN) == Call([], {}).said(name, starred=True) == Tensors(open=True)


def test_modules_that_are_given_bring_names_that_are_not_told():
    assert said_of("Container", a=UNKNOWN).open
    assert Call([], {}).said("Container", starred=True).open
    assert said_of("Sequential", UNKNOWN, UNKNOWN).open
    assert said_of("DataParallel", UNKNOWN).open
    assert said_of("TransformerEncoder", UNKNOWN, 2).open
    given = said_of("Transformer", num_decoder_layers=0, custom_encoder=UNKNOWN)
    assert given.open
    assert given.certain == ("decoder.norm.weight", "decoder.norm.bias")
    assert given.possible[-2:] == ("encoder.norm.weight", "encoder.norm.bias")


def test_a_number_that_is_unknown_leaves_the_set_open():
    first = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    assert said_of("LSTM", 3, 4, num_layers=UNKNOWN) == Tensors(first, open=True)
    assert said_of("Transformer", num_encoder_layers=UNKNOWN, num_decoder_layers=0, bias=False) == Tensors(
        ("encoder.norm.weight", "decoder.norm.weight"), open=True
    )
    some = said_of("AdaptiveLogSoftmaxWithLoss", 3, UNKNOWN, UNKNOWN)
    assert some == Tensors(("head.weight", "tail.0.0.weight", "tail.0.1.weight"), open=True)
    assert not said_of("AdaptiveLogSoftmaxWithLoss", 3, UNKNOWN, [UNKNOWN, UNKNOWN]).open


def test_a_number_beyond_reason_takes_no_time():
    many = said_of("GRU", 3, 4, num_layers=10**12, bias=False)
    assert many.open
    assert len(many.certain) == 2 * MOST_COUNTED


def test_sizes_of_attention_that_cannot_be_compared():
    apart = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
    assert said_of("MultiheadAttention", UNKNOWN, 2, kdim=3).possible == (*apart, "in_proj_weight")
    assert said_of("MultiheadAttention", 4, 2, kdim=UNKNOWN, vdim=3).certain[:3] == apart
    assert said_of("MultiheadAttention", UNKNOWN, UNKNOWN).possible == ()


def test_what_a_layer_has_no_name_for():
    linear = known("Linear")
    assert bound(linear, [3, 4, True, None, None, 5], {})[ARGS] == (5,)
    assert said_of("Linear", 3, 4, True, None, None, 5).open
    assert said_of("Linear", 3, 4, of_tomorrow=1) == Tensors(("weight", "bias"), open=True)
    assert said_of("Identity", 3, anything=4) == Tensors()
    assert bound(known("Identity"), [3], {"a": 4}, starred=True) == {ARGS: UNKNOWN, KWARGS: UNKNOWN, "a": 4}


def test_arguments_that_a_call_does_not_tell():
    linear = known("Linear")
    assert bound(linear, [3], {})["out_features"] is UNKNOWN
    assert bound(linear, [3, 4, True], {"bias": False})["bias"] is UNKNOWN
    assert bound(linear, [3], {"bias": False}, starred=True) == {
        "in_features": 3,
        "bias": False,
        "out_features": UNKNOWN,
        "device": UNKNOWN,
        "dtype": UNKNOWN,
    }
    assert tensors(linear, {}) == Tensors(("weight",), ("bias",))
    assert known("BatchNorm2d").positional == known("BatchNorm2d").arguments[:-1]


@pytest.mark.parametrize(
    "made",
    [
        nn.MultiheadAttention(4, 2),
        nn.TransformerEncoderLayer(4, 2),
        nn.TransformerDecoderLayer(4, 2),
        nn.Transformer(4, 2, 2, 2, batch_first=True),
        nn.AdaptiveLogSoftmaxWithLoss(32, 20, [4, 8]),
        nn.Bilinear(2, 2, 2),
    ],
    ids=lambda made: type(made).__name__,
)
def test_the_class_of_a_host_inside_a_layer_is_known(made: nn.Module):
    known = layer(f"torch.nn.{type(made).__name__}")
    assert known is not None
    for name, _ in made.named_parameters():
        host = made.get_submodule(name.rpartition(".")[0])
        assert host_types(known, name) == tuple(each.__name__ for each in type(host).__mro__[:-1])
