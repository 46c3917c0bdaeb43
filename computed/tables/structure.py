"""Built-in constraints: matrices of a form."""

from computed.entry import Entry, entry

ENTRIES: tuple[Entry, ...] = (
    entry("structure:Symmetric", "symmetric()", "equal to its transpose", also_called=("sym",)),
    entry(
        "structure:Skew",
        "skew()",
        "equal to minus its transpose",
        also_called=("skew_symmetric", "antisymmetric"),
    ),
    entry(
        "triangular:LowerTriangular",
        "lower_triangular(offset=0)",
        "zero above the diagonal",
        {"diagonal": "offset", "k": "offset"},
        ("tril", "triangular"),
    ),
    entry(
        "triangular:UpperTriangular",
        "upper_triangular(offset=0)",
        "zero below the diagonal",
        {"diagonal": "offset", "k": "offset"},
        ("triu",),
    ),
    entry(
        "definite:PositiveSemidefinite",
        "psd()",
        "symmetric, without negative eigenvalues",
        also_called=("positive_semidefinite", "semidefinite"),
    ),
    entry(
        "definite:PositiveDefinite",
        "positive_definite(floor=1e-06)",
        "symmetric, with eigenvalues of floor or more",
        {"eps": "floor", "min": "floor", "jitter": "floor"},
        ("pd", "spd"),
    ),
    entry(
        "cholesky:Cholesky", "cholesky()", "lower triangular with a positive diagonal", also_called=("lower_cholesky",)
    ),
    entry(
        "correlation:Correlation",
        "correlation()",
        "symmetric, without negative eigenvalues, ones on the diagonal",
        also_called=("corr", "corr_cholesky"),
    ),
    entry(
        "simplex:Simplex", "simplex(dim=-1)", "probabilities along dim", {"axis": "dim"}, ("softmax", "probabilities")
    ),
    entry(
        "simplex:DoublyStochastic",
        "doubly_stochastic(*, steps=20)",
        "rows and columns are probabilities",
        {"n_iter": "steps", "iterations": "steps"},
        ("birkhoff", "sinkhorn"),
    ),
    entry("toeplitz:Toeplitz", "toeplitz()", "one number for each diagonal"),
    entry("toeplitz:Circulant", "circulant()", "rows are the first one turned"),
    entry(
        "block_diagonal:BlockDiagonal",
        "block_diagonal(blocks)",
        "blocks along the diagonal, zero beside them",
        {"groups": "blocks", "n": "blocks"},
        ("block_diag",),
    ),
    entry(
        "kronecker:Kronecker",
        "kronecker(rows, columns)",
        "the Kronecker product of two smaller matrices",
        also_called=("kron",),
    ),
    entry(
        "slices:Concatenated",
        "cat(specs, sizes, *, dim=0)",
        "slices of some sizes along dim, each with a constraint of its own",
        {"tseq": "specs", "lengths": "sizes", "split_sizes": "sizes", "axis": "dim"},
        ("concat", "concatenate", "split"),
    ),
    entry(
        "slices:Stacked",
        "stack(specs, *, dim=0)",
        "each index along dim with a constraint of its own",
        {"tseq": "specs", "axis": "dim"},
        ("unbind",),
    ),
)
