"""Weights that another library has quantised: why no constraint can start from them."""

from surgery.finding import Found

LIBRARIES = ("torchao", "bitsandbytes")


def quantised_refusals(found: Found) -> list[str]:
    """Why a tensor of a quantising library cannot be computed: it has codes and scales, and no memory of numbers."""
    kind = type(found.subject)
    library = kind.__module__.partition(".")[0]
    if library not in LIBRARIES:
        return []
    return [
        f"is quantised by {library} ({kind.__name__}): codes and scales, which cannot be watched, written to or fixed "
        f"as a base; constrain the float model, and quantise what surgery.bake gives; adapters upon a quantised base "
        f"are PEFT's"
    ]
