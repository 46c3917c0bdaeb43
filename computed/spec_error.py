"""The error of specs: a text that is no chain of calls, or a call that its constraint cannot take."""


class SpecError(ValueError):
    """A spec is wrong: ``reason`` says how, ``text`` is the spec, ``position`` the offset in it, where known.

    >>> print(SpecError("nothing follows the last '|'", "skew |", 6))
    spec 'skew |', column 7: nothing follows the last '|'
    """

    # Text and position have defaults since unpickling calls an error with its message alone.
    def __init__(self, reason: str, text: str | None = None, position: int | None = None) -> None:
        column = "" if position is None else f", column {position + 1}"
        super().__init__(reason if text is None else f"spec {text!r}{column}: {reason}")
        self.reason = reason
        self.text = text
        self.position = position


class UnknownConstraintError(SpecError):
    """No constraint has this name."""
