"""Dropout of what goes into an adapter: it acts on the input of a layer, which the value of a weight does not see."""

from torch import Tensor, nn
from torch.nn import functional

from computed.constraints.refusing import exempt, require
from computed.site import Site

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
# torch's attention hands the weight of this one on, and never calls it
NEVER_CALLED = "NonDynamicallyQuantizableLinear"


def probability(name: str, value: float) -> float:
    """``value`` as a probability below 1; raises ValueError."""
    inside = isinstance(value, int | float) and 0 <= value < 1
    require(inside, f"{name} needs a dropout from 0 to below 1, got {value!r}")
    return float(value)


def dropped(input: Tensor, p: float, *, training: bool) -> Tensor:
    """The input with entries dropped in training.

    Called in eval too, where it gives the input itself: a graph finds it there, and lets it follow the mode.
    """
    return functional.dropout(input, p, training) if p else input


def why_no_input(name: str, site: Site) -> str | None:
    """Why the op rules of a constraint would not see the inputs at ``site``, or None."""
    kind = _unfit(site)
    if kind is None:
        return None
    return (
        f"{name} with dropout acts on the input of a Linear layer or a convolution with one group, which is done by "
        f"the factors; {kind}, and would leave it out without a word: give no dropout, or {exempt(site)}"
    )


def _unfit(site: Site) -> str | None:
    hosts = site.host_types or (tuple(cls.__name__ for cls in site.host_type.__mro__),)
    kinds = {cls.__name__ for cls in LAYERS}
    other = next((names[0] for names in hosts if not kinds & set(names) or names[0] == NEVER_CALLED), None)
    if other is not None or site.attribute != "weight":
        return f"this is the {site.attribute} of {_article(other or site.host_type.__name__)}"
    if site.convolution is not None and site.convolution.groups != 1:
        return f"this one has {site.convolution.groups} groups"
    if site.convolution is not None and site.convolution.padding_mode != "zeros":
        return f"this one pads its input first, padding_mode={site.convolution.padding_mode!r}"
    if all(site.host_type.forward is not layer.forward for layer in LAYERS):
        return f"{site.host_type.__name__} has a forward of its own"
    return None


def _article(word: str) -> str:
    return f"{'an' if word[0] in 'AEIOU' else 'a'} {word}"
