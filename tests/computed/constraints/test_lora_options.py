"""Options of LoRA: another scale, a start at the largest singular values, and dropout of what goes in."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import surgery
from computed.constraints.adapters import LoRA
from computed.constraints.dora import DoRA
from computed.errors import ConstraintRefusedError
from computed.parameter import ComputedParameter

LAYERS = {
    "Linear": (lambda: nn.Linear(8, 6), (5, 8)),
    "Linear without bias": (lambda: nn.Linear(8, 6, bias=False), (2, 5, 8)),
    "Conv1d": (lambda: nn.Conv1d(4, 6, 3, padding=1), (2, 4, 9)),
    "Conv2d": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 8, 8)),
    "Conv3d": (lambda: nn.Conv3d(4, 6, (1, 2, 3), dilation=(1, 2, 1)), (2, 4, 3, 5, 5)),
}
SPEC = "lora(rank=3, alpha=5.0, dropout=0.4)"


def adapted(layer: nn.Module, spec: str = SPEC) -> nn.Module:
    """A layer with an adapter away from its start, in training."""
    surgery.apply_constraints(layer, {"weight": spec})
    with torch.no_grad():
        layer.weight.raws["B"].normal_()
    return layer.train()


def by_hand(layer: nn.Module, x: Tensor, seed: int) -> Tensor:
    """Base plus adapter of the dropped input, by the layer's own operation with each weight."""
    base, a, b = (raw.detach() for raw in layer.weight.raws.values())
    change = (5.0 / 3 * b @ a.flatten(1)).reshape(base.shape)
    torch.manual_seed(seed)
    dropped = F.dropout(x, 0.4, training=True)
    plain = type(layer).__new__(type(layer))
    plain.__dict__ = {**copy.copy(layer.__dict__), "_parameters": {}, "_modules": {}}
    plain.bias = None
    plain.weight = nn.Parameter(change)
    narrow = plain(dropped)
    plain.weight = nn.Parameter(base)
    plain.bias = layer.bias
    return plain(x) + narrow


