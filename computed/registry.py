"""The catalogue by name: what a spec may call, and whether a call fits, without importing a constraint."""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType

from computed.entry import REQUIRED as REQUIRED
from computed.entry import Entry as Entry
from computed.entry import Parameter as Parameter
from computed.nearmiss import did_you_mean, near_misses
from computed.spec import Call, is_identifier, parse_spec
from computed.spec_error import SpecError
from computed.spec_error import UnknownConstraintError as UnknownConstraintError
from computed.table import BUILT_IN

GROUP = "computed_surgery.constraints"
WHOLE_SPECS = ("none", "frozen")  # specs of their own: no constraint may have these names


class PluginError(RuntimeError):
    """An installed package offers a constraint under a name that it cannot have."""


@cache
def catalogue() -> Mapping[str, Entry]:
    """All constraints by name: the built-in ones, then those that installed packages offer, read once.

    A package offers one by an entry point of the group ``computed_surgery.constraints``,
    ``name = "module:Class"``. Raises `PluginError` where two claim one name, or no spec can write a name.
    """
    table = {entry.name: entry for entry in BUILT_IN}
    for point in entry_points(group=GROUP):
        entry = _plugin(point)
        present = table.setdefault(entry.name, entry)
        if present.target != entry.target:
            raise PluginError(
                f"constraint {entry.name!r} has two homes: {_home(present)} and {_home(entry)}; "
                "uninstall the one that you do not want, or ask its author to rename it"
            )
    return MappingProxyType(table)


def lookup(name: str) -> Entry:
    """The entry called ``name``; raises `UnknownConstraintError` with near misses and all known names."""
    table = catalogue()
    if name in table:
        return table[name]
    if name in WHOLE_SPECS:
        raise UnknownConstraintError(
            f"{name!r} is a spec of its own, not a constraint: it stands alone and without arguments"
        )
    other_names = {other: entry.name for entry in table.values() for other in entry.also_called}
    misses = near_misses(name, table, other_names)
    known = "computed.catalogue() lists all" if misses else f"known are {', '.join(sorted(table))}"
    raise UnknownConstraintError(f"unknown constraint {name!r}{did_you_mean(misses)} ({known})")


def check_call(call: Call) -> None:
    """Raises `SpecError` where the constraint of this name cannot be called with these arguments.

    The entry of a plugin says nothing of its arguments: they are checked when its class is called.
    """
    entry = lookup(call.name)
    if entry.parameters is None:
        return
    misfit = _misfit(entry, entry.parameters, call)
    if misfit:
        raise SpecError(misfit, str(call))


def joint_arguments(spec: str) -> list[str]:
    """What a spec asks for that needs the values of all sites of its rule, which source text does not have.

    >>> print(*joint_arguments("mask(0.8, scope='rule')"))
    mask(scope='rule') needs the weights of all sites of its rule, which only a live model has; use apply_constraints
    >>> joint_arguments("mask(0.8, scope='rule', share=0.75)")
    []
    """
    found = []
    for call in parse_spec(spec):
        joint, given = lookup(call.name).joint, dict(call.kwargs)
        if joint and all(given.get(name) == value for name, value in joint.items()):
            asked = ", ".join(f"{name}={value!r}" for name, value in joint.items() if value is not None)
            found.append(
                f"{call.name}({asked}) needs the weights of all sites of its rule, which only a live model has; use "
                f"apply_constraints"
            )
    return found


def _misfit(entry: Entry, parameters: tuple[Parameter, ...], call: Call) -> str | None:
    free = [parameter.name for parameter in parameters if not parameter.keyword_only]
    if len(call.args) > len(free):
        count = f"{len(free) or 'no'} argument{'' if len(free) == 1 else 's'}"
        return f"{call.name} takes {count} by position, got {len(call.args)}; it is called as {entry.signature}"
    given = free[: len(call.args)]
    for key, _ in call.kwargs:
        if key in given:
            return f"{call.name} got {key!r} twice; it is called as {entry.signature}"
        given.append(key)
    known = [parameter.name for parameter in parameters]
    unknown = [key for key in given if key not in known]
    if unknown:
        misses = did_you_mean(near_misses(unknown[0], known, entry.misnomers))
        return f"{call.name} has no argument {unknown[0]!r}{misses or f'; it is called as {entry.signature}'}"
    missing = [p.name for p in parameters if p.default is REQUIRED and p.name not in given]
    if missing:
        return f"{call.name} needs {' and '.join(missing)}; it is called as {entry.signature}"
    return None


def _plugin(point: EntryPoint) -> Entry:
    origin = point.dist.name if point.dist is not None else point.module
    if not point.attr:
        raise PluginError(
            f"package {origin!r} offers the module {point.value!r} as constraint {point.name!r}; "
            f"ask its author to write 'module:Class'"
        )
    if not is_identifier(point.name) or point.name in WHOLE_SPECS:
        raise PluginError(
            f"package {origin!r} calls a constraint {point.name!r}, which no spec can write; "
            "ask its author to rename it"
        )
    return Entry(point.name, point.module, point.attr, None, f"from the package {origin}")


def _home(entry: Entry) -> str:
    return f"{entry.target} ({'built in' if entry in BUILT_IN else entry.summary})"
