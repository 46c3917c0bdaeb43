"""Graphs against plain models that hold the values: weights and derivatives by a formula, without either route."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.testing._internal.common_modules import ModuleInfo
from torch.utils import _pytree as pytree

import surgery
from tests.computed.test_module_db import BY_HAND, WITH_PARAMETERS, built, run_backward, samples, tensors_of
from tests.surgery.graph.networks import NETWORKS, Network
from tests.surgery.graph.test_module_db_by_graph import close, own_inputs, run, traced_only

pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning"),
    pytest.mark.filterwarnings("ignore:linear_cross_entropy. ``options`` ignored:UserWarning"),
]
BOTH_MODES = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
SPEC, FORMULA = "positive", BY_HAND["positive"][1]


@pytest.fixture(autouse=True)  # no graph takes that path, and it rounds otherwise
def _no_fused_transformers() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(before)


def raws_of(graph: nn.Module) -> list[Tensor]:
    return [parameter.raws["raw"] for parameter in surgery.computed_parameters(graph).values()]


def holding(plain: nn.Module, raws: list[Tensor]) -> nn.Module:
    """The plain model with the values that a formula makes of the raws."""
    with torch.no_grad():
        for parameter, raw in zip(plain.parameters(), raws, strict=True):
            parameter.copy_(FORMULA(raw))
    return plain


def close_gradients(raws: list[Tensor], plain: nn.Module) -> None:
    """Gradients of the raws are those of the plain weights, through the formula."""
    for raw, parameter in zip(raws, plain.parameters(), strict=True):
        wanted, leaf = parameter.grad, raw.detach().clone().requires_grad_()
        if wanted is not None:
            (wanted,) = torch.autograd.grad(FORMULA(leaf), leaf, wanted)
        close([raw.grad], [wanted])


@BOTH_MODES
@pytest.mark.parametrize("info", WITH_PARAMETERS, ids=lambda info: info.name)
def test_a_module_of_torch_is_the_plain_one_with_the_values(info: ModuleInfo, training: bool, size: str):
    """Outputs, gradients of inputs and of raws, buffers."""
    for sample in samples(info, size, training=training)[: None if size == "full" else 1]:
        plain = built(info, sample, training=training)
        graph = surgery.apply_constraints(plain, {"*": SPEC}, via="fx", example=own_inputs(sample))
        holding(plain, raws_of(graph))
        expected_inputs, found_inputs = own_inputs(sample), own_inputs(sample)
        expected, found = run(plain, *expected_inputs), run(graph, *traced_only(*found_inputs))
        close(found, expected)
        run_backward(expected)
        run_backward(found)
        leaves = [leaf for leaf in tensors_of(traced_only(*found_inputs)) if leaf.requires_grad]
        wanted = [leaf for leaf in tensors_of(expected_inputs) if leaf.requires_grad]
        close([leaf.grad for leaf in leaves], [leaf.grad for leaf in wanted])
        close_gradients(raws_of(graph), plain)
        close(list(graph.buffers()), list(plain.buffers()))


@BOTH_MODES
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_the_plain_one_with_the_values(name: str, training: bool, evidence: Callable[[str, str], None]):
    """Every parameter computed: outputs, gradients of raws, buffers; in float64, so that depth adds no rounding."""
    network: Network = NETWORKS[name]
    torch.manual_seed(0)
    plain = network.make().double().train(training)
    args, kwargs = pytree.tree_map(
        lambda one: one.double() if one.is_floating_point() else one, (network.args(), network.kwargs())
    )
    graph = surgery.apply_constraints(copy.deepcopy(plain), {"*": SPEC}, via="fx", example=(args, kwargs))
    raws = raws_of(graph.train(training))
    holding(plain, raws)
    expected = run(plain, args, kwargs)
    found = run(graph, [*args, *kwargs.values()], {})
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    run_backward(expected)
    run_backward(found)
    close_gradients(raws, plain)
    close(list(graph.buffers()), list(plain.buffers()))
    apart = max(
        float((one - other).detach().abs().max() / other.detach().abs().max())
        for one, other in zip(found, expected, strict=True)
    )
    mode = "training" if training else "eval"
    evidence(
        f"{name} by graph, {mode}, against the plain model with weights by a formula: largest relative difference",
        f"{apart:.0e}",
    )
