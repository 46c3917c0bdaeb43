"""Branches on sizes and dtypes while a model is traced: decided as on the example, and asserted in the graph.

Authors check the sizes of what they are given, and build shapes from those of what they have. A size that a branch asks
for is found by running what the graph has so far on the example. What depends on the numbers in a tensor stays refused.
"""

import copy
import operator
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, fx, nn

from computed.torch_private import fx_patches_lifted, tree_map, without_torch_function
from surgery.graph.decided import decided
from surgery.graph.locating import current_spot
from surgery.graph.surroundings import called_modes, kept_generators

ATTRIBUTES = frozenset(("shape", "ndim", "dtype", "device", "is_cuda", "layout"))
METHODS = frozenset(
    ("size", "dim", "ndimension", "numel", "nelement", "element_size", "is_floating_point", "is_complex", "__len__")
)


class RunsIntoError(Exception):
    """What is before a node raises on the example."""


class Example:
    """The values of nodes on the example, evaluated when they are asked for."""

    def __init__(self, root: nn.Module, inputs: Mapping[str, Any]) -> None:
        self.root = root
        self.inputs = inputs
        self.values: dict[fx.Node, Any] = {}

    def value_of(self, node: fx.Node) -> Any:
        """The value of a node.

        Errors: RunsIntoError where what is before it does not run.
        """
        with fx_patches_lifted(), without_torch_function(), kept_generators(), called_modes():
            try:
                for each in self._missing(node):
                    self.values[each] = self._evaluated(each)
            except Exception as error:  # a model's own code may raise anything; it is told with its cause
                raise RunsIntoError(f"{type(error).__name__}: {error}") from error
        return self.values[node]

    def _missing(self, node: fx.Node) -> list[fx.Node]:
        """A node and what it is computed from, as far as that has no value yet, each behind its arguments."""
        if node in self.values:
            return []
        needed = _reached(node, lambda one: one not in self.values)
        return [one for one in node.graph.nodes if one in needed and one not in self.values]

    def _evaluated(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return tree_map(_own, self.inputs[str(node.target)])
        if node.op == "get_attr":
            return _own(operator.attrgetter(str(node.target))(self.root))
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self.values.__getitem__)
        if node.op == "call_module":
            return copy.deepcopy(self.root.get_submodule(str(node.target)))(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target)
        return node.target(*args, **kwargs)


class Decisions:
    """What a trace asks for of sizes and dtypes, and what it records of the answers."""

    def __init__(self, example: Example | None, record: Callable[..., fx.Proxy], refuse: Callable[[str], None]) -> None:
        self.example = example
        self.record = record
        self.refuse = refuse

    def condition(self, proxy: fx.Proxy) -> bool | None:
        """Whether a condition holds on the example, asserted; None where that is no matter of sizes."""
        found = self._found(proxy)
        if not isinstance(found, bool | int):
            return None
        truth = proxy if isinstance(found, bool) else self._called(operator.ne, proxy, 0)
        self._assert(truth, bool(found))
        return bool(found)

    def length(self, proxy: fx.Proxy) -> int | None:
        """How many entries a shape, tuple or list has on the example, asserted; None where it is none."""
        try:
            found = None if self.example is None else self.example.value_of(proxy.node)
        except RunsIntoError:
            return None
        if not isinstance(found, tuple | list):
            return None
        self._assert(self._called(operator.eq, self._called(len, proxy), len(found)), True)
        return len(found)

    def number(self, proxy: fx.Proxy) -> int | float | None:
        """A number on the example, asserted: a size that code counts with is fixed. None where it is no size."""
        found = self._found(proxy)
        if not isinstance(found, int | float):
            return None
        self._assert(self._called(operator.eq, proxy, found), True)
        return found

    def constant(self, proxy: fx.Proxy) -> Any:
        """A size, shape or dtype that is looked up or written as text: fixed, asserted. None where it is none."""
        if not is_about_sizes(proxy.node):
            return None
        if self.example is None:
            self.refuse("looks a size up, or writes it into a text, which a graph would freeze; pass example=")
        found = self._found(proxy)
        if not isinstance(found, tuple):
            self._assert(self._called(operator.eq, proxy, found), True)
            return found
        self.length(proxy)
        for place, part in enumerate(found):
            self._assert(self._called(operator.eq, self._called(operator.getitem, proxy, place), part), True)
        return found

    def length_of(self, proxy: fx.Proxy) -> int:
        """`length`, or TraceError."""
        return int(_known(self.length(proxy), "len()"))

    def number_of(self, proxy: fx.Proxy) -> int | float:
        """`number`, or TraceError."""
        return _known(self.number(proxy), "a number in Python")

    def forget(self) -> None:
        """Let go of the values on the example."""
        if self.example is not None:
            self.example.values.clear()

    def _found(self, proxy: fx.Proxy) -> Any:
        if self.example is None or not is_about_sizes(proxy.node):
            return None
        try:
            return self.example.value_of(proxy.node)
        except RunsIntoError as error:
            self.refuse(f"asks for a size, and what is before it raises on the example: {error}")

    def _called(self, function: Callable[..., Any], *args: Any) -> fx.Proxy:
        return self.record("call_function", function, args, {})

    def _assert(self, truth: fx.Proxy, expected: bool) -> None:
        spot = current_spot(self.example.root) if self.example is not None else None
        code = f": `{spot.statement}`" if spot is not None else ""
        self._called(decided, truth, expected, f"the model took another branch on the example of its graph{code}")


def _known(number: int | float | None, called: str) -> int | float:
    if number is None:
        raise fx.proxy.TraceError(
            f"{called} is one of each call, and a graph would have one for all; that of a size is known from an example"
        )
    return number


def _own(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def is_about_sizes(node: fx.Node) -> bool:
    """Whether a node is computed from sizes and dtypes of tensors, and from nothing else of them."""
    below = _reached(node, lambda one: not _asks(one)) if not _asks(node) else {node}
    return all(_asks(one) or (one.op == "call_function" and bool(one.all_input_nodes)) for one in below)


def _asks(node: fx.Node) -> bool:
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in ATTRIBUTES
    return node.op == "call_method" and node.target in METHODS


def _reached(node: fx.Node, goes_on: Callable[[fx.Node], bool]) -> set[fx.Node]:
    """A node, and all arguments of arguments that are reached from it through nodes that go on."""
    found, open_ = {node}, [node]
    while open_:
        one = open_.pop()
        for argument in one.all_input_nodes if goes_on(one) else ():
            if argument not in found:
                found.add(argument)
                open_.append(argument)
    return found
