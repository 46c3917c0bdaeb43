"""Built-in constraints: a fixed weight, changed by few trained numbers."""

from computed.entry import Entry, entry

LORA_NAMES = {"r": "rank", "lora_rank": "rank", "lora_alpha": "alpha", "use_rslora": "rslora"}

ENTRIES: tuple[Entry, ...] = (
    entry(
        "adapters:LoRA",
        "lora(rank, *, alpha=None, rslora=False, init='kaiming', dropout=0.0, seed=None, dim=None)",
        "the weight as it is, fixed, plus a trained product of two thin matrices",
        LORA_NAMES | {"lora_dropout": "dropout", "init_lora_weights": "init"},
        ("adapter",),
    ),
    entry(
        "dora:DoRA",
        "dora(rank, *, alpha=None, rslora=False, seed=None, dim=None)",
        "a low-rank adapter of directions, with lengths trained apart",
        LORA_NAMES,
    ),
    entry(
        "products:LoHa",
        "loha(rank, *, alpha=None, seed=None, dim=None)",
        "the weight as it is, fixed, plus a product of products entry by entry",
        {"r": "rank"},
        ("hadamard",),
    ),
    entry(
        "products:LoKr",
        "lokr(rank, *, alpha=None, factor=8, seed=None, dim=None)",
        "the weight as it is, fixed, plus a Kronecker product",
        {"r": "rank", "decompose_factor": "factor"},
    ),
    entry(
        "strengths:VeRA",
        "vera(rank, *, seed=None, dim=None)",
        "the weight as it is, fixed, plus a fixed product scaled by two trained vectors",
        {"r": "rank"},
    ),
    entry(
        "strengths:DeLoRA",
        "delora(rank, *, seed=None, dim=None)",
        "the weight as it is, fixed, plus a product whose strength is trained apart",
        {"r": "rank"},
    ),
    entry(
        "rotations:OFT",
        "oft(block=4, *, dim=None)",
        "the weight as it is, fixed, its inputs turned in blocks",
        {"block_size": "block", "oft_block_size": "block"},
    ),
    entry(
        "rotations:BOFT",
        "boft(block=4, *, factors=2, dim=None)",
        "the weight as it is, fixed, its inputs turned by butterflies",
        {"block_size": "block", "boft_block_size": "block", "n_butterfly_factor": "factors"},
    ),
    entry(
        "reflections:HRA",
        "hra(reflections=8, *, seed=None, dim=None)",
        "the weight as it is, fixed, its inputs reflected",
        {"r": "reflections"},
        ("householder",),
    ),
    entry(
        "gains:IA3",
        "ia3(*, inputs=False, dim=None)",
        "the weight as it is, fixed, times a gain for each row or column",
        {"is_feedforward": "inputs", "feedforward": "inputs"},
    ),
)
