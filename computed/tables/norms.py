"""Built-in constraints: lengths and means of slices."""

from computed.entry import Entry, entry

ENTRIES: tuple[Entry, ...] = (
    entry(
        "norms:UnitScale",
        "unit_norm(dim=0, *, eps=1e-12)",
        "every slice along dim has length one",
        {"axis": "dim"},
        ("unit", "normalized"),
    ),
    entry(
        "norms:WeightScale",
        "weight_norm(dim=0)",
        "length g and direction v of every slice along dim, trained apart",
        {"axis": "dim"},
        ("weight_normalization", "wn"),
    ),
    entry(
        "max_scale:MaxScale",
        "max_norm(bound, *, dim=0)",
        "every slice along dim is no longer than bound",
        {"axis": "dim", "max_value": "bound", "max_norm": "bound", "maxnorm": "bound"},
        ("maxnorm", "renorm"),
    ),
    entry(
        "max_scale:ScaleRange",
        "min_max_norm(low, high, *, dim=0)",
        "the length of every slice along dim is between low and high",
        {"axis": "dim", "min_value": "low", "max_value": "high"},
        ("minmax_norm",),
    ),
    entry(
        "sphere:Sphere",
        "sphere(radius=1.0, *, dim=0)",
        "every slice along dim has length radius",
        {"axis": "dim", "r": "radius", "norm": "radius"},
        ("oblique",),
    ),
    entry(
        "sphere:Frobenius",
        "frobenius(norm=1.0)",
        "the whole weight has length norm",
        {"radius": "norm", "bound": "norm"},
        ("frobenius_norm", "fro"),
    ),
    entry(
        "standardized:Centred",
        "centred(dim=0)",
        "every slice along dim has mean zero",
        {"axis": "dim"},
        ("centered", "zero_mean", "zero_sum"),
    ),
    entry(
        "standardized:Standardized",
        "weight_standardization(dim=0)",
        "every slice along dim has mean zero and variance one",
        {"axis": "dim"},
        ("standardized", "ws", "weight_standardisation"),
    ),
    entry(
        "standardized:ScaledStandardized",
        "scaled_weight_standardization(dim=0)",
        "every slice along dim has mean zero, and a length that is trained apart",
        {"axis": "dim"},
        ("scaled_ws", "scaled_weight_standardisation"),
    ),
    entry(
        "sigma_gain:Gain",
        "gain(*, dim=None)",
        "a trained number times the raw, at first the largest singular value",
        also_called=("sigma_reparam", "sigmareparam"),
    ),
)
