"""Adoption: what torch's parametrizations, norm hooks and pruning masks compute becomes computed parameters."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from computed.chain import links_for
from computed.evaluation import full_precision
from computed.modes import as_in_eval
from computed.parameter import ComputedParameter
from computed.placement import place
from computed.taking_over import from_raws
from computed.torch_private import rebuild_flat_weights
from surgery.adopting_peft import adopt_peft, has_peft
from surgery.declared_ties import redeclare
from surgery.errors import SurgeryError
from surgery.finding import Found, Place, find
from surgery.history import next_number, remember
from surgery.holders import Holder, Parametrization, holders, why_not
from surgery.hosting import KeptHost, register_in_order
from surgery.matching import chosen_by
from surgery.restoring import KeptRegistries, Record, keep
from surgery.wrapping import sharding_refusals, wrapping

logger = logging.getLogger("surgery")
Held = tuple[Place, Holder]


def adopt(model: nn.Module, patterns: str | Iterable[str] | None = None) -> nn.Module:
    """Let computed parameters take over what holds weights of ``model`` already; in place, returns the model.

    Taken over are torch's parametrizations (users' own and GeoTorch's among them), ``torch.nn.utils.weight_norm`` and
    ``spectral_norm``, and the masks of ``torch.nn.utils.prune``. Raws and buffers stay the same objects, so an
    optimizer goes on; types of modules become plain again, and the model can be pickled, copied, compiled and baked.
    Values in eval are bit-equal in float32 and float64; 16-bit raws are computed in float32 and rounded once. In train
    mode a read writes nothing: state such as ``u`` and ``v`` goes on when an optimizer steps. `surgery.undo` takes it
    back. One INFO line says what was done; without anything to adopt, that.

    Checkpoints that were written before load ``strict=True`` afterwards, bit for bit.

    Of a model that PEFT has adapted by LoRA, DoRA or IA3 (a `PeftModel`, or one with injected adapters), the one
    active adapter is taken over and the base is returned, which `undo` gives PEFT's layers back to: equal to rounding,
    factors of linear layers the same objects.

    Args:
        model: any module.
        patterns: one pattern or several: only these; None means all. Where torch's parametrizations hold several
            weights of one module they are adopted together, since the module's type holds them all.

    Errors: SurgeryError for a pattern that matches nothing that is held, and for what cannot be taken over, all at
    once; nothing is changed then.

    Example:
        >>> import torch
        >>> layer = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(3, 2))
        >>> before = layer.weight
        >>> type(adopt(layer)).__name__, torch.equal(layer.weight, before)
        ('Linear', True)
        >>> list(layer.state_dict())
        ['bias', 'weight.0', 'weight.1']
    """
    if has_peft(model):
        return _from_peft(model, patterns)
    held = [one for one in find(model) if one.holder is not None]
    chosen = held if patterns is None else chosen_by(patterns, held, model, "adopt", "held weight")
    todo = _together([(place_, holders(place_.host)) for one in chosen for place_ in one.slots])
    problems = _problems(model, chosen, todo)
    if problems:
        raise SurgeryError("\n".join(("adopt: nothing was changed:", *problems)))
    record = Record(next_number())
    record.also.append(partial(redeclare, model))
    try:
        with torch.inference_mode(mode=False):
            for host_places in todo:
                _adopt_host(host_places, record)
        redeclare(model)
    except BaseException:
        record.restore()
        raise
    if record.made:
        remember(model, record)
    _report(todo)
    return model


def _from_peft(model: nn.Module, patterns: object) -> nn.Module:
    if patterns is not None:
        reason = "what PEFT has put into a model is taken over as a whole; give no patterns"
        raise SurgeryError(f"adopt: nothing was changed: {patterns!r}: {reason}")
    base, record, count = adopt_peft(model)
    remember(base, record)
    logger.info("adopted %d from PEFT", count)
    return base


def _together(places: Sequence[tuple[Place, Mapping[str, Holder]]]) -> list[list[Held]]:
    """The held weights that are taken over, by host; parametrizations of one host all at once."""
    hosts: dict[int, dict[str, Held]] = {}
    for place_, all_held in places:
        mine = hosts.setdefault(id(place_.host), {})
        holder = all_held[place_.attribute]
        prefix = place_.name.removesuffix(place_.attribute)
        for name, other in all_held.items():
            with_it = isinstance(holder, Parametrization) and isinstance(other, Parametrization)
            if name == place_.attribute or with_it:
                mine.setdefault(name, (Place(place_.host, name, prefix + name), other))
    return [list(mine.values()) for mine in hosts.values()]


def _problems(model: nn.Module, chosen: Sequence[Found], todo: Sequence[Sequence[Held]]) -> list[str]:
    wrapped = wrapping(model)
    problems = [f"{one.site.name}: {reason}" for one in chosen for reason in sharding_refusals(one, wrapped)]
    for place_, holder in (pair for pairs in todo for pair in pairs):
        reason = why_not(holder) or _changes_dtype(holder)
        if reason is not None:
            problems.append(f"{place_.name}: {reason}")
    return problems


def _changes_dtype(holder: Holder) -> str | None:
    raws = [raw for raw in holder.raws if isinstance(raw, Tensor)]
    value = _value(holder.modules(), raws)
    if value.dtype == raws[0].dtype:
        return None
    dtypes = f"{str(raws[0].dtype).removeprefix('torch.')} to {str(value.dtype).removeprefix('torch.')}"
    return f"{holder.called} changes the dtype, {dtypes}, and a computed parameter has that of its raws"


def _adopt_host(held: Sequence[Held], record: Record) -> None:
    """Take over the held weights of one host."""
    host = held[0][0].host
    kept = KeptHost(host)
    record.also.append(kept.restore)
    made = [(place_, _made(place_, holder, record)) for place_, holder in held]
    for _, holder in held:
        holder.let_go()
    register_in_order(host, [(place_.attribute, parameter) for place_, parameter in made])
    for place_, parameter in made:
        place(host, place_.attribute, parameter)
        record.made.append((place_, parameter))
    rebuild_flat_weights(host)
    kept.changed()


def _made(place_: Place, holder: Holder, record: Record) -> ComputedParameter:
    modules = holder.modules()
    raws = [raw for raw in holder.raws if isinstance(raw, Tensor)]
    for module in (inner for each in modules for inner in each.modules()):
        record.registries.append(KeptRegistries(module, dict(module._parameters), dict(module._buffers)))
    tensors = [*raws, *(tensor for module in modules for tensor in (*module.parameters(), *module.buffers()))]
    record.tensors += [keep(tensor) for tensor in tensors]
    value = _value(modules, raws)
    trained = [raw for raw in raws if isinstance(raw, nn.Parameter)]
    like = nn.Parameter(value, any(raw.requires_grad for raw in trained)) if trained else value
    parameters = [raw if isinstance(raw, nn.Parameter) else nn.Parameter(raw, requires_grad=False) for raw in raws]
    made = from_raws(modules, parameters, like, name=place_.name)
    for module in (made, made.constraints):
        module.training = place_.host.training
    if isinstance(holder, Parametrization):
        return made
    for module in modules:
        module.train(place_.host.training)
    return made


def _value(modules: Sequence[nn.Module], raws: Sequence[Tensor]) -> Tensor:
    """The value that eval uses; nothing is written."""
    first, *later = links_for(modules)
    inner = [each for module in modules for each in module.modules()]
    with torch.no_grad(), full_precision(raws[0].device), as_in_eval(inner):
        running, _ = first.with_inputs(len(raws)).evaluate(raws, training=False)
        for link in later:
            running, _ = link.evaluate([running], training=False)
        return running


def _report(todo: Sequence[Sequence[Held]]) -> None:
    counts = Counter(holder.called for pairs in todo for _, holder in pairs)
    if not counts:
        logger.info("nothing to adopt")
        return
    listed = ", ".join(f"{count} from {called}" for called, count in counts.items())
    logger.info("adopted %d: %s", sum(counts.values()), listed)