@pytest.mark.parametrize("name", LAYERS)
def test_dropout_acts_on_the_input_of_the_adapter_in_training_alone(name):
    made, shape = LAYERS[name]
    layer, x = adapted(made()), torch.randn(shape)
    torch.manual_seed(4)
    found = layer(x)
    torch.testing.assert_close(found, by_hand(layer, x, 4), rtol=1e-4, atol=1e-5)
    assert not torch.equal(layer(x), found)
    layer.eval()
    assert torch.equal(layer(x), layer(x))
    without = adapted(made(), "lora(rank=3, alpha=5.0)")
    without.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x), without.eval()(x))
    torch.testing.assert_close(layer(x), surgery.bake(copy.deepcopy(layer))(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_dropout_follows_the_mode_when_compiled(backend):
    layer, x = adapted(nn.Linear(8, 6)), torch.randn(5, 8)
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend=backend, fullgraph=True)
    torch.manual_seed(4)
    want = layer(x)
    torch.manual_seed(4)
    torch.testing.assert_close(compiled(x), want)
    layer.eval()
    torch.testing.assert_close(compiled(x), layer(x))
    torch.testing.assert_close(compiled(x), compiled(x), rtol=0, atol=0)
    layer.train()
    torch.manual_seed(4)
    torch.testing.assert_close(compiled(x), want)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_a_checkpointed_forward_drops_the_same_again(use_reentrant):
    layer, found = adapted(nn.Linear(8, 6)), []
    for checkpointed in (False, True):
        x = torch.ones(5, 8, requires_grad=True)
        torch.manual_seed(4)
        result = checkpoint(layer, x, use_reentrant=use_reentrant) if checkpointed else layer(x)
        result.square().sum().backward()
        found.append([result.detach(), x.grad, *(layer.weight.raws[role].grad.clone() for role in "AB")])
        layer.zero_grad()
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("via", ["fx", "export"])
@pytest.mark.parametrize("name", ["Linear", "Conv2d"])
def test_dropout_follows_the_mode_of_a_graph(via, name):
    made, shape = LAYERS[name]
    model, x = nn.Sequential(made(), nn.ReLU()), torch.randn(shape)
    for mode in (True, False):
        graph = surgery.apply_constraints(model.train(mode), {"0.weight": SPEC}, via=via, example=(x,))
        tree = surgery.apply_constraints(copy.deepcopy(model), {"0.weight": SPEC})
        with torch.no_grad():
            graph.get_submodule("0.weight").raws["B"].normal_()
        tree.load_state_dict(graph.state_dict())
        for training in (True, False, True):
            results = []
            for each in (graph, tree):
                each.train(training)
                torch.manual_seed(4)
                results.append(each(x))
            torch.testing.assert_close(results[0], results[1])
            assert torch.equal(graph(x), graph(x)) is not training
        torch.testing.assert_close(surgery.bake(graph).eval()(x), tree.eval()(x), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:The TorchScript type system doesn't support instance-level:UserWarning")
def test_a_scripted_graph_drops_in_training():
    x = torch.randn(5, 8)
    graph = surgery.apply_constraints(nn.Sequential(nn.Linear(8, 6)), {"0.weight": SPEC}, via="fx", example=(x,))
    with torch.no_grad():
        graph.get_submodule("0.weight").raws["B"].normal_()
    script = torch.jit.script(graph.eval())
    torch.testing.assert_close(script(x), graph(x))
    script.train()
    assert not torch.equal(script(x), script(x))


class OwnForward(nn.Linear):
    """A layer that does something else with its weight."""

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T


UNFIT = {
    "an embedding": (lambda: nn.Embedding(4, 8), "weight", "this is the weight of an Embedding"),
    "groups": (lambda: nn.Conv2d(4, 6, 3, groups=2), "weight", "this one has 2 groups"),
    "padded before": (
        lambda: nn.Conv1d(4, 6, 3, padding=1, padding_mode="reflect"),
        "weight",
        "padding_mode='reflect'",
    ),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3), "weight", "this is the weight of a ConvTranspose2d"),
    "attention": (lambda: nn.MultiheadAttention(8, 2), "out_proj.weight", "NonDynamicallyQuantizableLinear"),
    "recurrent": (lambda: nn.LSTM(4, 3), "weight_ih_l0", "this is the weight_ih_l0 of a LSTM"),
    "own forward": (lambda: OwnForward(8, 6), "weight", "OwnForward has a forward of its own"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_dropout_is_refused_where_no_rule_would_do_it(case):
    made, name, reason = UNFIT[case]
    assert surgery.plan(made(), {name: "lora(2)"}).ok
    planned = surgery.plan(made(), {name: "lora(2, dropout=0.1)"})
    assert len(planned.problems) == 1
    assert f"{reason}, and would leave it out without a word" in planned.problems[0]


def test_dropout_is_refused_in_a_chain_by_whichever_way_it_comes_about():
    reason = "acts on the input of its layer, which it can do only where it is the one constraint of a weight"
    for spec in ("spectral | lora(2, dropout=0.1)", "lora(2, dropout=0.1) | spectral"):
        with pytest.raises(surgery.PlanError, match=reason):
            surgery.apply_constraints(nn.Linear(8, 6), {"weight": spec})
    layer = surgery.apply_constraints(nn.Linear(8, 6), {"weight": "lora(2, dropout=0.1)"})
    with pytest.raises(surgery.PlanError, match=reason):
        surgery.apply_constraints(layer, {"weight": "spectral"}, existing="chain")
    chain = surgery.apply_constraints(nn.Linear(8, 6), {"weight": "spectral | lora(2)"})
    with pytest.raises(surgery.SurgeryError, match=reason):
        surgery.configure(chain, "weight", dropout=0.5)
    with pytest.raises(surgery.PlanError, match="needs rows along the first dimension, got dim=1"):
        surgery.apply_constraints(nn.Linear(8, 6), {"weight": "lora(2, dim=1, dropout=0.1)"})


def test_dropout_of_a_tie_needs_all_its_hosts_to_be_layers():
    model = nn.ModuleDict({"out": nn.Linear(8, 6, bias=False), "embed": nn.Embedding(6, 8)})
    model["embed"].weight = model["out"].weight
    assert "this is the weight of an Embedding" in surgery.plan(model, {"out.weight": SPEC}).problems[0]


def test_dropout_is_a_setting_for_schedules():
    layer, x = adapted(nn.Linear(8, 6)), torch.randn(5, 8)
    surgery.configure(layer, "weight", dropout=0.0)
    assert layer.weight.spec == "lora(rank=3, alpha=5.0)"
    assert torch.equal(layer(x), layer(x))
    surgery.configure(layer, "weight", dropout=0.5)
    assert not torch.equal(layer(x), layer(x))


def test_settings_of_what_a_graph_has_built_in_are_refused():
    graph = surgery.apply_constraints(nn.Sequential(nn.Linear(8, 6)), {"0.weight": "lora(3, alpha=5)"}, via="fx")
    with pytest.raises(surgery.SurgeryError, match=r"0.weight: F.linear is done by its factors in this graph"):
        surgery.configure(graph, "0.weight", alpha=9)
    assert graph.get_submodule("0.weight").spec == "lora(rank=3, alpha=5.0)"


@pytest.mark.parametrize("kind", [LoRA, DoRA])
def test_rslora_divides_by_the_root_of_the_rank(kind):
    constraint = kind(4, alpha=6, rslora=True)
    assert constraint.scale() == 6 / 2
    assert constraint.spec() == f"{kind.spec_name}(rank=4, alpha=6.0, rslora=True)"
    with pytest.raises(ValueError, match="with rslora=True scales alpha, and needs one"):
        kind(4, rslora=True)


def test_the_value_with_rslora_is_by_its_scale():
    parameter = ComputedParameter.from_value(torch.randn(5, 7), LoRA(3, alpha=2, rslora=True))
    with torch.no_grad():
        parameter.raws["B"].normal_()
    base, a, b = (raw.detach().double().numpy() for raw in parameter.raws.values())
    np.testing.assert_allclose(parameter.detach().numpy(), base + 2 / math.sqrt(3) * b @ a, rtol=1e-5, atol=1e-6)


def test_defaults_are_not_written():
    assert LoRA(2, alpha=3, rslora=False, init="kaiming", dropout=0).spec() == "lora(rank=2, alpha=3.0)"
    assert DoRA(2, alpha=3, rslora=False).spec() == "dora(rank=2, alpha=3.0)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"init": "svd"}, "lora: init is one of 'kaiming', 'pissa', got 'svd'"),
        ({"init": "pissa", "alpha": 0}, "lora with init='pissa' needs an alpha above 0, got 0"),
        ({"init": "pissa", "alpha": -1}, "needs an alpha above 0, got -1"),
        ({"dropout": 1.0}, r"lora needs a dropout from 0 to below 1, got 1.0"),
        ({"dropout": -0.1}, r"from 0 to below 1, got -0.1"),
        ({"dropout": float("nan")}, r"from 0 to below 1, got nan"),
        ({"dropout": "much"}, r"from 0 to below 1, got 'much'"),
    ],
)
def test_wrong_options_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        LoRA(2, **arguments)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (6, 4, 3, 3)])
def test_pissa_splits_the_weight_at_its_largest_singular_values(dtype, shape):
    weight = torch.randn(shape, dtype=torch.float64).to(dtype)
    layer = nn.Linear(9, 6) if len(shape) == 2 else nn.Conv2d(4, 6, 3)
    layer.weight = nn.Parameter(weight.clone())
    surgery.apply_constraints(layer, {"weight": "lora(rank=3, alpha=2, init='pissa')"})
    base, a, b = (raw.detach().double().numpy() for raw in layer.weight.raws.values())
    matrix = weight.double().flatten(1).numpy()
    u, s, vh = np.linalg.svd(matrix, full_matrices=False)
    eps = float(torch.finfo(dtype).eps)
    best = (u[:, :3] * s[:3]) @ vh[:3]
    np.testing.assert_allclose(2 / 3 * b @ a.reshape(3, -1), best, atol=8 * eps * s[0])
    np.testing.assert_allclose(np.linalg.norm(a.reshape(3, -1), axis=1), np.linalg.norm(b, axis=0), rtol=16 * eps)
    np.testing.assert_allclose(base.reshape(matrix.shape), matrix - best, atol=8 * eps * s[0])
    torch.testing.assert_close(layer.weight.detach(), weight, rtol=8 * eps, atol=8 * eps * s[0])
    surgery.undo(layer)
    assert torch.equal(layer.weight, weight)


