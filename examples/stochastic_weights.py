"""Weights that are drawn anew at each read: uncertainty, and gates that learn to be zero, on nets that exist already.

Two constraints that are not in the catalogue, each a class of a few lines with ``stochastic = True``: a read in train
mode is a sample, a read in eval is one fixed value, which is held.

* `Gaussian` (Bayes by backprop): every weight is a normal distribution with a trained mean and deviation; the value in
  eval is the mean. Laid by one rule on a small net that was fitted to points with a gap between them, and trained on by
  the evidence lower bound, its samples agree at the points and part where there were none; the net alone, whose
  weights are its means, draws one line through the gap and says nothing of it.
* `HardConcrete` (L0 regularisation): columns of a weight times gates that are exactly zero or one with some
  probability, which is trained; in eval a gate is what the paper uses, exactly zero or one for most. By one rule on a net
  that reads scikit-learn's digits it chooses pixels and hidden units. Beside it stands ``mask(..., dim=1)`` of the
  catalogue, which keeps as many columns, the longest, and is trained on for as long.

At insertion both keep the pretrained weight, bit for bit in eval. What loses: on the digits the plain rule of the
longest columns is as good as the gates where many pixels may stay, and needs no penalty to be found by trying; the
gates find the number themselves. And a mean-field posterior is overconfident in the gap: its band is too narrow there.

Reference: Blundell et al., "Weight uncertainty in neural networks", 2015 (arXiv:1505.05424), section 3; Louizos,
Welling and Kingma, "Learning sparse neural networks through L0 regularization", 2018 (arXiv:1712.01312), section 2.

Run ``python examples/stochastic_weights.py [picture.png]``; it needs scikit-learn, of the extra ``dev``, and for the
picture matplotlib, of the extra ``examples``.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import computed
import surgery
from computed.constraint import Preimage, Role
from computed.parameter import ComputedParameter

NOISE = 0.05  # of the points on the curve
PRIOR = 1.0
POINTS, PRETRAINING, STEPS, DRAWS = 48, 800, 1500, 4
TRAINED, EPOCHS, BATCH = 1400, 12, 64  # of 1797 pictures; the others test
PENALTIES = (0.002, 0.005, 0.01)  # of an open gate, beside the mean cross-entropy
TEMPERATURE, LOW, HIGH = 2 / 3, -0.1, 1.1  # beta, gamma and zeta of the paper
OPEN = 3.0  # log alpha of a gate that is one in eval, and mostly in training
PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "stochastic_weights.png"


class Gaussian(computed.Constraint):
    """``value = mu + softplus(rho) eps`` with ``eps`` drawn at each read in training; ``mu`` in eval."""

    roles: ClassVar[tuple[Role, ...]] = (Role("mu"), Role("rho"))
    stochastic: ClassVar[bool] = True

    def __init__(self, start: float = 0.02) -> None:
        super().__init__()
        self.start = start

    def forward(self, mu: Tensor, rho: Tensor) -> Tensor:
        """A sample, or the mean."""
        return mu + F.softplus(rho) * torch.randn_like(mu) if self.training else mu * 1

    def right_inverse(self, value: Tensor) -> Preimage:
        """The value as mean, and a small deviation."""
        return Preimage((value, torch.full_like(value, math.log(math.expm1(self.start)))))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """Zero: every tensor is a mean."""
        return 0.0


class HardConcrete(computed.Constraint):
    """``value = raw z`` with one gate ``z`` between 0 and 1 for each column of ``raw`` (out, in).

    In training ``z`` is drawn at each read: a sigmoid of ``log_alpha`` (in) and noise, stretched, and cut off.
    """

    roles: ClassVar[tuple[Role, ...]] = (Role("raw"), Role("log_alpha"))
    stochastic: ClassVar[bool] = True

    def raw_shapes(self, shape: torch.Size) -> tuple[torch.Size, ...]:
        """That of the weight, and one number for each column."""
        return shape, shape[1:]

    def forward(self, raw: Tensor, log_alpha: Tensor) -> Tensor:
        """The gated weight."""
        if self.training:
            uniform = torch.rand_like(log_alpha).clamp(1e-6, 1 - 1e-6)
            concrete = torch.sigmoid((torch.logit(uniform) + log_alpha) / TEMPERATURE)
        else:
            concrete = torch.sigmoid(log_alpha)
        return raw * stretched(concrete)

    def right_inverse(self, value: Tensor) -> Preimage:
        """The value, and gates that are open."""
        return Preimage((value, value.new_full(value.shape[1:], OPEN)))

    def violation(self, value: Tensor, raws: Sequence[Tensor]) -> float:
        """Zero: every tensor is admissible."""
        return 0.0


def stretched(concrete: Tensor) -> Tensor:
    """From between 0 and 1 to between ``LOW`` and ``HIGH``, cut off at 0 and 1, which are then met exactly."""
    return (LOW + (HIGH - LOW) * concrete).clamp(0, 1)


def gates(parameter: ComputedParameter) -> Tensor:
    """The gates in eval."""
    return stretched(torch.sigmoid(parameter.raws["log_alpha"].detach()))


def of_kind(model: nn.Module, kind: type[computed.Constraint]) -> Iterator[ComputedParameter]:
    """The computed parameters with this constraint."""
    found = surgery.computed_parameters(model).values()
    return (parameter for parameter in found if isinstance(parameter.constraints[0], kind))


def divergence(model: nn.Module, prior: float = PRIOR) -> Tensor:
    """The Kullback-Leibler divergence of all normal weights from independent ``Normal(0, prior)``."""
    total = torch.zeros(())
    for parameter in of_kind(model, Gaussian):
        mean, deviation = parameter.raws["mu"], F.softplus(parameter.raws["rho"])
        ratio = (deviation.square() + mean.square()) / prior**2
        total = total + 0.5 * (ratio - 1 - 2 * (deviation / prior).log()).sum()
    return total


def expected_open(model: nn.Module) -> Tensor:
    """How many gates are not zero, in the mean over the noise: a differentiable count."""
    shift = TEMPERATURE * math.log(-LOW / HIGH)
    found = [torch.sigmoid(each.raws["log_alpha"] - shift).sum() for each in of_kind(model, HardConcrete)]
    return torch.stack(found).sum()


# a line with an uncertain part


def curve(x: Tensor) -> Tensor:
    """What the points lie on."""
    return 0.5 * torch.sin(4 * x) + 0.3 * x


def points(seed: int = 0) -> tuple[Tensor, Tensor]:
    """``x`` and ``y`` (n, 1), with a gap from -0.2 to 0.6."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.cat([torch.linspace(-1, -0.2, POINTS // 2), torch.linspace(0.6, 1, POINTS // 2)])[:, None]
    return x, curve(x) + NOISE * torch.randn(x.shape, generator=generator)


