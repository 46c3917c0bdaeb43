"""Convolutions whose norm as an operator is one number, whatever the size of the input."""

import math

import torch

from computed.constraints.refusing import exempt
from computed.site import Convolution, Site


def undilated(geometry: Convolution) -> tuple[int, ...]:
    """The stride of the convolution without dilation that has the same norm: without what a dilation shares with it.

    Multiples of what stride and dilation share see nothing of other pixels; where a dilation is prime to the stride,
    each of its cosets is a convolution without it.
    """
    pairs = zip(geometry.stride, geometry.dilation, strict=True)
    return tuple(step // math.gcd(step, apart) for step, apart in pairs)


def why_not_one_operator(name: str, site: Site) -> str | None:
    """Why the convolutions that ``site`` is the weight of are not one operator for inputs of every size, or None.

    Layers that share a weight have one norm only where stride and groups are the same, transposed or not.
    """
    known = [(tied, each.convolution) for tied, each in zip(site.names, site.usages, strict=True)]
    layers = [(tied, geometry) for tied, geometry in known if geometry is not None]
    for _, geometry in layers:
        reason = _why_not_padded(name, site, geometry)
        if reason is not None:
            return reason
    if len({(undilated(geometry), geometry.groups) for _, geometry in layers}) < 2:
        return None
    said = (
        f"{tied} has stride={geometry.stride}, dilation={geometry.dilation} and groups={geometry.groups}"
        for tied, geometry in layers
    )
    return (
        f"{name} is another one for each layer of a tie: {', '.join(said)}; "
        f"pass tie='split', use spectral, or {exempt(site)}"
    )


def _why_not_padded(name: str, site: Site, geometry: Convolution) -> str | None:
    """Padding that repeats pixels makes the norm larger, by how much depends on the image."""
    advice = f"pad with zeros, use spectral, or {exempt(site)}"
    if geometry.padding_mode in ("reflect", "replicate"):
        return f"{name} has no bound for padding_mode={geometry.padding_mode!r}, which repeats pixels; {advice}"
    if geometry.padding_mode != "circular" or isinstance(geometry.padding, str):
        return None
    kernel = (site.shape or torch.Size())[2:]
    reach = [apart * (size - 1) for apart, size in zip(geometry.dilation, kernel, strict=True)]
    if all(2 * padding <= width for padding, width in zip(geometry.padding, reach, strict=True)):
        return None
    return (
        f"{name} has no bound for circular padding={geometry.padding} of a kernel of {tuple(kernel)} taps, which "
        f"repeats pixels that no tap needs; {advice}"
    )
