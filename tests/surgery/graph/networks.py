"""What graphs are tried on: ten networks as people write them, small, each with rules of several kinds.

`ConvNet`, `Tied` and `Everywhere` have no rules of their own. In the ten, biases that a norm or a softmax takes out
again are left out: their gradients are rounding, which Adam blows up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STEPS = 10


class Residual(nn.Module):
    """Two convolutions beside a shortcut, which is one more convolution where the shape changes."""

    downsample: nn.Module | None

    def __init__(self, narrow: int, wide: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(narrow, wide, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(wide)
        self.conv2 = nn.Conv2d(wide, wide, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(wide)
        self.downsample = None
        if stride != 1 or narrow != wide:
            self.downsample = nn.Sequential(nn.Conv2d(narrow, wide, 1, stride, bias=False), nn.BatchNorm2d(wide))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        out += shortcut
        return F.relu(out)


class ResNet(nn.Module):
    """Batch normalisation, strides and downsampling shortcuts."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4, momentum=0.3)
        self.layers = nn.ModuleList([Residual(4, 4, 1), Residual(4, 6, 2)])
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.stem(x))), 2)
        for layer in self.layers:
            x = layer(x)
        return self.head(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class DenseBlock(nn.Module):
    """Each layer sees the features of all before it."""

    def __init__(self, channels: int, growth: int, layers: int) -> None:
        super().__init__()
        widths = [channels + growth * layer for layer in range(layers)]
        self.norms = nn.ModuleList([nn.BatchNorm2d(width) for width in widths])
        self.convs = nn.ModuleList([nn.Conv2d(width, growth, 3, padding=1, bias=False) for width in widths])

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for norm, conv in zip(self.norms, self.convs, strict=True):
            features.append(conv(F.relu(norm(torch.cat(features, 1)))))
        return torch.cat(features, dim=1)


class DenseNet(nn.Module):
    """Blocks of concatenated features, and transitions between them."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential()
        self.features.add_module("stem", nn.Conv2d(3, 4, 3, padding=1))
        self.features.add_module("block1", DenseBlock(4, 3, 2))
        self.features.add_module("transition", nn.Sequential(nn.Conv2d(10, 5, 1), nn.ReLU(), nn.AvgPool2d(2)))
        self.features.add_module("block2", DenseBlock(5, 3, 2))
        self.dropout = 0.25
        self.classifier = nn.Linear(11, 4)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.features(x).mean(dim=(2, 3))
        return self.classifier(F.dropout(pooled, self.dropout, training=self.training))


class Double(nn.Sequential):
    """Convolution, normalisation and activation."""

    def __init__(self, narrow: int, wide: int, norm: nn.Module) -> None:
        super().__init__(nn.Conv2d(narrow, wide, 3, padding=1, bias=False), norm, nn.SiLU(inplace=True))


class UNet(nn.Module):
    """Skips from the way down to the way up, which is aligned to them."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([Double(2, 4, nn.GroupNorm(2, 4)), Double(4, 6, nn.InstanceNorm2d(6, affine=True))])
        self.bottom = Double(6, 8, nn.GroupNorm(4, 8))
        self.lift = nn.ModuleList([nn.ConvTranspose2d(8, 6, 2, 2), nn.ConvTranspose2d(6, 4, 3, 2, 1)])
        self.up = nn.ModuleList([Double(12, 6, nn.GroupNorm(3, 6)), Double(8, 4, nn.GroupNorm(2, 4))])
        self.out = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.bottom(x)
        for lift, block in zip(self.lift, self.up, strict=True):
            skip = skips.pop()
            x = F.interpolate(lift(x), size=skip.shape[-2:], mode="bilinear", align_corners=False)
            x = block(torch.cat([skip, x], dim=1))
        return self.out(x)


class MLP(nn.Module):
    """Two linear maps."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.drop(F.gelu(self.fc1(x))))


class Mixing(nn.Module):
    """Mixes patches, then channels."""

    def __init__(self, patches: int, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.tokens = MLP(patches, 7)
        self.norm2 = nn.LayerNorm(width)
        self.channels = MLP(width, 9)
        self.gamma = nn.Parameter(torch.full((width,), 0.3))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.gamma * self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    """An MLP-Mixer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 6, 2, 2)
        self.blocks = nn.Sequential(*[Mixing(16, 6) for _ in range(2)])
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.embed(x).flatten(2).transpose(1, 2))
        return self.head(self.norm(x).mean(dim=1))


