"""While constraints stand aside, a model is its base bit for bit, in every mode, and nothing of it moves."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import surgery
from tests.surgery.catalogue import SPEC_OF

KEEPING = ("dora", "lora", "loha", "lokr", "vera", "delora", "oft", "boft", "hra", "ia3", "mask", "n_m")


class Net(nn.Module):
    """A linear layer and a convolution, with dropout between."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.conv = nn.Conv1d(6, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.fc(x).relu().transpose(1, 2))


def moved(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def constrained(spec: str) -> tuple[nn.Module, nn.Module, Tensor]:
    """A base that does not train, the same with moved adapters, and inputs."""
    base = Net().requires_grad_(False)
    model = surgery.apply_constraints(copy.deepcopy(base), {"*.weight": spec})
    return base, moved(model), torch.randn(2, 5, 6)


def behind(model: nn.Module) -> nn.Module:
    """A plain network of first raws: what stands behind the constraints."""
    plain = Net().train(model.training)
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            first = model.get_submodule(name).raws if name.endswith("weight") else {"": model.get_parameter(name)}
            parameter.copy_(next(iter(first.values())))
    return plain


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", [name for name in KEEPING if name not in ("mask", "n_m")])
def test_an_adapted_model_is_its_base_bit_for_bit(name, training):
    base, model, x = constrained(SPEC_OF[name])
    base.train(training), model.train(training)
    adapted, state = model(x), {key: one.clone() for key, one in model.state_dict().items()}
    with surgery.disabled(model) as inside:
        assert inside is model
        assert torch.equal(model(x), base(x))
        assert torch.equal(model.fc.weight.detach(), base.fc.weight)
        assert not model.fc.weight.value().requires_grad
    assert torch.equal(model(x), adapted)
    assert not torch.equal(adapted, base(x))
    assert all(torch.equal(one, state[key]) for key, one in model.state_dict().items())


@pytest.mark.parametrize("name", ["mask", "n_m"])
def test_a_masked_weight_is_what_the_mask_hides_and_trains_so(name):
    base = Net()
    model = surgery.apply_constraints(copy.deepcopy(base), {"*.weight": SPEC_OF[name]})
    x = torch.randn(2, 5, 6)
    hidden = model.fc.weight == 0
    with surgery.disabled(model):
        assert torch.equal(model(x), base(x))
        model(x).sum().backward()
        base(x).sum().backward()
        assert torch.equal(model.fc.weight.raws["raw"].grad, base.fc.weight.grad)
    assert bool(hidden.any())
    assert torch.equal(model.fc.weight == 0, hidden)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("spec", ["lora(2, alpha=4, dropout=0.5)", "dora(2)", "mask(0.5)"])
def test_compiled_code_sees_it_and_comes_back(spec, backend):
    _, model, x = constrained(spec)
    want = behind(model)(x)
    for training in (True, False):
        model.train(training)
        torch._dynamo.reset()
        compiled = torch.compile(model, backend=backend, fullgraph=True)
        torch.manual_seed(3)
        before = compiled(x)
        with surgery.disabled(model):
            assert torch.equal(compiled(x), want)
        torch.manual_seed(3)
        assert torch.equal(compiled(x), before)
        assert not torch.equal(before, want)


def test_only_what_is_named_stands_aside_and_blocks_nest():
    base, model, x = constrained("lora(2)")
    with surgery.disabled(model, "fc.weight"):
        assert torch.equal(model.fc.weight.detach(), base.fc.weight)
        assert not torch.equal(model.conv.weight.detach(), base.conv.weight)
        with surgery.disabled(model):
            assert torch.equal(model(x), base(x))
        assert torch.equal(model.fc.weight.detach(), base.fc.weight)
        assert not torch.equal(model.conv.weight.detach(), base.conv.weight)
    assert not torch.equal(model.fc.weight.detach(), base.fc.weight)


def test_an_error_inside_brings_it_back_and_leaves_no_trace():
    _, model, x = constrained("lora(2)")
    want = model(x)
    with pytest.raises(KeyError, match="inside"), surgery.disabled(model):
        raise KeyError("inside")
    assert torch.equal(model(x), want)
    rules = {"*.weight": "lora(2)"}
    assert [row.action.value for row in surgery.plan(model, rules).sites] == ["already"] * 2


def test_of_a_chain_those_stand_aside_that_keep_a_weight():
    layer = moved(surgery.apply_constraints(nn.Linear(6, 6), {"weight": "spectral(bound=0.5) | lora(2)"})).eval()
    with surgery.disabled(layer):
        inside = torch.linalg.matrix_norm(layer.weight.detach(), 2)
    torch.testing.assert_close(inside, torch.tensor(0.5), rtol=1e-3, atol=0)
    assert torch.linalg.matrix_norm(layer.weight.detach(), 2) > 0.51


def test_a_write_inside_is_projected_as_any_other():
    _, model, _ = constrained("lora(2)")
    with surgery.disabled(model), torch.no_grad():
        model.fc.weight.fill_(2.0)
    assert torch.equal(model.fc.weight.detach(), torch.full((6, 6), 2.0))


NO_PLAIN_WEIGHT = ("spectral", "orthogonal", "positive", "symmetric", "low_rank", "fake_quant", "weight_norm")


@pytest.mark.parametrize("name", NO_PLAIN_WEIGHT)
def test_what_keeps_no_plain_weight_is_refused(name):
    model = surgery.apply_constraints(nn.Sequential(nn.Linear(6, 6)), {"0.weight": SPEC_OF[name]})
    for patterns in ("0.weight", None):
        with pytest.raises(surgery.SurgeryError, match=r"no plain weight|no computed parameter with a plain weight"):
            surgery.disabled(model, patterns).__enter__()


def test_refusals_say_why():
    model = surgery.apply_constraints(nn.Linear(6, 6), {"weight": "lora(2, alpha=1, init='pissa')"})
    with pytest.raises(surgery.SurgeryError, match=r"weight: lora\(.*init='pissa'\) keeps no plain weight"):
        surgery.disabled(model, "weight").__enter__()
    with pytest.raises(surgery.SurgeryError, match="disabled: no computed parameter matches 'nothing'"):
        surgery.disabled(model, "nothing").__enter__()
    graph = surgery.apply_constraints(nn.Sequential(nn.Linear(6, 6)), {"0.weight": "lora(2)"}, via="fx")
    with pytest.raises(surgery.SurgeryError, match=r"0.weight: F.linear is done by its factors in this graph"):
        surgery.disabled(graph).__enter__()
