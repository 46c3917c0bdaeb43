"""One counter of settings: a constraint that is set differently ends every hold."""

# a cell, so that the check of a held value reads it without a call
CELL = [0]


def advance() -> None:
    """Note that a setting of some constraint has changed."""
    CELL[0] += 1
