"""Built-in constraints: singular values and rank."""

from computed.entry import Entry, entry

ENTRIES: tuple[Entry, ...] = (
    entry(
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
    entry(
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
    entry(
        "orthogonal:Orthogonal",
        "orthogonal(*, dim=None)",
        "orthonormal columns, or rows where there are fewer of them",
        also_called=("orthonormal", "stiefel", "unitary"),
    ),
    entry(
        "low_rank:LowRank",
        "low_rank(rank, *, dim=None)",
        "the product of two thin matrices",
        {"r": "rank"},
        ("lowrank", "svd"),
    ),
    entry(
        "singular_values:SingularClip",
        "singular_clip(bound=1.0, *, dim=None)",
        "no singular value above bound, by cutting them off",
        {"max": "bound", "norm": "bound"},
        ("clip_singular_values", "spectral_clip"),
    ),
    entry(
        "singular_values:AlmostOrthogonal",
        "almost_orthogonal(deviation, *, dim=None)",
        "all singular values within deviation of one",
        {"lam": "deviation", "eps": "deviation"},
    ),
    entry(
        "singular_values:Polar",
        "bjorck(*, dim=None)",
        "the orthonormal factor that is nearest to the raw",
        also_called=("polar", "newton_schulz"),
    ),
    entry(
        "tucker:Tucker",
        "tucker(rank)",
        "a core between two matrices",
        {"ranks": "rank", "share": "rank"},
        ("tucker2", "hosvd"),
    ),
    entry(
        "polyadic:Polyadic",
        "cp(rank)",
        "a sum of products of vectors",
        {"ranks": "rank", "share": "rank"},
        ("parafac", "candecomp", "polyadic"),
    ),
    entry(
        "tensor_train:TensorTrain",
        "tensor_train(rank)",
        "a train of four cores, for two-dimensional convolutions",
        {"ranks": "rank", "share": "rank"},
        ("tt",),
    ),
)
