"""Built-in constraints: entries by themselves."""

from computed.entry import Entry, entry

ENTRIES: tuple[Entry, ...] = (
    entry(
        "elementwise:Positive",
        "positive()",
        "every entry above zero",
        also_called=("softplus",),
    ),
    entry(
        "elementwise:GreaterThan",
        "greater_than(bound)",
        "every entry above bound",
        {"low": "bound", "lower": "bound", "lower_bound": "bound", "min": "bound", "minimum": "bound"},
        ("at_least", "lower_bound"),
    ),
    entry(
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
    entry(
        "less_than:LessThan",
        "less_than(bound)",
        "every entry below bound",
        {"high": "bound", "upper": "bound", "upper_bound": "bound", "max": "bound", "maximum": "bound"},
        ("at_most", "upper_bound"),
    ),
    entry(
        "nonnegative:NonNegative",
        "nonnegative(*, map='abs')",
        "no entry below zero",
        also_called=("non_negative", "nonneg", "relu"),
    ),
    entry("exponential:Exponential", "exp()", "every entry above zero, by its logarithm", also_called=("log_scale",)),
    entry(
        "bounded:Bounded",
        "bounded(limit, *, map='tanh')",
        "no entry larger than limit, up or down",
        {"bound": "limit", "max": "limit", "c": "limit"},
        ("tanh", "clip"),
    ),
    entry(
        "monotone:Monotone",
        "monotone(signs=1)",
        "the signs of entries are given",
        {"sign": "signs", "constraints": "signs"},
        ("monotonic", "signed"),
    ),
    entry("ordered:Ordered", "ordered(dim=-1)", "entries rise along dim", {"axis": "dim"}, ("ascending", "increasing")),
    entry(
        "powerprop:PowerPropagation",
        "powerprop(exponent=2.0)",
        "a power of the raw, which makes weights sparse",
        {"alpha": "exponent", "power": "exponent"},
        ("power", "powerpropagation"),
    ),
    entry(
        "affine:Affine",
        "affine(scale, *, shift=0.0)",
        "a raw in other units",
        {"loc": "shift", "bias": "shift", "gain": "scale"},
        ("scale", "linear"),
    ),
    entry(
        "affine:EqualizedRate",
        "equalized_lr(gain=1.0, *, dim=0)",
        "a raw over the root of its fan-in",
        {"axis": "dim", "lr_mul": "gain"},
        ("equalized", "equalized_learning_rate", "equal_lr"),
    ),
)
