"""Built-in constraints: zeros, and entries on a grid."""

from computed.entry import Entry, entry

ENTRIES: tuple[Entry, ...] = (
    entry(
        "masks:Mask",
        "mask(sparsity, *, dim=None, scope='site', share=None)",
        "a share of entries, or of slices along dim, is zero",
        {"amount": "sparsity", "axis": "dim"},
        ("prune", "sparse", "magnitude", "global_unstructured"),
        {"scope": "rule", "share": None},
    ),
    entry(
        "masks:SparsePattern",
        "n_m(n=2, m=4, *, dim=1)",
        "of every m neighbours no more than n are not zero",
        also_called=("semi_structured", "structured_sparsity"),
    ),
    entry(
        "soft_threshold:SoftThreshold",
        "soft_threshold(threshold)",
        "raws up to threshold in size give zero",
        {"lambd": "threshold", "t": "threshold"},
        ("shrink", "softshrink", "str"),
    ),
    entry(
        "quantised:FakeQuant",
        "fake_quant(bits=8, *, dim=0, group=None, scale='absmax', narrow=True)",
        "entries on a grid, as integers of some bits hold them",
        {"axis": "dim", "ch_axis": "dim", "group_size": "group", "n_bits": "bits", "narrow_range": "narrow"},
        ("qat", "quantize", "fake_quantize", "int8"),
    ),
    entry(
        "learned_step:LearnedStep",
        "lsq(bits=8, *, dim=0, group=None)",
        "entries on a grid whose scale is trained",
        {"axis": "dim", "group_size": "group", "n_bits": "bits"},
        ("learned_step",),
    ),
    entry("few_levels:Binary", "binary(dim=0)", "entries of one size", {"axis": "dim"}, ("xnor", "binarize", "sign")),
    entry("few_levels:Ternary", "ternary(dim=0)", "entries of one size, or zero", {"axis": "dim"}, ("bitnet", "twn")),
)
