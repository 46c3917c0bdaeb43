"""1: what is left of a model that was constrained and then taken back."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from benchmarks.peers.libraries import LIBRARIES, Library
from benchmarks.peers.models import ATTENTION, LSTM, RESIDUAL, TIED, Case
from benchmarks.peers.observing import Measure, Probe, by, grouped, refusal

CASES = {"convolutions": RESIDUAL, "LSTM": LSTM, "attention": ATTENTION, "tied": TIED}


@dataclass(frozen=True, kw_only=True)
class Undone(Measure):
    """How many aspects of how many models are what they were."""

    kept: int
    asked: int

    def right(self) -> bool:
        """All of them."""
        return self.kept == self.asked

    def fact(self) -> str:
        """The counts."""
        return f"{self.kept} of {self.asked} kept"


def picture(model: nn.Module) -> dict[str, object]:
    """What undo has to restore, aspect by aspect."""
    tensors = dict(model.named_parameters(remove_duplicate=False))
    flat = [module._flat_weights for module in model.modules() if isinstance(module, nn.RNNBase)]
    return {
        "keys": list(model.state_dict()),
        "values": {key: tensor.tolist() for key, tensor in model.state_dict().items()},
        "objects": [*sorted((name, id(tensor)) for name, tensor in tensors.items()), *(map(id, *flat) if flat else ())],
        "order": list(tensors),
        "classes": [(name, type(module)) for name, module in model.named_modules(remove_duplicate=False)],
        "flags": sorted((name, tensor.requires_grad) for name, tensor in tensors.items()),
        "hooks": [list(module._forward_hooks.values()) for module in model.modules()],
    }


def hook(module: nn.Module, args: object, output: object) -> None:
    """A forward hook of the user's own."""


def lost(library: Library, case: Case, kind: str) -> tuple[list[str], str | None]:
    """The aspects that are not what they were, and what the library raised."""
    model = case.build()
    for module in model.modules():
        module.register_forward_hook(hook)
    before = picture(model)
    changed = [model]

    def there_and_back() -> None:
        changed[0] = library.insert(model, case, kind)
        changed[0] = library.undo(changed[0], case)

    raised = refusal(there_and_back)
    after = picture(changed[0])
    return [aspect for aspect, what in before.items() if after[aspect] != what], raised


def measure(library: Library) -> Undone:
    """Each model under each kind of constraint."""
    aspects, kept, asked = len(picture(nn.Identity())), 0, 0
    notes: list[tuple[str, str]] = []
    for name, case in CASES.items():
        for kind in library.kinds:
            gone, raised = lost(library, case, kind)
            asked += aspects
            kept += aspects - len(gone)
            notes += [(name, f"under {kind}, lost: {', '.join(gone)}")] if gone else []
            notes += [(kind, f"raises {raised}")] if raised else []
    return Undone(kept=kept, asked=asked, notes=grouped(notes))


PROBE = Probe(
    1,
    "Undo is exact",
    "Four models are constrained and taken back, by each kind of constraint that the library has; keys, values, "
    "Parameter objects, order, classes, flags and hooks are compared.",
    "all are what they were",
    "tests/life/test_ranked.py::test_01_undo_is_exact",
    by(measure, *LIBRARIES),
)
