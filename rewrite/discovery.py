"""Which files are meant: those that are named, and the Python files in folders that are named."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rewrite.ignoring import REPOSITORY, Ignored, Patterns

PYTHON, NOTEBOOK = ".py", ".ipynb"
ENVIRONMENT = "pyvenv.cfg"  # stands in each virtual environment, whatever its folder is called
# folders that tools make, and code of others
EXCLUDED = (
    *(".git/", ".hg/", ".svn/", ".bzr/", ".venv*/", "venv/", ".direnv/", "site-packages/", "__pypackages__/"),
    *("__pycache__/", ".tox/", ".nox/", ".eggs/", "*.egg-info/", "build/", "_build/", "dist/", "buck-out/"),
    *(".mypy_cache/", ".ruff_cache/", ".pytest_cache/", ".pytype/", ".hypothesis/", ".ipynb_checkpoints/"),
    "node_modules/",
)


class MissingPathsError(FileNotFoundError):
    """Paths that were named are not there: ``paths`` are all of these.

    >>> print(MissingPathsError((Path("a.py"), Path("b c"))))
    no such file or folder: 'a.py', 'b c'
    """

    def __init__(self, paths: tuple[Path, ...]) -> None:
        super().__init__(paths)
        self.paths = paths

    def __str__(self) -> str:
        return f"no such file or folder: {', '.join(repr(str(path)) for path in self.paths)}"


@dataclass(frozen=True, order=True)
class Skipped:
    """A path that is left alone, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Discovery:
    """What was found, each in the order in which it was met.

    ``links`` are symbolic links that lead out of the repository, up, or nowhere; ``unreadable`` are folders and
    files that the system does not give. No file is there twice, whatever its names.
    """

    files: tuple[Path, ...] = ()
    notebooks: tuple[Path, ...] = ()
    links: tuple[Skipped, ...] = ()
    unreadable: tuple[Skipped, ...] = ()


def discover(paths: Sequence[Path], *, extend_exclude: Sequence[str] = (), anchor: Path | None = None) -> Discovery:
    """The files that ``paths`` name, in this order; folders are walked, sorted by name, for ``*.py``.

    A file that is named is taken, whatever it is called and whoever ignores it. In a folder, .gitignore files
    count, those around it up to the repository's root too; so do the usual names of folders that tools make.
    ``extend_exclude`` are more patterns in the form of .gitignore, for paths from ``anchor``, the current folder if
    that is None; ``!build/`` takes a usual name back. A folder that is named counts as not ignored, but
    ``extend_exclude`` may leave it out.

    A link to a file or folder elsewhere in the repository is followed; what a link leads to in the folder that is
    walked, is found under its own name. Raises `MissingPathsError` where a path is not there.
    """
    found = _Found()
    missing = tuple(path for path in paths if found.is_missing(path))
    if missing:
        raise MissingPathsError(missing)
    base = os.path.realpath(anchor or Path())
    for path in paths:
        if os.path.isdir(path):  # Path.is_dir raises where it may not look
            _Walk(path, base, extend_exclude, found).run()
        else:
            found.take(path)
    return Discovery(tuple(found.files), tuple(found.notebooks), tuple(found.links), tuple(found.unreadable))


@dataclass
class _Found:
    """What was met so far."""

    files: list[Path] = field(default_factory=list)
    notebooks: list[Path] = field(default_factory=list)
    links: list[Skipped] = field(default_factory=list)
    unreadable: list[Skipped] = field(default_factory=list)
    _taken: set[tuple[int, int]] = field(default_factory=set)

    def is_missing(self, path: Path) -> bool:
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError, ValueError):  # the last is for null bytes
            return True
        except OSError:
            return False  # it may be there; `take` says what is wrong
        return False

    def take(self, path: Path) -> None:
        """Note a file, unless it is there already, maybe by another name."""
        try:
            status = path.stat()
        except OSError as error:
            self.cannot_read(path, error)
            return
        if (status.st_dev, status.st_ino) in self._taken:
            return
        self._taken.add((status.st_dev, status.st_ino))
        if not path.is_file():
            self.unreadable.append(Skipped(path, "it is no regular file"))
        elif path.suffix == NOTEBOOK:
            self.notebooks.append(path)
        else:
            self.files.append(path)

    def cannot_read(self, path: Path | str, error: OSError) -> None:
        skipped = Skipped(Path(path), error.strerror or str(error))
        if skipped not in self.unreadable:
            self.unreadable.append(skipped)


