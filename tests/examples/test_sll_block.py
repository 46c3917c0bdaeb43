"""The SLL block: its constant against Jacobians by SVD, its formula against NumPy, and what the network may say."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import surgery

pytest.importorskip("sklearn", reason="the digits are those of scikit-learn, of the extra 'examples'")

from examples import sll_block as example

SHAPES = [(5, 3), (3, 5), (4, 4), (1, 6), (6, 1)]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As the example runs by itself: its batches are small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def block(width: int, hidden: int, scale: float = 1.0) -> example.SLLBlock:
    """One with parameters of any size, in float64."""
    made = example.SLLBlock(width, hidden).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape))
    return made


@pytest.mark.parametrize(("width", "hidden"), SHAPES)
def test_it_is_the_formula(width: int, hidden: int):
    made = block(width, hidden)
    weight, bias, log_q = (each.detach().numpy() for each in (made.weight, made.bias, made.log_q))
    x = np.random.randn(width)
    q = np.exp(log_q)
    gram = np.abs(weight @ weight.T)
    divisors = [sum(gram[i, j] * q[j] / q[i] for j in range(hidden)) for i in range(hidden)]
    expected = x - 2 * weight.T @ (np.maximum(weight @ x + bias, 0) / divisors)
    np.testing.assert_allclose(made(torch.from_numpy(x)).detach().numpy(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize(("width", "hidden"), SHAPES)
def test_no_jacobian_is_larger_than_one(width: int, hidden: int, scale: float):
    made = block(width, hidden, min(scale, 3.0))
    with torch.no_grad():
        made.weight.mul_(scale)
    points = torch.randn(200, width, dtype=torch.float64) * torch.logspace(-2, 2, 200, dtype=torch.float64)[:, None]
    jacobians = torch.func.vmap(torch.func.jacrev(made))(points).detach().numpy()
    largest = np.linalg.svd(jacobians, compute_uv=False)[:, 0]
    assert largest.max() <= 1 + 1e-12
    distances = torch.linalg.vector_norm(made(points[1:]) - made(points[:-1]), dim=1)
    assert (distances <= torch.linalg.vector_norm(points[1:] - points[:-1], dim=1) * (1 + 1e-9)).all()


def test_half_the_divisors_would_be_too_little():
    """The bound is met, so the test above can fail."""

    class TooSteep(example.SLLBlock):
        def divisors(self) -> Tensor:
            return super().divisors() / 2

    made = TooSteep(4, 4).double()
    with torch.no_grad():
        made.weight.copy_(torch.eye(4))
        made.bias.fill_(10.0)
    assert example.slopes(made, torch.zeros(1, 4, dtype=torch.float64)).item() == pytest.approx(3.0)


def test_a_row_of_zeros_does_nothing_and_gradients_are_numbers():
    made = block(4, 3)
    with torch.no_grad():
        made.weight[1].zero_()
    x = torch.randn(2, 4, dtype=torch.float64)
    made(x).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in made.parameters())
    assert example.slopes(made, x).max() <= 1 + 1e-12


def test_the_bound_of_a_network_of_blocks_is_that_of_its_linear_layers():
    model = nn.Sequential(block(4, 6), nn.Linear(4, 3), block(3, 2)).double()
    unknown = surgery.lipschitz_bound(model, (4,))
    assert math.isinf(unknown.bound)
    known = surgery.lipschitz_bound(model, (4,), known={example.SLLBlock: 1.0})
    sigma = np.linalg.svd(model[1].weight.detach().numpy(), compute_uv=False)[0]
    assert known.bound == pytest.approx(sigma, rel=1e-9)
    assert example.slopes(model, torch.randn(50, 4, dtype=torch.float64)).max() <= known.bound * (1 + 1e-12)


def test_a_plain_block_is_bounded_by_one_more_than_the_product():
    made = example.Residual(4, 6).double()
    norms = [np.linalg.norm(layer.weight.detach().numpy(), 2) for layer in (made.inner, made.outer)]
    assert surgery.lipschitz_bound(made, (4,)).bound == pytest.approx(1 + norms[0] * norms[1], rel=1e-9)


@pytest.fixture(scope="module")
def fits(size: str) -> dict[str, example.Fit]:
    return {name: example.fit(name, 0, example.EPOCHS if size == "full" else 2) for name in example.RULES}


def test_no_network_is_steeper_than_its_bound_and_that_of_sll_is_one(fits):
    assert all(found.steepest <= found.bound * (1 + 1e-6) for found in fits.values())
    assert fits["SLL"].bound <= 1
    assert fits["plain"].bound > fits["capped"].bound > fits["SLL"].bound
    # each residual block under the rule may double
    assert fits["capped"].bound <= 2**example.DEPTH


def test_what_is_certified_is_read_rightly_and_sll_certifies_most(fits, size):
    assert all(found.certified <= found.right for found in fits.values())
    assert fits["SLL"].radius > fits["capped"].radius > fits["plain"].radius
    assert min(found.right for found in fits.values()) > (0.9 if size == "full" else 0.7)
    assert fits["SLL"].certified > (0.5 if size == "full" else 0.05)


def test_the_network_lives_under_its_rule():
    model = example.trained("SLL", 1, 1)
    assert surgery.check(model).ok
    assert sorted(surgery.computed_parameters(model)) == ["0.weight", "5.weight"]
    pixels = example.data()[0][:8]
    before = model(pixels)
    assert torch.equal(surgery.bake(model)(pixels), before)


def test_the_table_is_printed(fits, capsys):
    example.print_table({name: [found] for name, found in fits.items()})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert lines[0].split()[-3:] == ["plain", "capped", "SLL"]
