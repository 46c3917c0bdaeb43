"""torch.func on models of every constraint: functional_call, grad, jvp, vmap over three stacked models.

Truth is a plain model whose weight is given by hand: the constraint itself, called with the raws and differentiated by
ordinary autograd, one model after the other.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, stack_module_state, vmap
from torch.nn import functional as F

import surgery
from computed.constraint import IteratedConstraint
from computed.parameter import ComputedParameter
from tests.computed.constraints.test_contract import CORE

CHAINS = ("symmetric | spectral(bound=0.5)", "weight_norm | lora(2, seed=1)", "lora(2) | spectral(bound=0.5)")
NAMES = (*CORE, *CHAINS)
INSIDE = {"greater_than": (1.2, 2.0), "interval, far from zero": (101.0, 107.0)}
X = torch.linspace(-1, 1, 12, dtype=torch.float64).view(3, 4)

Tensors = dict[str, Tensor]


def model_of(name: str, training: bool) -> nn.Linear:
    """A constrained layer whose raws are not where its value was projected."""
    layer = nn.Linear(4, 4).double()
    nn.init.uniform_(layer.weight, *INSIDE.get(name, (0.05, 0.3)))
    spec = name if name in CHAINS else lambda site: CORE[name]()
    model = surgery.apply_constraints(layer, {"weight": spec})
    with torch.no_grad():
        for raw in model.weight.raws.values():
            raw.add_(torch.randn_like(raw), alpha=0.1)
    return model.train(training)


def by_hand(model: nn.Linear, tensors: Tensors, x: Tensor) -> Tensor:
    """The layer with the value of the raws in ``tensors``: each constraint called on its own arguments."""
    weight: ComputedParameter = model.weight
    running: Sequence[Tensor] = ()
    for position, constraint in enumerate(weight.constraints):
        prefix = f"weight.constraints.{position}." if position else "weight."
        own = [tensors[prefix + role.name] for role in constraint.roles[1 if position else 0 :]]
        arguments = [*running, *own]
        arguments = [a if role.trained else a.detach() for a, role in zip(arguments, constraint.roles, strict=True)]
        if isinstance(constraint, IteratedConstraint):
            with torch.no_grad():
                raw = arguments[0]
                state = constraint.next_state(raw) if model.training else constraint.settled_state(raw)
            running = [constraint.value_given(raw, state)]
        else:
            running = [constraint(*arguments)]
    return F.linear(x, running[0], tensors["bias"])


def moved(model: nn.Module, *, by: float = 0.05) -> Tensors:
    """Other raws, as leaves."""
    return {name: raw.detach() + by * torch.randn_like(raw) for name, raw in model.named_parameters()}


def loss(output: Tensor) -> Tensor:
    return (output * torch.linspace(-1, 2, output.numel(), dtype=output.dtype).view_as(output)).sum()


def slopes(model: nn.Linear, tensors: Tensors) -> Tensors:
    """The gradients of the loss by hand; zero where none comes."""
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in tensors.items()}
    found = torch.autograd.grad(loss(by_hand(model, leaves, X)), list(leaves.values()), allow_unused=True)
    return {n: torch.zeros_like(leaves[n]) if g is None else g for n, g in zip(leaves, found, strict=True)}


def assert_close(found: Tensors, expected: Tensors) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-9, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


def snapshot(model: nn.Module) -> Tensors:
    return {name: tensor.clone() for name, tensor in (*model.named_parameters(), *model.named_buffers())}


@pytest.mark.parametrize("held", [False, True], ids=["never read", "held"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", NAMES)
def test_functions_of_raws(name: str, training: bool, held: bool):
    """Values, gradients and directional derivatives; the model stays as it was, bit for bit."""
    model = model_of(name, training)
    if held:
        model(X).sum().backward()
        model.zero_grad()
    before, own = snapshot(model), model(X).detach()
    tensors, towards = moved(model), moved(model, by=1.0)

    def ours(tensors: Tensors) -> Tensor:
        return functional_call(model, tensors, (X,))

    expected = slopes(model, tensors)
    assert_close({"output": ours(tensors)}, {"output": by_hand(model, tensors, X)})
    assert_close(grad(lambda t: loss(ours(t)))(tensors), expected)
    output, tangent = jvp(lambda t: loss(ours(t)), (tensors,), (towards,))
    assert_close({"output": output}, {"output": loss(by_hand(model, tensors, X))})
    assert_close({"tangent": tangent}, {"tangent": sum((expected[n] * towards[n]).sum() for n in expected)})
    assert all(torch.equal(tensor, before[n]) for n, tensor in snapshot(model).items() if "settled" not in n)
    assert torch.equal(model(X), own)
    assert not any(raw.grad is not None for raw in model.parameters())


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", NAMES)
def test_three_stacked_models_are_their_members(name: str, training: bool):
    """Outputs, gradients and directional derivatives of an ensemble by vmap."""
    models = [model_of(name, training) for _ in range(3)]
    parameters, buffers = stack_module_state(models)
    parameters = {name: stacked.detach() for name, stacked in parameters.items()}
    skeleton = copy.deepcopy(models[0]).to("meta")

    def one(raws: Tensors, buffers: Tensors) -> Tensor:
        return functional_call(skeleton, (raws, buffers), (X,))

    def along(raws: Tensors, buffers: Tensors) -> Tensor:
        return jvp(lambda r: loss(one(r, buffers)), (raws,), (raws,))[1]

    outputs = vmap(one)(parameters, buffers)
    stacked = vmap(grad(lambda raws, buffers: loss(one(raws, buffers))))(parameters, buffers)
    tangents = vmap(along)(parameters, buffers)
    for index, model in enumerate(models):
        raws = {key: raw.detach() for key, raw in model.named_parameters()}
        assert_close({"output": outputs[index]}, {"output": by_hand(model, raws, X)})
        assert_close({"output": outputs[index]}, {"output": model(X).detach()})
        expected = slopes(model, raws)
        assert_close({key: each[index] for key, each in stacked.items()}, expected)
        assert_close({"tangent": tangents[index]}, {"tangent": sum((expected[n] * raws[n]).sum() for n in raws)})
