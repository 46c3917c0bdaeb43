"""The networks whose steps are timed: residual ones as published, a deep narrow perceptron, a critic, a cell."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """A residual block: two 3 x 3 convolutions, or one between two of single points where it is a ``bottleneck``.

    He et al., "Deep residual learning for image recognition", 2016, figure 5; the stride is that of the 3 x 3.
    """

    def __init__(self, channels: int, width: int, stride: int, *, bottleneck: bool) -> None:
        super().__init__()
        out = 4 * width if bottleneck else width
        shapes = [(channels, width, 1), (width, width, 3), (width, out, 1)] if bottleneck else _basic(channels, width)
        strided = 1 if bottleneck else 0
        layers: list[nn.Module] = []
        for place, (before, after, size) in enumerate(shapes):
            step = stride if place == strided else 1
            conv = nn.Conv2d(before, after, size, step, size // 2, bias=False)
            layers += [conv, nn.BatchNorm2d(after), nn.ReLU()]
        self.convs = nn.Sequential(*layers[:-1])
        changes = stride != 1 or channels != out
        projection = [nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)] if changes else []
        self.shortcut = nn.Sequential(*projection)
        self.channels = out

    def forward(self, x: Tensor) -> Tensor:
        """The block and the shortcut."""
        return torch.relu(self.convs(x) + self.shortcut(x))


def _basic(channels: int, width: int) -> list[tuple[int, int, int]]:
    return [(channels, width, 3), (width, width, 3)]


class ResidualNetwork(nn.Module):
    """A stem with stride 4, four stages of residual blocks, a mean and a Linear."""

    def __init__(self, depths: Sequence[int], *, bottleneck: bool, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        blocks: list[nn.Module] = []
        channels = width
        for stage, depth in enumerate(depths):
            for place in range(depth):
                stride = 2 if stage and not place else 1
                block = Residual(channels, width << stage, stride, bottleneck=bottleneck)
                channels = block.channels
                blocks.append(block)
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        """From images to ten numbers."""
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def resnet18(width: int = 64) -> nn.Module:
    """ResNet-18 with ten outputs: 20 convolutions, 11.2 million weights in them."""
    return ResidualNetwork((2, 2, 2, 2), bottleneck=False, width=width)


def resnet50(width: int = 64) -> nn.Module:
    """ResNet-50 with ten outputs: 53 convolutions, 23.5 million weights in them."""
    return ResidualNetwork((3, 4, 6, 3), bottleneck=True, width=width)


def perceptron(depth: int = 12, width: int = 64) -> nn.Module:
    """Linear layers of one width with ReLU between them: dispatch is all that they cost."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def critic(width: int = 64) -> nn.Module:
    """The discriminator of Miyato et al., 2018 (arXiv:1802.05957), table 3, for images of 32 x 32."""
    layers: list[nn.Module] = []
    channels = 3
    for stage in range(3):
        wide = width << stage
        layers += [nn.Conv2d(channels, wide, 3, 1, 1), nn.LeakyReLU(0.1)]
        layers += [nn.Conv2d(wide, 2 * wide, 4, 2, 1), nn.LeakyReLU(0.1)]
        channels = 2 * wide
    layers += [nn.Conv2d(channels, channels, 3, 1, 1), nn.LeakyReLU(0.1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(channels * 16, 1))


def generator(width: int = 64) -> nn.Module:
    """From 128 numbers to images of 32 x 32, without constraints."""
    return nn.Sequential(
        nn.Linear(128, 4 * width * 16),
        nn.Unflatten(1, (4 * width, 4, 4)),
        nn.ConvTranspose2d(4 * width, 2 * width, 4, 2, 1),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.ConvTranspose2d(2 * width, width, 4, 2, 1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.ConvTranspose2d(width, 3, 4, 2, 1),
        nn.Tanh(),
    )


class Unrolled(nn.Module):
    """An LSTMCell over the steps of a sequence, and a Linear."""

    def __init__(self, inputs: int = 32, hidden: int = 128) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(inputs, hidden)
        self.head = nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        """From sequences (batch, steps, inputs) to one number each."""
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        assert state is not None
        return self.head(state[0])
