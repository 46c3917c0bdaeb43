"""Checkpoint files: a constrained model as safetensors, with the rules that make one like it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from computed.constraint import Constraint
from computed.parameter import ComputedParameter
from computed.resolving import build
from computed.sharding import is_sharded
from computed.spec import parse_spec
from surgery.applying import carry_out
from surgery.contents import Contents, fingerprint
from surgery.errors import PlanError, SurgeryError
from surgery.finding import Found, find, find_computed
from surgery.planning import Options, draft

Module = TypeVar("Module", bound=nn.Module)
ONLY = ("all", "trained")


def save_checkpoint(model: nn.Module, path: str | os.PathLike[str], only: str = "all") -> None:
    """Write a constrained model to a safetensors file that `load_checkpoint` reads into a plain one; changes nothing.

    The file has the keys of ``model.state_dict()``, each tied tensor once; its metadata the rules by name, which
    Parameters are frozen, and a fingerprint of the base. It is written beside ``path`` and moved there when complete.

    Args:
        model: any module whose computed parameters have specs that a text can name.
        path: where to.
        only: "all", or "trained": what is trained, the raws and the state of constraints, and all buffers. Frozen plain
            weights and the fixed base of adapters stay out, and a fingerprint of each goes in.

    Errors: SurgeryError for constraints made of functions or foreign modules, tensors without data, and sharded ones,
    all by name.

    Example:
        >>> import tempfile, torch
        >>> from surgery.constraining import apply_constraints
        >>> model = apply_constraints(torch.nn.Linear(4, 4), {"*": "frozen", "weight": "lora(rank=1)"})
        >>> file = Path(tempfile.mkdtemp(), "adapter.safetensors")
        >>> save_checkpoint(model, file, only="trained")
        >>> with safe_open(file, "pt") as written:
        ...     print(sorted(written.keys()))
        ['weight.A', 'weight.B']
    """
    if only not in ONLY:
        raise SurgeryError(f"save_checkpoint: only={only!r}; it is one of {', '.join(map(repr, ONLY))}")
    found = find(model)
    tensors: dict[str, Tensor] = model.state_dict()
    problems = [*_unnamed(found), *_without_data(tensors)]
    if problems:
        raise SurgeryError("\n".join((f"save_checkpoint: cannot write {path}:", *problems)))
    frozen = [name for name, one in model.named_parameters(remove_duplicate=False) if not one.requires_grad]
    left_out = set(frozen) - _projected(found) if only == "trained" else set()
    unique, aliases = _without_ties({key: one for key, one in tensors.items() if key not in left_out})
    rules = {one.site.name: one.computed.spec for one in found if one.computed is not None}
    base = {_original(key, found): fingerprint(tensors[key]) for key in tensors if key in left_out}
    contents = Contents(rules, aliases, tuple(frozen), base)
    target = Path(path)
    unfinished = target.with_name(f"{target.name}.unfinished")
    try:
        save_file(unique, unfinished, contents.written())
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def load_checkpoint(model: Module, path: str | os.PathLike[str]) -> Module:
    """Constrain a plain ``model`` as a file says, and load it; in place, returns the model. All of it, or nothing.

    No weight is projected: raws and state are those of the file. What the file leaves out must be in ``model``, bit for
    bit. A model that is constrained by the same rules already is only loaded. It cannot be undone.

    Errors: SurgeryError for a file that is none, is not whole or lacks tensors, for wrong shapes and another base (the
    first tensor that differs is named); PlanError where the rules do not fit. The model is as it was then.

    Example:
        >>> import tempfile, torch
        >>> from surgery.constraining import apply_constraints
        >>> model = apply_constraints(torch.nn.Linear(4, 4), {"weight": "orthogonal"})
        >>> file = Path(tempfile.mkdtemp(), "model.safetensors")
        >>> save_checkpoint(model, file)
        >>> other = load_checkpoint(torch.nn.Linear(4, 4), file)
        >>> torch.equal(other.weight.detach(), model.weight.detach())
        True
    """
    contents, tensors = _read(Path(path))
    _check_base(model, contents, Path(path))
    present = {one.site.name: computed.spec for one, computed in find_computed(model)}
    if present and present != contents.rules:
        raise SurgeryError(f"{path}: the model is constrained already, by other rules; load into a plain one")
    made = draft(model, [] if present else contents.patterns(), Options(project=False, measures=False))
    if made.problems:
        raise PlanError(made.problems)
    record = carry_out(model, made.rows)
    try:
        if not present:
            for _, made_here in record.made:
                made_here.drop_waiting()  # the file has its raws
        own = model.state_dict()
        _check_fit(own, tensors, contents, Path(path))
        on_meta = any(tensor.is_meta for tensor in own.values())
        model.load_state_dict({**own, **tensors}, strict=True, assign=on_meta)
    except BaseException:
        record.restore()
        raise
    frozen = set(contents.frozen)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        parameter.requires_grad_(name not in frozen)
    return model


def _unnamed(found: tuple[Found, ...]) -> list[str]:
    """The computed parameters whose specs cannot be read back."""
    problems = []
    for one in found:
        if one.computed is not None and not _reads_back(one.computed):
            problems.append(
                f"{one.site.name}: {one.computed.spec!r} is no spec that a file can name (a function, a foreign "
                f"module, or one without a raw); save model.state_dict(), and apply the rules before loading it"
            )
    return problems


def _projected(found: tuple[Found, ...]) -> set[str]:
    """The raws that a projection has made, frozen and fixed ones too: a plain model does not have them."""
    return {
        f"{name}.{raw.name}"
        for one in found
        if one.computed is not None
        for name in one.site.names
        for raw in one.computed.raw_slots()[_keeps_weight(one.computed) :]
    }


def _keeps_weight(parameter: ComputedParameter) -> bool:
    """Whether the first raw is fixed and the weight as a plain model has it; a later constraint would have moved it."""
    first = parameter.links[0]
    fixed = bool(first.roles) and not first.roles[0].trained
    keeps = isinstance(first.module, Constraint) and first.module.keeps_weight()
    return fixed and keeps and len(parameter.links) == 1


def _reads_back(parameter: ComputedParameter) -> bool:
    try:
        made = [build(call) for call in parse_spec(parameter.spec)]
    except (ValueError, TypeError, ImportError):
        return False
    return list(map(type, made)) == list(map(type, parameter.constraints))


def _without_data(tensors: Mapping[str, Tensor]) -> list[str]:
    reasons = {key: "is on meta and has no data" for key, one in tensors.items() if one.is_meta}
    reasons |= {key: "is sharded; use torch.distributed.checkpoint" for key, one in tensors.items() if is_sharded(one)}
    return [f"{key}: {reason}" for key, reason in reasons.items()]


def _without_ties(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Each tensor once, in memory of its own, as safetensors wants it; and the other keys of what is shared."""
    first: dict[tuple[object, ...], str] = {}
    unique: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    for key, tensor in tensors.items():
        place = (tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
        known = first.setdefault(place, key) if tensor.numel() else key
        if known == key:
            unique[key] = tensor.detach().clone(memory_format=torch.contiguous_format)
        else:
            aliases[key] = known
    return unique, aliases


def _original(key: str, found: tuple[Found, ...]) -> str:
    """The key that a plain model has for what stands under ``key`` here: that of a parameter for its fixed raw."""
    for one in found:
        if one.computed is not None:
            for name in one.site.names:
                if key.startswith(f"{name}."):
                    return name
    return key


def _read(path: Path) -> tuple[Contents, dict[str, Tensor]]:
    try:
        with safe_open(path, "pt") as file:
            contents = Contents.read(file.metadata(), path)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no mapping
    except (OSError, SafetensorError) as error:
        raise SurgeryError(f"{path}: cannot be read ({error}); the model is as it was") from error
    return contents, tensors | {key: tensors[known] for key, known in contents.aliases.items() if known in tensors}


def _check_base(model: nn.Module, contents: Contents, path: Path) -> None:
    """Raise where the model has not the weights that the file was trained upon."""
    own: dict[str, Any] = model.state_dict()
    for one in find(model):
        if one.computed is not None:
            raws = one.computed.raw_slots()
            own.update((name, raws[0].tensor) for name in one.site.names if raws)
    for key, expected in contents.base.items():
        if key not in own:
            raise SurgeryError(f"{path}: needs {key}, which the model has not; the model is as it was")
        if own[key].is_meta or fingerprint(own[key]) != expected:
            raise SurgeryError(
                f"{path}: was made on another base: {key} differs from the one it was trained upon; load that base "
                f"first. The model is as it was"
            )


def _check_fit(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], contents: Contents, path: Path) -> None:
    """Raise where keys or shapes differ: all of it at once, before a number is copied."""
    problems = [f"{key}: is not in the model" for key in tensors if key not in own]
    for key, tensor in own.items():
        if key not in tensors:
            known = key in contents.base or (key in contents.frozen and key.rpartition(".")[0] in contents.base)
            problems += [] if known else [f"{key}: is missing in the file"]
        elif tensors[key].shape != tensor.shape:
            shapes = f"shape {tuple(tensors[key].shape)} in the file, {tuple(tensor.shape)} in the model"
            problems.append(f"{key}: {shapes}")
    if problems:
        raise SurgeryError("\n".join((f"{path}: does not fit; the model is as it was:", *problems)))
