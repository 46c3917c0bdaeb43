"""How a built-in constraint is written: its repr and its spec come from one description of its settings."""

from typing import ClassVar

from computed.spec import Call


class Described:
    """Writes ``repr`` and ``spec`` of a constraint from the arguments that make an equal one."""

    spec_name: ClassVar[str]

    def settings(self) -> dict[str, object]:
        """The arguments that make an equal constraint; what is at its default may be left out."""
        return {}

    def extra_repr(self) -> str:
        """The settings, as they are written in a call."""
        return ", ".join(f"{name}={value!r}" for name, value in self.settings().items())

    def spec(self) -> str:
        """The text that makes an equal constraint."""
        return str(Call(self.spec_name, (), tuple(self.settings().items())))
