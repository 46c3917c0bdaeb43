"""A constrained model trained by several processes: DistributedDataParallel, on the CPU.

    torchrun --nproc-per-node 2 examples/train_ddp.py [model.pt]

A small convolutional network learns which of four corners of a noisy picture is bright. Its convolutions have a largest
singular value of at most 1, its hidden layer is orthogonal. The order matters: constrain first, then wrap, then make
the optimizer. Each process sees its own share of each batch, gradients are averaged over the processes, so that raws,
state and weights stay the same in all of them. At the end the model is checked, baked to a plain one and saved.
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import surgery

RULES = {"conv*.weight": "spectral(bound=1.0)", "hidden.weight": "orthogonal"}
SAVED = Path("outputs") / "train_ddp.pt"
SIDE, BATCH, STEPS, EVERY = 8, 64, 120, 20


class Net(nn.Module):
    """Two convolutions, a hidden layer, four classes; 8 x 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.hidden = nn.Linear(8 * (SIDE // 2) ** 2, 32)
        self.head = nn.Linear(32, 4)

    def forward(self, pictures: Tensor) -> Tensor:
        """Scores of the four corners."""
        x = F.relu(self.conv2(F.relu(self.conv1(pictures))))
        return self.head(F.relu(self.hidden(x.flatten(1))))


def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noise of deviation 0.7, and a bright square of 3 x 3 pixels somewhere in one of the four corners."""
    pictures = 0.7 * torch.randn(BATCH, 1, SIDE, SIDE, generator=generator)
    corners = torch.randint(4, (BATCH,), generator=generator)
    offsets = torch.randint(2, (BATCH, 2), generator=generator)
    for picture, corner, (down, right) in zip(pictures, corners.tolist(), offsets.tolist(), strict=True):
        row, column = down + SIDE // 2 * (corner // 2), right + SIDE // 2 * (corner % 2)
        picture[0, row : row + 3, column : column + 3] += 1
    return pictures, corners


def train(model: nn.Module, rank: int, processes: int) -> list[float]:
    """The loss over all processes, before the first of every 20 steps and at the end."""
    generator = torch.Generator().manual_seed(1)  # the same batches in every process, which takes its share
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.005)
    losses = []
    for step in range(STEPS + 1):
        pictures, corners = batch(generator)
        loss = F.cross_entropy(model(pictures[rank::processes]), corners[rank::processes])
        if step % EVERY == 0:
            everywhere = loss.detach().clone()
            dist.all_reduce(everywhere)
            losses.append(everywhere.item() / processes)
        if step < STEPS:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return losses


def furthest_apart(model: nn.Module) -> float:
    """The largest difference between a process's raws and state, and those of the first."""
    distance = torch.zeros(())
    for tensor in model.state_dict().values():
        first = tensor.clone()
        dist.broadcast(first, src=0)
        distance = torch.maximum(distance, (tensor - first).abs().max())
    dist.all_reduce(distance, op=dist.ReduceOp.MAX)
    return distance.item()


def accuracy(model: nn.Module) -> float:
    """On pictures that no step has seen."""
    pictures, corners = batch(torch.Generator().manual_seed(2))
    with torch.no_grad():
        return (model(pictures).argmax(1) == corners).double().mean().item()


def run(rank: int, processes: int, saved: Path) -> None:
    """Constrain, wrap, train, check; the first process prints, bakes and saves."""
    torch.manual_seed(0)
    model = surgery.apply_constraints(Net(), RULES)
    # these constraints have buffers that change at a step only: to send them at each forward would end every hold
    wrapped = DistributedDataParallel(model, forward_sync_buffers=False)
    losses = train(wrapped, rank, processes)
    distance = furthest_apart(model)
    if rank != 0:
        return
    print(f"{processes} processes, {STEPS} steps")
    for index, loss in enumerate(losses):
        print(f"step {index * EVERY:4}   loss {loss:.4f}")
    print(f"largest difference between the processes: {distance:g}")
    model.eval()
    found = surgery.check(model)
    print(found)
    before = accuracy(model)
    surgery.bake(model)
    saved.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), saved)
    plain = Net()
    plain.load_state_dict(torch.load(saved))
    print(f"accuracy constrained {before:.3f}, loaded into a plain model {accuracy(plain):.3f}")
    print(f"saved: {saved}")


def main() -> None:
    """Join the processes that torchrun has started, run, leave."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    try:
        run(dist.get_rank(), dist.get_world_size(), Path(sys.argv[1]) if len(sys.argv) > 1 else SAVED)
        dist.barrier()  # nobody leaves while the first process still saves
    finally:
        gc.collect()  # the wrapper ends here: it would keep the group's threads at work while Python shuts down
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
