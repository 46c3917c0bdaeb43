"""What a graph is taken through: copies, pickles, and TorchScript in memory and in a file."""

from __future__ import annotations

import io
import pickle

import torch
from torch import nn


def as_it_is(graph: nn.Module) -> nn.Module:
    """The graph itself."""
    return graph


def pickled(graph: nn.Module) -> nn.Module:
    """What comes out of a pickle."""
    return pickle.loads(pickle.dumps(graph))


def scripted(graph: nn.Module) -> nn.Module:
    """Compiled by TorchScript."""
    return torch.jit.script(graph)


def saved(graph: nn.Module) -> nn.Module:
    """Compiled by TorchScript, written to a file and read again."""
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(graph), buffer)
    buffer.seek(0)
    return torch.jit.load(buffer)
