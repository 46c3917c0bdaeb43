"""What a graph has of a branch on sizes: that it is taken as on the example."""

from torch.fx.node import has_side_effect


def decided(condition: bool, expected: bool, told: str) -> None:
    """Raise ValueError where a condition is not what it was on the example; TorchScript takes this too."""
    # by the condition alone: a symbolic one cannot be compared with a bool
    if expected:
        if not condition:
            raise ValueError(told)
    elif condition:
        raise ValueError(told)


# nothing uses its result, and it must stay in the graph
has_side_effect(decided)
