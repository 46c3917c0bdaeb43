"""A site: one parameter of a model, as frozen evidence."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

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
class Usage:
    """How one host uses a weight: the dimension of its outputs, None where the host does not say, and its geometry."""

    host_type: type[nn.Module] = nn.Module
    outputs: int | None = None
    convolution: Convolution | None = None


@dataclass(frozen=True)
class Site:
    """One parameter of a model: its names, its host and its tensor's metadata, without the tensor.

    ``names`` are all dotted names (more than one for a tie), original ones; ``host_types`` the class names of the
    host's method resolution order, one tuple a name. ``shape`` is None where it is not known yet (lazy modules).
    ``usages`` say how the hosts use it, where that is known: one a name, each as `usage_of` gives it.
    """

    names: tuple[str, ...]
    host_type: type[nn.Module]
    shape: torch.Size | None
    dtype: torch.dtype
    device: torch.device
    requires_grad: bool
    buffer: bool = False
    host_types: tuple[tuple[str, ...], ...] = ()
    usages: tuple["Usage", ...] = ()

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

    @property
    def convolution(self) -> Convolution | None:
        """The geometry of the first host, where that is a convolution."""
        return self.usages[0].convolution if self.usages else None

    @property
    def outputs(self) -> int | None:
        """The dimension of outputs for the first host, where that says it."""
        return self.usages[0].outputs if self.usages else None


def site_of(
    host: nn.Module,
    names: tuple[str, ...],
    tensor: Tensor,
    *,
    shape: torch.Size | None,
    host_types: tuple[tuple[str, ...], ...] = (),
    device: torch.device | None = None,
    others: Iterable[nn.Module] = (),
) -> Site:
    """The site of ``tensor``, which stands under ``names``; ``host`` is the first host, ``others`` those behind it."""
    all_hosts = zip((host, *others), names, strict=False)
    return Site(
        names=names,
        host_type=class_of(host),
        shape=shape,
        dtype=tensor.dtype,
        device=device or tensor.device,
        requires_grad=tensor.requires_grad,
        buffer=not isinstance(tensor, nn.Parameter),
        host_types=host_types,
        usages=tuple(usage_of(each, name.rpartition(".")[2]) for each, name in all_hosts),
    )


def free_site(tensor: Tensor, name: str = "weight") -> Site:
    """The site of a tensor that stands in no model yet."""
    return Site((name,), nn.Module, tensor.shape, tensor.dtype, tensor.device, tensor.requires_grad)


def class_of(host: nn.Module) -> type[nn.Module]:
    """The class that a model's author gave ``host``: a graph puts others in the place of some, which name it."""
    stood: type[nn.Module] = vars(host).get("stands_for", type(host))
    return stood


def usage_of(host: nn.Module, attribute: str) -> Usage:
    """How ``host`` uses its ``attribute``: outputs run along dimension 1 in what is (in, out), else along 0.

    That is a transposed convolution's weight, and that of ``Conv1D`` of transformers, which is no convolution:
    https://github.com/huggingface/transformers/blob/main/src/transformers/pytorch_utils.py
    """
    convolution = convolution_of(host, attribute)
    if convolution is not None:
        return Usage(class_of(host), 1 if convolution.transposed else 0, convolution)
    kind = class_of(host)
    if attribute != "weight":
        return Usage(kind, None)
    flipped = _flipped.get(kind)
    if flipped is None:
        ancestors = ((cls.__module__.partition(".")[0], cls.__name__) for cls in kind.__mro__)
        _flipped[kind] = flipped = ("transformers", "Conv1D") in ancestors
    return Usage(kind, 1 if flipped else None)


# classes whose weights are (in, out) without being those of a convolution: found once for each
_flipped: "WeakKeyDictionary[type[nn.Module], bool]" = WeakKeyDictionary()


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
