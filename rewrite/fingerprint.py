"""A model in digests: what a builder builds under a seed, with rules applied or with files rewritten."""

from __future__ import annotations

import hashlib
import pickle
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rewrite.builder import Builder, Inputs, with_inputs
from rewrite.shadowing import Shadow

if TYPE_CHECKING:
    from torch import Tensor, nn

Digests = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Request:
    """What is built: with ``texts`` in the place of files, or with ``rules`` applied to the model."""

    builder: Builder
    seed: int
    texts: tuple[tuple[str, bytes], ...] = ()
    rules: tuple[tuple[str, str | None], ...] = ()


@dataclass(frozen=True)
class Fingerprint:
    """A model: its state dict in its order, and its outputs, each with shape, type and bits.

    ``outputs`` is None where it has no inputs, or fails on them: ``without`` says why. ``used`` are the files whose
    rewritten text was imported. ``graph`` says how the graph with the same rules compares, ``graph_differs`` that it
    does not give these outputs.
    """

    state: Digests
    outputs: Digests | None
    without: str
    used: frozenset[str]
    graph: str = ""
    graph_differs: bool = False


def respond(request: Request) -> Fingerprint:
    """Build, and measure."""
    from surgery.constraining import apply_constraints

    shadow = Shadow(dict(request.texts))
    shadow.install()
    build = request.builder.load()
    _seed(request.seed)
    model, inputs = with_inputs(build)
    if request.rules:
        apply_constraints(model, list(request.rules), strict=False)
    state = tuple((name, _digest(each)) for name, each in model.state_dict().items())
    outputs, without = _outputs(model, inputs, request.seed)
    found = None if outputs is None else tuple((str(at), _digest(each)) for at, each in enumerate(outputs))
    graph, differs = "", False
    if request.rules:
        graph, differs = _graph(request, inputs, outputs, without)
    return Fingerprint(state, found, without, frozenset(shadow.used), graph, differs)


def _outputs(model: nn.Module, inputs: Inputs | None, seed: int) -> tuple[list[Any] | None, str]:
    """The tensors that a model returns in eval mode; or why that is not known."""
    import torch

    from computed.torch_private import tree_map

    if inputs is None:
        return None, "the builder gives no inputs: return (model, inputs), or set its attribute example_inputs"
    args, kwargs = inputs
    _seed(seed)
    leaves: list[Any] = []
    with torch.no_grad():
        tree_map(leaves.append, model.eval()(*args, **kwargs))
    return [each for each in leaves if isinstance(each, torch.Tensor)], ""


def _graph(request: Request, inputs: Inputs | None, outputs: list[Any] | None, without: str) -> tuple[str, bool]:
    """How the outputs of the graph of the original compare, which has the same rules."""
    import torch

    from surgery.constraining import apply_constraints
    from surgery.errors import SurgeryError

    if outputs is None:
        return f"not checked ({without})", False
    _seed(request.seed)
    model, _ = with_inputs(request.builder.load())
    try:
        graph = apply_constraints(model.eval(), list(request.rules), via="fx", strict=False, example=inputs)
    except SurgeryError as error:
        return f"not checked ({str(error).splitlines()[0]})", False
    found, _ = _outputs(graph, inputs, request.seed)
    try:
        torch.testing.assert_close(found, outputs)
    except AssertionError as error:
        return f"other outputs: {' '.join(str(error).split())}", True
    return "the same outputs to rounding", False


def _seed(seed: int) -> None:
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)


def _digest(value: object) -> str:
    """Shape, type and bits of a tensor; of anything else what pickle writes."""
    import torch

    if not isinstance(value, torch.Tensor):
        return hashlib.sha256(pickle.dumps(value)).hexdigest()
    kind = f"{value.dtype} {tuple(value.shape)}"
    if value.is_meta:
        return f"{kind} on meta"
    return f"{kind} {hashlib.sha256(_bits(value)).hexdigest()}"


def _bits(tensor: Tensor) -> bytes:
    import torch

    plain = tensor.detach().cpu().contiguous().reshape(-1)
    if plain.is_complex():
        plain = torch.view_as_real(plain).reshape(-1)
    return plain.view(torch.uint8).numpy().tobytes()
