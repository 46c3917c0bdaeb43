"""A tie is one tensor under two names, and stays it through a model's life: steps, files, copies, bake and undo.

Ties are found by object. Two Parameters that share only their memory are refused at plan time, both named.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import surgery
from computed.parameter import ComputedParameter
from tests.computed.identity import Counting
from tests.surgery.picture import differences, picture

WORDS = {"small": 11, "full": 500}
WIDTH = {"small": 6, "full": 96}
RULES = {"head.weight": "spectral(bound=0.5)"}
SPECS = ("spectral(bound=0.5)", "orthogonal", "weight_norm", "lora(2, seed=1)", "interval(-0.1, 0.1)")


class LanguageModel(nn.Module):
    """The head is the embedding: one Parameter under two names."""

    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.mix = nn.Linear(width, width)
        self.head = nn.Linear(width, words, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.mix(self.embedding(tokens))))


def language_model(size: str = "small") -> LanguageModel:
    return LanguageModel(WORDS[size], WIDTH[size])


def tokens(size: str = "small") -> Tensor:
    return torch.randint(WORDS[size], (4, 8))


def train(model: nn.Module, batch: Tensor, steps: int = 10) -> None:
    optimizer = torch.optim.Adam([one for one in model.parameters() if one.requires_grad], lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        model(batch).logsumexp(-1).mean().backward()
        optimizer.step()


def is_tied(model: LanguageModel) -> bool:
    """One object under both names, as an attribute and in the registries."""
    registered = dict(model.named_modules(remove_duplicate=False)) | dict(
        model.named_parameters(remove_duplicate=False)
    )
    return (
        model.embedding.weight is model.head.weight
        and registered["embedding.weight"] is registered["head.weight"] is model.head.weight
    )


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("name", ["head.weight", "embedding.weight", "*.weight"])
def test_a_rule_on_one_name_gives_one_computed_tensor_under_both(name: str, spec: str):
    model, batch = language_model(), tokens()
    surgery.apply_constraints(model, {"*.weight": spec, "mix.weight": None} if name == "*.weight" else {name: spec})
    assert is_tied(model)
    assert type(model.head.weight) is ComputedParameter
    assert type(model.mix.weight) is nn.Parameter
    assert list(surgery.computed_parameters(model)) == ["embedding.weight"]
    value = model.head.weight.detach().double().numpy()
    mix, bias = (each.detach().double().numpy() for each in (model.mix.weight, model.mix.bias))
    expected = np.tanh(value[batch.numpy()] @ mix.T + bias) @ value.T
    np.testing.assert_allclose(model(batch).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_a_tie_is_evaluated_once_and_gets_the_gradients_of_both_uses():
    """The gradient of a plain twin, through tanh by hand."""
    model, batch = language_model(), tokens()
    plain = copy.deepcopy(model)
    surgery.apply_constraints(model, {"head.weight": Counting()})
    counting = model.head.weight.constraints[0]
    assert isinstance(counting, Counting)
    counting.evaluations.clear()
    for _ in range(3):
        model(batch).square().mean().backward()
    assert len(counting.evaluations) == 1
    raw = model.head.weight.raws["raw"]
    with torch.no_grad():
        plain.embedding.weight.copy_(raw.tanh())
    for _ in range(3):
        plain(batch).square().mean().backward()
    assert plain.embedding.weight.grad is not None
    expected = plain.embedding.weight.grad * (1 - raw.detach().tanh().square())
    torch.testing.assert_close(raw.grad, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("spec", SPECS)
def test_a_tie_holds_after_ten_steps_of_an_optimizer(spec: str, size: str):
    model, batch = language_model(size), tokens(size)
    surgery.apply_constraints(model, {"head.weight": spec})
    before = model.head.weight.detach().clone()
    train(model, batch)
    assert is_tied(model)
    assert not torch.equal(model.head.weight, before)
    assert torch.equal(model.head.weight, model.embedding.weight)
    assert surgery.check(model.eval()).ok
    rows = model.embedding(torch.arange(WORDS[size]))
    columns = model.head(torch.eye(WIDTH[size])).T
    torch.testing.assert_close(rows, columns)


def through_a_file(state: dict[str, Tensor]) -> dict[str, Tensor]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    found: dict[str, Tensor] = torch.load(file, weights_only=True)
    return found


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("source", ["own", "plain", "another plain model"])
def test_a_tie_holds_after_a_strict_load(source: str, assign: bool, spec: str):
    trained, batch = surgery.apply_constraints(language_model(), {"head.weight": spec}), tokens()
    if source == "another plain model":
        trained = language_model()
        with torch.no_grad():
            trained.head.weight.mul_(0.05)
        state = trained.state_dict()
    else:
        train(trained, batch)
        state = surgery.state_dict(trained, format=source)
    model = surgery.apply_constraints(language_model(), {"head.weight": spec})
    result = model.load_state_dict(through_a_file(state), strict=True, assign=assign)
    assert not result.missing_keys
    assert not result.unexpected_keys
    assert is_tied(model)
    model.eval(), trained.eval()
    if source != "another plain model" or spec in ("spectral(bound=0.5)", "weight_norm", "lora(2, seed=1)"):
        torch.testing.assert_close(model(batch), trained(batch), rtol=1e-4, atol=1e-5)
    assert surgery.check(model).ok
    model.train()
    train(model, batch)
    assert is_tied(model)
    assert surgery.check(model.eval()).ok


def test_state_dicts_have_both_names_of_a_tie_and_load_into_the_plain_model():
    model, batch = surgery.apply_constraints(language_model(), RULES), tokens()
    train(model, batch)
    own, plain = model.state_dict(), surgery.state_dict(model, format="plain")
    keys = [f"{name}.weight.{end}" for name in ("embedding", "head") for end in ("raw", "constraints.0.u")]
    assert set(keys) <= set(own)
    assert own["embedding.weight.raw"].data_ptr() == own["head.weight.raw"].data_ptr()
    assert plain["embedding.weight"] is plain["head.weight"]
    for assign in (False, True):
        twin = language_model()
        assert list(plain) == list(twin.state_dict())
        twin.load_state_dict(plain, strict=True, assign=assign)
        torch.testing.assert_close(twin.eval()(batch), model.eval()(batch))


COPIERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
}


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("how", COPIERS)
def test_a_copy_is_tied_in_itself_and_not_to_the_original(how: str, spec: str):
    model, batch = surgery.apply_constraints(language_model(), {"head.weight": spec}), tokens()
    train(model, batch)
    again = COPIERS[how](model)
    assert isinstance(again, LanguageModel)
    assert is_tied(again)
    assert again.head.weight is not model.head.weight
    assert torch.equal(again.eval()(batch), model.eval()(batch))
    before = model(batch)
    train(again.train(), batch)
    assert is_tied(again)
    assert torch.equal(model(batch), before)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("pattern", [None, "head.weight", "embedding.weight"])
def test_a_bake_leaves_one_plain_parameter_under_both_names(pattern: str | None, spec: str):
    model, batch = surgery.apply_constraints(language_model(), {"head.weight": spec}), tokens()
    train(model, batch)
    expected = model.eval()(batch)
    surgery.bake(model, pattern)
    assert is_tied(model)
    assert type(model.head.weight) is nn.Parameter
    assert list(model.state_dict()) == list(language_model().state_dict())
    torch.testing.assert_close(model(batch), expected, rtol=1e-4, atol=1e-5)
    if not spec.startswith("lora"):
        assert torch.equal(model(batch), expected)
    train(model, batch)
    assert is_tied(model)


@pytest.mark.parametrize("spec", SPECS)
def test_an_undo_puts_the_same_parameter_object_back_under_both_names(spec: str):
    model, batch = language_model(), tokens()
    parameter, kept = model.head.weight, model.head.weight.detach().clone()
    surgery.apply_constraints(model, {"head.weight": spec})
    before = picture(model)
    assert before
    train(model, batch)
    surgery.undo(model)
    assert model.head.weight is parameter
    assert model.embedding.weight is parameter
    assert is_tied(model)
    assert torch.equal(parameter, kept)


@pytest.mark.parametrize("spec", SPECS)
def test_an_undo_at_once_leaves_no_trace(spec: str):
    model = language_model()
    before = picture(model)
    surgery.apply_constraints(model, {"head.weight": spec})
    surgery.undo(model)
    assert differences(before, picture(model)) == []


def test_tying_again_changes_nothing_and_another_one_ties():
    """What `tie_weights()` of a published model does after its weights are loaded."""
    model, batch = surgery.apply_constraints(language_model(), RULES), tokens()
    expected = model(batch)
    model.head.weight = model.embedding.weight
    assert is_tied(model)
    assert torch.equal(model(batch), expected)
    untied = LanguageModel(WORDS["small"], WIDTH["small"])
    untied.head.weight = nn.Parameter(untied.embedding.weight.detach().clone())
    surgery.apply_constraints(untied, {"{embedding,head}.weight": "spectral(bound=0.5)"})
    assert not is_tied(untied)
    untied.head.weight = untied.embedding.weight
    assert is_tied(untied)
    assert len(list(untied.parameters())) == 3


def with_shared_memory(how: str) -> LanguageModel:
    """Embedding and head are two Parameters in one storage."""
    model = language_model()
    weight = model.embedding.weight
    model.head.weight = nn.Parameter(weight.detach().clone())
    if how == "whole":
        model.head.weight = nn.Parameter(weight.detach())
    elif how == "data":
        model.head.weight.data = weight.data
    elif how == "part":
        storage = torch.randn(WORDS["small"] + 3, WIDTH["small"])
        model.embedding.weight.data = storage[: WORDS["small"]]
        model.head.weight.data = storage[3:]
    elif how == "assigned":
        model.load_state_dict(language_model().state_dict(), assign=True)
    return model


@pytest.mark.parametrize("how", ["whole", "data", "part", "assigned"])
@pytest.mark.parametrize("name", ["head.weight", "embedding.weight", "{embedding,head}.weight"])
@pytest.mark.parametrize("tie", ["share", "error", "split"])
def test_two_parameters_in_one_storage_are_refused_with_both_names(tie: str, name: str, how: str):
    model = with_shared_memory(how)
    assert model.head.weight is not model.embedding.weight
    before = picture(model)
    first, second = ("head", "embedding") if name.startswith("head") else ("embedding", "head")
    message = rf"{first}\.weight.*shares its storage with {second}\.weight"
    plan = surgery.plan(model, {name: "spectral(bound=0.5)"}, tie=tie)
    assert not plan.ok
    with pytest.raises(surgery.PlanError, match=message):
        plan.apply()
    with pytest.raises(surgery.PlanError, match=message):
        surgery.apply_constraints(model, {name: "spectral(bound=0.5)"}, tie=tie)
    assert differences(before, picture(model)) == []


def test_a_storage_is_no_tie_where_no_rule_touches_it_or_where_it_is_cut_apart():
    model = with_shared_memory("whole")
    surgery.apply_constraints(model, {"mix.weight": "orthogonal"})
    separate = language_model()
    storage = torch.randn(2 * WORDS["small"], WIDTH["small"])
    separate.embedding.weight = nn.Parameter(storage[: WORDS["small"]])
    separate.head.weight = nn.Parameter(storage[WORDS["small"] :])
    surgery.apply_constraints(separate, {"head.weight": "spectral(bound=0.5)"})
    assert type(separate.head.weight) is ComputedParameter
    assert type(separate.embedding.weight) is nn.Parameter


@pytest.mark.parametrize("spec", SPECS)
def test_an_error_is_asked_for(spec: str):
    model = language_model()
    before = picture(model)
    for name, first in (("head.weight", "embedding"), ("embedding.weight", "embedding")):
        message = rf"{first}\.weight \(Embedding\), rule '{name}': .*: is tied to head\.weight"
        with pytest.raises(surgery.PlanError, match=message):
            surgery.apply_constraints(model, {name: spec}, tie="error")
    assert differences(before, picture(model)) == []


def test_no_other_word_for_a_tie_is_known():
    with pytest.raises(surgery.SurgeryError, match="tie='both'; it is one of 'share', 'error', 'split'"):
        surgery.plan(language_model(), RULES, tie="both")


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("name", ["head.weight", "embedding.weight"])
def test_a_split_tie_trains_apart_and_stays_split(name: str, spec: str):
    model, batch = language_model(), tokens()
    surgery.apply_constraints(model, {name: spec}, tie="split")
    computed_host, plain_host = (
        (model.head, model.embedding) if name == "head.weight" else (model.embedding, model.head)
    )
    assert type(computed_host.weight) is ComputedParameter
    assert type(plain_host.weight) is nn.Parameter
    train(model, batch)
    assert surgery.check(model.eval()).ok
    again = copy.deepcopy(model)
    assert torch.equal(again(batch), model(batch))
    twin = surgery.apply_constraints(language_model(), {name: spec}, tie="split")
    twin.load_state_dict(through_a_file(model.state_dict()), strict=True)
    assert torch.equal(twin.eval()(batch), model(batch))
    expected = model(batch)
    surgery.bake(model)
    assert model.head.weight is not model.embedding.weight
    torch.testing.assert_close(model(batch), expected, rtol=1e-4, atol=1e-5)


def test_a_split_tie_is_tied_again_by_undo():
    model, batch = language_model(), tokens()
    parameter, before = model.head.weight, model.head.weight.detach().clone()
    surgery.apply_constraints(model, {"{embedding,head}.weight": "orthogonal"}, tie="split")
    assert model.head.weight is not model.embedding.weight
    train(model, batch)
    surgery.undo(model)
    assert is_tied(model)
    assert model.head.weight is parameter
    assert torch.equal(parameter, before)
