"""Adoption of what PEFT has put into a model: its layers go, and computed parameters take over their numbers."""

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from surgery.errors import SurgeryError
from surgery.hosting import KeptHost
from surgery.peft_config import PeftConfig
from surgery.peft_format import ROLES, Layer, layer_of
from surgery.peft_placing import Adapter, put_adapters, scales_bias, spec_of, why_not_adapter
from surgery.restoring import Record, keep

WRAPPER = ("peft.peft_model", "PeftModel")
TUNER = ("peft.tuners.tuners_utils", "BaseTunerLayer")
AUXILIARY = ("peft.utils.other", "AuxiliaryTrainingWrapper")
SAVED = ("peft.utils.other", "ModulesToSaveWrapper")
LORA, IA3 = "peft.tuners.lora.layer", "peft.tuners.ia3.layer"
TAKEN = {
    LORA: ("Linear", "Embedding", "Conv1d", "Conv2d", "Conv3d"),
    IA3: ("Linear", "Conv2d", "Conv3d"),
}
MARKS = ("peft_config", "_hf_peft_config_loaded")
DORA = ("DoraLinearVariant", "DoraEmbeddingVariant", "DoraConv1dVariant", "DoraConv2dVariant", "DoraConv3dVariant")


@dataclass(frozen=True)
class Standing:
    """A layer of PEFT in a model: where it stands, and the module that it has taken the place of."""

    parent: nn.Module
    attribute: str
    name: str
    module: Any

    @property
    def is_adapter(self) -> bool:
        """Whether it adapts, and does not keep a module that trains as a whole."""
        return is_one(self.module, TUNER)


def is_one(module: object, of: tuple[str, str]) -> bool:
    """Whether ``module`` is of a class that PEFT has, which is not imported for that."""
    cls = getattr(sys.modules.get(of[0]), of[1], None)
    return isinstance(cls, type) and isinstance(module, cls)


def has_peft(model: nn.Module) -> bool:
    """Whether there is anything of PEFT in ``model``."""
    if sys.modules.get("peft") is None:
        return False
    return any(is_one(module, WRAPPER) or is_one(module, TUNER) for module in model.modules())


def adopt_peft(model: nn.Module) -> tuple[nn.Module, Record, int]:
    """The base of ``model`` with computed parameters, what takes that back, and how many there are.

    Errors: SurgeryError with everything that cannot be taken over, PlanError where the base cannot take it; nothing is
    changed then.
    """
    base = _base(model)
    standing = list(_standing(base))
    problems = [f"{one.name}: {reason}" for one in standing for reason in _refusals(one)]
    active = sorted({name for one in standing for name in one.module.active_adapters})
    if len(active) != 1:
        named = ", ".join(map(repr, active)) or "none"
        problems.insert(0, f"active adapters: {named}; make one active with model.set_adapter(name)")
    adapting = [one for one in standing if one.is_adapter and not problems and _has(one.module, active[0])]
    made = [(one.name, _adapter(one, active[0])) for one in adapting]
    adapters = [adapter for _, adapter in made if isinstance(adapter, Adapter)]
    problems += [f"{name}: {reason}" for name, reason in made if isinstance(reason, str)]
    if problems:
        raise SurgeryError("\n".join(("adopt: nothing was changed:", *problems)))
    kept = [KeptHost(parent) for parent in {id(one.parent): one.parent for one in standing}.values()]
    back: list[Callable[[], None]] = [host.restore for host in kept]
    back.append(partial(vars(base).update, _marks(base)))
    try:
        for one in standing:
            one.parent._modules[one.attribute] = _replaced(one, active[0])
        for mark in _marks(base):
            del vars(base)[mark]
        # PEFT has ties between the bases of its layers, and adapts one of the names alone
        names = {name for name, one in base.named_parameters(remove_duplicate=False) if one.requires_grad}
        record = put_adapters(base, adapters, {}, names, tie="split")
    except BaseException:
        for restore in reversed(back):
            restore()
        raise
    for host in kept:
        host.changed()
    record.also[:0] = back  # these go last: they put back what holds all others
    record.tensors += [keep(tensor) for adapter in adapters for tensor in adapter.tensors.values()]
    return base, record, len(adapters)


def _marks(base: nn.Module) -> dict[str, Any]:
    """What PEFT and transformers have written on a model to know it by."""
    return {name: value for name, value in vars(base).items() if name in MARKS}


def _base(model: nn.Module) -> nn.Module:
    """The model inside the wrappers of PEFT."""
    inner: Any = model
    if is_one(inner, WRAPPER):
        if inner.active_peft_config.is_prompt_learning:
            kind = inner.active_peft_config.peft_type
            raise SurgeryError(f"adopt: {kind} adds inputs, and is no change of weights; nothing was changed")
        inner = inner.base_model.model
    assert isinstance(inner, nn.Module)
    return inner


