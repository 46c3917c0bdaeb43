"""Which parameters and buffers the layers of torch.nn have, as seen on layers that are made; writes the table.

``python -m tests.rewrite.layer_probe`` writes ``rewrite/layer_table.py``. Each layer is made with every
combination of what its arguments can be, where these are true or false, or may be None. The names that then
appear tell what each of them needs.
"""

from __future__ import annotations

import inspect
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product

import torch
from torch import nn

from rewrite.layer_names import COUNTED, IS_GIVEN
from rewrite.layers import BRINGING
from tests.architecture import ROOT

FILE = ROOT / "rewrite" / "layer_table.py"
VERSION = torch.__version__.partition("+")[0]
WIDTH = 120
PLACE = ("device", "dtype")
DIMENSIONS = ("1d", "2d", "3d")
REFUSALS = (ValueError, TypeError, RuntimeError, AssertionError)  # of what a layer does not take together
HEAD = f'''"""The layers of torch {VERSION}; ``python -m tests.rewrite.layer_probe`` writes this file.

A row: the module below torch.nn; its classes; their bases (``?d`` is what the class's own name ends with); what
their constructors take (``...`` is a default that is no literal); and the names of parameters and of buffers,
each with the arguments that it needs. What is empty at the end of a row is left out.
"""

from typing import Final

TORCH: Final = "{VERSION}"

# fmt: off
ROWS: Final[tuple[tuple[str, ...], ...]] = (
'''
# What an argument is given that has no default, or whose default is None. A new one of torch is a KeyError here.
GIVEN: Mapping[str, object] = {
    **dict.fromkeys(("d_model", "embed_dim", "embedding_dim", "hidden_size", "input_size"), 4),
    **dict.fromkeys(("in1_features", "in2_features", "in_channels", "in_features", "out_channels", "out_features"), 4),
    **dict.fromkeys(("normalized_shape", "num_channels", "num_classes", "num_embeddings", "num_features"), 4),
    **dict.fromkeys(("nhead", "num_groups", "num_heads", "num_layers", "output_size", "size", "stride"), 2),
    **dict.fromkeys(("divisor_override", "downscale_factor", "scale_factor", "upscale_factor"), 2),
    **dict.fromkeys(("dim", "groups", "ignore_index", "padding", "padding_idx"), 1),
    **dict.fromkeys(("kdim", "kernel_size", "num_chunks", "vdim"), 3),
    **dict.fromkeys(("align_corners", "recompute_scale_factor", "reduce", "size_average"), True),
    **dict.fromkeys(("device_ids", "options", "output_device", "process_group"), None),
    **dict.fromkeys(("custom_decoder", "custom_encoder", "decoder_layer", "encoder_layer"), nn.Linear(2, 2)),
    **dict.fromkeys(("module", "norm"), nn.Linear(2, 2)),
    **dict.fromkeys(("max_norm", "max_value", "norm_type", "value"), 1.0),
    **dict.fromkeys(("output_ratio", "threshold"), 0.5),
    "min_value": -1.0,
    "eps": 1e-6,
    "cutoffs": [1, 2],
    "n_classes": 5,
    "unflattened_size": (2, 2),
    "mode": "LSTM",
    "modules": {"a": nn.Linear(2, 2)},
    "parameters": {"a": torch.ones(2)},
    "values": [torch.ones(2)],
    "distance_function": nn.functional.pairwise_distance,
    "pos_weight": torch.ones(4),
    "weight": torch.ones(4),
    "_random_samples": torch.ones(1, 1, 2),
    "_weight": torch.ones(4, 4),
}

Case = tuple[frozenset[str], list[str]]  # the arguments that are true, or not None; and the names that are there


def public_layers() -> dict[str, type[nn.Module]]:
    """Every class of torch.nn that is a module, by its name there."""
    classes = {name: each for name, each in vars(nn).items() if isinstance(each, type) and issubclass(each, nn.Module)}
    return {name: each for name, each in sorted(classes.items()) if not name.startswith("_")}


def bases(kind: type[nn.Module]) -> tuple[str, ...]:
    """The names of the classes in its method resolution order, itself first, without ``object``."""
    return tuple(each.__name__ for each in kind.__mro__[:-1])


def declared(kind: type[nn.Module]) -> list[inspect.Parameter]:
    """What the constructor takes; where that is anything, its first overload may say more."""
    taken = _declared(kind.__init__)
    if all(map(_is_variadic, taken)):
        return next(map(_declared, typing.get_overloads(kind.__init__)), taken)
    return taken


def _declared(function: Callable[..., object]) -> list[inspect.Parameter]:
    return list(inspect.signature(function).parameters.values())[1:]


def _is_variadic(parameter: inspect.Parameter) -> bool:
    return parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)


def signature(kind: type[nn.Module]) -> str:
    """What the constructor takes, as Python writes it, with ``...`` for a default that is no literal."""
    words: list[str] = []
    for each in declared(kind):
        if each.kind is each.KEYWORD_ONLY and not any(word.startswith("*") for word in words):
            words.append("*")
        stars = {each.VAR_POSITIONAL: "*", each.VAR_KEYWORD: "**"}.get(each.kind, "")
        words.append(f"{stars}{each.name}{_default(each)}")
    return ", ".join(words)


