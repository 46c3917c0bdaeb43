"""The names of parameters and buffers that a layer of torch.nn has, given what is known of its arguments.

A name comes with whether it is there: None where that depends on an argument that the source does not tell.
What depends on numbers is code here (how many layers an LSTM has, whether two sizes are equal); all else stands
in `rewrite.layer_table`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from rewrite.layer_table import ROWS


class Unknown(Enum):
    """The value of an argument that the source does not tell."""

    UNKNOWN = "unknown"


UNKNOWN: Final = Unknown.UNKNOWN
ROW_OF: Final[Mapping[str, tuple[str, ...]]] = {name: (*row, "", "")[:6] for row in ROWS for name in row[1].split()}
MOST_COUNTED: Final = 1000  # of the layers of one layer: a call that asks for more gets these names, and an open set
IS_GIVEN: Final = " is not None"

Arguments = Mapping[str, object]
Name = tuple[str, bool | None]


@dataclass(frozen=True)
class Conditional:
    """A name that is there where each of ``needed`` holds: ``bias`` (it is true), or ``weight is not None``."""

    name: str
    needed: tuple[str, ...] = ()


def conditionals(text: str) -> tuple[Conditional, ...]:
    """The names that a text of the table tells.

    >>> conditionals("weight, bias if affine and bias")
    (Conditional(name='weight', needed=()), Conditional(name='bias', needed=('affine', 'bias')))
    """
    parts = (part.partition(" if ") for part in text.split(", ") if part)
    return tuple(Conditional(name, tuple(needed.split(" and ")) if needed else ()) for name, _, needed in parts)


def told(names: Iterable[Conditional], known: Arguments) -> list[Name]:
    """The names, each with whether it is there."""
    return [(each.name, _all(*(_holds(needed, known) for needed in each.needed))) for each in names]


def truth(value: object) -> bool | None:
    """Whether a value is true; None where it is `UNKNOWN`."""
    return None if value is UNKNOWN else bool(value)


def _holds(needed: str, known: Arguments) -> bool | None:
    value = known[needed.removesuffix(IS_GIVEN)]
    return truth(value is not None if value is not UNKNOWN and needed.endswith(IS_GIVEN) else value)


def _all(*there: bool | None) -> bool | None:
    if False in there:
        return False
    return None if None in there else True


def _not(there: bool | None) -> bool | None:
    return None if there is None else not there


def _count(value: object, *, least: int) -> tuple[int, bool]:
    """How many there are for sure, and whether there may be more."""
    if not isinstance(value, int):
        return least, True
    return min(value, MOST_COUNTED), value > MOST_COUNTED


def _attention(known: Arguments) -> tuple[list[Name], bool]:
    same = _all(*(_is_size(known[size], known["embed_dim"]) for size in ("kdim", "vdim")))
    bias, further = truth(known["bias"]), truth(known["add_bias_kv"])
    names = [
        *((name, _not(same)) for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight")),
        *(("in_proj_weight", same), ("in_proj_bias", bias)),
        *(("bias_k", further), ("bias_v", further)),
        *(("out_proj.weight", True), ("out_proj.bias", bias)),
    ]
    return names, False


def _is_size(value: object, size: object) -> bool | None:
    if value is None:
        return True
    return None if UNKNOWN in (value, size) else value == size


def _recurrent(known: Arguments) -> tuple[list[Name], bool]:
    count, more = _count(known["num_layers"], least=1)
    bias, projected = truth(known["bias"]), truth(known.get("proj_size"))
    cell = [("weight_ih", True), ("weight_hh", True), ("bias_ih", bias), ("bias_hh", bias), ("weight_hr", projected)]
    directions = [("", True), ("_reverse", truth(known["bidirectional"]))]
    names = [
        (f"{name}_l{index}{suffix}", _all(there, direction))
        for index in range(count)
        for suffix, direction in directions
        for name, there in cell
    ]
    return names, more


def _adaptive_softmax(known: Arguments) -> tuple[list[Name], bool]:
    cutoffs = known["cutoffs"]
    count, more = _count(len(cutoffs) if isinstance(cutoffs, list | tuple) else UNKNOWN, least=1)
    head: list[Name] = [("head.weight", True), ("head.bias", truth(known["head_bias"]))]
    return [*head, *((f"tail.{index}.{part}.weight", True) for index in range(count) for part in (0, 1))], more


def _transformer(known: Arguments) -> tuple[list[Name], bool]:
    encoder, more_encoders = _half(known, "Encoder")
    decoder, more_decoders = _half(known, "Decoder")
    return [*encoder, *decoder], more_encoders or more_decoders


def _half(known: Arguments, half: str) -> tuple[list[Name], bool]:
    made = _not(truth(known[f"custom_{half.lower()}"]))
    count, more = _count(known[f"num_{half.lower()}_layers"], least=0)
    layer = told(conditionals(ROW_OF[f"Transformer{half}Layer"][4]), known)
    norm = told(conditionals(ROW_OF["LayerNorm"][4]), {"elementwise_affine": True, "bias": known["bias"]})
    names = [(f"layers.{index}.{name}", there) for index in range(count) for name, there in layer]
    names += [(f"norm.{name}", there) for name, there in norm]
    return [(f"{half.lower()}.{name}", _all(made, there)) for name, there in names], more


# Of each class: the names, and whether there may be more than can be told.
COUNTED: Final[Mapping[str, Callable[[Arguments], tuple[list[Name], bool]]]] = {
    "AdaptiveLogSoftmaxWithLoss": _adaptive_softmax,
    "GRU": _recurrent,
    "LSTM": _recurrent,
    "MultiheadAttention": _attention,
    "RNN": _recurrent,
    "RNNBase": _recurrent,
    "Transformer": _transformer,
}
