"""wav2vec2 and hubert have a weight-normed convolution inside: adopted, they can do what they could not."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import surgery

transformers = pytest.importorskip("transformers", reason="transformers is an extra")

CONVOLUTION = "encoder.pos_conv_embed.conv"
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "conv_dim": (8, 8),
    "conv_stride": (4, 2),
    "conv_kernel": (8, 3),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 6,
    "num_conv_pos_embedding_groups": 2,
}


@pytest.fixture(params=["Wav2Vec2", "Hubert"])
def model(request):
    torch.manual_seed(0)
    config = getattr(transformers, f"{request.param}Config")(**SIZES)
    return getattr(transformers, f"{request.param}Model")(config).eval()


@pytest.fixture
def sound():
    return torch.randn(2, 400, generator=torch.Generator().manual_seed(1))


def heard(model, sound):
    with torch.no_grad():
        return model(sound).last_hidden_state


def test_it_could_not_be_pickled_and_now_can(model, sound):
    want = heard(model, sound)
    with pytest.raises(RuntimeError, match="Serialization of parametrized modules"):
        pickle.dumps(model)
    surgery.adopt(model)
    assert type(model.get_submodule(CONVOLUTION)) is nn.Conv1d
    assert torch.equal(heard(model, sound), want)
    assert torch.equal(heard(pickle.loads(pickle.dumps(model)), sound), want)


def test_a_plain_model_with_plain_keys_comes_out(model, sound):
    want = heard(model, sound)
    surgery.bake(surgery.adopt(model))
    assert torch.equal(heard(model, sound), want)
    assert not any(parametrize.is_parametrized(module) for module in model.modules())
    assert f"{CONVOLUTION}.weight" in model.state_dict()


def test_what_from_pretrained_reads_can_be_written(model, sound, tmp_path):
    want, keys = heard(model, sound), list(model.state_dict())
    surgery.adopt(model)
    written = surgery.state_dict(model, format="parametrizations")
    assert list(written) == keys
    model.save_pretrained(tmp_path, state_dict=written)
    loaded, told = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    assert torch.equal(heard(loaded.eval(), sound), want)


def test_it_trains_as_before(model, sound):
    twin = copy.deepcopy(model)
    surgery.adopt(model)
    for each in (model, twin):
        optimizer = torch.optim.SGD(each.parameters(), lr=0.1)
        each(sound).last_hidden_state.square().sum().backward()
        optimizer.step()
    assert torch.equal(heard(model, sound), heard(twin, sound))


def test_a_rule_for_its_convolution_says_what_to_do(model):
    with pytest.raises(surgery.PlanError, match=rf"surgery\.adopt\(model, '{CONVOLUTION}\.weight'\)"):
        surgery.apply_constraints(model, {"*.conv.weight": "spectral"})
    surgery.apply_constraints(surgery.adopt(model), {"*pos*.conv.weight": "spectral"}, existing="replace")
    assert [weight.spec for weight in surgery.computed_parameters(model).values()] == ["spectral(norm=1.0, dim=0)"]


def test_undo_gives_the_parametrized_model_back(model, sound):
    keys, want = list(model.state_dict()), heard(model, sound)
    surgery.undo(surgery.adopt(model))
    assert list(model.state_dict()) == keys
    assert parametrize.is_parametrized(model.get_submodule(CONVOLUTION), "weight")
    assert torch.equal(heard(model, sound), want)