def _default(parameter: inspect.Parameter) -> str:
    if parameter.default is parameter.empty:
        return ""
    is_literal = parameter.default is None or isinstance(parameter.default, bool | int | float | str | tuple)
    return f"={parameter.default!r}" if is_literal else "=..."


def choices(kind: type[nn.Module]) -> dict[str, tuple[object, ...]]:
    """The values that each argument is tried with; one alone where names cannot depend on it."""
    taken = [each for each in declared(kind) if each.name not in PLACE and not _is_variadic(each)]
    return {each.name: _choices(each) for each in taken}


def _choices(parameter: inspect.Parameter) -> tuple[object, ...]:
    if isinstance(parameter.default, bool) or parameter.annotation is bool:
        return (False, True)
    if parameter.default is None:
        return (None, GIVEN[parameter.name])
    return (GIVEN[parameter.name] if parameter.default is parameter.empty else parameter.default,)


def made(kind: type[nn.Module], positional: Sequence[object], keywords: Mapping[str, object]) -> nn.Module | None:
    """A layer; None where it does not take these arguments together."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes and arguments that torch is about to drop
        try:
            return kind(*positional, **keywords)
        except REFUSALS:
            return None


def without_memory(kind: type[nn.Module]) -> dict[str, object]:
    """The arguments that make it on no device, where it takes such."""
    return {"device": "meta"} if any(each.name == "device" for each in declared(kind)) else {}


def parameter_names(layer: nn.Module) -> list[str]:
    """Of all that it holds, in the order of its state dict."""
    return [name for name, _ in layer.named_parameters(remove_duplicate=False)]


def buffer_names(layer: nn.Module) -> list[str]:
    """Of all that it holds, in the order of its state dict."""
    return [name for name, _ in layer.named_buffers(remove_duplicate=False)]


def needs(kind: type[nn.Module]) -> tuple[str, str]:
    """Its parameters and its buffers as the table writes them; none where code tells them."""
    if kind.__name__ in COUNTED or kind.__name__ in BRINGING:
        return "", ""
    cases = list(_cases(kind))
    assert cases, f"{kind.__name__} takes none of the arguments: adapt GIVEN"
    varied = {name: None in values for name, values in choices(kind).items() if len(values) > 1}
    return (
        _needs(kind, [(held, parameter_names(layer)) for held, layer in cases], varied),
        _needs(kind, [(held, buffer_names(layer)) for held, layer in cases], varied),
    )


def _cases(kind: type[nn.Module]) -> Iterator[tuple[frozenset[str], nn.Module]]:
    tried = choices(kind)
    for values in product(*tried.values()):
        arguments = dict(zip(tried, values, strict=True))
        layer = made(kind, (), arguments | without_memory(kind))
        if layer is not None:
            yield (
                frozenset(name for name, value in arguments.items() if value is not None and value is not False),
                layer,
            )


def _needs(kind: type[nn.Module], cases: Sequence[Case], varied: Mapping[str, bool]) -> str:
    names = max((names for _, names in cases), key=len)
    written = []
    for name in names:
        needed = frozenset.intersection(*(held for held, there in cases if name in there)) & varied.keys()
        assert all((name in there) == (needed <= held) for held, there in cases), f"{kind}: {name} needs code"
        clauses = [each + IS_GIVEN * may_be_none for each, may_be_none in varied.items() if each in needed]
        written.append(f"{name} if {' and '.join(clauses)}" if clauses else name)
    for _, there in cases:
        assert there == [name for name in names if name in there], f"{kind}: an order that needs code"
    return ", ".join(written)


def rows() -> list[tuple[str, ...]]:
    """The table: classes that differ by their names alone share a row."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for name, kind in public_layers().items():
        home = kind.__module__.removeprefix("torch.nn.")
        alike.setdefault((home, _general_bases(name, kind), signature(kind), *needs(kind)), []).append(name)
    return sorted((home, " ".join(names), *rest) for (home, *rest), names in alike.items())


def _general_bases(name: str, kind: type[nn.Module]) -> str:
    ending = name[-2:] if name.endswith(DIMENSIONS) else "nothing"
    return " ".join(f"{each[:-2]}?d" if each.endswith(ending) else each for each in bases(kind)[1:])


def rendered(table: Sequence[Sequence[str]]) -> str:
    """The file."""
    return HEAD + "".join(map(_rendered, table)) + ")\n"


def _rendered(row: Sequence[str]) -> str:
    while not row[-1]:
        row = row[:-1]
    lines = ["    ("]
    for literal in (literal for text in row for literal in _literals(text)):
        if len(lines[-1]) + len(literal) > WIDTH - 2:  # the row may end here
            lines.append("     ")
        lines[-1] += literal
    return "\n".join(line.rstrip() for line in lines).removesuffix(",") + "),\n"


def _literals(text: str) -> list[str]:
    """A text as literals that fit a line, broken after commas; the last has a comma after it."""
    pieces = [""]
    for part in text.split(", "):
        if len(pieces[-1]) + len(part) > WIDTH - 15:
            pieces.append("")
        pieces[-1] += f"{part}, "
    return [*(f'"{piece}" ' for piece in pieces[:-1]), f'"{pieces[-1].removesuffix(", ")}", ']


if __name__ == "__main__":
    FILE.write_text(rendered(rows()))