class Attention(nn.Module):
    """Attention by hand."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        attended = F.scaled_dot_product_attention(q, k, v)
        return self.proj(attended.transpose(1, 2).reshape(batch, length, width))


class Heads(nn.Module):
    """Attention by torch's own module."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, bias=False, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        attended, _ = self.attention(x, x, x, need_weights=False)
        return attended


class Encoding(nn.Module):
    """A pre-norm block."""

    def __init__(self, width: int, attention: nn.Module) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = attention
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """A class token, positions, and blocks with attention of both kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.cls = nn.Parameter(torch.randn(1, 1, 8) * 0.1)
        self.pos = nn.Parameter(torch.randn(1, 5, 8) * 0.1)
        self.blocks = nn.ModuleList([Encoding(8, Attention(8, 2)), Encoding(8, Heads(8, 2))])
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls.expand(x.shape[0], -1, -1), x), dim=1) + self.pos
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class Chomp(nn.Module):
    """Cuts off what a convolution has seen of the future."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, : -self.size].contiguous()


class Temporal(nn.Module):
    """Two causal convolutions beside a shortcut."""

    def __init__(self, narrow: int, wide: int, dilation: int) -> None:
        super().__init__()
        pad = 2 * dilation
        self.net = nn.Sequential(
            nn.Conv1d(narrow, wide, 3, padding=pad, dilation=dilation),
            Chomp(pad),
            nn.PReLU(),
            nn.Dropout(0.1),
            nn.Conv1d(wide, wide, 3, padding=pad, dilation=dilation),
            Chomp(pad),
            nn.PReLU(wide),
            nn.Dropout(0.1),
        )
        self.shortcut = nn.Conv1d(narrow, wide, 1) if narrow != wide else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.net(x) + self.shortcut(x))


