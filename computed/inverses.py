"""What right inverses have given: how many raws, and whether they can be raws at all."""

from collections.abc import Sequence

from torch import Tensor

from computed.chain import Link
from computed.constraint import Preimage
from computed.errors import ConstraintRefusedError
from computed.site import Site


def count_inputs(links: Sequence[Link], preimages: Sequence[Preimage]) -> tuple[Link, ...]:
    """Tell foreign links how many tensors their right inverse gives."""
    return tuple(link.with_inputs(len(preimage.raws)) for link, preimage in zip(links, preimages, strict=True))


def check_raws(links: Sequence[Link], preimages: Sequence[Preimage], value: Tensor, site: Site) -> None:
    """Refuse raws that are no float tensors, or stand on another device.

    Errors: ConstraintRefusedError.
    """
    for link, preimage in zip(links, preimages, strict=True):
        for raw in preimage.raws:
            if not raw.is_floating_point() or raw.is_meta != value.is_meta:
                given = f"{str(raw.dtype).removeprefix('torch.')} on {raw.device.type}"
                raise ConstraintRefusedError(
                    f"{site.name}: {type(link.module).__name__}.right_inverse gave {given}; raws are float tensors on "
                    f"{value.device.type}"
                )
