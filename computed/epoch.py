"""One counter of settings: a constraint that is set differently ends every hold."""

_count = 0


def advance() -> None:
    """Note that a setting of some constraint has changed."""
    global _count  # noqa: PLW0603 - one counter for the process is the point of this file
    _count += 1


def current() -> int:
    """The number of changes so far."""
    return _count
