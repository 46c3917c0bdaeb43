"""What an ``adapter_config.json`` of PEFT says, and which modules it means; what would change numbers is refused."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.errors import SurgeryError

CONFIG = "adapter_config.json"
KINDS = ("LORA", "IA3")
# what says where, and for which version, a file was made
TOLD = frozenset((
    "auto_mapping", "base_model_name_or_path", "inference_mode", "megatron_core", "peft_type", "peft_version",
    "qalora_group_size", "revision", "runtime_config", "task_type",
))  # fmt: skip
# what this reads; PEFT itself finds out whether a layer has its weight transposed
READ = frozenset((
    "alpha_pattern", "bias", "exclude_modules", "fan_in_fan_out", "feedforward_modules", "init_ia3_weights",
    "init_lora_weights", "layers_pattern", "layers_to_transform", "lora_alpha", "lora_dropout", "modules_to_save", "r",
    "rank_pattern", "target_modules", "use_dora", "use_rslora",
))  # fmt: skip
# starts that leave the base as it is
KEEPING = (True, False, None, "gaussian", "eva", "orthogonal")
BIASES = ("none", "all", "lora_only")

Names = str | Sequence[str] | None


@dataclass(frozen=True)
class PeftConfig:
    """The fields of a LoRA or IA3 configuration of PEFT that decide about numbers and about what trains."""

    kind: str
    rank: int = 8
    alpha: float = 8
    rslora: bool = False
    dora: bool = False
    dropout: float = 0.0
    pissa: bool = False
    bias: str = "none"
    targets: Names = None
    excluded: Names = None
    feedforward: Names = None
    saved: tuple[str, ...] = ()
    layers: int | Sequence[int] | None = None
    layers_pattern: Names = None
    ranks: Mapping[str, int] | None = None
    alphas: Mapping[str, float] | None = None

    @property
    def method(self) -> str:
        """The constraint that does it."""
        return "ia3" if self.kind == "IA3" else "dora" if self.dora else "lora"

    def rank_of(self, name: str) -> int:
        """The rank of a module's adapter."""
        return int(by_pattern(self.ranks or {}, name, self.rank))

    def alpha_of(self, name: str) -> float:
        """The alpha of a module's adapter."""
        return float(by_pattern(self.alphas or {}, name, self.alpha))

    def means(self, name: str) -> bool:
        """Whether a module is to be adapted."""
        if _matches(self.excluded, name) or any(re.match(rf"(^|.*\.){one}($|\..*)", name) for one in self.saved):
            return False
        if isinstance(self.targets, str):
            return re.fullmatch(self.targets, name) is not None
        targets = self.targets or ()
        if name in targets:
            return True
        return _matches(targets, name) and self._layer_is_meant(name)

    def _layer_is_meant(self, name: str) -> bool:
        if self.layers is None or self.layers == []:
            return True
        layers = [self.layers] if isinstance(self.layers, int) else self.layers
        patterns = [self.layers_pattern] if isinstance(self.layers_pattern, str) else self.layers_pattern
        tried = [rf"(?:^|.*?\.){pattern}\.(\d+)\." for pattern in patterns or ()] or [r".*?\.[^.]*\.(\d+)\."]
        found = next((match for match in (re.match(one, name) for one in tried) if match is not None), None)
        return found is not None and int(found[1]) in layers

    def feeds_forward(self, name: str) -> bool:
        """Whether IA3 scales the inputs of a module, and not its outputs."""
        if isinstance(self.feedforward, str):
            return re.fullmatch(self.feedforward, name) is not None
        return any(name.endswith(one) for one in self.feedforward or ())

    def saves(self, name: str) -> bool:
        """Whether a module is trained and kept as a whole."""
        return any(name.endswith(one) for one in self.saved)


def by_pattern(patterns: Mapping[str, Any], name: str, default: Any) -> Any:
    """What the first pattern that matches ``name`` says, as PEFT finds it."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return value
    return default


def _matches(names: Names, name: str) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, name) is not None
    return any(name == one or name.endswith(f".{one}") for one in names or ())


def read_config(folder: Path) -> PeftConfig:
    """The configuration in ``folder``.

    Errors: SurgeryError where there is none, and with every field that would change numbers and is not known here.
    """
    path = folder / CONFIG
    try:
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SurgeryError(f"load_peft: {path}: cannot be read ({error}); the model is as it was") from error
    return config_of(fields, f"load_peft: {path}")


def config_of(fields: Mapping[str, Any], who: str) -> PeftConfig:
    """The configuration that ``fields`` say; errors begin with ``who``."""
    problems = list(_problems(fields))
    if problems:
        raise SurgeryError("\n".join((f"{who}: the model is as it was; not supported are:", *problems)))
    if fields["peft_type"] == "IA3":
        return PeftConfig(
            "IA3",
            targets=fields.get("target_modules"),
            excluded=fields.get("exclude_modules"),
            feedforward=fields.get("feedforward_modules"),
            saved=tuple(fields.get("modules_to_save") or ()),
        )
    return PeftConfig(
        "LORA",
        rank=fields.get("r", 8),
        alpha=fields.get("lora_alpha", 8),
        rslora=bool(fields.get("use_rslora")),
        dora=bool(fields.get("use_dora")),
        dropout=float(fields.get("lora_dropout") or 0.0),
        pissa=fields.get("init_lora_weights") == "pissa",
        bias=fields.get("bias") or "none",
        targets=fields.get("target_modules"),
        excluded=fields.get("exclude_modules"),
        saved=tuple(fields.get("modules_to_save") or ()),
        layers=fields.get("layers_to_transform"),
        layers_pattern=fields.get("layers_pattern"),
        ranks=fields.get("rank_pattern"),
        alphas=fields.get("alpha_pattern"),
    )


def _problems(fields: Mapping[str, Any]) -> Iterable[str]:
    kind = fields.get("peft_type")
    if kind not in KINDS:
        yield f"peft_type={kind!r}; it is one of {', '.join(map(repr, KINDS))}"
        return
    for name, value in fields.items():
        if name not in TOLD | READ and value:
            yield f"{name}={value!r}, which changes what is computed or trained; leave the model to PEFT"
    start = fields.get("init_lora_weights")
    if start not in KEEPING and start != "pissa":
        yield f"init_lora_weights={start!r}, which has changed the base or what trains, beyond what the file says"
    if start == "pissa" and fields.get("use_dora"):
        yield "init_lora_weights='pissa' with use_dora=True"
    if (fields.get("bias") or "none") not in BIASES:
        yield f"bias={fields['bias']!r}; it is one of {', '.join(map(repr, BIASES))}"
    if fields.get("target_modules") in (None, "all-linear"):
        yield f"target_modules={fields.get('target_modules')!r}; PEFT writes the names of modules there"
