"""One counter of settings and modes: it moves whenever any constraint is set differently.

A hold whose settings are what they were when the counter stood where it stands need not look at them.
"""

# a cell, so that the check of a held value reads it without a call
CELL = [0]


def advance() -> None:
    """Note that a setting or the mode of some constraint has changed."""
    CELL[0] += 1
