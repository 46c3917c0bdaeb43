"""Saving adapters in the format of PEFT, from a model with computed parameters."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from computed.constraints.adapters import LoRA
from computed.constraints.dora import DoRA
from computed.constraints.frozen_base import OnBase
from computed.constraints.gains import IA3, SharedGains
from computed.parameter import ComputedParameter
from surgery.errors import SurgeryError
from surgery.finding import Found, find
from surgery.peft_config import CONFIG
from surgery.peft_format import PREFIX, WEIGHTS, Layer, layer_of
from surgery.peft_targets import exactly, patterns, targets
from surgery.peft_training import Trained, trained_beside

KINDS: dict[type[nn.Module], str] = {LoRA: "lora", DoRA: "dora", IA3: "ia3"}


@dataclass(frozen=True)
class Written:
    """An adapter as PEFT has it: tensors by key behind the name of the layer."""

    name: str
    layer: Layer
    constraint: OnBase
    tensors: dict[str, Tensor]
    feedforward: bool = False

    @property
    def method(self) -> str:
        """The name of the constraint."""
        return KINDS[type(self.constraint)]


def save_peft(model: nn.Module, folder: str | os.PathLike[str], *, task_type: str | None = None) -> None:
    """Write the adapters of ``model`` as PEFT does, for ``PeftModel.from_pretrained(base, folder)``; changes nothing.

    ``adapter_config.json`` and ``adapter_model.safetensors`` hold LoRA, DoRA or IA3 with their ranks and scales, and
    the plain parameters that train beside them as ``modules_to_save`` or ``bias``. What is frozen is not written: the
    base is the user's. PEFT need not be installed.

    Args:
        model: with computed parameters that are adapters.
        folder: is made where there is none; files in it are replaced when the new ones are complete.
        task_type: what PEFT wraps the model for, such as "CAUSAL_LM".

    Errors: SurgeryError with everything that PEFT cannot hold, by name: other constraints, chains, ties, several
    kinds of adapters, dropouts that differ, trained parameters that are neither all biases nor whole modules.

    Example:
        >>> import tempfile
        >>> from surgery.constraining import apply_constraints
        >>> from surgery.peft_loading import load_peft
        >>> layers = lambda: nn.Sequential(nn.Linear(3, 2))
        >>> model = apply_constraints(layers(), {"*": "frozen", "0.weight": "lora(rank=2, alpha=4, seed=1)"})
        >>> folder = tempfile.mkdtemp()
        >>> save_peft(model, folder)
        >>> load_peft(layers(), folder)[0].weight.raws["A"].equal(model[0].weight.raws["A"])
        True
    """
    written, problems = _adapters(model)
    problems += _wrapped(model)
    trained = trained_beside(model, [one.name for one in written])
    problems += trained.problems
    problems += _mixed(written)
    if not written and not problems:
        problems.append(f"this {type(model).__name__} has no computed parameters that are adapters")
    if problems:
        raise SurgeryError("\n".join((f"save_peft: {folder}: PEFT cannot hold all of this model:", *problems)))
    tensors = {f"{PREFIX}{one.name}.{key}": tensor for one in written for key, tensor in one.tensors.items()}
    tensors |= {f"{PREFIX}{key}": tensor for key, tensor in trained.tensors.items()}
    unique = {key: tensor.detach().clone(memory_format=torch.contiguous_format) for key, tensor in tensors.items()}
    told = _config(model, written, trained) | {"task_type": task_type}
    _write(Path(folder), told, unique)


def _write(folder: Path, told: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = [folder / f"{name}.unfinished" for name in (WEIGHTS, CONFIG)]
    try:
        save_file(tensors, unfinished[0], {"format": "pt"})
        unfinished[1].write_text(json.dumps(told, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        for path in unfinished:
            path.replace(path.with_suffix(""))
    finally:
        for path in unfinished:
            path.unlink(missing_ok=True)


def _wrapped(model: nn.Module) -> list[str]:
    """Why the names of a wrapped model are not those of the base that PEFT will be given."""
    compiled = "_orig_mod" in model._modules
    if not (compiled or isinstance(model, DistributedDataParallel)):
        return []
    return [f"a {type(model).__name__} has names of its own; save model.{'_orig_mod' if compiled else 'module'}"]


def _adapters(model: nn.Module) -> tuple[list[Written], list[str]]:
    written: list[Written] = []
    problems: list[str] = []
    for found in find(model):
        if found.computed is not None and not _has_gains_of_its_weight(found):
            made = _adapter(found)
            if isinstance(made, Written):
                written.append(made)
            else:
                problems.append(f"{found.site.name}: {made}")
    return written, problems


def _has_gains_of_its_weight(found: Found) -> bool:
    """Whether this is a bias that IA3 scales with the outputs of its layer, as PEFT does without saying so."""
    assert found.computed is not None
    first = found.computed.constraints[0]
    weight: object = found.places[0].host._modules.get("weight")
    alone = len(found.computed.links) == 1 and found.site.attribute == "bias"
    if not alone or not isinstance(first, SharedGains) or not isinstance(weight, ComputedParameter):
        return False
    return weight.raws.get("gains") is first.gains


def _adapter(found: Found) -> Written | str:
    """The adapter at a site as PEFT has it, or why it has none."""
    parameter = found.computed
    assert parameter is not None
    constraint = parameter.constraints[0]
    if len(parameter.links) > 1 or type(constraint) not in KINDS or not isinstance(constraint, OnBase):
        return f"{parameter.spec} is no lora, dora or ia3; bake it first, and give PEFT the baked base"
    if found.site.attribute != "weight" or len(found.site.names) > 1:
        return f"has the names {', '.join(found.site.names)}, and PEFT adapts the weight of one layer"
    name = found.site.name.removesuffix("weight").removesuffix(".")
    layer = layer_of(found.places[0].host, parameter.shape)
    if isinstance(layer, str):
        return layer
    if not name:
        return "belongs to the model itself, and PEFT adapts layers inside it; put the layer into a module"
    raws = {role: raw.detach() for role, raw in parameter.raws.items() if role != "base"}
    made = _in_layer(name, layer, constraint, raws)
    scales = isinstance(made, Written) and made.method == "ia3" and not made.feedforward
    if scales and found.places[0].host._parameters.get("bias") is not None:
        return "PEFT's IA3 scales the bias of a layer with its outputs, and here it stays; bake it, or save no bias"
    return made


def _in_layer(name: str, layer: Layer, constraint: OnBase, raws: dict[str, Tensor]) -> Written | str:
    crossed = constraint.rows % len(layer.shape) != layer.dim
    method = KINDS[type(constraint)]
    if crossed and (method == "dora" or layer.kind == "convolution"):
        return f"{constraint.spec()} has rows along another dimension than the outputs of its layer"
    if crossed and method == "lora":
        raws = {"A": raws["B"].T, "B": raws["A"].T}
    feedforward = isinstance(constraint, IA3) and constraint.inputs is not crossed
    rank = constraint.rank if isinstance(constraint, LoRA | DoRA) else 0
    shapes = layer.shapes(method, rank, feedforward=feedforward)
    tensors = {layer.keys()[role]: raw.reshape(shapes[role]) for role, raw in raws.items()}
    return Written(name, layer, constraint, tensors, feedforward)


def _mixed(written: Sequence[Written]) -> list[str]:
    """What PEFT has once for all adapters, where it differs."""
    problems = []
    for what, values in (
        ("kinds", {one.name: one.method for one in written}),
        ("starts", {one.name: one.constraint.init for one in written if isinstance(one.constraint, LoRA)}),
        ("dropouts", {one.name: _dropout(one) for one in written if one.layer.kind != "embedding"}),
    ):
        counted = Counter(values.values())
        if len(counted) > 1:
            usual = counted.most_common(1)[0][0]
            others = ", ".join(f"{name} ({value!r})" for name, value in values.items() if value != usual)
            problems.append(f"several {what} of adapters, and PEFT has one: most have {usual!r}, not {others}")
    return problems + [
        f"{one.name}: {one.constraint.spec()}: PEFT has init='pissa' for Linear and Conv1D of transformers alone"
        for one in written
        if isinstance(one.constraint, LoRA) and one.constraint.init == "pissa" and one.layer.kind in OTHERS
    ]


# PEFT starts these by other means
OTHERS = ("embedding", "convolution")


def _dropout(one: Written) -> float:
    return one.constraint.dropout if isinstance(one.constraint, LoRA) else 0.0


def _config(model: nn.Module, written: Sequence[Written], trained: Trained) -> dict[str, Any]:
    names = [one.name for one in written]
    told: dict[str, Any] = {
        "base_model_name_or_path": getattr(getattr(model, "config", None), "_name_or_path", None) or None,
        "fan_in_fan_out": any(one.layer.kind == "transposed" for one in written),
        "inference_mode": True,
        "modules_to_save": trained.modules or None,
        "target_modules": targets(model, names),
    }
    if written[0].method == "ia3":
        feedforward = [one.name for one in written if one.feedforward]
        return told | {"peft_type": "IA3", "feedforward_modules": exactly(feedforward), "init_ia3_weights": True}
    scaled = [one.constraint for one in written if isinstance(one.constraint, LoRA | DoRA)]
    rslora = all(one.rslora for one in scaled)
    ranks = {one.name: each.rank for one, each in zip(written, scaled, strict=True)}
    alphas = {one.name: _alpha(each, rslora=rslora) for one, each in zip(written, scaled, strict=True)}
    rank, alpha = (Counter(each.values()).most_common(1)[0][0] for each in (ranks, alphas))
    pissa = any(isinstance(one, LoRA) and one.init == "pissa" for one in scaled)
    return told | {
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": patterns(ranks, rank),
        "lora_alpha": alpha,
        "alpha_pattern": patterns(alphas, alpha),
        "bias": trained.bias,
        "init_lora_weights": "pissa" if pissa else True,
        "lora_dropout": max(map(_dropout, written)),
        "use_dora": written[0].method == "dora",
        "use_rslora": rslora,
    }


def _alpha(constraint: LoRA | DoRA, *, rslora: bool) -> float:
    """The alpha that gives the scale where PEFT divides by the rank, or by its root."""
    alpha = constraint.alpha if constraint.alpha is not None else float(constraint.rank)
    return alpha if rslora or not constraint.rslora else constraint.scale() * constraint.rank
