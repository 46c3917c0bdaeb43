"""From a spec, in any of its forms, to the modules of a chain."""

import copy
import inspect
from collections.abc import Callable

from torch import nn
from torch.distributions import Transform

from computed.constraint import Constraint
from computed.constraints.conversions import TransformConstraint
from computed.errors import ConstraintRefusedError
from computed.parameter import ComputedParameter
from computed.registry import check_call, lookup
from computed.site import Site
from computed.spec import Call, parse_spec


def resolve(spec: object, site: Site) -> list[nn.Module]:
    """The modules of the chain that ``spec`` means at ``site``; an empty list where a factory returns None.

    A string names entries of the catalogue; a class is called without arguments; a module is deep-copied; a Transform
    becomes a constraint; a list is a chain of specs, the first applied first; any other callable is a factory, called
    with the site.

    Errors: SpecError and UnknownConstraintError from strings; ConstraintRefusedError for what is none of these.
    """
    if isinstance(spec, str):
        return [build(call) for call in parse_spec(spec)]
    if isinstance(spec, list):
        return [module for part in spec for module in resolve(part, site)]
    if isinstance(spec, ComputedParameter):
        raise ConstraintRefusedError(
            f"{site.name}: a computed parameter is no spec; give its own, {spec.spec!r}, or assign it to the host"
        )
    if isinstance(spec, nn.Module):
        return [copy.deepcopy(_with_inputs(spec, site))]
    if isinstance(spec, Transform):
        return [TransformConstraint(spec)]
    if inspect.isclass(spec) and issubclass(spec, nn.Module):
        return [_with_inputs(_instance(spec), site)]
    if callable(spec):
        return _from_factory(spec, site)
    raise ConstraintRefusedError(
        f"{site.name}: {spec!r} is no spec (got {type(spec).__name__}); give a name such as 'spectral', a constraint "
        f"class or module, a Transform, computed.function(f), or a function of a Site"
    )


def build(call: Call) -> nn.Module:
    """The constraint that one call of a spec string names."""
    check_call(call)
    constructor: Callable[..., nn.Module] = lookup(call.name).load()
    return constructor(*call.args, **dict(call.kwargs))


def _with_inputs(module: nn.Module, site: Site) -> nn.Module:
    """``module``, if its ``forward`` can be given a raw; what has no signature is asked when it is called."""
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return module
    if any(parameter.kind is not parameter.KEYWORD_ONLY for parameter in parameters):
        return module
    host = f"host.{site.attribute}"
    raise ConstraintRefusedError(
        f"{site.name}: {type(module).__name__}.forward takes no input, so it has no raw for the weight that stands "
        f"here; put it there by hand: del {host}; {host} = computed.ComputedParameter(module)"
    )


def _instance(cls: type[nn.Module]) -> nn.Module:
    try:
        return cls()
    except TypeError as error:
        raise ConstraintRefusedError(
            f"{cls.__qualname__} cannot be made without arguments ({error}); give an instance of it"
        ) from error


def _from_factory(factory: Callable[[Site], object], site: Site) -> list[nn.Module]:
    made = factory(site)
    if made is None:
        return []
    if isinstance(made, Constraint):
        return [made]
    if callable(made) and not isinstance(made, nn.Module | type):
        name = getattr(factory, "__name__", repr(factory))
        raise ConstraintRefusedError(
            f"{site.name}: the factory {name} returned a function; it is called with the site and returns a constraint "
            f"or None. For a function of the weight use computed.function({name})"
        )
    return resolve(made, site)
