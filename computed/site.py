"""A site: one parameter of a model, as frozen evidence."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

FORWARD_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED_CONVOLUTIONS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Convolution:
    """What a convolution's host knows about its weight."""

    dims: int
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    groups: int
    transposed: bool
    padding_mode: str = "zeros"


@dataclass(frozen=True)
class Site:
    """One parameter of a model: its names, its host and its tensor's metadata, without the tensor.

    ``names`` are all dotted names (more than one for a tie), original ones; ``host_types`` the class names of the
    host's method resolution order, one tuple a name. ``shape`` is None where it is not known yet (lazy modules).
    """

    names: tuple[str, ...]
    host_type: type[nn.Module]
    shape: torch.Size | None
    dtype: torch.dtype
    device: torch.device
    requires_grad: bool
    convolution: Convolution | None = None
    buffer: bool = False
    host_types: tuple[tuple[str, ...], ...] = ()

    @property
    def name(self) -> str:
        """The first of the names, by which messages call the site."""
        return self.names[0]

    @property
    def aliases(self) -> tuple[str, ...]:
        """The other names of a tied parameter."""
        return self.names[1:]

    @property
    def attribute(self) -> str:
        """The last part of the name: the attribute of the host."""
        return self.name.rpartition(".")[2]


def site_of(
    host: nn.Module,
    names: tuple[str, ...],
    tensor: Tensor,
    *,
    shape: torch.Size | None,
    host_types: tuple[tuple[str, ...], ...] = (),
    device: torch.device | None = None,
) -> Site:
    """The site of ``tensor``, which stands under ``names`` and whose first host is ``host``."""
    return Site(
        names=names,
        host_type=class_of(host),
        shape=shape,
        dtype=tensor.dtype,
        device=device or tensor.device,
        requires_grad=tensor.requires_grad,
        convolution=convolution_of(host, names[0].rpartition(".")[2]),
        buffer=not isinstance(tensor, nn.Parameter),
        host_types=host_types,
    )


def free_site(tensor: Tensor, name: str = "weight") -> Site:
    """The site of a tensor that stands in no model yet."""
    return Site((name,), nn.Module, tensor.shape, tensor.dtype, tensor.device, tensor.requires_grad)


def class_of(host: nn.Module) -> type[nn.Module]:
    """The class that a model's author gave ``host``: a graph puts others in the place of some, which name it."""
    stood: type[nn.Module] = vars(host).get("stands_for", type(host))
    return stood


def convolution_of(host: nn.Module, attribute: str) -> Convolution | None:
    """The geometry of the convolution whose weight ``attribute`` is, or None."""
    if attribute != "weight" or not issubclass(class_of(host), FORWARD_CONVOLUTIONS + TRANSPOSED_CONVOLUTIONS):
        return None
    geometry: Any = host  # an op module has it too
    padding = geometry.padding if isinstance(geometry.padding, str) else tuple(geometry.padding)
    return Convolution(
        dims=len(geometry.kernel_size),
        stride=tuple(geometry.stride),
        padding=padding,
        dilation=tuple(geometry.dilation),
        groups=geometry.groups,
        transposed=issubclass(class_of(host), TRANSPOSED_CONVOLUTIONS),
        padding_mode=geometry.padding_mode,
    )