class TCN(nn.Module):
    """Causal convolutions whose reach doubles."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(Temporal(2, 4, 1), Temporal(4, 4, 2))
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.network(x)[:, :, -1])


class Gated(nn.Module):
    """A dilated convolution, gated, with a residual and a skip output."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.pad = dilation
        self.filter = nn.Conv1d(width, width, 2, dilation=dilation)
        self.gate = nn.Conv1d(width, width, 2, dilation=dilation)
        self.condition = nn.Conv1d(2, 2 * width, 1, bias=False)
        self.res = nn.Conv1d(width, width, 1)
        self.skip = nn.Conv1d(width, 3, 1)

    def forward(self, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        past = F.pad(x, (self.pad, 0))
        signal, gate = self.filter(past), self.gate(past)
        if condition is not None:
            for_signal, for_gate = self.condition(condition).chunk(2, dim=1)
            signal, gate = signal + for_signal, gate + for_gate
        out = torch.tanh(signal) * torch.sigmoid(gate)
        return x + self.res(out), self.skip(out)


class WaveNet(nn.Module):
    """Gated dilated convolutions, with an optional condition that is given by name."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(1, 4, 1)
        self.layers = nn.ModuleList([Gated(4, 2**power) for power in range(3)])
        self.out = nn.Sequential(nn.ReLU(), nn.Conv1d(3, 3, 1), nn.ReLU(), nn.Conv1d(3, 5, 1))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        x = self.stem(x)
        total: Any = 0
        for layer in self.layers:
            x, skip = layer(x, condition=condition)
            total = total + skip
        return self.out(total)


class Generator(nn.Sequential):
    """From noise to an image."""

    def __init__(self) -> None:
        super().__init__(
            nn.ConvTranspose2d(5, 6, 4, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(True),
            nn.ConvTranspose2d(6, 3, 4, 2, 1),
            nn.Tanh(),
        )


class Discriminator(nn.Module):
    """From an image to a number."""

    def __init__(self) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(3, 4, 4, 2, 1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(4, 6, 3, bias=False),
            nn.BatchNorm2d(6),
            nn.LeakyReLU(0.2, inplace=True),
        )
        self.judge = nn.Linear(24, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.judge(self.main(image).flatten(1)).squeeze(-1)


class AdversarialPair(nn.Module):
    """A generator and a discriminator that judges what is made and what is real, by the same weights."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = Generator()
        self.discriminator = Discriminator()

    def forward(self, noise: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        made = self.generator(noise[:, :, None, None])
        return self.discriminator(made), self.discriminator(real)


class Recurrent(nn.Module):
    """A character model with a cell, for texts of a fixed length; the head is the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 5)
        self.cell = nn.LSTMCell(5, 5)
        self.start = nn.Parameter(torch.randn(1, 5) * 0.1)
        self.head = nn.Linear(5, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        h = self.start.expand(tokens.size(0), -1)
        c = torch.zeros_like(h)
        outputs = []
        for step in range(STEPS):
            h, c = self.cell(x[:, step], (h, c))
            outputs.append(self.head(h))
        return torch.stack(outputs, dim=1)


class Autoencoder(nn.Module):
    """The decoder is the encoder turned round, and one module stands under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(8, 4)
        self.inner = nn.Linear(4, 4)
        self.again = self.inner
        self.bias = nn.Parameter(torch.zeros(8))
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.register_buffer("mean", torch.full((8,), 0.1))
        self.register_buffer("seen", torch.zeros(3), persistent=False)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        code = torch.tanh(self.encoder(x - self.mean))
        code = self.again(torch.tanh(self.inner(code)))
        decoded = F.linear(code, self.encoder.weight.t(), self.bias) + self.mean
        return {"code": code, "decoded": decoded * self.log_scale.exp()}


class Loop(nn.Module):
    """One matrix, used ``times`` times in one forward."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times
        self.weight = nn.Parameter(torch.randn(4, 4))
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = torch.tanh(self.layer(x @ self.weight))
        return x


class ConvNet(nn.Module):
    """Two convolutions, a normalisation, a head; a parameter that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.ModuleDict({"conv": nn.Conv2d(4, 4, 1), "out": nn.Linear(4, 2)})
        self.idle = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.drop(self.norm(self.one(x))))
        return self.head["out"](self.head["conv"](hidden).mean((2, 3)))


class Tied(nn.Module):
    """An embedding, and two linear layers with its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(6, 4)
        self.one = nn.Linear(4, 6, bias=False)
        self.two = nn.Linear(4, 6)
        self.one.weight = self.two.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.table(x)
        return self.one(hidden) * self.two(hidden)


class Everywhere(nn.Module):
    """Parameters of the root, in lists, dicts and plain lists; a module that nobody calls; unused and frozen ones."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(4) + 0.5)
        self.stack = nn.ParameterList([nn.Parameter(torch.randn(4, 4)) for _ in range(3)])
        self.named = nn.ParameterDict({"a": torch.randn(4, 4), "b": torch.randn(4)})
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4, bias=False)])
        self.in_order = [self.layers[1], self.layers[0]]
        self.by_name = [self.scale, self.named["a"]]
        self.quiet = nn.Linear(4, 4)
        self.unused = nn.Linear(2, 2)
        self.nested = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Sequential())
        self.register_buffer("passing", torch.randn(4), persistent=False)
        self.register_buffer("absent", None)
        self.register_parameter("nothing", None)
        self.layers[0].weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.stack:
            x = torch.tanh(x @ weight)
        x = F.linear(x, self.quiet.weight) * self.scale + self.named["b"] + self.passing
        for layer in self.in_order:
            x = layer(x)
        return self.nested(x @ self.named["a"]) * self.by_name[0]


