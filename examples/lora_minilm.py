"""LoRA by two rules on real pretrained weights: train adapters, save them alone, take them off, put them on, bake.

The model, its weights and the pairs of paraphrases are those of ``examples/pretrained_minilm.py``. The rules freeze all
of it and give the query and value projections adapters of rank 8. They are trained on 24 pairs, as all weights of a
second copy are for comparison, and both are measured on six pairs of sentences that neither has seen: the mean cosine
of paraphrases, that of unrelated sentences, and the gap between them.

What loses: training all weights goes as far in as many steps, but each step takes twice as long and what it leaves is a
file of 90 MB; that of the adapters has a third of one, and the model can be had back as it was. A step of LoRA is not
cheap either: gradients still pass through every layer. Six pairs show that something was learned, not how much.
Adapters act factored, ``x Wᵀ + s (x Aᵀ) Bᵀ``, so baked outputs are equal to rounding only; baked weights have the bits
of the values.

Run ``python -m examples.lora_minilm [picture.png]`` in the root of the repository, where the extra ``examples`` is
installed.
"""

from __future__ import annotations

import copy
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import surgery
from examples.pretrained_minilm import (
    HELD_OUT,
    SENTENCES,
    TRAINED,
    Pairs,
    embed,
    heading,
    load,
    objects_and_bits,
    prove,
    same_objects_and_bits,
    similarities,
    unrelated,
    weights_folder,
)

RULES = {"*": "frozen", "*.{query,value}.weight": "lora(rank=8, alpha=16)"}
STEPS, EVERY = 40, 4
RATES = {"adapters": 1e-3, "all weights": 5e-5}
BATCH = 8
PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "lora_minilm.png"
COLOURS = {"adapters": "#1f5fa8", "all weights": "#b8860b"}


@dataclass(frozen=True)
class Score:
    """What one model does on pairs of paraphrases."""

    paraphrases: float
    unrelated: float

    @property
    def gap(self) -> float:
        """By how much paraphrases are closer to each other."""
        return self.paraphrases - self.unrelated


@dataclass(frozen=True)
class Training:
    """Trained numbers, bytes of what has to be stored, seconds, and scores on the held-out pairs by step."""

    trained: int
    stored: int
    seconds: float
    scores: Mapping[int, Score]

    @property
    def last(self) -> Score:
        """The score at the end."""
        return self.scores[max(self.scores)]


def contrastive(cosines: Tensor) -> Tensor:
    """Cross-entropy over cosines times 20, each sentence's class being its paraphrase."""
    return F.cross_entropy(20 * cosines, torch.arange(len(cosines)))


def score(model: nn.Module, tokenizer: Any, pairs: Pairs = HELD_OUT) -> Score:
    """Measured in eval, without gradients; leaves the model in the mode that it was in."""
    was_training = model.training
    model.eval()
    cosines = similarities(model, tokenizer, pairs)
    model.train(was_training)
    return Score(cosines.diagonal().mean().item(), unrelated(cosines))


