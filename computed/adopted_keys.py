"""The keys that an adopted weight had before, by the keys that it has now: what torch saved then loads bit for bit."""

from collections.abc import Mapping

from computed.constraint import Constraint
from computed.parameter import ComputedParameter
from computed.unhooked import Unhooked

LIST = "parametrizations"


def listed_keys(parameter: ComputedParameter, name: str) -> dict[str, str]:
    """Own key -> the key in ``torch.nn.utils.parametrize``, behind the host's prefix.

    ``name`` is what the host calls the weight. Empty where a constraint of ours is among the modules, which
    `computed.formats` reads.
    """
    if any(isinstance(link.module, Constraint) for link in parameter.links):
        return {}
    single = len(parameter.raw_slots()) == 1
    return {key: f"{LIST}.{name}.{_listed(key, single=single)}" for key in parameter.state_dict()}


def hook_keys(parameter: ComputedParameter, name: str) -> dict[str, str]:
    """Own key -> the key of the hook that a module stands for, behind the host's prefix; empty where it does not."""
    module = parameter.links[0].module
    if len(parameter.links) != 1 or not isinstance(module, Unhooked):
        return {}
    return {key: name + suffix for key, suffix in module.suffixes.items()}


def renamed(
    state_dict: Mapping[str, object], parameter: ComputedParameter, name: str, prefix: str
) -> dict[str, str] | None:
    """Which key of ``state_dict`` is which key of ``parameter``, where all are there in one format; None where not."""
    for layout in (listed_keys(parameter, name), hook_keys(parameter, name)):
        if layout and all(prefix + old in state_dict for old in layout.values()):
            return {prefix + old: f"{prefix}{name}.{own}" for own, old in layout.items()}
    return None


def _listed(key: str, *, single: bool) -> str:
    """An own key as ``ParametrizationList`` has it: ``original``, ``original0``, ``0._u``."""
    inner = key.removeprefix("constraints.")
    if inner != key:
        return inner
    return "original" if single else f"original{key}"
