"""What is decided from source text holds in live models: every verdict on every place that made a tensor."""

from __future__ import annotations

import ast
import importlib.util
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import pytest
from torch import nn

from rewrite.analysis import Analysis, analysed
from rewrite.live import Made, Traced, trace
from rewrite.sites import Kind, Site
from rewrite.source import Source
from rewrite.verdicts import Judge, Tensor, tensors
from surgery.rules.pattern import Pattern
from tests.rewrite.architectures import ARCHITECTURES, RULES, build, modeling_file, truth
from tests.rewrite.verdicts import Comparison, Key, Verdict, compare

FIFTH = 5  # in a small run one architecture of so many
WAYS = ("without a root", "with the root", "with the root and all files")
LEAST_DECIDED = {"without a root": 0.85, "with the root": 0.9, "with the root and all files": 0.4}  # the last: of few
# no call in the text makes these: the function of the call there, which gets its module, its class or its tensor
EXPLAINED = {"weight_norm", "norm_layer", "self._init_pe"}
MOST_EXPLAINED = 0.01


@dataclass(frozen=True)
class Live:
    """A model that was built under watch: where its tensors come from, and the files these places are in."""

    model: nn.Module
    traced: Traced
    own: str
    others: tuple[str, ...]

    @classmethod
    def of(cls, build: Callable[[], nn.Module], file: str) -> Live:
        """The model of ``build``, whose class is in ``file``."""
        traced = trace(build)
        files = {made.file for made in (traced.parameters | traced.buffers).values() if isinstance(made, Made)}
        return cls(build(), traced, file, tuple(sorted(files - {file})))

    def analysis(self, way: str) -> Analysis:
        """What the source route knows of it in one of the WAYS."""
        files = (self.own, *self.others) if way == WAYS[2] else (self.own,)
        roots = [] if way == WAYS[0] else [type(self.model).__name__]
        return analysed([(source(file), module_of(file)) for file in files], roots, find_root=False)

    def compared(self, analysis: Analysis, rule: str) -> Comparison:
        """All verdicts on a rule, held against the model; of buffers too."""
        verdicts = dict(verdicts_of(analysis, Judge(Pattern.parse(rule), analysis)))
        return compare(self.traced, truth(self.model, rule), verdicts, buffers=True)


@cache
def source(file: str) -> Source:
    return Source.read(file, Path(file).read_bytes())


@cache
def module_of(file: str) -> str:
    """The dotted name under which a file of transformers is imported; that of the file alone for others."""
    spec = importlib.util.find_spec("transformers")
    assert spec is not None
    assert spec.origin is not None
    top = Path(spec.origin).parent.parent
    path = Path(file)
    return ".".join(path.relative_to(top).with_suffix("").parts) if path.is_relative_to(top) else path.stem


def verdicts_of(analysis: Analysis, judge: Judge) -> Iterator[tuple[Key, Verdict]]:
    for site in analysis.sites:
        for tensor in tensors(site):
            verdict = judge.verdict(site, tensor).name
            for key in keys(site, tensor):
                yield key, verdict


def keys(site: Site, tensor: Tensor) -> Iterator[Key]:
    """The places under which a live model may tell of a tensor: the call; of an author's own also what takes it."""
    yield (*site.position, tensor.name)
    if site.kind is Kind.PARAMETER:
        for node in takers(site.file.statement_of(site.node)):
            yield site.file.source.path, node.lineno, node.col_offset, ""


def takers(statement: ast.stmt) -> Iterator[ast.expr]:
    """The targets of an assignment, or a call that registers."""
    match statement:
        case ast.Assign(targets=targets):
            for target in targets:
                yield from target.elts if isinstance(target, ast.Tuple) else [target]
        case ast.AnnAssign(target=target):
            yield target
        case ast.Expr(value=value):
            yield value


def asked(size: str) -> list[str]:
    """The architectures of a run."""
    return list(ARCHITECTURES)[:: FIFTH if size == "small" else 1]


@cache
def live(name: str) -> Live:
    return Live.of(partial(build, name), str(modeling_file(name)))


@cache
def comparisons(name: str, way: str) -> tuple[Comparison, ...]:
    """One for each of the RULES."""
    one = live(name)
    if way == WAYS[2] and not one.others:
        return comparisons(name, WAYS[1])
    analysis = one.analysis(way)
    return tuple(one.compared(analysis, rule) for rule in RULES)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_verdict_on_an_architecture_is_wrong(name: str, size: str) -> None:
    if name not in asked(size):
        pytest.skip("in a full run")
    for way in WAYS:
        for rule, compared in zip(RULES, comparisons(name, way), strict=True):
            assert compared.wrong == (), (way, rule)
            assert compared.untold == ()


