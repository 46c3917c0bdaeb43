"""One module under two names, as a tie is: torch.func.functional_call swaps its tensors and must put them back.

torch takes the two names for two tensors that are tied, swaps both and puts them back in the order in which it swapped
them: the second name still holds what was given. Plain models have that as well, where a *module* is shared; a tie of
plain Parameters has not.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp
from torch.nn.utils import stateless

import surgery
from tests.surgery.models import TiedLM

SPECS = ("orthogonal", "weight_norm", "spectral(bound=0.5)", "lora(2)")
Tensors = dict[str, Tensor]


def tied(spec: str) -> tuple[nn.Module, nn.Module, Tensors, Tensor]:
    """A tied model in eval, a plain one with the values of other raws, these raws under one name, and tokens."""
    model, plain = TiedLM(), TiedLM()
    plain.load_state_dict(model.state_dict())
    surgery.apply_constraints(model, {"head.weight": spec}).eval()
    other = copy.deepcopy(model)
    with torch.no_grad():
        for raw in other.head.weight.raws.values():
            raw.mul_(1.5).add_(0.1)
        plain.head.weight.copy_(other.head.weight)
    assert plain.head.weight is plain.embedding.weight
    given = {f"embedding.weight.{role}": raw.detach() for role, raw in other.head.weight.raws.items()}
    return model, plain.eval(), given, torch.randint(7, (2, 5))


def assert_as_before(model: nn.Module, raws: Tensors, output: Tensor, tokens: Tensor) -> None:
    """The very Parameters are registered, and reach the output."""
    assert all(model.head.weight.raws[role] is raw for role, raw in raws.items())
    assert torch.equal(model(tokens), output)
    model(tokens).square().sum().backward()
    assert all(raw.grad is not None for raw in raws.values() if raw.requires_grad)


CALLS: dict[str, Callable[[nn.Module, Tensors, Tensor], Tensor]] = {
    "torch.func": lambda model, raws, tokens: functional_call(model, raws, (tokens,), tie_weights=False),
    "stateless": lambda model, raws, tokens: stateless.functional_call(model, raws, (tokens,), tie_weights=False),
}


@pytest.mark.filterwarnings("ignore:.*stateless.functional_call.*is deprecated:FutureWarning")
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("call", CALLS)
def test_without_tie_weights_one_name_stands_for_both(call: str, spec: str):
    """They are one module: what is given under one name is read under the other."""
    model, plain, given, tokens = tied(spec)
    raws, output = dict(model.head.weight.raws), model(tokens).detach()
    torch.testing.assert_close(CALLS[call](model, given, tokens), plain(tokens), rtol=1e-5, atol=1e-5)
    assert_as_before(model, raws, output, tokens)


@pytest.mark.parametrize("spec", SPECS)
def test_without_tie_weights_transforms_give_the_gradients_of_autograd(spec: str):
    model, _, given, tokens = tied(spec)
    raws, output = dict(model.head.weight.raws), model(tokens).detach()
    leaves = {name.removeprefix("embedding.weight."): tensor.clone().requires_grad_() for name, tensor in given.items()}
    other = copy.deepcopy(model)
    with torch.no_grad():
        for role, raw in other.head.weight.raws.items():
            raw.copy_(leaves[role])
    other(tokens).square().sum().backward()

    def loss(tensors: Tensors) -> Tensor:
        return functional_call(model, tensors, (tokens,), tie_weights=False).square().sum()

    slopes = grad(loss)(given)
    expected = {f"embedding.weight.{role}": raw.grad for role, raw in other.head.weight.raws.items()}
    for name, slope in slopes.items():
        wanted = torch.zeros_like(slope) if expected[name] is None else expected[name]
        torch.testing.assert_close(slope, wanted, rtol=1e-4, atol=1e-5)
    _, tangent = jvp(loss, (given,), (given,))
    total = sum((slope * given[name]).sum() for name, slope in slopes.items())
    torch.testing.assert_close(tangent, total, rtol=1e-4, atol=1e-4)
    assert_as_before(model, raws, output, tokens)


@pytest.mark.xfail(raises=AssertionError, reason="torch puts what two names share back in the wrong order")
def test_with_tie_weights_the_raws_come_back():
    model, plain, given, tokens = tied("orthogonal")
    raws, output = dict(model.head.weight.raws), model(tokens).detach()
    torch.testing.assert_close(functional_call(model, given, (tokens,)), plain(tokens), rtol=1e-5, atol=1e-5)
    assert_as_before(model, raws, output, tokens)


@pytest.mark.xfail(raises=AssertionError, reason="torch puts what two names share back in the wrong order")
def test_a_plain_module_under_two_names_comes_back():
    """When this passes, the one above does."""
    model = nn.Sequential()
    model.one = model.other = nn.Linear(3, 3)
    weight = model.one.weight
    functional_call(model, {"one.weight": torch.eye(3)}, (torch.ones(1, 3),))
    assert model.one.weight is weight


class Counted(nn.Module):
    """Counts its calls in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, raw: Tensor) -> Tensor:
        self.calls += 1
        return raw * (1 + self.calls)


class Foreign(nn.Module):
    """Somebody else's module, with one inside under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Counted()
        self.again = self.inner

    def forward(self, raw: Tensor) -> Tensor:
        return self.again(self.inner(raw))


def test_reading_a_module_with_a_shared_one_inside_writes_nothing():
    """Its buffers are state: copies of them are written, and a step of an optimizer commits."""
    model = surgery.apply_constraints(nn.Linear(3, 3, bias=False), {"weight": Foreign})
    buffer, raw = model.weight.constraints[0].inner.calls, model.weight.raws["raw"]
    for _ in range(3):
        torch.testing.assert_close(model(torch.eye(3)).T, raw * 2 * 3)
        model.weight.forget()
        assert model.weight.constraints[0].inner.calls is buffer
        assert float(buffer) == 0
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    model(torch.eye(3)).sum().backward()
    optimizer.step()
    assert float(buffer) == 2
