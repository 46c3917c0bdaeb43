"""Making a computed parameter upon raws that are there already."""

from collections.abc import Sequence

from torch import Tensor, nn

import computed.placement  # noqa: F401 - installs the hook that guards an author's own assignments
from computed.chain import links_for
from computed.parameter import ComputedParameter
from computed.watching import own_storage


def from_raws(
    modules: Sequence[nn.Module], raws: Sequence[nn.Parameter], like: Tensor, *, name: str
) -> ComputedParameter:
    """The computed parameter of foreign ``modules`` upon ``raws`` that are there already, the same objects.

    ``like`` is the value, a Parameter where it is to stand for one.
    """
    first, *later = links_for(modules)
    made = ComputedParameter.__new__(ComputedParameter)
    nn.Module.__init__(made)
    made._set_up_frame(modules, (first.with_inputs(len(raws)), *later), like, name=name)
    for (_, _, slot, _), raw in zip(made.raw_slots(), raws, strict=True):
        if not raw.is_shared():
            own_storage(raw)
        slot.owner[slot.key] = raw
    made.__dict__["reshapes"] = len(raws) == 1 and raws[0].shape != like.shape
    made.reset()
    return made
