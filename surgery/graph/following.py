"""Functions whose result depends on a mode by an argument, and the modules that know their mode by themselves."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F


class DotProductAttention(nn.Module):
    """`F.scaled_dot_product_attention` that drops attention in training alone."""

    def __init__(self, dropout_p: float, is_causal: bool, scale: float | None, enable_gqa: bool) -> None:
        super().__init__()
        self.dropout_p = dropout_p
        self.is_causal = is_causal
        self.scale = scale
        self.enable_gqa = enable_gqa

    def forward(self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """The attention."""
        dropped = self.dropout_p if self.training else 0.0
        return F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask,
            dropped,
            self.is_causal,
            scale=self.scale,
            enable_gqa=self.enable_gqa,
        )

    def extra_repr(self) -> str:
        """Its settings."""
        return f"dropout_p={self.dropout_p}, is_causal={self.is_causal}"


@dataclass(frozen=True)
class Following:
    """How a function is done by a module that follows the mode.

    ``defaults`` are its arguments in order, ``inputs`` those that a call of the module has; ``mode`` is the argument
    that differs, and ``make`` makes the module from all others and from the value of ``mode`` in training.
    """

    defaults: Mapping[str, Any]
    inputs: tuple[str, ...]
    mode: str
    make: Callable[[Mapping[str, Any]], nn.Module]

    def bound(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call by name."""
        return {**self.defaults, **dict(zip(self.defaults, args, strict=False)), **kwargs}

    def by_mode(self, training: Any, evaluation: Any) -> bool:
        """Whether these are the values of ``mode`` in training and in eval that the module stands for."""
        if self.mode == "training":
            return training is True and evaluation is False
        return isinstance(training, float | int) and not isinstance(training, bool) and evaluation == 0


def _dropout(kind: Callable[..., nn.Module], *, training: bool = True) -> Following:
    defaults = {"input": None, "p": 0.5, "training": training, "inplace": False}
    return Following(defaults, ("input",), "training", lambda given: kind(given["p"], inplace=given["inplace"]))


_ATTENTION = {"is_causal": False, "scale": None, "enable_gqa": False}

FOLLOWING: Mapping[Callable[..., Any], Following] = {
    F.dropout: _dropout(nn.Dropout),
    F.dropout1d: _dropout(nn.Dropout1d),
    F.dropout2d: _dropout(nn.Dropout2d),
    F.dropout3d: _dropout(nn.Dropout3d),
    F.alpha_dropout: _dropout(nn.AlphaDropout, training=False),
    F.feature_alpha_dropout: _dropout(nn.FeatureAlphaDropout, training=False),
    F.scaled_dot_product_attention: Following(
        {"query": None, "key": None, "value": None, "attn_mask": None, "dropout_p": 0.0, **_ATTENTION},
        ("query", "key", "value", "attn_mask"),
        "dropout_p",
        lambda given: DotProductAttention(float(given["dropout_p"]), *(given[name] for name in _ATTENTION)),
    ),
}