def test_how_much_is_decided(size: str, evidence: Callable[[str, str], None]) -> None:
    names = asked(size)
    for way in WAYS:
        some = names if way != WAYS[2] else [name for name in names if live(name).others]
        counts = counted(each for name in some for each in comparisons(name, way))
        verdicts = counts["decided"] + counts["undecided"]
        share = counts["decided"] / verdicts
        assert counts["wrong"] == 0
        assert share > LEAST_DECIDED[way]
        evidence(
            f"verdicts of the source text on tensors of {len(some)} architectures x {len(RULES)} rules, {way}",
            f"{counts['wrong']} wrong of {verdicts}; {share:.1%} decided; of those undecided "
            f"{counts['needless'] / max(counts['undecided'], 1):.0%} have one answer in the one model built",
        )


def counted(compared: Iterable[Comparison]) -> Counter[str]:
    counts = Counter[str]()
    for each in compared:
        counts.update(wrong=len(each.wrong), decided=each.decided, undecided=each.undecided, needless=each.needless)
    return counts


def test_places_without_a_verdict_are_in_other_files_or_no_calls_that_make_a_layer(size: str) -> None:
    missing, told = set[Key](), 0
    for name in asked(size):
        one = live(name)
        alone, together = (comparisons(name, way)[0].missing for way in WAYS[1:])
        assert {place[0] for place in alone} <= {one.own, *one.others}
        assert {place for place in alone if place[0] == one.own} == set(together)
        missing |= set(together)
        told += len(one.traced.parameters)
    assert {called(place) for place in missing} <= EXPLAINED
    assert 0 < len(missing) < told * MOST_EXPLAINED


def called(place: Key) -> str:
    """The function of the call in a statement that gives a module or a tensor, as it is written."""
    file, line, *_ = place
    calls = [node for node in ast.walk(source(file).tree) if isinstance(node, ast.Call) and node.lineno == line]
    return ast.unparse(calls[0].func)


def test_a_place_without_a_verdict_is_known_to_hold_parameters() -> None:
    """What a norm of torch has made of a convolution: a rule that matches a name below is told that it may."""
    one = live("Wav2Vec2")
    analysis = one.analysis("with the root")
    places = {place for place in one.compared(analysis, "*.weight").missing if called(place) == "weight_norm"}
    sites = [site for site in analysis.sites if (*site.position, "") in places]
    assert {site.kind for site in sites} == {Kind.UNRESOLVED}
    names = [name for name in truth(one.model, "*") if name.endswith("original0")]
    assert len(names) > 0
    for rule in ("*.original0", "*.parametrizations.*", "*", *names):
        judge = Judge(Pattern.parse(rule), analysis)
        assert any(map(judge.may_match_below, sites)), rule


@pytest.mark.parametrize("answer", ["ALL", "NONE"])
@pytest.mark.parametrize("rule", RULES[1:3])
def test_a_judge_that_decides_everything_alike_is_found(answer: Verdict, rule: str) -> None:
    one = live("BERT")
    analysis = one.analysis("with the root")
    right = one.compared(analysis, rule)
    places = [key for site in analysis.sites for tensor in tensors(site) for key in keys(site, tensor)]
    wrong = compare(one.traced, truth(one.model, rule), dict.fromkeys(places, answer), buffers=True)
    assert right.wrong == ()
    assert len(wrong.wrong) > 0
    assert wrong.missing == right.missing


@pytest.mark.parametrize("name", ["query", "key", "dense"])
def test_a_text_with_other_names_than_the_model_is_found(name: str) -> None:
    """The lines stand where they stood, but one attribute has another name than in the model."""
    one = live("BERT")
    text = source(one.own).text.replace(f"self.{name} =", f"self.{name[::-1]} =")
    changed = analysed([(Source.checked(one.own, text), module_of(one.own))], [type(one.model).__name__])
    for rule in ("*.query.weight", "*.key.weight", "*.dense.weight"):
        assert bool(one.compared(changed, rule).wrong) is (name in rule), rule
        assert one.compared(one.analysis("with the root"), rule).wrong == ()
