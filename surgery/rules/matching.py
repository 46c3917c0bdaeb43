"""Which names of a model a pattern matches: all of them at once, what they have in common is read once."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from surgery.rules.automaton import Automaton, State
from surgery.rules.pattern import Pattern


class Name(NamedTuple):
    """One dotted name, the class names of its host's method resolution order, and whether it is a buffer's."""

    text: str
    host_types: tuple[str, ...] = ()
    buffer: bool = False


class Names:
    """The names of a model.

    >>> names = Names([Name("conv.weight"), Name("fc.weight"), Name("fc.bias"), Name("fc.count", buffer=True)])
    >>> names.matched(Pattern.parse("fc.*")), names.matched(Pattern.parse("*.count"))
    ([1, 2], [3])
    """

    def __init__(self, names: Iterable[Name]) -> None:
        self.all = tuple(names)
        self._places = [name.text.rpartition(".") for name in self.all]

    def __len__(self) -> int:
        return len(self.all)

    def matched(self, pattern: Pattern, *, any_buffer: bool = False) -> list[int]:
        """The positions of the names that ``pattern`` matches, in order.

        A buffer's only where the pattern writes the last name out, unless ``any_buffer``.
        """
        rows: Iterable[int] = range(len(self.all))
        if not (pattern.names_leaf or any_buffer):
            rows = [row for row in rows if not self.all[row].buffer]
        if pattern.host_type is not None:
            rows = self._hosted(pattern.host_type, rows)
        if pattern.automaton is None:
            return [row for row in rows if pattern.matches(self.all[row].text)]
        return list(self._accepted(pattern.automaton, rows))

    def _hosted(self, host_type: Automaton, rows: Iterable[int]) -> list[int]:
        kinds = {name.host_types for name in self.all}
        right = {types for types in kinds if any(map(host_type.accepts, types))}
        return [row for row in rows if self.all[row].host_types in right]

    def _accepted(self, automaton: Automaton, rows: Iterable[int]) -> Iterator[int]:
        after_host: dict[str, State] = {}
        read: dict[tuple[State, str], State] = {}

        def after(state: State, text: str) -> State:
            key = (state, text)
            found = read.get(key)
            if found is None:
                found = read[key] = automaton.after(state, text)
            return found

        for row in rows:
            host, dot, last = self._places[row]
            state = automaton.start if not dot else after_host.get(host)
            if state is None:
                state = automaton.start
                for name in host.split("."):
                    state = after(state, f"{name}.")
                after_host[host] = state
            if not state.dead and after(state, last).accepting:
                yield row