def trained_numbers(model: nn.Module) -> int:
    """How many numbers an optimizer moves."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def train(model: nn.Module, tokenizer: Any, rate: float, steps: int) -> tuple[float, dict[int, Score]]:
    """Train what is not frozen; returns seconds, and scores before the first step and after every few."""
    optimizer = torch.optim.AdamW((each for each in model.parameters() if each.requires_grad), lr=rate)
    scores, seconds = {0: score(model, tokenizer)}, 0.0
    model.train()
    for step in range(1, steps + 1):
        start = time.perf_counter()
        chosen = torch.randperm(len(TRAINED))[:BATCH]
        first, second = zip(*(TRAINED[index] for index in chosen), strict=True)
        loss = contrastive(embed(model, tokenizer, first) @ embed(model, tokenizer, second).T)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds += time.perf_counter() - start
        if step % EVERY == 0 or step == steps:
            scores[step] = score(model, tokenizer)
    model.eval()
    return seconds, scores


def train_all(model: nn.Module, tokenizer: Any, file: Path, steps: int = STEPS) -> Training:
    """Train every weight, for comparison."""
    seconds, scores = train(model, tokenizer, RATES["all weights"], steps)
    surgery.save_checkpoint(model, file)
    return Training(trained_numbers(model), file.stat().st_size, seconds, scores)


def train_adapters(model: nn.Module, tokenizer: Any, file: Path, steps: int = STEPS) -> Training:
    """Apply the rules, train, and save what was trained."""
    surgery.plan(model, RULES).apply()
    seconds, scores = train(model, tokenizer, RATES["adapters"], steps)
    surgery.save_checkpoint(model, file, only="trained")
    return Training(trained_numbers(model), file.stat().st_size, seconds, scores)


def print_table(trainings: Mapping[str, Training], total: int) -> None:
    """What was there before, and what each training came to."""
    before = next(iter(trainings.values())).scores[0]
    print(f"{'held-out pairs':<24}" + "".join(f"{name:>14}" for name in ("pretrained", *trainings)))
    ends = [before, *(one.last for one in trainings.values())]
    print_row("cosine of paraphrases", [f"{one.paraphrases:.3f}" for one in ends])
    print_row("of unrelated sentences", [f"{one.unrelated:.3f}" for one in ends])
    print_row("gap", [f"{one.gap:.3f}" for one in ends])
    print_row("numbers trained", ["", *(f"{one.trained:,}" for one in trainings.values())])
    print_row(f"of {total:,}", ["", *(f"{one.trained / total:.2%}" for one in trainings.values())])
    print_row("file, MB", ["", *(f"{one.stored / 1e6:.2f}" for one in trainings.values())])
    print_row("ms a step", ["", *(f"{1000 * one.seconds / max(one.scores):.0f}" for one in trainings.values())])


def print_row(name: str, cells: Sequence[str]) -> None:
    """A line of the table."""
    print(f"{name:<24}" + "".join(f"{cell:>14}" for cell in cells))


def show_taking_off(model: nn.Module, tokenizer: Any, file: Path, before: list[Any]) -> None:
    """Undo, load the adapters again, bake; prove what is equal."""
    heading("Taken off, put on, baked")
    with torch.no_grad():
        adapted = embed(model, tokenizer, SENTENCES)
        surgery.undo(model)
        claim = f"undo gave back all {len(before)} tensors: every object, bit and flag"
        prove(claim, holds=same_objects_and_bits(model, before))
        surgery.load_checkpoint(model, file).eval()
        again = embed(model, tokenizer, SENTENCES)
        prove("with the adapters loaded, the embeddings are equal, bit for bit", holds=torch.equal(again, adapted))
        values = {name: one.detach().clone() for name, one in surgery.computed_parameters(model).items()}
        surgery.bake(model)
        are_equal = all(torch.equal(model.get_parameter(name).detach(), value) for name, value in values.items())
        prove(f"the {len(values)} baked weights have the bits of the values", holds=bool(values) and are_equal)
        furthest = (embed(model, tokenizer, SENTENCES) - adapted).abs().max().item()
    prove(f"baked embeddings are equal to rounding: {furthest:.0e} at most", holds=furthest < 1e-5)


def draw(trainings: Mapping[str, Training], picture: Path) -> None:
    """Draw the held-out gap by step, and what each training moves and stores."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure = plt.figure(figsize=(9.4, 4.4), layout="constrained", dpi=100)
    panels = figure.subplot_mosaic([["gap", "trained"], ["gap", "stored"]], width_ratios=(3, 2))
    for name, one in trainings.items():
        gaps = [score.gap for score in one.scores.values()]
        panels["gap"].plot(list(one.scores), gaps, "o-", color=COLOURS[name], markersize=4, label=name)
        for key, number, text in (
            ("trained", one.trained, f"{one.trained:,}"),
            ("stored", one.stored / 1e6, f"{one.stored / 1e6:.2f} MB"),
        ):
            panels[key].barh(name, number, color=COLOURS[name], height=0.6)
            panels[key].text(number, name, f" {text}", va="center", fontsize=9)
    panels["gap"].set(xlabel="step of AdamW", ylabel="cosine of paraphrases, less that of others")
    panels["gap"].legend(loc="lower right", frameon=False)
    panels["gap"].set_title("Six held-out pairs of sentences", fontsize=10)
    panels["gap"].grid(color="#e4e4e4", linewidth=0.6)
    panels["trained"].set(xscale="log", xlim=(1e4, 4e9), xlabel="numbers trained (log)")
    panels["stored"].set(xscale="log", xlim=(0.1, 2e4), xlabel="MB to store (log)")
    for axes in panels.values():
        axes.spines[["top", "right"]].set_visible(False)
    share = trainings["adapters"].trained / trainings["all weights"].trained
    figure.suptitle(f"LoRA on all-MiniLM-L6-v2: {share:.2%} of the numbers, a file of {_megabytes(trainings)} MB")
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture)
    plt.close(figure)


def _megabytes(trainings: Mapping[str, Training]) -> str:
    return f"{trainings['adapters'].stored / 1e6:.1f}"


def main() -> None:
    """Train adapters and a whole copy, print the table and the proofs, draw the picture."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    picture = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE
    model, tokenizer = load(weights_folder())
    whole = copy.deepcopy(model)
    before = objects_and_bits(model)
    total = trained_numbers(model)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "adapters.safetensors")
        trainings = {
            "adapters": train_adapters(model, tokenizer, file),
            "all weights": train_all(whole, tokenizer, Path(folder, "all.safetensors")),
        }
        print_table(trainings, total)
        show_taking_off(model, tokenizer, file, before)
    draw(trainings, picture)
    print(f"\npicture: {picture}")


if __name__ == "__main__":
    main()
