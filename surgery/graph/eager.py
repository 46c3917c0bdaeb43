"""What is run instead of being recorded while a model is traced: operations without any input of the graph."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, fx
from torch.overrides import TorchFunctionMode

from computed.torch_private import tree_map
from surgery.graph.surroundings import drawn_from, torch_state

Refuse = Callable[[str], None]

# reads of a tensor of the model that look at no number
HARMLESS = (
    *("size", "dim", "ndimension", "numel", "nelement", "element_size", "stride", "storage_offset", "__len__"),
    *("is_floating_point", "is_complex", "is_contiguous", "is_shared", "is_pinned", "is_inference"),
    *("__hash__", "__repr__", "__format__"),
)
ALIASES = frozenset(getattr(Tensor, name).__get__ for name in ("data", "T", "mT", "H", "mH", "real", "imag"))


class EagerGuard(TorchFunctionMode):
    """Refuses operations on the model's own tensors, and random numbers: their results would be constants.

    ``named`` are the ids of the model's tensors; a read by attribute gives a proxy, but ``self.parameters()`` does not.
    ``recorded`` gives the proxy of a tensor that the graph has written to, and that is no constant any more.
    """

    def __init__(self, named: Mapping[int, str], refuse: Refuse, recorded: Callable[[Tensor], fx.Proxy | None]) -> None:
        super().__init__()
        self.named = named
        self.refuse = refuse
        self.recorded = recorded

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run what is recorded by the proxies among its arguments, or harmless."""
        kwargs = kwargs or {}
        if _looks_at_numbers(func):
            known, (args, kwargs) = (args, kwargs), tree_map(self._stand_in, (args, kwargs))
            if any(one is not other for one, other in zip(_leaves(known), _leaves((args, kwargs)), strict=True)):
                return fx.Proxy.__torch_function__(func, types, args, kwargs)
        leaves = list(_leaves((args, kwargs)))
        if any(isinstance(leaf, fx.Proxy) for leaf in leaves):
            return func(*args, **kwargs)
        mine = [self.named[id(leaf)] for leaf in leaves if isinstance(leaf, Tensor) and id(leaf) in self.named]
        if mine and _looks_at_numbers(func):
            self.refuse(
                f"computes with {mine[0]}, a tensor of the model that was not read by its name, and a graph would have "
                f"the result as a constant; write self.{mine[0].rpartition('.')[2]}"
            )
        before = torch_state()
        result = func(*args, **kwargs)
        if torch_state() != before:
            self.refuse(drawn_from("torch"))
        return result

    def _stand_in(self, leaf: Any) -> Any:
        recorded = self.recorded(leaf) if isinstance(leaf, Tensor) else None
        return leaf if recorded is None else recorded


def _looks_at_numbers(func: Callable[..., Any]) -> bool:
    name = getattr(func, "__name__", "")
    if name == "__get__":
        return func in ALIASES
    return name not in HARMLESS and name != "__set__"


def _leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict):
        for each in tree.values():
            yield from _leaves(each)
    elif isinstance(tree, tuple | list):
        for each in tree:
            yield from _leaves(each)
    else:
        yield tree


def is_in_place(node: fx.Node) -> bool:
    """Whether a node writes to its first argument."""
    if node.op == "call_method":
        name = str(node.target)
        return (name.endswith("_") and not name.endswith("__")) or name == "__setitem__"
    if node.op != "call_function" or not node.args:
        return False
    name = getattr(node.target, "__name__", "")
    in_operator = getattr(node.target, "__module__", "") == "_operator"
    if in_operator:
        return name == "setitem" or name in INPLACE_OPERATORS
    return (name.endswith("_") and not name.endswith("__")) or node.kwargs.get("inplace") is True


INPLACE_OPERATORS = (
    *("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "imatmul"),
    *("iand", "ior", "ixor", "ilshift", "irshift"),
)


def written_by(node: fx.Node) -> list[fx.Node]:
    """The nodes that a node writes to: its first argument where it works in place, and ``out=``."""
    found = [node.args[0]] if is_in_place(node) else []
    found.append(node.kwargs.get("out"))
    return [one for one in found if isinstance(one, fx.Node)]