def fitted_line(seed: int = 0, steps: int = PRETRAINING) -> nn.Sequential:
    """A plain net, fitted by least squares; it knows nothing of constraints."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
    x, y = points()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
    return model


def with_uncertainty(model: nn.Module, seed: int = 0, steps: int = STEPS) -> nn.Module:
    """Every weight and bias a normal distribution, by one rule; trained by the evidence lower bound."""
    torch.manual_seed(seed)
    surgery.apply_constraints(model, {"*": Gaussian()}).train()
    x, y = points()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    for _ in range(steps):
        optimizer.zero_grad()
        # each forward draws every weight once for all points; the gradients of several forwards add up
        for _ in range(DRAWS):
            misfit = (model(x) - y).square().sum() / (2 * NOISE**2)
            (misfit / DRAWS).backward()
        divergence(model).backward()
        optimizer.step()
    return model


def band(model: nn.Module, x: Tensor, draws: int = 200) -> tuple[Tensor, Tensor]:
    """Mean and deviation of what samples of the net say at ``x``, without the noise of the points."""
    model.train()
    with torch.no_grad():
        drawn = torch.stack([model(x) for _ in range(draws)])
    model.eval()
    return drawn.mean(0), drawn.std(0)


# digits with gates


@dataclass(frozen=True)
class Gated:
    """What became of one way: columns left in each layer, the share of test pictures that is read rightly."""

    name: str
    left: tuple[int, ...]
    right: float
    model: nn.Module


def digits() -> tuple[Tensor, Tensor]:
    """1797 pictures (n, 64) between 0 and 1, and what they are; always in the same order."""
    given = load_digits()
    order = torch.randperm(len(given.target), generator=torch.Generator().manual_seed(0))
    return torch.tensor(given.data, dtype=torch.float32)[order] / 16, torch.tensor(given.target)[order]


def train(model: nn.Module, seed: int, epochs: int, penalty: float = 0.0) -> nn.Module:
    """By the mean cross-entropy, and a price for each gate that is open."""
    pixels, labels = (part[:TRAINED] for part in digits())
    torch.manual_seed(seed)
    optimizer = torch.optim.Adam(
        [
            {"params": [p for name, p in model.named_parameters() if "log_alpha" not in name], "lr": 3e-3},
            {"params": [p for name, p in model.named_parameters() if "log_alpha" in name], "lr": 3e-2},
        ]
    )
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(TRAINED).split(BATCH):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(pixels[batch]), labels[batch])
            if penalty:
                loss = loss + penalty * expected_open(model)
            loss.backward()
            optimizer.step()
    return model.eval()


def reader(seed: int = 0, epochs: int = EPOCHS) -> nn.Module:
    """A plain net that reads digits, trained."""
    torch.manual_seed(seed)
    return train(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)), seed, epochs)


def columns_left(model: nn.Module) -> tuple[int, ...]:
    """How many columns of each weight are not zero, in eval."""
    weights = (layer.weight for layer in model if isinstance(layer, nn.Linear))
    return tuple(int((weight.detach() != 0).any(0).sum()) for weight in weights)


def judged(name: str, model: nn.Module) -> Gated:
    """Count and test it."""
    pixels, labels = (part[TRAINED:] for part in digits())
    with torch.no_grad():
        right = (model.eval()(pixels).argmax(1) == labels).double().mean().item()
    return Gated(name, columns_left(model), right, model)


def gated(base: nn.Module, penalty: float, seed: int = 0, epochs: int = 2 * EPOCHS) -> Gated:
    """Gates on all columns by one rule, trained at this price."""
    model = surgery.apply_constraints(copy.deepcopy(base), {"*.weight": HardConcrete})
    return judged(f"gates, price {penalty:g}", train(model, seed, epochs, penalty))


def masked(base: nn.Module, left: Sequence[int], seed: int = 0, epochs: int = 2 * EPOCHS) -> Gated:
    """The longest columns stay, as many as ``left`` says for each layer; trained on for as long."""
    layers = {name: layer for name, layer in base.named_children() if isinstance(layer, nn.Linear)}
    rules = {
        f"{name}.weight": f"mask({1 - count / layer.in_features}, dim=1)"
        for (name, layer), count in zip(layers.items(), left, strict=True)
        if count < layer.in_features
    }
    model = surgery.apply_constraints(copy.deepcopy(base), rules) if rules else copy.deepcopy(base)
    return judged("  as many, longest", train(model, seed, epochs))
