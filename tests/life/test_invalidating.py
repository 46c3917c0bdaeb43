"""A write that nothing can see, through an alias of a raw's memory that is older than what is held: `invalidate`."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import computed
import surgery


def read(model: nn.Linear, gradients: bool) -> Tensor:
    with torch.set_grad_enabled(gradients):
        return (model.weight + 0).detach()


@pytest.mark.parametrize("gradients", [True, False], ids=["grad", "no_grad"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("caching", [True, False], ids=["caching", "no caching"])
def test_what_was_written_unseen_is_read_after_invalidate(caching: bool, training: bool, gradients: bool):
    """Where values are held, and only there, it is needed."""
    model = surgery.apply_constraints(nn.Linear(3, 3), {"weight": "positive"}).train(training)
    computed.caching(model, caching)
    raw = model.weight.raws["raw"]
    alias = torch.from_dlpack(raw.detach())
    before = read(model, gradients)
    alias.add_(1.0)
    expected = F.softplus(raw.detach())
    assert not torch.allclose(before, expected)
    if caching:
        assert torch.equal(read(model, gradients), before)
    computed.invalidate(model)
    torch.testing.assert_close(read(model, gradients), expected)


def test_an_alias_of_numpy_is_seen():
    """torch marks a storage that NumPy sees, and the value of such a raw is not held."""
    model = surgery.apply_constraints(nn.Linear(3, 3), {"weight": "positive"})
    raw = model.weight.raws["raw"]
    alias = raw.detach().numpy()
    for _ in range(2):
        read(model, gradients=True)
        alias += 1.0
        torch.testing.assert_close(read(model, gradients=True), F.softplus(raw.detach()))
