"""What a graph could not keep of a model, whatever its forward does."""

import copy
from collections.abc import Iterator, Mapping
from types import FunctionType
from typing import Any

from torch import nn

from surgery.errors import SurgeryError, TraceRefusedError
from surgery.finding import hosts
from surgery.graph.lowering import Lowering


def refuse_what_no_graph_keeps(model: nn.Module, copied: nn.Module, lower: Mapping[type[nn.Module], Lowering]) -> None:
    """Raise for what a graph of ``copied``, a copy of ``model``, would lose or share.

    Errors: TraceRefusedError with all of it; SurgeryError for ``lower`` of a class that is not there.
    """
    kinds = {type(host) for host, _ in hosts(copied)}
    missing = [kind.__name__ for kind in lower if kind not in kinds]
    if missing:
        raise SurgeryError(f"lower: the model has no module whose class is {' or '.join(missing)} itself")
    root = type(copied)
    found = []
    if _sets_modes_of_its_own(copied):
        found.append(f"{root.__name__} has a train() of its own, which a graph does not have")
    if root.get_extra_state is not nn.Module.get_extra_state:
        found.append(f"{root.__name__} has state of its own (get_extra_state), which a graph does not have")
    theirs = {id(host) for host, _ in hosts(model)}
    found += [
        f"{prefix}{name} is a function that refers to a module of the model itself, which a copy would share"
        for host, prefix in hosts(copied)
        for name, value in vars(host).items()
        if any(id(cell) in theirs for cell in _closed_over(value))
    ]
    if found:
        raise TraceRefusedError(f"{'; '.join(found)}; ways out: via='tree', or a graph of the part that computes")


def _closed_over(value: object) -> Iterator[Any]:
    if isinstance(value, FunctionType):
        for cell in value.__closure__ or ():
            yield cell.cell_contents


def _sets_modes_of_its_own(root: nn.Module) -> bool:
    """Whether train() and eval() of a model's class do more, or less, than set all modes."""
    if type(root).train is nn.Module.train and type(root).eval is nn.Module.eval:
        return False
    tried = copy.deepcopy(root)
    flags = [parameter.requires_grad for parameter in tried.parameters()]
    for mode in (True, False):
        tried.train(mode) if mode else tried.eval()
        same = [parameter.requires_grad for parameter in tried.parameters()] == flags
        if not same or any(module.training is not mode for module in tried.modules()):
            return True
    return False
