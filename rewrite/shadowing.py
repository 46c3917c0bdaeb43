"""Rewritten texts that are imported in the place of files, which stay as they are."""

from __future__ import annotations

import linecache
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import CodeType, ModuleType


class Shadow(MetaPathFinder):
    """Finds modules as the others do; those of certain files get another text. ``used`` are the files so imported."""

    def __init__(self, texts: Mapping[str, bytes]) -> None:
        self.used: set[str] = set()
        self._texts = {os.path.realpath(path): text for path, text in texts.items()}

    def install(self) -> None:
        """Stand before all other finders."""
        sys.meta_path.insert(0, self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module as others find it, read from another text if there is one for its file."""
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                text = self._texts.get(os.path.realpath(spec.origin)) if spec.origin is not None else None
                if text is not None and spec.origin is not None:
                    self.used.add(os.path.realpath(spec.origin))
                    spec.loader = _Loader(fullname, spec.origin, text)
                return spec
        return None


class _Loader(SourceFileLoader):
    """Reads a text that is given, and neither reads nor writes compiled files."""

    def __init__(self, fullname: str, path: str, text: bytes) -> None:
        super().__init__(fullname, path)
        self._text = text

    def get_code(self, fullname: str) -> CodeType:
        decoded = self.source_to_code(self._text, self.path)
        lines = self._text.decode(errors="replace").splitlines(keepends=True)
        # tracebacks and `inspect` show these lines: without a time, nothing looks whether the file has others
        linecache.cache[self.path] = len(self._text), None, lines, self.path
        return decoded
