"""A chain of constraints at a site: why it cannot take it, and what each of them learns from the host."""

from collections.abc import Sequence

from torch import nn

from computed.constraint import Constraint
from computed.site import Site


def refusals(modules: Sequence[nn.Module], site: Site) -> list[str]:
    """Why the chain cannot take ``site``: one reason a constraint that refuses."""
    ours = [module for module in modules if isinstance(module, Constraint)]
    reasons = [reason for reason in (module.why_not(site) for module in ours) if reason is not None]
    on_inputs = [module.spec() for module in ours if module.acts_on_inputs()]
    if on_inputs and len(modules) > 1:
        reasons.append(
            f"{on_inputs[0]} acts on the input of its layer, which it can do only where it is the one constraint of a "
            f"weight; leave out its dropout, or the others"
        )
    return reasons


def bind_chain(modules: Sequence[nn.Module], site: Site) -> None:
    """Let each of our constraints resolve what the host knows."""
    for module in modules:
        if isinstance(module, Constraint):
            module.bind(site)
