"""The errors of surgery: each says who, what it got and what to do; those of a plan all at once."""

from collections.abc import Sequence


class SurgeryError(RuntimeError):
    """A change of a model that cannot be done."""


class PlanError(SurgeryError, ValueError):
    """A plan has problems: ``problems`` holds one text for each, all of them; the model is untouched."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        count = f"{len(self.problems)} problem" + ("" if len(self.problems) == 1 else "s")
        super().__init__("\n".join((f"{count}, nothing was changed:", *(f"  - {text}" for text in self.problems))))

    def __reduce__(self) -> tuple[type["PlanError"], tuple[tuple[str, ...]]]:
        """Pickle by the problems: the message is made from them."""
        return type(self), (self.problems,)


class UndoError(SurgeryError):
    """There is nothing to take back, or the model is no longer what the change left."""


class StaleOptimizerError(SurgeryError):
    """An optimizer is about to step that holds replaced Parameters, while none holds those in their place."""


class TraceRefusedError(SurgeryError):
    """A model that cannot be traced, or whose graph would be silently wrong."""
