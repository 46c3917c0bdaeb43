"""Making a computed parameter: the chain bound to its site, the raws projected from the value."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Tensor, nn

import computed.placement  # noqa: F401 - installs the hook that guards an author's own assignments
from computed.chain import Link, links_for
from computed.chain_at_site import bind_chain, refusals
from computed.chaining import kept_preimages
from computed.constraint import Constraint, IteratedConstraint, Preimage
from computed.errors import ConstraintRefusedError
from computed.evaluation import full_precision, invert, promoted
from computed.inverses import check_raws, count_inputs
from computed.modes import as_in_eval
from computed.parameter import ComputedParameter
from computed.resolving import resolve
from computed.site import Site, free_site
from computed.watching import own_storage, same_bits


@dataclass(frozen=True)
class Prepared:
    """A chain bound to a site, with the preimages of its value; ``preimages`` is None where projection waits.

    ``shape`` is that of the value; ``value`` is what the preimages stand for, until somebody has measured it.
    """

    site: Site
    modules: tuple[nn.Module, ...]
    links: tuple[Link, ...]
    preimages: tuple[Preimage, ...] | None
    shape: torch.Size
    value: Tensor | None = None

    @property
    def reshapes(self) -> bool:
        """Whether the value has another shape than what stood there."""
        return self.shape != self.site.shape

    @property
    def raw_shapes(self) -> tuple[tuple[torch.Size, ...], ...]:
        """The shapes of the arguments of each link, its carrier first; what is foreign keeps the shape."""
        if self.preimages is not None:
            return tuple(tuple(raw.shape for raw in preimage.raws) for preimage in self.preimages)
        assert self.site.shape is not None
        running, found = self.site.shape, []
        for module in reversed(self.modules):
            found.append(module.raw_shapes(running) if isinstance(module, Constraint) else (running,))
            running = found[-1][0]
        return tuple(found[::-1])


def prepare(
    value: Tensor,
    modules: Sequence[nn.Module],
    site: Site,
    *,
    project: bool,
    present: ComputedParameter | None = None,
    unsafe: bool = False,
) -> Prepared:
    """Bind ``modules`` to ``site``, check that they can take it and invert them at ``value``.

    Where they begin with copies of those of ``present``, whose value it is, its raws stay if what comes behind starts
    from that very value: a module without a right inverse would otherwise be applied twice. Only ``unsafe`` may the
    chain change the shape.

    Errors: ConstraintRefusedError with every reason.
    """
    reasons = check_chain(modules, site)
    if reasons:
        raise ConstraintRefusedError(f"{site.name}: " + "; ".join(reasons))
    bind_chain(modules, site)
    links = links_for(modules)
    foreign = any(not isinstance(module, Constraint) for module in modules)
    if value.is_meta or not (project or foreign):
        return Prepared(site, tuple(modules), links, None, value.shape)
    preimages = kept_preimages(links, value, present) or invert(links, value)
    links = count_inputs(links, preimages)
    check_raws(links, preimages, value, site)
    prepared = Prepared(site, tuple(modules), links, tuple(preimages), value.shape)
    return _with_value(prepared, value, unsafe=unsafe)


def check_chain(modules: Sequence[nn.Module], site: Site) -> list[str]:
    """Every reason why the chain cannot take the site."""
    return dtype_refusals(site) or refusals(modules, site)


def dtype_refusals(site: Site) -> list[str]:
    """Why a tensor of the site's dtype cannot be computed at all."""
    if site.dtype.is_floating_point and site.dtype.itemsize > 1:
        return []
    dtype = str(site.dtype).removeprefix("torch.")
    return [f"has dtype {dtype}; only float tensors of 16 bits or more can be computed"]


def projected_value(prepared: Prepared, dtype: torch.dtype) -> Tensor:
    """The value that the preimages stand for, as eval would compute it, without touching the chain's state."""
    assert prepared.preimages is not None
    raws = [raw for i, p in enumerate(prepared.preimages) for raw in p.raws[1 if i else 0 :]]
    inner = (each for module in prepared.modules for each in module.modules())
    with torch.no_grad(), full_precision(raws[0].device), as_in_eval(inner):
        running: Tensor | None = None
        for link, preimage in zip(prepared.links, prepared.preimages, strict=True):
            own = preimage.raws if running is None else (running, *preimage.raws[1:])
            if isinstance(link.module, IteratedConstraint):
                running = link.module.value_given(own[0], preimage.state)
            else:
                running = link.evaluate([promoted(argument) for argument in own], training=False)[0]
            if not running.is_floating_point():
                kind = str(running.dtype).removeprefix("torch.")
                raise ConstraintRefusedError(
                    f"{prepared.site.name}: {type(link.module).__name__} gives {kind}, through which no gradient "
                    f"comes; a value is a float tensor"
                )
    assert running is not None
    return running.to(dtype)


