"""Putting constraints behind those that are there: the raws stay where the value may stay."""

from collections.abc import Sequence

import torch
from torch import Tensor

from computed.chain import Link
from computed.constraint import IteratedConstraint, Preimage, State
from computed.evaluation import arguments_by_link, full_precision, invert
from computed.parameter import ComputedParameter
from computed.watching import same_bits


def kept_preimages(links: Sequence[Link], value: Tensor, present: ComputedParameter | None) -> list[Preimage] | None:
    """The raws and the state of ``present`` in front of the preimages of the other links; None where it must move.

    ``links`` begin with copies of its own, ``value`` is what it has. It may stay where the links behind start from that
    very value. To invert all of it would apply a module without a right inverse twice.
    """
    if present is None or present.is_meta:
        return None
    behind = invert(links[len(present.links) :], value)
    if not same_bits(behind[0].raws[0].to(value.dtype), value):
        return None
    copies = [link.with_inputs(len(old.roles)) for link, old in zip(links, present.links, strict=False)]
    kept: list[Preimage] = []
    running: tuple[Tensor, ...] = ()
    with torch.no_grad(), full_precision(value.device):
        for link, own in arguments_by_link(copies, present.raw_tensors()):
            arguments = (*running, *own)
            state: State = ()
            if isinstance(link.module, IteratedConstraint):
                state = link.module.settled_state(arguments[0])
                running = (link.module.value_given(arguments[0], state),)
            else:
                running = (link.evaluate(arguments, training=False)[0],)
            kept.append(Preimage(tuple(argument.detach() for argument in arguments), state))
    return [*kept, *behind]
