"""Making a computed parameter: the chain bound to its site, the raws projected from the value."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import computed.placement  # noqa: F401 - installs the hook that guards an author's own assignments
from computed.chain import Link, bind_chain, refusals
from computed.constraint import Constraint, IteratedConstraint, Preimage, Role
from computed.errors import ConstraintRefusedError
from computed.evaluation import evaluate, full_precision, invert
from computed.frame import links_for
from computed.parameter import ComputedParameter
from computed.resolving import resolve
from computed.site import Site, free_site
from computed.watching import UnwatchableError, same_bits, snapshot


@dataclass(frozen=True)
class Prepared:
    """A chain bound to a site, with the preimages of its value; ``preimages`` is None where projection waits."""

    site: Site
    modules: tuple[nn.Module, ...]
    links: tuple[Link, ...]
    preimages: tuple[Preimage, ...] | None


def prepare(value: Tensor, modules: Sequence[nn.Module], site: Site, *, project: bool) -> Prepared:
    """Bind ``modules`` to ``site``, check that they can take it and invert them at ``value``.

    Errors: ConstraintRefusedError with every reason.
    """
    reasons = dtype_refusals(site) or refusals(modules, site)
    if reasons:
        raise ConstraintRefusedError(f"{site.name}: " + "; ".join(reasons))
    bind_chain(modules, site)
    links = links_for(modules)
    foreign = any(not isinstance(module, Constraint) for module in modules)
    if value.is_meta or not (project or foreign):
        return Prepared(site, tuple(modules), links, None)
    preimages = invert(links, value)
    links = _count_inputs(links, preimages)
    _check_shapes(site, links, preimages, value)
    return Prepared(site, tuple(modules), links, tuple(preimages))


def dtype_refusals(site: Site) -> list[str]:
    """Why a tensor of the site's dtype cannot be computed at all."""
    if site.dtype.is_floating_point and site.dtype.itemsize > 1:
        return []
    return [f"has dtype {str(site.dtype).removeprefix('torch.')}; only float tensors of 16 bits or more can be computed"]


def projected_value(prepared: Prepared, dtype: torch.dtype) -> Tensor:
    """The value that the preimages stand for, as eval would compute it, without touching the chain's state."""
    assert prepared.preimages is not None
    raws = [raw for i, p in enumerate(prepared.preimages) for raw in p.raws[1 if i else 0 :]]
    with torch.no_grad(), full_precision(raws[0].device):
        running: Tensor | None = None
        for link, preimage in zip(prepared.links, prepared.preimages, strict=True):
            own = preimage.raws if running is None else (running, *preimage.raws[1:])
            if isinstance(link.module, IteratedConstraint):
                running = link.module.value_given(own[0], preimage.state)
            else:
                running = evaluate([link], own, own[0].dtype, training=False)[0]
    assert running is not None
    return running.to(dtype)


def assemble(tensor: Tensor, prepared: Prepared) -> ComputedParameter:
    """The computed parameter; a Parameter of a raw's shape and dtype becomes that raw, the same object.

    Where projection waits, the value is written as a pending write: the first access projects it.
    """
    made = ComputedParameter.__new__(ComputedParameter)
    nn.Module.__init__(made)
    made._set_up_frame(prepared.modules, prepared.links, tensor, name=prepared.site.name)
    original = tensor.detach() if prepared.preimages is not None or tensor.is_meta else tensor.detach().clone()
    carrier: Tensor = tensor
    for position, (link, module) in enumerate(zip(prepared.links, prepared.modules, strict=True)):
        owner: nn.Module = made if position == 0 else module
        news = _raw_tensors(prepared, position, carrier)
        first = 1 if position else 0
        for role, new in list(zip(link.roles, news, strict=True))[first:]:
            reusable = tensor if position == 0 and role is link.roles[0] else None
            owner.register_parameter(role.name, _as_parameter(new, role, tensor, reusable))
        if isinstance(module, IteratedConstraint):
            module.allocate_state(news[0].shape, tensor)
            if prepared.preimages is not None:
                module.commit(prepared.preimages[position].state)
                module.settle(prepared.preimages[position].state)
        carrier = news[0]
    made.reset()
    if prepared.preimages is None and not tensor.is_meta:
        made.write_later(original)
    return made


def parameter_from_value(value: Tensor, spec: object) -> ComputedParameter:
    """See `ComputedParameter.from_value`."""
    if not isinstance(value, Tensor):
        raise ConstraintRefusedError(f"from_value: expected a tensor, got {type(value).__name__}")
    site = free_site(value)
    modules = resolve(spec, site)
    if not modules:
        raise ConstraintRefusedError(f"from_value: {spec!r} gives no constraint for a tensor of shape {tuple(value.shape)}")
    tensor = value if isinstance(value, nn.Parameter) else nn.Parameter(value.detach().clone(), value.requires_grad)
    if not isinstance(value, nn.Parameter):
        tensor.requires_grad_(requires_grad=True)
    return assemble(tensor, prepare(tensor, modules, site, project=True))


def _raw_tensors(prepared: Prepared, position: int, carrier: Tensor) -> tuple[Tensor, ...]:
    if prepared.preimages is not None:
        return prepared.preimages[position].raws
    module = prepared.modules[position]
    assert isinstance(module, Constraint)
    with torch.no_grad():
        return tuple(torch.zeros(shape, dtype=carrier.dtype, device=carrier.device) for shape in module.raw_shapes(carrier.shape))


def _as_parameter(new: Tensor, role: Role, replaced: Tensor, reusable: Tensor | None) -> nn.Parameter:
    needs_grad = role.trained and (role.added or replaced.requires_grad)
    if isinstance(reusable, nn.Parameter) and reusable.shape == new.shape:
        return _reused(reusable, new, needs_grad=needs_grad)
    kept = torch.empty_like(new, dtype=replaced.dtype, device=replaced.device).copy_(new)
    return nn.Parameter(kept, requires_grad=needs_grad)


def _reused(parameter: nn.Parameter, new: Tensor, *, needs_grad: bool) -> nn.Parameter:
    """The old Parameter object with the raw's bits, in a storage that can be watched."""
    parameter.grad = None
    parameter.requires_grad_(needs_grad)
    if parameter.is_meta:
        return parameter
    if not parameter.is_shared():
        _own_storage(parameter)
    with torch.no_grad():
        cast = new.to(parameter.dtype)
        if not same_bits(parameter, cast):
            parameter.copy_(cast)
    return parameter


def _own_storage(parameter: nn.Parameter) -> None:
    """Move a parameter out of foreign memory (safetensors, a mapped file), which cannot be watched."""
    try:
        snapshot(parameter)
    except UnwatchableError:
        parameter.data = parameter.data.clone()
    else:
        # the snapshot is gone by now: this steals the storage back, without a copy
        parameter.data_ptr()


def _count_inputs(links: Sequence[Link], preimages: Sequence[Preimage]) -> tuple[Link, ...]:
    """Tell foreign links how many tensors their right inverse gives."""
    return tuple(link.with_inputs(len(preimage.raws)) for link, preimage in zip(links, preimages, strict=True))


def _check_shapes(site: Site, links: Sequence[Link], preimages: Sequence[Preimage], value: Tensor) -> None:
    prepared = Prepared(site, tuple(link.module for link in links), tuple(links), tuple(preimages))
    with torch.no_grad():
        made = projected_value(prepared, value.dtype)
    if made.shape != value.shape:
        raise ConstraintRefusedError(
            f"{site.name}: the constraint changes the shape, {tuple(value.shape)} to {tuple(made.shape)}"
        )
