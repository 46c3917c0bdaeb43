"""Fine-tuning all-MiniLM-L6-v2 with adapters of rank 16, and with gains (IA3), beside PEFT's.

A step of AdamW on 8 x 16 random tokens, on one thread, by turns in one process: ``W`` frozen, the queries and values of
every layer adapted. The plain model trains those weights themselves. Then what merging and taking back leaves of the
weights: ours is baked and undone, PEFT's merged and unmerged.
"""

from __future__ import annotations

import copy
import importlib.util
from typing import Any

import torch
from torch import Tensor, nn

import surgery
from benchmarks.timing import interleaved, machine, table
from benchmarks.training import step_of
from examples.pretrained_minilm import load, weights_folder

RANK = 16
SITES = "encoder.*.{query,value}.weight"
SPECS = {"LoRA": f"lora({RANK}, alpha={RANK})", "IA3": "ia3"}
ADAPTED = ("query.weight", "value.weight")
ROUNDS = 31


def adapted(plain: nn.Module, kind: str) -> dict[str, nn.Module]:
    """The plain model with the adapted weights trained, ours, and PEFT's where it is installed."""
    trained = copy.deepcopy(plain)
    for name, parameter in trained.named_parameters():
        parameter.requires_grad_(name.endswith(ADAPTED))
    rules = {"*": "frozen", SITES: SPECS[kind]}
    found = {"plain": trained, "computed-surgery": surgery.apply_constraints(copy.deepcopy(plain), rules)}
    if importlib.util.find_spec("peft") is not None:
        import peft

        sites = ["query", "value"]
        config = (
            peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=sites)
            if kind == "LoRA"
            else peft.IA3Config(target_modules=sites, feedforward_modules=[])
        )
        found["PEFT"] = peft.get_peft_model(copy.deepcopy(plain), config)  # type: ignore[arg-type] # any module
    return found


def changed_entries(models: dict[str, nn.Module], plain: nn.Module) -> list[tuple[str, str]]:
    """How many entries of the adapted weights differ from the pretrained ones when all is taken back."""
    before = {name: value for name, value in plain.state_dict().items() if name.endswith(ADAPTED)}
    found = [("computed-surgery", surgery.undo(models["computed-surgery"]).state_dict())]
    if "PEFT" in models:
        theirs: Any = models["PEFT"]
        theirs.merge_adapter()
        theirs.unmerge_adapter()
        found.append(("PEFT", {_theirs(name): value for name, value in theirs.base_model.model.state_dict().items()}))
    return [(name, f"{sum(_differing(state[key], value) for key, value in before.items()):,}") for name, state in found]


def _theirs(name: str) -> str:
    return name.replace(".base_layer", "")


def _differing(found: Tensor, before: Tensor) -> int:
    return int((found != before).sum())


def main(rounds: int = ROUNDS) -> None:
    """Print two tables for each kind."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{machine()}, 1 thread; {rounds} rounds.\n")
    plain, _ = load(weights_folder())
    print("\n\n".join(compared(plain, kind, rounds) for kind in SPECS))


def compared(plain: nn.Module, kind: str, rounds: int) -> str:
    """The tables of one kind of adapter."""
    models = adapted(plain, kind)
    steps = {name: step_of(model, torch.optim.AdamW) for name, model in models.items()}
    samples = interleaved(steps, rounds=rounds, calls=1, shuffled=True)
    rows = []
    for name in models:
        times = [f"{1e3 * seconds:.1f}" for seconds in samples.quartiles(name)]
        rows.append((name, *times, f"{samples.ratios(name, 'PEFT' if 'PEFT' in models else 'plain')[1]:.3f}"))
    heads = (f"{kind}, ms a step", "25 %", "median", "75 %", "times PEFT" if "PEFT" in models else "times plain")
    taken_back = table((f"{kind}, taken back", "entries that differ"), changed_entries(models, plain))
    return f"{table(heads, rows)}\n\n{taken_back}"


if __name__ == "__main__":
    main()