def assemble(
    tensor: Tensor, prepared: Prepared, reuse: Mapping[str, nn.Parameter] = MappingProxyType({})
) -> ComputedParameter:
    """The computed parameter that takes the place of ``tensor``.

    A Parameter of a raw's shape becomes that raw, the same object: ``tensor`` the first one, those in ``reuse`` the
    ones of their names. Where projection waits, the value is a pending write: the first access projects it.
    """
    made = ComputedParameter.__new__(ComputedParameter)
    nn.Module.__init__(made)
    made._set_up_frame(prepared.modules, prepared.links, tensor, name=prepared.site.name)
    made.__dict__.update(_shape=prepared.shape, reshapes=prepared.reshapes)
    original = tensor.detach() if prepared.preimages is not None or tensor.is_meta else tensor.detach().clone()
    known = dict(reuse) or _first_raw(made, tensor)
    news = [raw for position in range(len(prepared.links)) for raw in _own_raws(prepared, position, tensor)]
    for (name, role, slot, reached), new in zip(made.raw_slots(), news, strict=True):
        needs_grad = reached and role.trained and (role.added or tensor.requires_grad)
        slot.owner[slot.key] = _as_parameter(new, tensor, known.get(name), needs_grad=needs_grad)
    for position, module in enumerate(prepared.modules):
        if isinstance(module, IteratedConstraint):
            module.allocate_state(prepared.raw_shapes[position][0], tensor)
            if prepared.preimages is not None:
                module.commit(prepared.preimages[position].state)
                module.settle(prepared.preimages[position].state)
    made.reset()
    if prepared.preimages is None and not tensor.is_meta:
        made.write_later(original)
    return made


def _first_raw(made: ComputedParameter, tensor: Tensor) -> dict[str, nn.Parameter]:
    return {raw.name: tensor for raw in made.raw_slots()[:1] if isinstance(tensor, nn.Parameter)}


def parameter_from_value(value: Tensor, spec: object) -> ComputedParameter:
    """See `ComputedParameter.from_value`."""
    if not isinstance(value, Tensor):
        raise ConstraintRefusedError(f"from_value: expected a tensor, got {type(value).__name__}")
    site = free_site(value)
    modules = resolve(spec, site)
    if not modules:
        shape = tuple(value.shape)
        raise ConstraintRefusedError(f"from_value: {spec!r} gives no constraint for a tensor of shape {shape}")
    tensor = value if isinstance(value, nn.Parameter) else nn.Parameter(value.detach().clone(), value.requires_grad)
    if not isinstance(value, nn.Parameter):
        tensor.requires_grad_(True)
    return assemble(tensor, prepare(tensor, modules, site, project=True))


def _own_raws(prepared: Prepared, position: int, like: Tensor) -> tuple[Tensor, ...]:
    """The raws that a link has of its own: all for the first, all but the carrier for a later one.

    Where projection waits, the first one is the value until then: `parameters()` is read without an access to it.
    """
    first = 1 if position else 0
    if prepared.preimages is not None:
        return prepared.preimages[position].raws[first:]
    shapes = prepared.raw_shapes[position][first:]
    zeros = [torch.zeros(shape, dtype=like.dtype, device=like.device) for shape in shapes]
    if position == 0 and shapes and shapes[0] == like.shape:
        zeros[0] = like.detach()
    return tuple(zeros)


def _as_parameter(new: Tensor, replaced: Tensor, reusable: Tensor | None, *, needs_grad: bool) -> nn.Parameter:
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
        own_storage(parameter)
    with torch.no_grad():
        cast = new.to(parameter.dtype)
        if not same_bits(parameter, cast):
            parameter.copy_(cast)
    return parameter


def _with_value(prepared: Prepared, value: Tensor, *, unsafe: bool) -> Prepared:
    """With what the preimages stand for; its shape must be what it was but for ``unsafe``."""
    with torch.no_grad():
        made = projected_value(prepared, value.dtype)
    if made.shape != value.shape and not unsafe:
        raise ConstraintRefusedError(
            f"{prepared.site.name}: the constraint changes the shape, {tuple(value.shape)} to {tuple(made.shape)}; "
            f"where its host can do with that, pass unsafe=True"
        )
    return replace(prepared, shape=made.shape, value=made)
