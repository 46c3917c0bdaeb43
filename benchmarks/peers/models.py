"""The models that all libraries get, with the names of what is to be constrained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Case:
    """How a model is built, an input for it, and its weights; ``modules`` are those that PEFT has a layer for."""

    build: Callable[[], nn.Module]
    draw: Callable[[], Tensor]
    weights: tuple[str, ...]
    modules: tuple[str, ...] = ()


class Residual(nn.Module):
    """A stem and a residual block, with batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """From images to three numbers."""
        x = torch.relu(self.norm(self.stem(x)))
        return self.head((x + self.conv(x)).mean((2, 3)))


class Recurrent(nn.Module):
    """An LSTM or GRU of two layers in both directions, and a Linear."""

    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM) -> None:
        super().__init__()
        self.rnn = kind(4, 5, num_layers=2, bidirectional=True, batch_first=True)
        self.out = nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        """From a sequence to a sequence."""
        return self.out(self.rnn(x)[0])


class Attending(nn.Module):
    """Multi-head attention of a sequence to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """From a sequence to a sequence."""
        return self.attention(x, x, x, need_weights=False)[0]


class TiedModel(nn.Module):
    """A language model whose head is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.mix = nn.Linear(4, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """From tokens to logits."""
        return self.head(torch.tanh(self.mix(self.embedding(tokens))))


def perceptron() -> nn.Module:
    """Two layers."""
    return nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))


def encoder_layer() -> nn.Module:
    """One layer of a Transformer's encoder."""
    return nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)


def recurrent_weights(prefix: str) -> tuple[str, ...]:
    """The matrices of two layers in both directions."""
    kinds = [f"weight_{of}_l{layer}{way}" for layer in (0, 1) for way in ("", "_reverse") for of in ("ih", "hh")]
    return tuple(prefix + kind for kind in kinds)


PERCEPTRON = Case(perceptron, lambda: torch.randn(8, 6), ("0.weight", "2.weight"), ("0", "2"))
RESIDUAL = Case(Residual, lambda: torch.randn(2, 3, 6, 6), ("stem.weight", "conv.weight"), ("stem", "conv"))
LSTM = Case(Recurrent, lambda: torch.randn(2, 5, 4), recurrent_weights("rnn."))
GRU = Case(lambda: Recurrent(nn.GRU), lambda: torch.randn(2, 5, 4), recurrent_weights("rnn."))
ATTENTION = Case(
    Attending,
    lambda: torch.randn(2, 5, 8),
    ("attention.in_proj_weight", "attention.out_proj.weight"),
    ("attention",),
)
ENCODER = Case(
    encoder_layer,
    lambda: torch.randn(2, 5, 8),
    ("self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight"),
    ("self_attn", "linear1", "linear2"),
)
TIED = Case(TiedModel, lambda: torch.randint(7, (4, 5)), ("head.weight",), ("head",))


def host_of(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that owns a parameter, and its name there."""
    path, _, attribute = name.rpartition(".")
    return model.get_submodule(path), attribute


def train(model: nn.Module, inputs: Tensor, steps: int, rate: float = 0.05) -> nn.Module:
    """Steps of SGD over what is trained."""
    model.train()
    optimizer = torch.optim.SGD([tensor for tensor in model.parameters() if tensor.requires_grad], lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(inputs) - 1).square().mean().backward()
        optimizer.step()
    return model


def in_eval(model: nn.Module, inputs: Tensor) -> Tensor:
    """The output in eval mode, without gradients."""
    with torch.no_grad():
        return model.eval()(inputs)