@dataclass(frozen=True)
class Network:
    """How a network is made and called, and rules for it."""

    make: Callable[[], nn.Module]
    rules: Mapping[str, object]
    args: Callable[[], tuple[Tensor, ...]]
    kwargs: Callable[[], dict[str, Tensor]] = field(default=dict)


NETWORKS: Mapping[str, Network] = {
    "resnet": Network(
        ResNet,
        {
            "*@Conv2d.weight": "spectral",
            "*bn1.weight": "positive",
            "head.weight": "lora(rank=2)",
            "stem.*": "orthogonal",
        },
        lambda: (torch.randn(4, 3, 8, 8),),
    ),
    "densenet": Network(
        DenseNet,
        {
            "*.convs.*.weight": "weight_norm",
            "features.stem.weight": "unit_norm",
            "*.norms.*": "interval(-2, 2)",
            "classifier.weight": "spectral(bound=0.5)",
        },
        lambda: (torch.randn(3, 3, 8, 8),),
    ),
    "unet": Network(
        UNet,
        {
            "*@Conv2d.weight": "spectral",
            "lift.*.weight": "orthogonal",
            "*@{GroupNorm,InstanceNorm2d}.weight": "positive",
            "out.*": "interval(-1, 1)",
        },
        lambda: (torch.randn(2, 2, 11, 11),),
    ),
    "mixer": Network(
        Mixer,
        {
            "*.fc1.weight": "spectral(norm=2.0)",
            "*.fc2.weight": "lora(rank=2)",
            "*.gamma": "positive",
            "head.weight": "orthogonal",
            "norm.weight": "greater_than(0.5)",
        },
        lambda: (torch.randn(3, 3, 8, 8),),
    ),
    "vit": Network(
        ViT,
        {
            "*.qkv.weight": "lora(rank=2)",
            "*.in_proj_weight": "spectral",
            "*.out_proj.weight": "orthogonal",
            "*.fc{1,2}.weight": "spectral(bound=1.0)",
            "{cls,pos}": "interval(-1, 1)",
            "*norm1.weight": "positive",
            "patch.weight": "weight_norm",
        },
        lambda: (torch.randn(2, 3, 8, 8),),
    ),
    "tcn": Network(
        TCN,
        {
            "*@Conv1d.weight": "weight_norm",
            "*@PReLU.weight": "interval(0, 1)",
            "network.0.shortcut.weight": None,
            "out.weight": "spectral",
        },
        lambda: (torch.randn(3, 2, 9),),
    ),
    "wavenet": Network(
        WaveNet,
        {
            "*.{filter,gate}.weight": "spectral",
            "*.condition.weight": "lora(rank=1)",
            "*.res.weight": "orthogonal",
            "stem.weight": "positive",
            "*.skip.bias": "interval(-1, 1)",
        },
        lambda: (torch.randn(2, 1, 10),),
        lambda: {"condition": torch.randn(2, 2, 10)},
    ),
    "gan": Network(
        AdversarialPair,
        {
            "discriminator.*.weight": "spectral",
            "*@BatchNorm2d.weight": "positive",
            "generator.0.weight": "orthogonal",
            "generator.3.weight": "weight_norm",
        },
        lambda: (torch.randn(4, 5), torch.randn(4, 3, 8, 8)),
    ),
    "cell": Network(
        Recurrent,
        {
            "head.weight": "unit_norm",
            "cell.weight_hh": "spectral",
            "cell.weight_ih": "orthogonal",
            "cell.bias_*": "interval(-1, 1)",
            "start": "interval(-1, 1)",
        },
        lambda: (torch.randint(7, (3, STEPS)),),
    ),
    "autoencoder": Network(
        Autoencoder,
        {
            "encoder.weight": "orthogonal",
            "again.weight": "spectral(bound=0.9) | lora(rank=1)",
            "log_scale": "interval(-1, 1)",
            "unused.weight": "symmetric",
        },
        lambda: (torch.randn(5, 8),),
    ),
}
