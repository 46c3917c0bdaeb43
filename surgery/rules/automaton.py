"""One automaton for patterns: a live model runs names through it, a source file sets of states.

A pattern is a union of *words*, each a sequence of *steps*. Words that begin alike share their nodes; the
automaton over these nodes is made deterministic a state at a time, as characters arrive, and what was made is
kept.

A set of states is a value: `Automaton.start`, `Automaton.step` (states after a character), `State.accepting`
and `State.dead` are all that is needed to follow a name of which only parts are known. Such an unknown part
ranges over all characters, and `Automaton.symbols` holds one character for each class that the automaton can
tell apart: to follow "any text" from a set of states, step by every symbol until nothing new is reached; "any
name" leaves out the dot; "any number" takes the symbols that are digits.
"""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from itertools import chain


@dataclass(frozen=True)
class Characters:
    """A set of characters: ranges of code points, or, ``inverted``, all others but the dot."""

    ranges: tuple[tuple[int, int], ...] = ()
    inverted: bool = False

    def __contains__(self, char: str) -> bool:
        point = ord(char)
        inside = any(low <= point <= high for low, high in self.ranges)
        return inside is not self.inverted and not (self.inverted and char == ".")


ANYTHING = Characters(((0, 0x10FFFF),))
IN_NAME = Characters(inverted=True)
DOT = Characters(((ord("."), ord(".")),))


class Loop(Enum):
    """A step that takes any number of characters, none included."""

    IN_NAME = "all but dots"
    ANYTHING = "all"
    NAMES = "all, but the last one is a dot: any number of whole names, each with the dot after it"


Step = Characters | Loop
Word = tuple[Step, ...]


@dataclass
class _Node:
    """A place in the words: what may come next. ``free`` are the places reached without a character."""

    following: dict[Step, int] = field(default_factory=dict)
    edges: list[tuple[Characters, int]] = field(default_factory=list)
    free: list[int] = field(default_factory=list)
    final: bool = False


@dataclass(frozen=True, eq=False)
class State:
    """A state of the deterministic automaton: where in the words a name may be after the characters read.

    Two states of one automaton are the same exactly if they are one object. ``accepting``: what was read so
    far is a match; ``dead``: no more characters can make it one.
    """

    nodes: frozenset[int]
    accepting: bool
    following: dict[str, "State"] = field(default_factory=dict, repr=False)

    @property
    def dead(self) -> bool:
        """Nothing that follows can become a match."""
        return not self.nodes


class Automaton:
    """The automaton that accepts the texts which at least one of ``words`` describes."""

    start: State
    symbols: tuple[str, ...]

    def __init__(self, words: Iterable[Word]) -> None:
        self._nodes = [_Node()]
        for word in words:
            self._nodes[self._enter(word)].final = True
        self.symbols = self._tell_apart()
        self._states: dict[frozenset[int], State] = {}
        self.start = self._state([0])

    def accepts(self, text: str) -> bool:
        """Whether the whole of ``text`` is described."""
        return self.after(self.start, text).accepting

    def after(self, state: State, text: str) -> State:
        """The state that is reached from ``state`` by all of ``text``."""
        for char in text:
            if state.dead:
                return state
            state = state.following.get(char) or self._follow(state, char)
        return state

    def step(self, states: frozenset[State], char: str) -> frozenset[State]:
        """The states that are reached from any of ``states`` by one character."""
        return frozenset(state.following.get(char) or self._follow(state, char) for state in states)

    def states(self) -> tuple[State, ...]:
        """Every state that some text reaches, the start first.

        There can be exponentially many: this is for looking at small patterns, `step` makes only what it
        meets.
        """
        reached = dict.fromkeys((self.start,))
        waiting = [self.start]
        while waiting:
            here = frozenset((waiting.pop(),))
            new = {state for symbol in self.symbols for state in self.step(here, symbol)} - reached.keys()
            waiting += new
            reached.update(dict.fromkeys(new))
        return tuple(reached)

    def symbol(self, char: str) -> str:
        """The one of `symbols` that no state can tell from ``char``."""
        return self.symbols[bisect_right(self.symbols, char) - 1]

    def _enter(self, word: Word) -> int:
        node = 0
        for step in word:
            following = self._nodes[node].following
            node = following[step] if step in following else self._grow(node, step)
        return node

    def _grow(self, node: int, step: Step) -> int:
        """Make the place after ``step`` from ``node``, and what leads there."""
        target = self._new_node()
        self._nodes[node].following[step] = target
        match step:
            case Characters():
                self._nodes[node].edges.append((step, target))
            case Loop.NAMES:
                inside = self._new_node()
                self._nodes[inside].edges += [(ANYTHING, inside), (DOT, target)]
                self._nodes[node].free += [inside, target]
            case Loop.IN_NAME | Loop.ANYTHING:
                allowed = IN_NAME if step is Loop.IN_NAME else ANYTHING
                self._nodes[target].edges.append((allowed, target))
                self._nodes[node].free.append(target)
        return target

    def _new_node(self) -> int:
        self._nodes.append(_Node())
        return len(self._nodes) - 1

    def _follow(self, state: State, char: str) -> State:
        reached = (target for node in state.nodes for allowed, target in self._nodes[node].edges if char in allowed)
        return state.following.setdefault(char, self._state(reached))

    def _state(self, nodes: Iterable[int]) -> State:
        waiting, closure = list(nodes), set[int]()
        while waiting:
            node = waiting.pop()
            if node not in closure:
                closure.add(node)
                waiting += self._nodes[node].free
        key = frozenset(closure)
        accepting = any(self._nodes[node].final for node in key)
        return self._states.setdefault(key, State(key, accepting))  # one object, from several threads too

    def _tell_apart(self) -> tuple[str, ...]:
        """The first character of each stretch of code points in which every step treats all alike."""
        steps = (edge[0].ranges for node in self._nodes for edge in node.edges)
        ends = chain(((ord("."), ord(".")), (ord("0"), ord("9"))), chain.from_iterable(steps))
        bounds = {0, *chain.from_iterable((low, high + 1) for low, high in ends)}
        return tuple(chr(bound) for bound in sorted(bounds) if bound <= 0x10FFFF)
