"""Factored weights: what TensorLy-Torch, PEFT and this library lose of a weight, and what a forward takes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

import surgery
from benchmarks.timing import interleaved

SHARE = 0.25
RANK = 16


def smooth_convolution() -> nn.Conv2d:
    """A kernel that has something to factor: a low-rank part and noise, 64 to 64 channels."""
    torch.manual_seed(0)
    layer = nn.Conv2d(64, 64, 3, padding=1, bias=False)
    with torch.no_grad():
        parts = torch.randn(64, 8), torch.randn(64, 8), torch.randn(3, 8), torch.randn(3, 8)
        layer.weight.copy_(torch.einsum("or,ir,hr,wr->oihw", *parts) / 40 + 0.1 * torch.randn(64, 64, 3, 3))
    return layer


def tensorly(layer: nn.Conv2d, kind: str) -> nn.Module:
    """Its factored convolution of the same share of parameters."""
    import tltorch

    torch.manual_seed(0)
    made: nn.Module = tltorch.FactorizedConv.from_conv(
        copy.deepcopy(layer), rank=SHARE, factorization=kind, implementation="factorized", decompose_weights=True
    )
    return made


def adapted(library: str) -> tuple[nn.Module, Tensor]:
    """A Linear of 1024 under an adapter of rank 16, merged and unmerged again, or baked and taken back."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1024, 1024, bias=False))
    before = model[0].weight.detach().clone()
    if library == "PEFT":
        import peft

        made: Any = peft.get_peft_model(model, peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["0"]))  # type: ignore[arg-type] # any module
        with torch.no_grad():
            for name, raw in made.named_parameters():
                if "lora_B" in name:
                    raw.normal_(std=0.02)
        made.merge_adapter()
        made.unmerge_adapter()
        return made, made.base_model.model[0].base_layer.weight.detach() - before
    surgery.apply_constraints(model, {"0.weight": f"lora({RANK}, alpha={RANK})"})
    with torch.no_grad():
        model[0].weight.raws["B"].normal_(std=0.02)  # type: ignore[union-attr] # a computed parameter stands there
    applied = copy.deepcopy(model)
    surgery.undo(model)
    return applied, model[0].weight.detach() - before


def step_of(model: nn.Module, x: Tensor) -> Callable[[], object]:
    """A forward and a backward."""

    def step() -> None:
        model.zero_grad()
        model(x).square().mean().backward()

    return step


def factored_rows(rounds: int) -> Iterator[tuple[str, str, str, str]]:
    """Errors and milliseconds."""
    layer = smooth_convolution()
    weight, x = layer.weight.detach(), torch.randn(8, 64, 28, 28)
    models: dict[str, nn.Module] = {"dense": layer}
    for kind in ("tucker", "cp"):
        spec = f"{kind}({SHARE})"
        models[spec] = surgery.apply_constraints(nn.Sequential(copy.deepcopy(layer)), {"0.weight": spec}).eval()
        models[f"TensorLy-Torch, {kind}"] = tensorly(layer, kind).eval()
    with torch.no_grad():
        samples = interleaved({name: _call(model, x) for name, model in models.items()}, rounds=rounds, calls=3)
        for name, model in models.items():
            error = _kernel_of(model, weight.shape[1]) - weight
            lost = f"{float(error.norm() / weight.norm()):.3f}"
            yield "64 x 64 x 3 x 3, a quarter", name, lost, f"{1e3 * samples.median(name):.2f}"
    x = torch.randn(64, 1024)
    found = {library: adapted(library) for library in ("lora", "PEFT")}
    samples = interleaved({name: step_of(model, x) for name, (model, _) in found.items()}, rounds=rounds, calls=3)
    for name, (_, error) in found.items():
        changed = int((error != 0).sum())
        told = f"{changed} entries differ when taken back"
        yield f"1024 x 1024, rank {RANK}, step", name, told, f"{1e3 * samples.median(name):.2f}"


def _call(model: nn.Module, x: Tensor) -> Callable[[], object]:
    return lambda: model(x)


def _kernel_of(model: nn.Module, channels: int) -> Tensor:
    """What a convolution does with one pixel of each channel: its kernel."""
    pixels = torch.zeros(channels, channels, 5, 5)
    for channel in range(channels):
        pixels[channel, channel, 2, 2] = 1.0
    kernel: Tensor = model(pixels)[:, :, 1:4, 1:4].transpose(0, 1).flip(2, 3)
    return kernel
