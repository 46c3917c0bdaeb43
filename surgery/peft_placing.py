"""Adapters with their numbers, put upon the layers of a model: all of them, or none."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from computed.constraints.gains import SharedGains
from computed.parameter import ComputedParameter
from computed.site import Site
from computed.spec import Call
from computed.watching import own_storage
from surgery.applying import carry_out
from surgery.errors import PlanError
from surgery.finding import find
from surgery.peft_config import PeftConfig
from surgery.peft_format import Layer
from surgery.planning import Options, draft
from surgery.restoring import Record, keep


@dataclass(frozen=True)
class Adapter:
    """The adapter of one layer: its spec, and its raws by role in PEFT's shapes; whether its bias has the gains too."""

    layer: str
    spec: str
    tensors: Mapping[str, Tensor]
    scales_bias: bool = False

    @property
    def site(self) -> str:
        """The name of the weight."""
        return f"{self.layer}.weight" if self.layer else "weight"

    @property
    def bias(self) -> str:
        """The name of the bias."""
        return f"{self.layer}.bias" if self.layer else "bias"


def scales_bias(config: PeftConfig, name: str, host: nn.Module) -> bool:
    """Whether PEFT scales a bias with the outputs of a layer."""
    return config.method == "ia3" and not config.feeds_forward(name) and host._parameters.get("bias") is not None


def why_not_adapter(config: PeftConfig, name: str, layer: Layer, host: nn.Module, dropout: float) -> str | None:
    """Why no constraint of a weight computes what PEFT does at a layer, or None."""
    if dropout and (config.dora or layer.kind == "transposed") and layer.kind != "embedding":
        kind = "DoRA" if config.dora else f"a {type(host).__name__}"
        return f"dropout={dropout} of the inputs of {kind} is not done here; it acts in training alone"
    return None


def spec_of(config: PeftConfig, name: str, layer: Layer, dropout: float) -> str:
    """The spec of a constraint that computes what PEFT computes."""
    if config.method == "ia3":
        given: dict[str, object] = {"inputs": config.feeds_forward(name) or None}
    else:
        given = {"rank": config.rank_of(name), "alpha": float(config.alpha_of(name)), "rslora": config.rslora or None}
        if config.method == "lora":
            # PEFT leaves an embedding without dropout
            dropped = dropout if layer.kind != "embedding" else 0.0
            given |= {"init": "pissa" if config.pissa else None, "dropout": dropped or None}
    given["dim"] = layer.written_dim()
    return str(Call(config.method, (), tuple((key, value) for key, value in given.items() if value is not None)))


def put_adapters(
    model: nn.Module,
    adapters: Sequence[Adapter],
    values: Mapping[str, Tensor],
    trained: set[str],
    *,
    tie: str,
) -> Record:
    """Constrain ``model`` by ``adapters``, write ``values``, freeze what is not ``trained``; all of it, or nothing.

    What is returned takes it back. Errors: PlanError for what a host cannot take.
    """
    # what PiSSA leaves of the base is found from the weight
    project = any("pissa" in adapter.spec for adapter in adapters)
    rules: list[tuple[str, object]] = [(f"re:{re.escape(adapter.site)}", adapter.spec) for adapter in adapters]
    rules += [(f"re:{re.escape(adapter.bias)}", _shared_gains) for adapter in adapters if adapter.scales_bias]
    made = draft(model, rules, Options(tie=tie if tie == "split" else "share", project=project, measures=False))
    if made.problems:
        raise PlanError(made.problems)
    record = carry_out(model, made.rows)
    try:
        placed = {place.name: parameter for place, parameter in record.made}
        for adapter in adapters:
            _fill(placed[adapter.site], adapter.tensors)
            if adapter.scales_bias:
                _share(placed[adapter.site], placed[adapter.bias])
        _write(model, placed, values, record)
        _set_flags(model, trained, record)
    except BaseException:
        record.restore()
        raise
    return record


def _shared_gains(site: Site) -> SharedGains:
    """Gains of one, until those of the weight are there."""
    assert site.shape is not None
    return SharedGains(nn.Parameter(torch.ones(site.shape, dtype=site.dtype, device=site.device)))


def _share(weight: ComputedParameter, bias: ComputedParameter) -> None:
    """Let a bias have the very gains of its weight; what stood there is its base."""
    bias.drop_waiting()
    constraint, gains = bias.constraints[0], weight.raws["gains"]
    assert isinstance(constraint, SharedGains)
    assert isinstance(gains, nn.Parameter)
    constraint.gains = gains
    bias.reset()


def tied_elsewhere(
    model: nn.Module, adapters: Sequence[Adapter], values: Mapping[str, Tensor], trained: set[str], tie: str
) -> list[str]:
    """Why what is done at one name of a tied weight would be done at the others too, and PEFT does not."""
    sites = {adapter.site for adapter in adapters} if tie == "error" else set()
    problems = []
    for found in find(model):
        names = found.site.names
        if len(names) == 1 or not isinstance(found.subject, Tensor):
            continue
        for name in names:
            others = ", ".join(other for other in names if other != name)
            if name in sites:
                problems.append(f"{name}: is tied to {others}, and PEFT adapts it alone; pass tie='split'")
            elif name in trained or (name in values and not torch.equal(values[name], found.subject)):
                problems.append(f"{name}: is tied to {others}, and PEFT has a copy of its own; untie the two first")
    return problems


def _fill(made: ComputedParameter, tensors: Mapping[str, Tensor]) -> None:
    """Let the raws be ``tensors``: the very Parameters where they fit, else their numbers."""
    made.drop_waiting()
    for raw in made.raw_slots():
        new = tensors.get(raw.name)
        if new is None:
            continue
        old = raw.tensor
        fits = (new.shape, new.dtype, new.device) == (old.shape, old.dtype, old.device)
        if isinstance(new, nn.Parameter) and fits and not new.is_shared():
            own_storage(new)
            raw.slot.owner[raw.slot.key] = new
        else:
            with torch.no_grad():
                old.copy_(new.detach().reshape(old.shape))
            old.requires_grad_(new.requires_grad or not isinstance(new, nn.Parameter))
    made.reset()


def _write(
    model: nn.Module, placed: Mapping[str, ComputedParameter], values: Mapping[str, Tensor], record: Record
) -> None:
    """Write plain parameters and buffers, and bases, by their original names."""
    own = model.state_dict(keep_vars=True)
    for name, value in values.items():
        target = placed[name].raw_slots()[0].tensor if name in placed else own[name]
        if name not in placed:
            record.tensors.append(keep(target))
        with torch.no_grad():
            target.copy_(value)
        if name in placed:
            placed[name].reset()


def _set_flags(model: nn.Module, trained: set[str], record: Record) -> None:
    """Let adapters and what is ``trained`` train, and nothing else."""
    raws = {id(tensor) for _, parameter in record.made for tensor in parameter.raw_tensors()}
    before = [(one, one.requires_grad) for one in model.parameters() if id(one) not in raws]
    record.also.append(partial(_restore_flags, before))
    wanted = {id(one) for name, one in model.named_parameters(remove_duplicate=False) if name in trained}
    for one, _ in before:
        one.requires_grad_(id(one) in wanted)


def _restore_flags(before: Sequence[tuple[nn.Parameter, bool]]) -> None:
    for parameter, flag in before:
        parameter.requires_grad_(flag)
