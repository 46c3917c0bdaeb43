"""10: recurrent and attention modules, which do not call their weights as layers do."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import surgery
from benchmarks.peers.libraries import GEOTORCH, LIBRARIES, OURS, PEFT, TORCH, Library
from benchmarks.peers.models import ATTENTION, ENCODER, GRU, LSTM, Case, host_of
from benchmarks.peers.observing import Measure, Probe, asked, by, grouped, plural, small

CASES = {"LSTM": LSTM, "GRU": GRU, "attention": ATTENTION, "encoder layer": ENCODER}
ROUNDING = 1e-5


@dataclass(frozen=True, kw_only=True)
class Computed(Measure):
    """How far outputs and gradients are from those of a plain twin, and how often a weight is evaluated a forward."""

    off: float
    evaluations: int

    def right(self) -> bool:
        """By rounding, and once."""
        return self.off <= ROUNDING and self.evaluations <= 1

    def fact(self) -> str:
        """Both."""
        return f"off by {small(self.off)}, {plural(self.evaluations, 'evaluation')}"


class Tanh(nn.Module):
    """A parametrization as torch defines one, which this library takes too; it counts its evaluations."""

    def __init__(self) -> None:
        super().__init__()
        self.evaluations: list[None] = []

    def forward(self, raw: Tensor) -> Tensor:
        """The value."""
        self.evaluations.append(None)
        return raw.tanh()

    def right_inverse(self, value: Tensor) -> Tensor:
        """The raw."""
        return value.clamp(-0.99, 0.99).atanh()


def counted_calls(module: nn.Module) -> list[None]:
    """A list that grows with each call of ``module``."""
    calls: list[None] = []
    module.register_forward_hook(lambda module, args, output: calls.append(None))
    return calls


def insert(library: Library, model: nn.Module, case: Case) -> tuple[nn.Module, list[list[None]]]:
    """The constrained model, and a list for each weight that grows with each evaluation of it."""
    if library is OURS:
        surgery.apply_constraints(model, dict.fromkeys(case.weights, Tanh()))
        return model, [module.evaluations for module in model.modules() if isinstance(module, Tanh)]
    if library is TORCH:
        for name in case.weights:
            host, attribute = host_of(model, name)
            parametrize.register_parametrization(host, attribute, Tanh())
        return model, [module.evaluations for module in model.modules() if isinstance(module, Tanh)]
    model = library.insert(model, case, library.kinds[0])
    if library is GEOTORCH:
        lists = [host.parametrizations[name][0] for host, name in (host_of(model, each) for each in case.weights)]
        return model, [counted_calls(module) for module in lists]
    return model, [counted_deltas(layer) for layer in adapters(model).values()]


def adapters(model: nn.Module) -> dict[str, nn.Module]:
    """The layers of PEFT in a model, by the names of the parameters that they adapt."""
    from peft.tuners.lora.layer import LoraLayer, MultiheadAttention, ParamWrapper

    found = {}
    for path, layer in model.get_base_model().named_modules():
        if isinstance(layer, LoraLayer):
            host = ".".join(part for part in path.split(".") if part != "base_layer")
            attention = "in_proj_weight" if isinstance(layer, MultiheadAttention) else "weight"
            found[f"{host}.{layer.parameter_name if isinstance(layer, ParamWrapper) else attention}"] = layer
    return found


def counted_deltas(layer: nn.Module) -> list[None]:
    """A list that grows with each evaluation of what an adapter adds to a weight."""
    calls: list[None] = []
    evaluate = layer.get_delta_weight

    def counting(*args: object) -> Tensor:
        calls.append(None)
        return evaluate(*args)

    layer.get_delta_weight = counting
    return calls


def values(library: Library, model: nn.Module, plain: nn.Module, case: Case) -> dict[str, Tensor]:
    """What each weight is, with the way from what is trained to it."""
    if library is PEFT:
        layers = adapters(model)
        return {name: plain.get_parameter(name) + layers[name].get_delta_weight("default") for name in case.weights}
    found = {name: host_of(model, name) for name in case.weights}
    return {name: getattr(host, attribute) * 1.0 for name, (host, attribute) in found.items()}


def measure_case(library: Library, case: Case) -> tuple[dict[str, float], int]:
    """How far outputs and gradients are from the twin's, and the most evaluations of a weight in a forward."""
    plain, inputs = case.build().requires_grad_(library is not PEFT), case.draw()
    with asked():
        model, evaluations = insert(library, copy.deepcopy(plain), case)
    for name, tensor in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(tensor)
    twin = copy.deepcopy(plain).requires_grad_()
    with torch.no_grad():
        for name, value in values(library, model, plain, case).items():
            twin.get_parameter(name).copy_(value)
    counts, off = [], {}
    for mode in ("train", "eval"):
        for calls in evaluations:
            calls.clear()
        with asked(), torch.set_grad_enabled(mode == "train"):
            outputs = [each.train(mode == "train")(inputs) for each in (model, twin)]
        counts += map(len, evaluations)
        off[mode] = apart(*outputs)
        if mode == "train":
            off["gradients"] = gradients_apart(library, model, twin, plain, case, outputs)
    return off, max(counts)


def gradients_apart(
    library: Library, model: nn.Module, twin: nn.Module, plain: nn.Module, case: Case, outputs: list[Tensor]
) -> float:
    """How far the gradients of what is trained are from those of the twin's weights, led back by autograd."""
    with asked():
        for output in outputs:
            (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
        weights = values(library, model, plain, case)
    trained = [tensor for tensor in model.parameters() if tensor.requires_grad]
    slopes = [twin.get_parameter(name).grad for name in weights]
    expected = torch.autograd.grad(list(weights.values()), trained, slopes, allow_unused=True)
    pairs = [(tensor.grad, slope) for tensor, slope in zip(trained, expected, strict=True) if slope is not None]
    return max(apart(slope if grad is None else grad, slope, grad is None) for grad, slope in pairs)


def apart(one: Tensor, other: Tensor, missing: bool = False) -> float:
    """The largest difference, relative to the largest entry."""
    return 1.0 if missing else float((one - other).abs().max() / other.abs().max())


def measure(library: Library) -> Computed:
    """All modules."""
    off, most = 0.0, 0
    notes: list[tuple[str, str]] = []
    for name, case in CASES.items():
        differences, evaluations = measure_case(library, case)
        off, most = max(off, *differences.values()), max(most, evaluations)
        notes += [
            (f"{name} ({what})", f"off by {small(each)}") for what, each in differences.items() if each > ROUNDING
        ]
        notes += [(name, plural(evaluations, "evaluation"))] if evaluations > 1 else []
    return Computed(off=off, evaluations=most, notes=grouped(notes))


PROBE = Probe(
    10,
    "Recurrent and attention layers",
    "LSTM and GRU (two layers, both directions), attention and an encoder layer: outputs in both modes, and gradients, "
    "beside a plain twin that holds the values; and how often a weight is evaluated in one forward.",
    "all differ by rounding at most, and each weight is evaluated once",
    "tests/life/test_ranked.py::test_10_recurrent_and_attention",
    by(measure, *LIBRARIES),
)
