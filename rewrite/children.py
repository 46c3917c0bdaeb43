"""Modules that get further names because somebody asks another one for all its children, and keeps them."""

from __future__ import annotations

import rewrite.known_calls as known
from rewrite.classes import Classes
from rewrite.flow import Flow
from rewrite.index import Index
from rewrite.items import INDEX, SOME_NAME
from rewrite.places import Pair


def hands_on_children(classes: Classes, index: Index) -> bool:
    """Whether ``nn.Sequential(*list(net.children())[:-1])`` or the like is there: any module may be meant."""
    flow = Flow(classes, index, open_world=False)
    for file in classes.project.files:
        for name in known.CHILDREN_OF:
            for read in file.attributes.get(name, ()):
                below = (INDEX, Pair(SOME_NAME)) if name in known.PAIRS else (INDEX,)
                call = file.parents[read]
                if flow.places(file, call, below):
                    return True
    return False
