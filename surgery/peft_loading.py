"""Loading an adapter that PEFT has saved into a plain model, as computed parameters."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from surgery.errors import SurgeryError
from surgery.finding import hosts
from surgery.history import remember
from surgery.listing import computed_parameters
from surgery.peft_config import PeftConfig, read_config
from surgery.peft_format import BETWEEN, ORIGINAL, PREFIX, ROLES, WEIGHTS, layer_of
from surgery.peft_placing import Adapter, put_adapters, scales_bias, spec_of, tied_elsewhere, why_not_adapter

DROPPED = "; pass dropout=0.0 to leave it out"
logger = logging.getLogger("surgery")

Module = TypeVar("Module", bound=nn.Module)


@dataclass
class Reading:
    """What a file has, sorted by what it is for; ``problems`` is what does not fit."""

    adapters: list[Adapter] = field(default_factory=list)
    values: dict[str, Tensor] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def load_peft(
    model: Module, folder: str | os.PathLike[str], *, dropout: float | None = None, tie: str = "error"
) -> Module:
    """Put an adapter that PEFT has saved upon a plain ``model``; in place, returns the model. All of it, or nothing.

    LoRA, rsLoRA, DoRA, PiSSA and IA3 become computed parameters with the file's raws; nothing is projected. Adapters
    train, and what ``modules_to_save`` and ``bias`` say; everything else is frozen. `surgery.undo` takes it back.
    PEFT need not be installed. Adapters take the dtype of the weight, where PEFT may keep them in float32, and the
    padding of an embedding trains no lengths of DoRA, as it does in PEFT.

    Args:
        model: the base, as PEFT was given it.
        folder: has ``adapter_config.json`` and ``adapter_model.safetensors``.
        dropout: instead of the file's; 0.0 leaves it out, where a layer cannot have it (it acts in training alone).
        tie: "error", or "split": a tied weight that is adapted at one of its names gets a copy there, as PEFT computes.

    Errors: SurgeryError for what cannot be read, for every field of the configuration that is not supported, and for
    keys and shapes that do not fit, all at once; PlanError where the model cannot take it. The model is as it was then.

    Example:
        >>> import json, tempfile, torch
        >>> from safetensors.torch import save_file
        >>> folder = Path(tempfile.mkdtemp())
        >>> told = {"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["0"]}
        >>> _ = folder.joinpath("adapter_config.json").write_text(json.dumps(told))
        >>> factors = {"lora_A.weight": torch.ones(1, 3), "lora_B.weight": torch.ones(2, 1)}
        >>> save_file({f"base_model.model.0.{key}": one for key, one in factors.items()}, folder / WEIGHTS)
        >>> load_peft(torch.nn.Sequential(torch.nn.Linear(3, 2)), folder)[0].weight.spec
        'lora(rank=1, alpha=2.0)'
    """
    where = Path(folder)
    if tie not in ("error", "split"):
        raise SurgeryError(f"load_peft: tie={tie!r}; it is 'error' or 'split'")
    config = read_config(where)
    tensors = _tensors(where / WEIGHTS)
    reading = _sorted(model, config, tensors, dropout)
    trained = _trained(model, config)
    problems = reading.problems + tied_elsewhere(model, reading.adapters, reading.values, trained, tie)
    if problems:
        raise SurgeryError("\n".join((f"load_peft: {where}: does not fit; the model is as it was:", *problems)))
    record = put_adapters(model, reading.adapters, reading.values, trained, tie=tie)
    remember(model, record)
    _tell_of_casts(model, reading)
    return model


def _tell_of_casts(model: nn.Module, reading: Reading) -> None:
    """Say that numbers were rounded, where adapters are stored in more bits than their weights."""
    dtypes = {name: one.dtype for name, one in computed_parameters(model).items()}
    cast = {
        (tensor.dtype, dtypes[adapter.site])
        for adapter in reading.adapters
        for tensor in adapter.tensors.values()
        if adapter.site in dtypes and tensor.dtype.itemsize > dtypes[adapter.site].itemsize
    }
    for stored, taken in sorted(cast, key=str):
        logger.warning("load_peft: adapters stored in %s were rounded to %s, the dtype of their weights", stored, taken)


def _tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, without PEFT's prefix."""
    pickled = path.with_suffix(".bin")
    if not path.exists() and pickled.exists():
        raise SurgeryError(
            f"load_peft: {pickled}: is a pickle, which could run anything; the model is as it was; write {path.name} "
            f"from it by safetensors.torch.save_file(torch.load(path, weights_only=True), ...)"
        )
    try:
        with safe_open(path, "pt") as file:
            return {key.removeprefix(PREFIX): file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no dict
    except (OSError, SafetensorError) as error:
        raise SurgeryError(f"load_peft: {path}: cannot be read ({error}); the model is as it was") from error


def _sorted(model: nn.Module, config: PeftConfig, tensors: Mapping[str, Tensor], dropout: float | None) -> Reading:
    """Each tensor where it belongs, and everything that is missing, left over or of another shape."""
    reading = Reading()
    left = dict(tensors)
    drop = config.dropout if dropout is None else dropout
    for host, prefix in hosts(model):
        name = prefix.removesuffix(".")
        if name and config.means(name):
            _read_adapter(reading, left, host, name, config, drop)
    own: dict[str, Tensor] = model.state_dict()
    for key, tensor in left.items():
        if ORIGINAL in f".{key}":
            continue  # what a kept module was before: nothing reads it
        plain = _plain(key)
        if plain not in own:
            reading.problems.append(f"{key}: belongs to nothing that the configuration and the model have")
        elif own[plain].shape != tensor.shape:
            reading.problems.append(f"{key}: {_shapes(tensor.shape, own[plain].shape)}")
        else:
            reading.values[plain] = tensor
    missing = [key for key in _kept(model, config) if key not in reading.values]
    reading.problems += [f"{key}: is missing in the file" for key in missing]
    if not reading.adapters and not any(config.means(prefix.removesuffix(".")) for _, prefix in hosts(model)):
        reading.problems.insert(0, f"target_modules={config.targets!r} means no module of this {type(model).__name__}")
    return reading


def _read_adapter(
    reading: Reading, left: dict[str, Tensor], host: nn.Module, name: str, config: PeftConfig, dropout: float
) -> None:
    weight = dict(host.named_parameters(recurse=False)).get("weight")
    if weight is None:
        reading.problems.append(f"{name}: is meant by target_modules, and has no plain weight of its own")
        return
    if is_lazy(weight) or weight.is_meta:
        reading.problems.append(f"{name}: its weight has no data yet; load an adapter when the base is loaded")
        return
    layer = layer_of(host, weight.shape)
    if isinstance(layer, str):
        reading.problems.append(f"{name}: {layer}")
        return
    rank = config.rank_of(name)
    found: dict[str, Tensor] = {}
    shapes = layer.shapes(config.method, rank, feedforward=config.feeds_forward(name))
    for role in ROLES[config.method]:
        key = f"{name}.{layer.keys()[role]}"
        tensor = left.pop(key, None)
        if tensor is None:
            reading.problems.append(f"{key}: is missing in the file")
        elif tuple(tensor.shape) != shapes[role]:
            reading.problems.append(f"{key}: {_shapes(tensor.shape, shapes[role])}")
        else:
            found[role] = tensor
    reason = why_not_adapter(config, name, layer, host, dropout)
    if reason is not None:
        reading.problems.append(f"{name}: {reason}{DROPPED if 'dropout' in reason else ''}")
    spec = spec_of(config, name, layer, dropout)
    reading.adapters.append(Adapter(name, spec, found, scales_bias(config, name, host)))


def _plain(key: str) -> str:
    for between in BETWEEN:
        key = key.replace(between, ".")
    return key


def _shapes(got: Sequence[int], wanted: Sequence[int]) -> str:
    return f"shape {tuple(got)} in the file, {tuple(wanted)} needed"


def _kept(model: nn.Module, config: PeftConfig) -> list[str]:
    """What the file must have for the modules that are trained as a whole."""
    kept = [name for name, _ in model.named_modules() if name and config.saves(name)]
    return [key for key in model.state_dict() if any(key.startswith(f"{name}.") for name in kept)]


def _trained(model: nn.Module, config: PeftConfig) -> set[str]:
    """The plain parameters that train beside the adapters."""
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    modules = [name for name, _ in model.named_modules() if name]
    whole = [name for name in modules if config.saves(name)]
    trained = {name for name in names if any(name.startswith(f"{one}.") for one in whole)}
    if config.bias == "all":
        trained |= {name for name in names if name == "bias" or name.endswith(".bias")}
    elif config.bias == "lora_only":
        trained |= {f"{name}.bias" for name in modules if config.means(name)} & set(names)
    return trained
