"""Tables of a TOML file, read key by key; all that is wrong with them is collected."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from computed.nearmiss import did_you_mean, near_misses

# how TOML calls what tomllib makes of it; dates and times are called by their Python names
TYPES = {dict: "a table", list: "an array", str: "a text", bool: "a boolean", int: "an integer", float: "a float"}


class ConfigurationError(ValueError):
    """Files of configuration are wrong: ``problems`` holds a sentence for each problem, all of them at once.

    >>> print(ConfigurationError(["pyproject.toml: tool.computed-surgery.style: expected a text, got an integer"]))
    1 problem in the configuration:
      pyproject.toml: tool.computed-surgery.style: expected a text, got an integer
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        count = f"{len(self.problems)} problem{'' if len(self.problems) == 1 else 's'} in the configuration"
        super().__init__("\n  ".join((f"{count}:", *self.problems)))

    # Unpickling calls an error with its message, which would count as one more problem.
    def __reduce__(self) -> tuple[type[ConfigurationError], tuple[tuple[str, ...]]]:
        return type(self), (self.problems,)


def load(file: Path, problems: list[str], *, must_exist: bool = True) -> dict[str, object]:
    """What the file holds; nothing where it cannot be read, for which there is a problem then."""
    try:
        return tomllib.loads(file.read_bytes().decode("utf-8-sig"))  # some editors begin a file with a mark
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        if must_exist:
            problems.append(f"{file}: {error.strerror}")
    except OSError as error:
        problems.append(f"{file}: {error.strerror}")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        problems.append(f"{file}: it is not UTF-8: {error.reason} in line {line}")
    except (ValueError, RecursionError) as error:  # nested too deeply, or a number with too many digits
        problems.append(f"{file}: it is no TOML: {error}")
    return {}


@dataclass(frozen=True)
class Table:
    """One table of ``file``, called ``name`` in messages; what is wrong with it goes into ``problems``."""

    file: Path
    name: str
    keys: Mapping[str, object]
    problems: list[str]

    @classmethod
    def of(cls, file: Path, name: str, value: object, problems: list[str]) -> Table:
        """The table that ``value`` is; an empty one, and a problem, where it is none."""
        if isinstance(value, dict):
            return cls(file, name, value, problems)
        table = cls(file, name, {}, problems)
        table.wrong("", "a table", value)
        return table

    def check_keys(self, known: Iterable[str], other_names: Mapping[str, str]) -> None:
        """A problem for each key that is none of ``known``; ``other_names`` say what else these are called."""
        names = tuple(known)
        for key in self.keys:
            if key not in names:
                misses = near_misses(key.replace("_", "-"), names, other_names)
                same = [name for name in names if name == key.replace("_", "-")]
                hint = did_you_mean(same or misses) or f"; known are {', '.join(names)}"
                self.problem(key, f"unknown key{hint}")

    def texts(self, key: str) -> tuple[str, ...]:
        """The array of texts at ``key``; an empty one where there is none."""
        value = self.keys.get(key, [])
        if isinstance(value, list) and all(isinstance(each, str) for each in value):
            return tuple(value)
        self.wrong(key, "an array of texts", value)
        return ()

    def text(self, key: str) -> str | None:
        """The text at ``key``; None where there is none."""
        value = self.keys.get(key)
        if value is None or isinstance(value, str):
            return value
        self.wrong(key, "a text", value)
        return None

    def wrong(self, key: str, expected: str, value: object) -> None:
        """Note that the value at ``key`` is of another type."""
        self.problem(key, f"expected {expected}, got {TYPES.get(type(value), type(value).__name__)}, {value!r}")

    def problem(self, key: str, reason: str) -> None:
        """Note what is wrong at ``key``, or with the whole table where that is empty."""
        place = ".".join(part for part in (self.name, key) if part)
        self.problems.append(": ".join(part for part in (str(self.file), place, reason) if part))
