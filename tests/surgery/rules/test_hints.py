"""What is proposed for a pattern that matches nothing: by kind of mistake, and always something that matches."""

from __future__ import annotations

import random

import pytest

from surgery.rules.errors import PatternError
from surgery.rules.hints import PROPOSALS, proposals, unmatched_text
from surgery.rules.matching import Name, Names
from surgery.rules.pattern import Pattern
from tests.surgery.rules.translation import pattern_for, random_name

BASES = {
    "Conv2d": ("_ConvNd",),
    "BatchNorm2d": ("_BatchNorm", "_NormBase"),
    "LayerNorm": (),
    "Linear": (),
    "Embedding": (),
}


def model(hosts: dict[str, str]) -> Names:
    names = []
    for host, kind in hosts.items():
        types = (kind, *BASES[kind], "Module", "object")
        names += [Name(f"{host}.weight", types)]
        names += [Name(f"{host}.bias", types)] if kind != "Embedding" else []
        if kind == "BatchNorm2d":
            names += [Name(f"{host}.{leaf}", types, buffer=True) for leaf in ("running_mean", "num_batches_tracked")]
    return Names(names)


RESNET = model(
    {"conv1": "Conv2d", "bn1": "BatchNorm2d"}
    | {f"layer{n}.{b}.conv{c}": "Conv2d" for n in (1, 2) for b in (0, 1) for c in (1, 2)}
    | {f"layer{n}.{b}.bn{c}": "BatchNorm2d" for n in (1, 2) for b in (0, 1) for c in (1, 2)}
    | {"fc": "Linear"}
)
BERT = model(
    {"embeddings.word_embeddings": "Embedding"}
    | {
        f"encoder.layer.{n}.{part}": kind
        for n in range(12)
        for part, kind in {
            "attention.self.query": "Linear",
            "attention.self.key": "Linear",
            "attention.self.value": "Linear",
            "attention.output.dense": "Linear",
            "attention.output.LayerNorm": "LayerNorm",
            "intermediate.dense": "Linear",
            "output.dense": "Linear",
        }.items()
    }
)


