"""Lipschitz bounds of whole models: no pair of inputs is stretched more."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import surgery
from surgery.errors import SurgeryError


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 4), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([functional.relu(self.one(x)), 2.0 * self.two(x) / 4.0 - x[:, :3]], 1)


class GroupSort2(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (-1, 2)).sort(-1).values.flatten(1)


MODELS = {
    "layers": lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 2)),
    "activations": lambda: nn.Sequential(
        *(nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 6), nn.SiLU(), nn.Linear(6, 6), nn.Mish(), nn.Linear(6, 6)),
        *(nn.LeakyReLU(-1.5), nn.Linear(6, 6), nn.ELU(2.0), nn.PReLU(), nn.Sigmoid(), nn.Hardswish(), nn.SELU()),
    ),
    "residual": lambda: nn.Sequential(Residual(nn.Sequential(nn.Linear(6, 6), nn.ReLU())), Residual(nn.Linear(6, 6))),
    "branches": Branches,
}
IMAGES = {
    "convolutions": lambda: nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
        *(nn.Conv2d(4, 4, 3, stride=2), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)),
    ),
    "transposed": lambda: nn.Sequential(nn.ConvTranspose2d(2, 3, 3, stride=2), nn.AvgPool2d(2), nn.Conv2d(3, 2, 2)),
    "groups": lambda: nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.ReLU6(), nn.Conv2d(4, 4, 3, dilation=2)),
}


def stretched(model: nn.Module, x: Tensor) -> float:
    """The most that differences of inputs were stretched by, the steepest direction among them."""
    worst = 0.0
    for scale in (1e-3, 1.0, 10.0):
        y = x + scale * torch.randn_like(x)
        with torch.no_grad():
            ratios = (model(x) - model(y)).flatten(1).norm(dim=1) / (x - y).flatten(1).norm(dim=1)
        worst = max(worst, float(ratios.max()))
    jacobian = torch.func.jacrev(lambda one: model(one.unsqueeze(0)).flatten())(x[0]).flatten(1)
    return max(worst, float(torch.linalg.matrix_norm(jacobian.detach(), 2)))


@pytest.mark.parametrize("name", [*MODELS, *IMAGES])
def test_no_pair_of_inputs_is_stretched_more(name, size: str):
    for _ in range(2 if size == "small" else 20):
        model = (MODELS | IMAGES)[name]().double()
        shape = (6,) if name in MODELS else (2, 11, 11)
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.uniform_(layer.weight, 0.5, 2.0), layer.running_var.uniform_(0.3, 3.0)
        found = surgery.lipschitz_bound(model, shape)
        assert not found.unknown
        assert stretched(model.eval(), torch.randn(20, *shape, dtype=torch.float64)) <= found.bound * (1 + 1e-9)


def test_of_linear_layers_the_bound_is_the_product_of_their_norms():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5))
    norms = [np.linalg.norm(model[at].weight.detach().double().numpy(), 2) for at in (0, 2)]
    assert surgery.lipschitz_bound(model).bound == pytest.approx(np.prod(norms), rel=1e-12)


def test_of_one_convolution_it_is_close_to_the_norm_of_the_whole_layer():
    layer = nn.Conv2d(3, 4, 3, padding=1, bias=False).double()
    unit = torch.eye(3 * 144, dtype=torch.float64).reshape(-1, 3, 12, 12)
    with torch.no_grad():
        whole = np.linalg.norm(layer(unit).flatten(1).T.numpy(), 2)
    bound = surgery.lipschitz_bound(layer).bound
    assert whole <= bound <= 1.1 * whole


def test_what_was_certified_is_what_the_bound_says():
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 10))
    with torch.no_grad():
        model[0].weight.mul_(10), model[3].weight.mul_(10)
    surgery.apply_constraints(model, {"0.weight": "operator_norm(bound=1.0)", "3.weight": "spectral(bound=1.0)"})
    before = {name: each.clone() for name, each in model.state_dict().items()}
    bound = surgery.lipschitz_bound(surgery.certify(model)).bound
    assert bound <= 1.0
    assert bound >= 0.98
    assert before.keys() == model.state_dict().keys()
    assert model.training
    assert surgery.lipschitz_bound(surgery.bake(model)).bound == pytest.approx(bound, rel=1e-6)


def test_a_mean_and_poolings_are_known_for_a_size():
    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3)).view(x.size(0), -1)

    assert surgery.lipschitz_bound(Mean(), (3, 4, 5)).bound == pytest.approx(1 / math.sqrt(20))
    assert surgery.lipschitz_bound(nn.AdaptiveAvgPool2d(1), (3, 4, 5)).bound == pytest.approx(1 / math.sqrt(20))
    assert surgery.lipschitz_bound(nn.AvgPool2d(2)).bound == pytest.approx(0.5)
    told = surgery.lipschitz_bound(Mean())
    assert told.unknown
    assert "give input_shape" in str(told)


def test_what_is_not_known_is_named():
    model = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), GroupSort2(), nn.Linear(6, 2))
    found = surgery.lipschitz_bound(model)
    assert found.bound == math.inf
    assert {layer.name for layer in found.unknown} >= {"1"}
    assert "LayerNorm is not known" in str(found)
    assert "no bound: 1, " in str(found)


def test_constants_of_others_can_be_given():
    model = nn.Sequential(nn.Linear(6, 6), GroupSort2(), nn.Linear(6, 2))
    found = surgery.lipschitz_bound(model, known={GroupSort2: 1.0})
    norms = [np.linalg.norm(model[at].weight.detach().double().numpy(), 2) for at in (0, 2)]
    assert found.bound == pytest.approx(np.prod(norms))
    assert [(layer.name, layer.kind) for layer in found.layers] == [
        ("0", "Linear"),
        ("1", "GroupSort2"),
        ("2", "Linear"),
    ]


def test_a_table_is_printed():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with torch.no_grad():
        model[0].weight.copy_(torch.diag(torch.tensor([3.0, 1.0])))
    lines = str(surgery.lipschitz_bound(model)).splitlines()
    assert lines[0].split() == ["layer", "kind", "constant"]
    assert lines[1].split() == ["0", "Linear", "3"]
    assert lines[-1] == "at most 3 in the Euclidean norm, in eval"


def test_a_model_that_cannot_be_followed_is_refused():
    class Deciding(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    with pytest.raises(SurgeryError, match="Deciding cannot be traced, so no bound is known"):
        surgery.lipschitz_bound(Deciding())
    with pytest.raises(SurgeryError, match="Two"):
        surgery.lipschitz_bound(Two())
