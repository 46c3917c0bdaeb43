"""Every module that torch tests itself with, all its float parameters computed, by the graph as by the tree.

The truth of the tree route is torch's own module, in `tests/computed/test_module_db.py`.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing._internal.common_modules import ModuleInfo, ModuleInput
from torch.utils import _pytree as pytree

import surgery
from tests.computed.test_module_db import WITH_PARAMETERS, built, run_backward, samples, tensors_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning"),
    pytest.mark.filterwarnings("ignore:linear_cross_entropy. ``options`` ignored:UserWarning"),
]

NO_SCRIPT = {"nn.LinearCrossEntropyLoss": "torch's own function cannot be scripted"}
SPEC = "positive"


@pytest.fixture(autouse=True)  # no graph takes that path, and it rounds otherwise
def _no_fused_transformers() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(before)


def own_inputs(sample: ModuleInput) -> tuple[tuple[Any, ...], dict[str, Any]]:
    def leaf(argument: Any) -> Any:
        if not isinstance(argument, Tensor):
            return argument
        return argument.detach().clone().requires_grad_(argument.requires_grad)

    given = sample.forward_input
    args, kwargs = pytree.tree_map(leaf, (given.args, given.kwargs))
    return args, kwargs


def traced_only(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """What a graph takes: the others are constants in it."""
    positional = [argument for argument in args if tensors_of(argument)]
    return positional, {name: argument for name, argument in kwargs.items() if tensors_of(argument)}


def run(module: Callable[..., Any], args: Any, kwargs: Any) -> list[Tensor]:
    torch.default_generator.manual_seed(1)
    return tensors_of(module(*args, **kwargs))


def close(found: list[Tensor | None], expected: list[Tensor | None]) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, equal_nan=True)


def by_both_routes(plain: nn.Module, sample: ModuleInput) -> tuple[nn.Module, nn.Module]:
    tree = surgery.apply_constraints(copy.deepcopy(plain), {"*": SPEC})
    before = copy.deepcopy(plain.state_dict())
    graph = surgery.apply_constraints(plain, {"*": SPEC}, via="fx", example=own_inputs(sample))
    assert pytree.tree_all(lambda same: same, pytree.tree_map(torch.equal, dict(before), dict(plain.state_dict())))
    return tree, graph


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("info", WITH_PARAMETERS, ids=lambda info: info.name)
def test_a_graph_does_what_the_tree_does(info: ModuleInfo, training: bool, size: str):
    """Outputs, gradients of inputs and raws, buffers; keys in the same order; the model is untouched."""
    for sample in samples(info, size, training=training):
        plain = built(info, sample, training=training)
        tree, graph = by_both_routes(plain, sample)
        assert list(graph.state_dict()) == list(tree.state_dict())
        assert [name for name, _ in graph.named_parameters()] == [name for name, _ in tree.named_parameters()]
        expected_inputs, found_inputs = own_inputs(sample), own_inputs(sample)
        expected = run(tree, *expected_inputs)
        found = run(graph, *traced_only(*found_inputs))
        close(found, expected)
        run_backward(expected)
        run_backward(found)
        leaves = [leaf for leaf in tensors_of(traced_only(*found_inputs)) if leaf.requires_grad]
        wanted = [leaf for leaf in tensors_of(expected_inputs) if leaf.requires_grad]
        close([leaf.grad for leaf in leaves], [leaf.grad for leaf in wanted])
        close([raw.grad for raw in graph.parameters()], [raw.grad for raw in tree.parameters()])
        close(list(graph.state_dict().values()), list(tree.state_dict().values()))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("info", WITH_PARAMETERS, ids=lambda info: info.name)
def test_a_graph_is_scripted(info: ModuleInfo, training: bool, size: str):
    if info.name in NO_SCRIPT:
        pytest.skip(f"{info.name}: {NO_SCRIPT[info.name]}")
    for sample in samples(info, size, training=training)[: None if size == "full" else 1]:
        _, graph = by_both_routes(built(info, sample, training=training), sample)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The TorchScript type system doesn't support instance-level annotations")
            scripted = torch.jit.script(graph)
        expected = run(graph, *traced_only(*own_inputs(sample)))
        close(run(scripted, *traced_only(*own_inputs(sample))), expected)


def test_every_class_is_there(size: str, evidence: Callable[[str, str], None]):
    """How many classes, with how many inputs, and how many are scripted: the tests above say that they do."""
    inputs = sum(len(samples(info, size, training=training)) for info in WITH_PARAMETERS for training in (True, False))
    assert {info.name for info in WITH_PARAMETERS} >= set(NO_SCRIPT)
    evidence("module_db classes that trace, with inputs in training and in eval", f"{len(WITH_PARAMETERS)}, {inputs}")
    evidence("module_db classes whose graphs script", f"{len(WITH_PARAMETERS) - len(NO_SCRIPT)}")
