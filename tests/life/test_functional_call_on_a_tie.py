"""What torch.func.functional_call leaves in a tie is found before an optimizer steps on what is not used any more."""

import pytest
import torch
from torch.func import functional_call

import surgery
from computed.errors import ComputedParameterError
from tests.surgery.models import TiedLM


@pytest.mark.parametrize("spec", ["orthogonal", "spectral(bound=2.0)", "weight_norm"])
def test_the_next_step_tells_who_and_what_to_pass(spec):
    model = surgery.apply_constraints(TiedLM(), {"head.weight": spec})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tokens = torch.randint(7, (2, 5))
    model(tokens).square().sum().backward()
    given = {name: raw.detach().clone() for name, raw in model.named_parameters()}
    functional_call(model, given, (tokens,), tie_weights=False)
    optimizer.step()
    model(tokens).square().sum().backward()
    functional_call(model, given, (tokens,))
    with pytest.raises(ComputedParameterError, match=r"embedding\.weight.*pass tie_weights=False"):
        optimizer.step()
