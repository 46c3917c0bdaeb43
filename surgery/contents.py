"""What a checkpoint file says beside its tensors: rules, ties, what is frozen, and fingerprints of what it needs."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from surgery.errors import SurgeryError

TOPIC = "computed_surgery"
VERSION = 1
PLAIN_NAME = re.compile(r"[\w.]+")


@dataclass(frozen=True)
class Contents:
    """What a file says beside its tensors.

    ``rules`` are spec by name, ``aliases`` the keys of ties by those that are in the file, ``frozen`` the Parameters
    that are not trained, ``base`` the fingerprints of the weights that are needed and not in the file.
    """

    rules: Mapping[str, str]
    aliases: Mapping[str, str]
    frozen: tuple[str, ...]
    base: Mapping[str, str]

    def written(self) -> dict[str, str]:
        """As metadata of safetensors."""
        told = {"version": VERSION, "rules": self.rules, "aliases": self.aliases, "frozen": self.frozen}
        return {"format": "pt", TOPIC: json.dumps({**told, "base": self.base})}

    @classmethod
    def read(cls, metadata: Mapping[str, str] | None, path: Path) -> "Contents":
        """What `written` gave."""
        told = json.loads((metadata or {}).get(TOPIC, "{}"))
        if told.get("version") != VERSION:
            raise SurgeryError(
                f"{path}: not written by save_checkpoint, or by a newer one; load plain weights with "
                f"model.load_state_dict(safetensors.torch.load_file(path))"
            )
        return cls(told["rules"], told["aliases"], tuple(told["frozen"]), told["base"])

    def patterns(self) -> list[tuple[str, str]]:
        """Rules for exactly the names of the file."""
        return [
            (name if PLAIN_NAME.fullmatch(name) else f"re:{re.escape(name)}", spec) for name, spec in self.rules.items()
        ]


def fingerprint(tensor: Tensor) -> str:
    """A digest of the dtype, shape and bits of ``tensor``."""
    digest = hashlib.blake2b(f"{tensor.dtype} {tuple(tensor.shape)}".encode(), digest_size=16)
    whole = tensor.detach().cpu().contiguous().reshape(-1)
    digest.update(whole.view(torch.uint8).numpy().tobytes() if whole.numel() else b"")
    return digest.hexdigest()
