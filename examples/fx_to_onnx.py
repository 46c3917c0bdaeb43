"""From a constrained model to ONNX: a CNN that reads digits, trained on the tree, deployed by its graph.

The convolutions are spectrally capped, the wide layer is fine-tuned by a low-rank adapter. The model is trained as a
tree; `apply_constraints(model, {}, via="fx")` carries what is computed there into a graph, raws and values bit for bit.
The graph is drawn, and exported with a batch of any size: constraints are folded into plain weights, the adapter stays
factored, and onnxruntime gives the same numbers.

Run ``python examples/fx_to_onnx.py [picture.png]``; it needs the extra ``graph`` and scikit-learn.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import surgery

RULES = {"*@Conv2d.weight": "spectral(bound=1.0)", "wide.weight": "lora(rank=4, alpha=8)"}
PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "digits_graph.png"
EPOCHS, BATCH, WIDE = 6, 64, 256


class Digits(nn.Module):
    """Two convolutions, one residual, one wide layer: 8 x 8 pixels to ten digits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.conv = nn.Conv2d(16, 16, 3, padding=1)
        self.dropout = nn.Dropout(0.1)
        self.wide = nn.Linear(16 * 16, WIDE)
        self.head = nn.Linear(WIDE, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (batch, 10) for pixels (batch, 1, 8, 8)."""
        hidden = F.max_pool2d(F.relu(self.norm(self.stem(pixels))), 2)
        hidden = hidden + F.relu(self.conv(hidden))
        return self.head(self.dropout(F.relu(self.wide(hidden.flatten(1)))))


def data() -> tuple[Tensor, Tensor]:
    """1797 pictures of digits (n, 1, 8, 8) between 0 and 1, and what they are."""
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    pixels = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    return pixels[order], torch.tensor(digits.target)[order]


def train(model: nn.Module, pixels: Tensor, labels: Tensor, epochs: int) -> None:
    """Adam over what trains."""
    optimizer = torch.optim.Adam([each for each in model.parameters() if each.requires_grad], lr=3e-3)
    model.train()
    for _ in range(epochs):
        for batch, wanted in zip(pixels.split(BATCH), labels.split(BATCH), strict=True):
            optimizer.zero_grad()
            F.cross_entropy(model(batch), wanted).backward()
            optimizer.step()
    model.eval()


def accuracy(model: nn.Module, pixels: Tensor, labels: Tensor) -> float:
    """The share of digits that are read rightly."""
    with torch.no_grad():
        return (model(pixels).argmax(1) == labels).float().mean().item()


def export(graph: nn.Module, pixels: Tensor, file: Path) -> None:
    """Write the graph as ONNX, for a batch of any size."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*LeafSpec.*is deprecated", category=FutureWarning)
        dynamic = {"pixels": {0: torch.export.Dim("batch")}}
        program = torch.onnx.export(graph, (pixels,), dynamo=True, dynamic_shapes=dynamic, verbose=False)
    assert program is not None
    program.save(file)


def nodes(file: Path) -> str:
    """The operations of an ONNX file, with their number."""
    counts = Counter(node.op_type for node in onnx.load(file).graph.node)
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def difference(file: Path, graph: nn.Module, pixels: Tensor) -> float:
    """The largest difference of onnxruntime's logits from the graph's, relative to the largest logit."""
    session = onnxruntime.InferenceSession(str(file))
    (logits,) = session.run(None, {"pixels": pixels.numpy()})
    with torch.no_grad():
        expected = graph(pixels)
        return ((torch.from_numpy(logits) - expected).abs().max() / expected.abs().max()).item()


def main(picture: Path = PICTURE, epochs: int = EPOCHS) -> None:
    """Train, trace, draw, export, compare; print what came of it."""
    torch.manual_seed(0)
    pixels, labels = data()
    model = Digits()
    train(model, pixels[:1400], labels[:1400], epochs)
    print(f"pretrained: {accuracy(model, pixels[1400:], labels[1400:]):.1%} of 397 digits")

    surgery.apply_constraints(model, RULES)
    train(model, pixels[:1400], labels[:1400], epochs)
    print(f"constrained and trained on: {accuracy(model, pixels[1400:], labels[1400:]):.1%}")
    print("all inside:", surgery.check(model).ok)

    graph = surgery.apply_constraints(model, {}, via="fx", example=(pixels[:2],)).eval()
    same = torch.equal(graph(pixels), model(pixels))
    keys = list(graph.state_dict()) == list(model.state_dict())
    print(f"graph: {len(graph.graph.nodes)} nodes; outputs equal bit for bit: {same}; state dict keys equal: {keys}")
    print("drawn:", surgery.draw(graph, picture).name)

    with TemporaryDirectory() as folder:
        factored, dense = Path(folder, "factored.onnx"), Path(folder, "dense.onnx")
        export(graph, pixels[:2], factored)
        export(surgery.bake(graph), pixels[:2], dense)
        print("onnx:", nodes(factored))
        for batch in (1, 397):
            worst = difference(factored, graph, pixels[:batch])
            print(f"onnxruntime, batch of {batch}: largest difference {worst:.1e}")
        print(
            f"files: {factored.stat().st_size:,} bytes with the adapter beside its base, {dense.stat().st_size:,} baked"
        )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