class _Walk:
    """One folder that was named.

    A path is known twice: ``shown``, from where the user stands, and ``real``, where ``folder`` is resolved but no
    link below it; the latter is what patterns are about.
    """

    def __init__(self, folder: Path, anchor: str, extend_exclude: Sequence[str], found: _Found) -> None:
        self.shown = str(folder)
        self.real = os.path.realpath(folder)
        self.found = found
        self.repository = _repository_of(self.real) or self.real
        self.ignored = Ignored(self.repository, found.cannot_read)
        if self.real != self.repository and self.ignored.anywhere(self.real, folder=True):
            self.ignored = Ignored(self.real, found.cannot_read)  # to name a folder is to want it
        self.anchor = anchor if _is_inside(self.real, anchor) else self.real
        self.named = Patterns.of(extend_exclude)
        self.excluded = Patterns.of((*EXCLUDED, *extend_exclude))
        self.visited: set[tuple[int, int]] = set()

    def run(self) -> None:
        """Take all files, sorted by name in each folder; a list of what is left to do, so that depth costs nothing."""
        if any(self.named.decide(_from(self.anchor, each), folder=True) for each in _around(self.real, self.anchor)):
            return
        left = [(self.shown, self.real)]
        while left:
            shown, real = left.pop()
            if os.path.isdir(shown):
                left.extend(reversed(list(self._entries(shown, real))))
            else:
                self.found.take(Path(shown))

    def _entries(self, shown: str, real: str) -> Iterator[tuple[str, str]]:
        try:
            status = os.stat(shown)
            with os.scandir(shown) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            self.found.cannot_read(shown, error)
            return
        again = (status.st_dev, status.st_ino) in self.visited
        self.visited.add((status.st_dev, status.st_ino))
        if again or (real != self.real and any(entry.name == ENVIRONMENT for entry in entries)):
            return
        for entry in entries:
            path = os.path.join(real, entry.name)
            if self._is_meant(entry, path):
                yield entry.path, path

    def _is_meant(self, entry: os.DirEntry[str], path: str) -> bool:
        folder, link = os.path.isdir(entry.path), entry.is_symlink()  # is_dir() raises in a loop of links
        if not folder and not entry.name.endswith((PYTHON, NOTEBOOK)):
            return False
        if self.excluded.decide(_from(self.anchor, path), folder=folder):
            return False
        if self.ignored.entry(path, folder=folder and not link):  # to git, a link to a folder is a file
            return False
        return not link or self._follows(entry, folder=folder)

    def _follows(self, entry: os.DirEntry[str], *, folder: bool) -> bool:
        """Whether a link leads to where nothing else does."""
        target = os.path.realpath(entry.path)
        reason = None
        if not os.path.exists(target):
            reason = "a link that leads nowhere"
        elif not _is_inside(target, self.repository):
            reason = f"a link out of {self.repository}"
        elif _is_inside(self.real, target):
            reason = "a link to a folder around it"
        if reason is not None:
            self.found.links.append(Skipped(Path(entry.path), reason))
            return False
        if _is_inside(target, self.real):
            return not folder and not target.endswith((PYTHON, NOTEBOOK))
        around = _around(target, self.repository)
        excluded = any(self.excluded.decide(_from(self.anchor, each), folder=folder) for each in around)
        return not excluded and not self.ignored.anywhere(target, folder=folder)


def _repository_of(folder: str) -> str | None:
    for each in (Path(folder), *Path(folder).parents):
        if os.path.lexists(each / REPOSITORY):
            return str(each)
    return None


def _is_inside(path: str, folder: str) -> bool:
    """Whether ``path`` is ``folder`` or below it."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _around(path: str, top: str) -> Iterator[str]:
    """``path`` and the folders around it that are below ``top``."""
    return (str(each) for each in (Path(path), *Path(path).parents) if Path(top) in each.parents)


def _from(base: str, path: str) -> str:
    """``path`` as patterns at ``base`` see it; they see all of it where it is elsewhere."""
    return path[len(base) :].lstrip(os.sep).replace(os.sep, "/") if _is_inside(path, base) else path
