"""A weight that is another layer's, transposed: truth is one plain Parameter that is used twice."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import computed
import surgery
from computed.constraints.transposed import Transposed
from computed.errors import ConstraintRefusedError
from computed.parameter import ComputedParameter

X = torch.linspace(-1, 1, 24, dtype=torch.float64).view(4, 6)
SOURCES = {"plain": None, "spectral": "spectral(bound=0.3)", "positive": "positive", "lora": "lora(rank=2, seed=1)"}


class Autoencoder(nn.Module):
    def __init__(self, *, decoder_first: bool = False) -> None:
        super().__init__()
        if decoder_first:
            self.decoder = nn.Linear(3, 6)
        self.encoder = nn.Linear(6, 3)
        if not decoder_first:
            self.decoder = nn.Linear(3, 6)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(torch.tanh(self.encoder(x)))


def tied(source: str | None = None, *, decoder_first: bool = False) -> Autoencoder:
    model = Autoencoder(decoder_first=decoder_first)
    if source is not None:
        surgery.apply_constraints(model, {"encoder.weight": source})
    return surgery.apply_constraints(model, {"decoder.weight": Transposed(model.encoder)})


def is_tied(model: nn.Module) -> bool:
    return torch.equal(model.decoder.weight.detach(), model.encoder.weight.detach().T)


def forward_by_hand(model: Autoencoder, weight: Tensor, x: Tensor) -> Tensor:
    hidden = torch.tanh(F.linear(x, weight, model.encoder.bias))
    return F.linear(hidden, weight.T, model.decoder.bias)


@pytest.mark.parametrize("decoder_first", [False, True])
def test_it_is_a_view_of_the_source_and_gradients_are_summed_there(decoder_first: bool):
    model = tied(decoder_first=decoder_first)
    assert model.decoder.weight.data_ptr() == model.encoder.weight.data_ptr()
    assert sum(parameter.numel() for parameter in model.parameters()) == 18 + 3 + 6
    weight = model.encoder.weight.detach().clone().requires_grad_()
    expected = forward_by_hand(model, weight, X)
    for _ in range(2):  # twice: gradients accumulate
        found = model(X)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-15)
        found.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(model.encoder.weight.grad, 2 * weight.grad, rtol=1e-13, atol=1e-15)
    assert [p.grad for name, p in model.named_parameters() if name.endswith("unused")] == [None]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("source", SOURCES)
def test_training_is_that_of_one_parameter_used_twice(source: str, training: bool):
    model = tied(SOURCES[source]).train(training)
    twin = copy.deepcopy(model)
    optimizers = [torch.optim.AdamW(each.parameters(), lr=0.05, weight_decay=0.1) for each in (model, twin)]
    for _ in range(4):
        for each, optimizer in zip((model, twin), optimizers, strict=True):
            optimizer.zero_grad()
            output = each(X) if each is model else forward_by_hand(twin, twin.encoder.weight, X)
            output.square().sum().backward()
            optimizer.step()
        assert is_tied(model)
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
    assert surgery.check(model.eval()).ok


@pytest.mark.parametrize("spec", ["spectral(bound=0.3)", "positive", "lora(rank=2, seed=1)"])
@pytest.mark.parametrize("when", ["before", "together", "after", "after, and undone"])
def test_a_source_that_is_computed_before_or_later_is_followed(spec: str, when: str):
    model = Autoencoder().eval()
    with torch.no_grad():
        model.encoder.weight.mul_(3)
    rules = {"encoder.weight": spec}, {"decoder.weight": Transposed(model.encoder)}
    steps = {"before": rules, "together": (rules[1] | rules[0],)}.get(when, rules[::-1])
    for step in steps:
        surgery.apply_constraints(model, step)
        if isinstance(model.decoder.weight, ComputedParameter):
            with torch.no_grad():
                model(X)  # held from here on
    with torch.no_grad():
        for raw in model.encoder.weight.raws.values():
            raw.add_(0.1)  # an adapter moves, its base too
    assert is_tied(model)
    if when.endswith("undone"):
        surgery.undo(model)
        assert is_tied(model)
        with torch.no_grad():
            model.encoder.weight.mul_(0.5)
        assert is_tied(model)
        assert isinstance(model.encoder.weight, nn.Parameter)


def test_in_eval_what_is_held_follows_each_write_to_the_source():
    model = tied().eval()
    with torch.no_grad():
        for write in (lambda w: w.mul_(2), lambda w: w.data.fill_(0.5), lambda w: w[0].zero_(), nn.init.ones_):
            model(X)
            write(model.encoder.weight)
            assert is_tied(model)
            torch.testing.assert_close(model(X), forward_by_hand(model, model.encoder.weight, X))


def test_there_is_one_value_so_a_write_is_dropped():
    model = tied()
    before = model.encoder.weight.detach().clone()
    with torch.no_grad():
        model.decoder.weight.fill_(7.0)
        nn.init.ones_(model.decoder.weight)
        model.decoder.weight.data.zero_()
    assert is_tied(model)
    assert torch.equal(model.encoder.weight, before)
    model(X).sum().backward()
    assert model.encoder.weight.grad.abs().sum() > 0  # the graph is none that a write has cut off


@pytest.mark.parametrize("decoder_first", [False, True])
@pytest.mark.parametrize("source", SOURCES)
def test_copies_and_pickles_tie_their_own_layers(source: str, decoder_first: bool):
    model = tied(SOURCES[source], decoder_first=decoder_first)
    outputs = model(X)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert again.decoder.weight.constraints[0].layer is again.encoder
        assert torch.equal(again(X), outputs)
        with torch.no_grad():
            for parameter in again.encoder.parameters():
                parameter.add_(1.0)
        assert is_tied(again)
        assert torch.equal(model(X), outputs)


def test_a_copy_of_the_constraint_alone_reads_the_same_layer():
    layer = nn.Linear(6, 3)
    assert copy.deepcopy(Transposed(layer)).layer is layer
    assert pickle.loads(pickle.dumps(Transposed(layer))).layer is not layer
    model = nn.ModuleList([layer, nn.Linear(3, 6), nn.Linear(3, 6)])
    surgery.apply_constraints(model, {"{1,2}.weight": Transposed(layer)})
    with torch.no_grad():
        layer.weight.normal_()
    assert torch.equal(model[1].weight, layer.weight.T)
    assert torch.equal(model[2].weight, layer.weight.T)


def test_undo_gives_back_the_weight_of_its_own_bit_for_bit():
    model = Autoencoder()
    weight, bits = model.decoder.weight, model.decoder.weight.detach().clone()
    keys = list(model.state_dict())
    surgery.apply_constraints(model, {"decoder.weight": Transposed(model.encoder)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(X).sum().backward()
    optimizer.step()
    surgery.undo(model)
    assert model.decoder.weight is weight
    assert torch.equal(weight, bits)
    assert list(model.state_dict()) == keys


@pytest.mark.parametrize("source", SOURCES)
def test_baked_weights_are_equal_and_their_own(source: str):
    model = tied(SOURCES[source]).eval()
    outputs = model(X)
    surgery.bake(model)
    assert all(isinstance(layer.weight, nn.Parameter) for layer in (model.encoder, model.decoder))
    assert is_tied(model)
    torch.testing.assert_close(model(X), outputs, rtol=1e-14, atol=1e-15)
    assert model.decoder.weight.data_ptr() != model.encoder.weight.data_ptr()
    assert not model.decoder.weight.requires_grad


def test_state_dicts_have_the_source_and_load():
    model = tied()
    assert [key for key in model.state_dict() if "decoder" in key] == [
        "decoder.bias",
        "decoder.weight.unused",
        "decoder.weight.constraints.0.layer.weight",
        "decoder.weight.constraints.0.layer.bias",
    ]
    other = tied()
    other.load_state_dict(model.state_dict())
    assert is_tied(other)
    assert torch.equal(other(X), model(X))
    plain = Autoencoder()
    plain.load_state_dict(surgery.state_dict(model, format="plain"))
    torch.testing.assert_close(plain(X), model(X), rtol=1e-14, atol=1e-15)
    other = tied()
    other.load_state_dict(plain.state_dict())
    assert torch.equal(other(X), model(X))
    with pytest.raises(surgery.SurgeryError, match=r"'Transposed\(Linear.weight\)' is no spec that a file can name"):
        surgery.save_checkpoint(model, "nowhere.safetensors")


@pytest.mark.parametrize("via", ["fx", "export"])
@pytest.mark.parametrize("source", ["plain", "spectral"])
def test_graphs_have_it_too(source: str, via: str):
    model = tied(SOURCES[source]).eval()
    graph = surgery.apply_constraints(model, {}, via=via, example=(X,) if via == "export" else None)
    torch.testing.assert_close(graph(X), model(X), rtol=1e-14, atol=1e-15)


def test_compiled_it_follows_the_source():
    torch.compiler.reset()
    model = tied()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        torch.testing.assert_close(compiled(X), model(X), rtol=1e-14, atol=1e-15)
        with torch.no_grad():
            model.encoder.weight.mul_(0.5)
    torch.compiler.reset()


def test_a_plan_tells_how_far_it_moves_and_exact_refuses_that():
    model = Autoencoder()
    moved = surgery.plan(model, {"decoder.weight": Transposed(model.encoder)}).sites[0].measures.moved
    weights = model.encoder.weight.detach(), model.decoder.weight.detach()
    expected = torch.linalg.vector_norm(weights[0].T - weights[1]) / torch.linalg.vector_norm(weights[1])
    assert moved == pytest.approx(expected.item())
    rule = {"decoder.weight": Transposed(model.encoder, exact=True)}
    with pytest.raises(surgery.PlanError, match=r"decoder.weight .*it differs from the transposed source"):
        surgery.apply_constraints(model, rule)
    with torch.no_grad():
        model.decoder.weight.copy_(model.encoder.weight.T)
    assert surgery.plan(model, rule).sites[0].measures.moved == 0
    surgery.apply_constraints(model, rule)
    assert is_tied(model)


def test_the_same_layer_again_is_left_and_another_one_is_told():
    model = nn.ModuleList([nn.Linear(6, 3), nn.Linear(6, 3), nn.Linear(3, 6)])
    surgery.apply_constraints(model, {"2.weight": Transposed(model[0])})
    again = surgery.plan(model, {"2.weight": Transposed(model[0])})
    assert [row.action.value for row in again.sites if row.name == "2.weight"] == ["already"]
    with pytest.raises(surgery.PlanError, match=r"is constrained already by 'Transposed\(Linear.weight\)'"):
        surgery.apply_constraints(model, {"2.weight": Transposed(model[1])})
    surgery.apply_constraints(model, {"2.weight": Transposed(model[1])}, existing="replace")
    assert torch.equal(model[2].weight, model[1].weight.T)


def test_an_embedding_and_a_constraint_behind_it():
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(5, 3, bias=False))
    surgery.apply_constraints(model, {"1.weight": [Transposed(model[0]), "interval(-0.5, 0.5)"]})
    expected = model[0].weight.detach().T
    assert model[1].weight.detach().abs().max() < 0.5
    model[1].weight.sum().backward()
    width, half = 2 * (0.5 - 2**-25), expected.sigmoid()
    torch.testing.assert_close(model[0].weight.grad.T, width * half * (1 - half))


def test_it_is_made_without_data_and_in_every_dtype():
    model = Autoencoder().to("meta")
    surgery.apply_constraints(model, {"decoder.weight": Transposed(model.encoder)})
    assert model.decoder.weight.is_meta
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        cast = tied().to(dtype)
        assert cast.decoder.weight.dtype == dtype
        assert is_tied(cast)
        assert surgery.check(cast).ok


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Transposed(nn.Linear(2, 3).weight), "Transposed needs the layer that has the weight, got Parameter"),
        (lambda: Transposed(nn.Sequential(nn.Linear(2, 3))), "needs the very layer .* a Sequential with modules in it"),
        (lambda: Transposed(nn.Linear(2, 3), "wieght"), "Transposed: Linear has no parameter 'wieght'"),
        (lambda: Transposed(nn.Linear(2, 3, bias=False), "bias"), "Transposed: Linear has no parameter 'bias'"),
    ],
)
def test_wrong_arguments_are_refused(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("layer", "name", "shape"),
    [(nn.Linear(2, 3), "weight", (3, 2)), (nn.Linear(2, 3), "bias", (3,)), (nn.Conv1d(2, 3, 1), "weight", (2, 3, 1))],
    ids=["not transposed", "bias", "convolution"],
)
def test_another_shape_is_refused_by_name(layer: nn.Module, name: str, shape: tuple[int, ...]):
    with pytest.raises(ConstraintRefusedError, match=r"is no transposed source .*exempt it with 'weight': None"):
        ComputedParameter.from_value(torch.ones(shape), Transposed(layer, name))


def test_the_module_without_inputs_of_the_essay_does_it_by_hand():
    """What rules cannot place, since it has no raw to put in the weight's stead, an author can."""

    class Essay(nn.Module):
        def __init__(self, source: nn.Parameter) -> None:
            super().__init__()
            self.source = source

        def forward(self) -> Tensor:
            return self.source.T

    model = Autoencoder()
    del model.decoder.weight
    model.decoder.weight = computed.ComputedParameter(Essay(model.encoder.weight))
    again = copy.deepcopy(model)
    model(X).square().sum().backward()
    other = tied()
    other.load_state_dict(surgery.state_dict(model, format="plain"))
    other(X).square().sum().backward()
    torch.testing.assert_close(model.encoder.weight.grad, other.encoder.weight.grad, rtol=1e-13, atol=1e-15)
    assert again.decoder.weight.constraints[0].source is again.encoder.weight
