"""The built-in constraints as a table: names, signatures and homes, so that specs are checked without torch.

A new constraint adds one `_entry` here; a test compares each with the signature of its class.
"""

from collections.abc import Mapping
from types import MappingProxyType

from computed.entry import Entry, parameters_of


def _entry(
    home: str,
    call: str,
    summary: str,
    misnomers: Mapping[str, str] = MappingProxyType({}),
    also_called: tuple[str, ...] = (),
) -> Entry:
    module, qualname = home.split(":")
    name, signature = call.removesuffix(")").split("(", 1)
    return Entry(
        name,
        f"computed.constraints.{module}",
        qualname,
        parameters_of(signature),
        summary,
        dict(misnomers),
        also_called,
    )


BUILT_IN: tuple[Entry, ...] = (
    _entry(
        "spectral:Spectral",
        "spectral(norm=None, *, bound=None, n_power_iterations=1, eps=1e-12, dim=None)",
        "the largest singular value is set to norm (1.0 where nothing is said), or capped at bound",
        {
            "sigma": "norm",
            "value": "norm",
            "max": "bound",
            "max_norm": "bound",
            "lipschitz": "bound",
            "power_iterations": "n_power_iterations",
            "n_iter": "n_power_iterations",
            "axis": "dim",
        },
        ("spectral_norm", "sn", "lipschitz"),
    ),
    _entry(
        "operator_norm:OperatorScale",
        "operator_norm(norm=None, *, bound=None, n_power_iterations=1, eps=1e-12, stride=None, groups=None)",
        "the norm of a convolution as an operator, on images of any size, is set to norm (1.0), or capped at bound",
        {
            "max": "bound",
            "max_norm": "bound",
            "lipschitz": "bound",
            "power_iterations": "n_power_iterations",
            "n_iter": "n_power_iterations",
        },
        ("conv_norm", "lconv_norm", "conv_spectral", "conv_spectral_norm"),
    ),
    _entry(
        "orthogonal:Orthogonal",
        "orthogonal(*, dim=None)",
        "orthonormal columns, or rows where there are fewer of them",
        also_called=("orthonormal", "stiefel", "unitary"),
    ),
    _entry(
        "elementwise:Positive",
        "positive()",
        "every entry above zero",
        also_called=("softplus", "nonnegative", "non_negative"),
    ),
    _entry(
        "elementwise:GreaterThan",
        "greater_than(bound)",
        "every entry above bound",
        {"low": "bound", "lower": "bound", "lower_bound": "bound", "min": "bound", "minimum": "bound"},
        ("at_least", "lower_bound"),
    ),
    _entry(
        "elementwise:Interval",
        "interval(low, high)",
        "every entry between low and high",
        {
            "lower": "low",
            "lower_bound": "low",
            "min": "low",
            "upper": "high",
            "upper_bound": "high",
            "max": "high",
        },
        ("box", "between", "clamp"),
    ),
    _entry(
        "norms:UnitScale",
        "unit_norm(dim=0, *, eps=1e-12)",
        "every slice along dim has length one",
        {"axis": "dim"},
        ("unit", "normalized", "sphere"),
    ),
    _entry(
        "norms:WeightScale",
        "weight_norm(dim=0)",
        "length g and direction v of every slice along dim, trained apart",
        {"axis": "dim"},
        ("weight_normalization", "wn"),
    ),
    _entry("structure:Symmetric", "symmetric()", "equal to its transpose", also_called=("sym",)),
    _entry(
        "structure:Skew",
        "skew()",
        "equal to minus its transpose",
        also_called=("skew_symmetric", "antisymmetric"),
    ),
    _entry(
        "adapters:LoRA",
        "lora(rank, *, alpha=None, seed=None, dim=None)",
        "the weight as it is, fixed, plus a trained product of two thin matrices",
        {"r": "rank", "lora_rank": "rank", "lora_alpha": "alpha"},
        ("low_rank", "adapter"),
    ),
)
