"""The files of a project as migration rules read them: their classes, and where functions of old idioms are named."""

from __future__ import annotations

from rewrite.classes import Classes
from rewrite.migration.references import Reference, references
from rewrite.project import Project
from rewrite.scopes import Scoped

WORDS = ("_norm", "parametriz", "geotorch")


class Tree:
    """A project that is migrated to ``target``: "surgery", or "torch" for its own parametrizations."""

    def __init__(self, project: Project, target: str) -> None:
        self.project = project
        self.target = target
        self.classes = Classes.of(project)
        # a file may have them under a name of its own, from another one
        named = any(word in file.source.text for file in project.files for word in WORDS)
        self._references = {file: list(references(project, file)) if named else [] for file in project.files}

    def references(self, file: Scoped) -> list[Reference]:
        """The places of a file that name a known function."""
        return self._references[file]