@pytest.mark.parametrize(
    ("names", "text", "first"),
    [
        (RESNET, "*.conv*", ("*.conv*.weight", 9)),  # modules are meant: the last name is missing
        (RESNET, "fc", ("fc.weight", 1)),
        (RESNET, "conv1", ("conv1.weight", 1)),
        (RESNET, "layer1", ("layer1.*", 16)),
        (BERT, "encoder.layer.3", ("encoder.layer.3.*", 14)),
        (BERT, "*.atention.*", ("*.attention.*", 120)),  # a name is misspelt
        (BERT, "*.querry.weight", ("*.query.weight", 12)),
        (BERT, "*.{querry,vlaue}.weight", ("*.{query,value}.weight", 24)),
        (BERT, "*.query.wieght", ("*.query.weight", 12)),
        (BERT, "*.query.weights", ("*.query.weight", 12)),
        (BERT, "*.layernorm.*", ("*.LayerNorm.*", 24)),
        (RESNET, "*.conv.weight", ("*.conv*.weight", 9)),  # or cut short
        (BERT, "*.{q,k,v}.weight", ("*.{q*,k*,v*}.weight", 36)),
        (RESNET, "*@Conv.weight", ("*@Conv*.weight", 9)),
        (BERT, "*.atention.*.querry.weight", ("*.attention.*.query.weight", 12)),
        (BERT, "*.quer_*.weight", ("*.query*.weight", 12)),
        (BERT, "*word_embedings.weight", ("*word_embeddings.weight", 1)),
        (BERT, "*_embedings.weight", ("*_embeddings.weight", 1)),
        (BERT, "weight", ("*.weight", 85)),  # names have something before it
        (BERT, "query.weight", ("*.query.weight", 12)),
        (BERT, "attention.*", ("*.attention.*", 120)),
        (RESNET, "model.conv1.weight", ("conv1.weight", 1)),  # the model is not a name of its own
        (RESNET, "self.layer1.0.conv1.weight", ("layer1.0.conv1.weight", 1)),
        (RESNET, "model.backbone.layer1.*", ("layer1.*", 16)),
        (RESNET, "module.*.conv1.weight", None),
        (BERT, "encoder.3.attention.*", ("encoder.*.3.attention.*", 10)),  # a name between is missing
        (BERT, "encoder.layer.query.weight", ("encoder.layer.*.query.weight", 12)),
        (RESNET, "*.Conv2d.weight", ("*@Conv2d.weight", 9)),  # a class is no name
        (RESNET, "Conv2d.weight", ("*@Conv2d.weight", 9)),
        (RESNET, "*.Conv2d", ("*@Conv2d.weight", 9)),
        (RESNET, "Linear", ("*@Linear.weight", 1)),
        (RESNET, "*.linear.weight", ("*@Linear.weight", 1)),
        (RESNET, "*linear*", ("*@Linear.weight", 1)),
        (RESNET, "*.Conv2D.weight", ("*@Conv2d.weight", 9)),
        (RESNET, "*BatchNorm*.weight", ("*@BatchNorm*.weight", 9)),
        (RESNET, "layer1.Conv2d.weight", ("layer1.*@Conv2d.weight", 4)),
        (RESNET, "*@Conv2D.weight", ("*@Conv2d.weight", 9)),  # a class is misspelt
        (RESNET, "*@Conv3d.weight", ("*@Conv2d.weight", 9)),
        (RESNET, "*@{Liner,Conv2D}.weight", ("*@{Linear,Conv2d}.weight", 10)),
        (RESNET, "*@batchnorm2d.weight", ("*@BatchNorm2d.weight", 9)),
        (RESNET, "layer1@Conv2d.weight", ("layer1.*@Conv2d.weight", 4)),  # the class is that of the host
        (RESNET, "layer1*weight", ("layer1**weight", 8)),  # a star of the shell takes dots
        (RESNET, "layer?.conv?.weight", ("layer?.*.conv?.weight", 8)),
        (BERT, "encoder*query*weight", ("encoder**query**weight", 12)),
        (BERT, "encoder.layer.[0-3].attention.query.weight", ("encoder.layer.[0-3].attention.*.query.weight", 4)),
        (RESNET, "^layer1.*conv1.weight$", ("re:^layer1.*conv1.weight$", 2)),  # a regular expression
        (RESNET, "layer(1|2).+weight", ("re:layer(1|2).+weight", 16)),
        (BERT, "re:attention.*query", ("re:.*attention.*query.*", 24)),
        (BERT, "re:^encoder", ("re:^encoder.*", 168)),
        (BERT, "re:query.weight", ("re:.*query.weight", 12)),
        (RESNET, "layer1.2.*", None),  # the model has no such block, and `re:layer1.*.2` is not what was meant
        (BERT, "encoder.layer.12.*", None),
        (
            Names([Name("layer.10.weight"), Name("layer.11.weight")]),
            "layer.1.weight",
            None,
        ),  # a number is not cut short
        (Names([Name("res-net.my conv.weight")]), "net.my conv", ("res-net.my conv.weight", 1)),  # keys of a ModuleDict
        (Names([Name("res-net.my conv.weight")]), "res-net.*.wieght", ("res-net.*.weight", 1)),
        (RESNET, "*.foo.*", None),
        (RESNET, "foo.bar.weight", None),
        (RESNET, "x", None),
        (RESNET, "transformer.wte.weight", None),
        (RESNET, "re:foo", None),
        (Names([]), "*.weight", None),
        (Names([]), "*", None),
        (RESNET, "a" * 5_000, None),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_the_first_proposal(names: Names, text: str, first: tuple[str, int] | None):
    assert not names.matched(Pattern.parse(text))
    assert next(iter(proposals(text, names)), None) == first


def test_a_buffer_is_proposed_only_as_a_last_name_that_is_written_out():
    assert proposals("*.runing_mean", RESNET) == [("*.running_mean", 9)]
    assert proposals("running_mean", RESNET)[0] == ("*.running_mean", 9)
    assert proposals("bn1.*.*.*.**.x.running", RESNET) == []
    (text, count), *_ = proposals("bn1", RESNET)
    assert (text, count) == ("bn1.weight", 1)
    assert ("bn1.*", 2) in proposals("bn1", RESNET), "weight and bias, and no buffer"


def test_proposals_for_mistaken_patterns_match_what_they_say(size: str):
    draw, made = random.Random(8), 0
    names = Names(Name(random_name(draw), ("Linear", "Module"), draw.random() < 0.1) for _ in range(60))
    for _ in range(150 if size == "small" else 2_000):
        text = _mistaken(draw, pattern_for(draw, draw.choice(names.all).text))
        try:
            if names.matched(Pattern.parse(text)):
                continue
        except PatternError:
            continue  # the change left nothing between two dots
        found = proposals(text, names)
        assert len(found) <= PROPOSALS
        rows = [names.matched(Pattern.parse(proposal)) for proposal, _ in found]
        assert [len(matched) for matched in rows] == [count for _, count in found]
        assert all(rows)
        assert len({tuple(matched) for matched in rows}) == len(found), "no two that say the same"
        assert text not in dict(found)
        made += len(found)
    assert made > 50


def _mistaken(draw: random.Random, text: str) -> str:
    at = draw.randrange(len(text))
    if not text[at].isalnum():
        return f"x.{text}"
    return text[:at] + draw.choice(("", "z", text[at] * 2)) + text[at + 1 :] if 0 < at < len(text) - 1 else f"x.{text}"


def test_a_proposal_is_no_expression_that_may_take_forever():
    names = Names([Name("aax.weight"), Name("x.weight")])
    assert proposals("([a]+)x.weight", names) == [("re:([a]+)x.weight", 1)]
    assert proposals("([a]+)+x.weight", names) == []
    assert proposals("re:([a]+)+x", names) == []
    assert proposals("(a.*a.*a.*x.weight|.*x.weight)", names) == []


@pytest.mark.parametrize(
    ("names", "text", "told"),
    [
        (
            RESNET,
            "*.conv*",
            "matches none of 56 names; did you mean '*.conv*.weight' (9 names) or '*.conv*.bias' (9 names) or "
            "'*.conv*.*' (18 names)?",
        ),
        (RESNET, "model.fc.weight", "matches none of 56 names; did you mean 'fc.weight' (1 name)?"),
        (RESNET, "*.foo.*", "matches none of 56 names; there are conv1.weight, conv1.bias, bn1.weight, ..."),
        (Names([]), "*", "matches none of 0 names; there are none at all"),
        (Names([Name("a.b")]), "x", "matches none of 1 names; there are a.b"),
        (
            RESNET,
            "*.running_*",
            "matches only buffers (bn1.running_mean); a buffer is meant only where its last name is written, "
            "'*.running_mean'",
        ),
    ],
)
def test_the_message(names: Names, text: str, told: str):
    assert unmatched_text(Pattern.parse(text), names) == told