def test_pissa_goes_round_by_its_spec_and_its_files(tmp_path):
    layer = nn.Linear(8, 6)
    twin = copy.deepcopy(layer)
    surgery.apply_constraints(layer, {"*": "frozen", "weight": "lora(rank=2, alpha=1, init='pissa')"})
    assert layer.weight.spec == "lora(rank=2, alpha=1.0, init='pissa')"
    with torch.no_grad():
        layer.weight.raws["A"].add_(0.1)
    for only in ("all", "trained"):
        file = tmp_path / f"{only}.safetensors"
        surgery.save_checkpoint(layer, file, only=only)
        other = surgery.load_checkpoint(copy.deepcopy(twin), file)
        assert torch.equal(other.weight.detach(), layer.weight.detach())
    written = nn.Linear(8, 6)
    surgery.apply_constraints(written, {"weight": layer.weight.spec})
    with torch.no_grad():
        written.weight.copy_(twin.weight)
    torch.testing.assert_close(written.weight.detach(), twin.weight.detach())


@pytest.mark.parametrize("spec", ["vera(2)", "lsq(4)", "lora(2) | symmetric"])
def test_what_is_fixed_and_not_the_weight_is_in_a_file_of_what_trains(spec, tmp_path):
    layer = nn.Linear(6, 6)
    twin = copy.deepcopy(layer)
    surgery.apply_constraints(layer, {"*": "frozen", "weight": spec})
    surgery.save_checkpoint(layer, tmp_path / "file", only="trained")
    other = surgery.load_checkpoint(twin, tmp_path / "file")
    assert torch.equal(other.weight.detach(), layer.weight.detach())


def test_pissa_of_a_weight_of_lower_rank_trains_all_its_factors():
    weight = torch.outer(torch.arange(1.0, 7), torch.ones(8))
    weight[:, 4:] = 0
    for value in (weight, torch.zeros(6, 8)):
        parameter = ComputedParameter.from_value(value, LoRA(3, alpha=3, init="pissa"))
        torch.testing.assert_close(parameter.detach(), value)
        (parameter * torch.randn(6, 8)).sum().backward()
        assert all((parameter.raws["B"].grad.abs().sum(0) > 0).tolist())


def test_pissa_needs_singular_values():
    with pytest.raises(ConstraintRefusedError, match=r"needs as many singular values, and shape \(6, 8\) has 6"):
        ComputedParameter.from_value(torch.randn(6, 8), LoRA(7, alpha=1, init="pissa"))
    assert ComputedParameter.from_value(torch.randn(6, 8), LoRA(6, alpha=1, init="pissa")).shape == (6, 8)
