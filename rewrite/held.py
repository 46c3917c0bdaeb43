"""Calls that torch's own norms and parametrizations take: their parameters are computed already."""

from __future__ import annotations

import ast

from rewrite.project import Project
from rewrite.sites import Site

NORMS = {
    "torch.nn.utils.spectral_norm": "weight",
    "torch.nn.utils.weight_norm": "weight",
    "torch.nn.utils.parametrizations.spectral_norm": "weight",
    "torch.nn.utils.parametrizations.weight_norm": "weight",
    "torch.nn.utils.parametrizations.orthogonal": "weight",
    "torch.nn.utils.parametrize.register_parametrization": None,
}


def held_by_torch(project: Project, site: Site, name: str) -> str | None:
    """The function of torch around the call of ``site`` that takes ``name``, or may; None where there is none."""
    parent = site.file.parents.get(site.node)
    if not (isinstance(parent, ast.Call) and parent.args and parent.args[0] is site.node):
        return None
    full_name = project.full_name(site.file, parent.func)
    if full_name not in NORMS:
        return None
    taken: object = NORMS[full_name]
    given = [each.value for each in parent.keywords if each.arg == "name"] or parent.args[1:2]
    if given:
        taken = given[0].value if isinstance(given[0], ast.Constant) else None
    return full_name if taken in (None, name) else None
