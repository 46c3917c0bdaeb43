"""The models that surgery is tried on: small, and of every kind that keeps its parameters in a way of its own."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

SPECS = (
    "spectral(bound=0.5)",
    "spectral(norm=1.0)",
    "operator_norm",
    "orthogonal",
    "positive",
    "greater_than(0.1)",
    "interval(-0.5, 0.5)",
    "unit_norm",
    "weight_norm",
    "lora(2, alpha=4)",
)
SQUARE_SPECS = ("symmetric", "skew", "symmetric | spectral(bound=0.5)", "weight_norm | lora(2)")


class Block(nn.Module):
    """A residual block with batch normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


class ResNet(nn.Module):
    """A small ResNet; the stem has no bias, so its host has one parameter only."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, bias=False)
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Recurrent(nn.Module):
    """An LSTM or GRU, which keeps a list of its weights that no registry knows of."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn = kind(3, 4, num_layers=2, bidirectional=True, batch_first=True)
        self.out = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x)[0])


class Attending(nn.Module):
    """Multi-head attention, whose out_proj is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class TiedLM(nn.Module):
    """A language model whose head is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.mix = nn.Linear(4, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.mix(self.embedding(tokens))))


class Listed(nn.Module):
    """Parameters in a ParameterList and a ParameterDict, and one of the module's own between two children."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(3, 3)) for _ in range(3)])
        self.named = nn.ParameterDict({"a": torch.randn(3, 3), "b": torch.randn(3)})
        self.scale = nn.Parameter(torch.rand(3) + 0.5)
        self.register_buffer("shift", torch.randn(3))
        self.register_buffer("passing", torch.randn(3, 3), persistent=False)
        self.last = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x) * self.scale + self.shift
        for weight in self.weights:
            x = torch.tanh(x @ weight)
        return self.last(x @ self.named["a"] + self.named["b"] + x @ self.passing)


def transformer() -> nn.Module:
    """Two encoder layers."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def images() -> Tensor:
    """A batch for the ResNet."""
    return torch.randn(2, 3, 6, 6)


def sequences() -> Tensor:
    """A batch for recurrent models."""
    return torch.randn(2, 5, 3)


def embedded() -> Tensor:
    """A batch for attention."""
    return torch.randn(2, 5, 8)


def tokens() -> Tensor:
    """A batch for the language model."""
    return torch.randint(7, (2, 5))


def rows() -> Tensor:
    """A batch for `Listed`."""
    return torch.randn(4, 3)


# how to build it, an input, and rules
MODELS = {
    "resnet": (ResNet, images, {"*conv*.weight": "spectral(bound=0.5)", "stem.*": "lora(2)"}),
    "lstm": (partial(Recurrent, nn.LSTM), sequences, {"rnn.weight_*": "spectral(bound=0.5)"}),
    "gru": (partial(Recurrent, nn.GRU), sequences, {"rnn.weight_*": "weight_norm", "out.bias": "positive"}),
    "mha": (Attending, embedded, {"*.in_proj_weight": "spectral", "*.out_proj.weight": "orthogonal"}),
    "transformer": (transformer, embedded, {"*@Linear.weight": "lora(2)", "*.linear1.weight": "spectral"}),
    "tied": (TiedLM, tokens, {"head.weight": "orthogonal", "mix.weight": "symmetric"}),
    "listed": (
        Listed,
        rows,
        {"weights.*": "orthogonal", "named.a": "skew", "scale": "positive", "shift": "positive", "passing": "spectral"},
    ),
}