def _standing(base: nn.Module) -> Iterator[Standing]:
    """The outermost layers of PEFT."""
    stack: list[tuple[nn.Module, str]] = [(base, "")]
    seen: set[int] = set()
    while stack:
        parent, prefix = stack.pop()
        if id(parent) in seen:
            continue
        seen.add(id(parent))
        children = [(name, child) for name, child in parent._modules.items() if child is not None]
        ours = {name for name, child in children if is_one(child, TUNER) or is_one(child, AUXILIARY)}
        yield from (Standing(parent, name, prefix + name, child) for name, child in children if name in ours)
        stack += [(child, f"{prefix}{name}.") for name, child in reversed(children) if name not in ours]


def _refusals(one: Standing) -> Iterator[str]:
    module = one.module
    if not one.is_adapter:
        if not is_one(module, SAVED):
            yield f"is a {type(module).__name__} of PEFT, which trains a part of a tensor; give it up first"
        return
    home, kind = type(module).__module__, type(module).__name__
    if kind not in TAKEN.get(home, ()):
        yield f"is a {home}.{kind}; taken over are Linear, Embedding and convolutions of LoRA, and of IA3"
        return
    if module.merged:
        yield f"has {', '.join(map(repr, module.merged_adapters))} merged into it; call model.unmerge_adapter() first"
    if module.disable_adapters:
        yield "has its adapters disabled; leave disable_adapter() first"
    if is_one(module.base_layer, TUNER):
        yield "has another layer of PEFT inside"
    if home == LORA:
        yield from _lora_refusals(module)


def _lora_refusals(module: Any) -> Iterator[str]:
    for name in module.active_adapters:
        variant = type(module.lora_variant[name]).__name__ if name in module.lora_variant else None
        if variant is not None and variant not in DORA:
            yield f"uses {variant}, which is no change of a weight that is known here"
        if module.lora_bias.get(name):
            yield "has lora_bias=True, a bias of its own; PEFT can merge it into the base"


def _replaced(one: Standing, active: str) -> nn.Module:
    if one.is_adapter:
        layer: nn.Module = one.module.base_layer
        return layer
    kept: Mapping[str, nn.Module] = one.module.modules_to_save
    original: nn.Module = one.module.original_module
    return dict(kept.items()).get(active, original)


def _has(module: Any, active: str) -> bool:
    """Whether a layer has the active adapter: two adapters of one model may be about different layers."""
    if type(module).__module__ == IA3:
        return active in module.ia3_l
    return active in module.lora_A or active in module.lora_embedding_A


def _adapter(one: Standing, active: str) -> Adapter | str:
    """The adapter of a layer of PEFT, or why there is none."""
    module = one.module
    layer = layer_of(module.base_layer, module.base_layer.weight.shape)
    if isinstance(layer, str):
        return layer
    dropout = 0.0
    if type(module).__module__ == IA3:
        config = PeftConfig("IA3", feedforward=(one.name,) if module.is_feedforward else ())
        tensors = {"gains": module.ia3_l[active]}
    else:
        drop = module.lora_dropout[active]
        dropout = drop.p if isinstance(drop, nn.Dropout) else 0.0
        alpha, rslora = _alpha(module, active)
        config = PeftConfig("LORA", module.r[active], alpha, rslora, active in module.lora_variant)
        tensors = _factors(module, active, layer, dora=config.dora)
    reason = why_not_adapter(config, one.name, layer, module.base_layer, dropout)
    if reason is not None:
        cure = f"; leave it out: layer.lora_dropout[{active!r}] = torch.nn.Identity()" if "dropout" in reason else ""
        return reason + cure
    spec = spec_of(config, one.name, layer, dropout)
    return Adapter(one.name, spec, tensors, scales_bias(config, one.name, module.base_layer))


def _alpha(module: Any, active: str) -> tuple[float, bool]:
    """Alpha, and whether the root of the rank divides it; what gives the scale, where that was set since."""
    alpha, rank, scale = module.lora_alpha[active], module.r[active], module.scaling[active]
    rslora = bool(module.use_rslora[active])
    usual = alpha / math.sqrt(rank) if rslora else alpha / rank
    return (alpha, rslora) if usual == scale else (scale * rank, False)


def _factors(module: Any, active: str, layer: Layer, *, dora: bool) -> dict[str, Tensor]:
    if layer.kind == "embedding":
        found = {"A": module.lora_embedding_A[active], "B": module.lora_embedding_B[active]}
    else:
        found = {"A": module.lora_A[active].weight, "B": module.lora_B[active].weight}
    if dora:
        found["m"] = module.lora_magnitude_vector[active].weight
    return {role: found[role] for role in ROLES["dora" if dora else "lora"]}
