"""The ties that a model of transformers declares by name, where what is tied is constrained.

Its ``tie_weights`` fetches the source of a tie by name, as a Parameter or a buffer, and assigns it to the target. Where
both names are one computed parameter, what is tied are its tensors, and under their names nothing is left to do.
``save_pretrained`` reads the same names for what need not be written twice.
https://github.com/huggingface/transformers/blob/v5.0.0/src/transformers/modeling_utils.py
"""

import re
from collections.abc import Mapping

from torch import nn

from computed.parameter import ComputedParameter
from surgery.finding import hosts
from surgery.pretrained import is_pretrained


class RawTies(dict[str, str]):
    """Target -> source. ``declared`` is what it stands for, ``own`` whether the instance had that itself."""

    declared: Mapping[str, str]
    own: bool


def redeclare(model: nn.Module) -> None:
    """Let the declared ties of ``model``, and of models inside, name what is there now, be it constrained or plain."""
    for module, _ in hosts(model):
        if is_pretrained(type(module)):
            # of the class, read at each call: names, or regular expressions for the names of tensors
            _redeclare(module, "_tied_weights_keys", patterns=True)
            # of the instance: the names of tensors, found when it was made
            _redeclare(module, "all_tied_weights_keys", patterns=False)


def _redeclare(module: nn.Module, attribute: str, *, patterns: bool) -> None:
    standing = getattr(module, attribute, None)
    if not isinstance(standing, Mapping):
        return
    declared, own = standing, attribute in vars(module)
    if isinstance(standing, RawTies):
        declared, own = standing.declared, standing.own
    if any(_tied(module, *tie) is not None for tie in declared.items()):
        ties = RawTies(_patterns(module, declared) if patterns else _names(module, declared))
        ties.declared, ties.own = declared, own
        vars(module)[attribute] = ties
    elif own:
        vars(module)[attribute] = declared
    else:
        vars(module).pop(attribute, None)


def _names(module: nn.Module, declared: Mapping[str, str]) -> dict[str, str]:
    """The ties by the names of tensors: those of raws and state where a name is that of a computed parameter."""
    ties: dict[str, str] = {}
    for target, source in declared.items():
        computed = _tied(module, target, source)
        if computed is None:
            ties[target] = source
            continue
        tensors = [*computed.named_parameters(), *computed.named_buffers()]
        ties.update((f"{target}.{name}", f"{source}.{name}") for name, _ in tensors)
    return ties


def _patterns(module: nn.Module, declared: Mapping[str, str]) -> dict[str, str]:
    """The ties by regular expressions that match a name and all below it, in the state dict of a plain model too."""
    return {
        (_below(target) if _is_leaf(module, target) else target): (
            _below(source) if _is_leaf(module, source) else source
        )
        for target, source in declared.items()
    }


def _below(name: str) -> str:
    return rf"{re.escape(name)}(\.|$)"


def _is_leaf(module: nn.Module, name: str) -> bool:
    """Whether ``name`` is that of a tensor or a computed parameter, not of a module, and no regular expression."""
    path, _, attribute = name.rpartition(".")
    host = _module(module, path)
    if host is None or isinstance(host, ComputedParameter):
        return False
    computed = isinstance(host._modules.get(attribute), ComputedParameter)
    return computed or attribute in host._parameters or attribute in host._buffers


def _tied(module: nn.Module, target: str, source: str) -> ComputedParameter | None:
    """The computed parameter that stands under both names."""
    standing = _module(module, target)
    return standing if isinstance(standing, ComputedParameter) and standing is _module(module, source) else None


def _module(module: nn.Module, name: str) -> nn.Module | None:
    standing: nn.Module | None = module
    for part in name.split(".") if name else ():
        standing = standing._modules.get(part) if standing is not None else None
    return standing
