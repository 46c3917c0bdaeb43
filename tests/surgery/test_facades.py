"""The public names: all there, twice the same, listed; none of them draws from a global generator."""

from __future__ import annotations

import ast
import importlib
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import ExpTransform
from torch.nn.utils import parametrizations

import surgery
from computed.constraints.conversions import function
from computed.constraints.orthogonal import Orthogonal
from computed.registry import catalogue
from tests.surgery.catalogue import CONVOLUTIONAL, SPEC_OF
from tests.surgery.models import SPECS, SQUARE_SPECS

ROOT = Path(__file__).parents[2]
PACKAGES = ("computed", "surgery", "rewrite")
NAMES = [(package, name) for package in PACKAGES for name in importlib.import_module(package).__all__]


def asked(question: str) -> str:
    """What a new interpreter answers."""
    ran = subprocess.run([sys.executable, "-c", question], cwd=ROOT, capture_output=True, text=True, check=True)
    return ran.stdout.strip()


@pytest.mark.parametrize(("package", "name"), NAMES)
def test_every_public_name_is_the_same_at_each_access_and_says_what_it_is(package: str, name: str):
    module = importlib.import_module(package)
    first = getattr(module, name)
    assert getattr(module, name) is first
    assert callable(first)
    assert name in dir(module)
    assert first.__doc__ is not None
    assert first.__doc__.strip()
    assert first.__module__.split(".")[0] in PACKAGES
    assert importlib.import_module(package) is module


@pytest.mark.parametrize("package", PACKAGES)
def test_names_are_sorted_and_once(package: str):
    names = importlib.import_module(package).__all__
    assert names == sorted(set(names))


@pytest.mark.parametrize("package", ["computed", "surgery"])
def test_the_facade_type_checks_what_it_gives(package: str):
    tree = ast.parse(ROOT.joinpath(package, "__init__.py").read_text())
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    shown = {alias.asname for node in guarded.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    module = importlib.import_module(package)
    assert shown == set(module.__all__) == set(module._PLACES)


@pytest.mark.parametrize(
    "package",
    [
        "computed",
        "surgery",
        "rewrite",
    ],
)
def test_names_are_listed_before_they_are_used(package: str):
    listed = asked(f"import {package}; print(*sorted(set({package}.__all__) - set(dir({package}))), sep=',')")
    assert listed == ""


@pytest.mark.parametrize("package", ["computed", "surgery"])
def test_listing_names_does_not_import_torch(package: str):
    assert asked(f"import sys, {package}; dir({package}); print('torch' in sys.modules)") == "False"


@pytest.mark.parametrize("package", ["computed", "surgery"])
def test_a_name_that_is_not_there_is_an_attribute_error(package: str):
    module = importlib.import_module(package)
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        _ = module.nothing


def test_a_star_import_gives_the_public_names():
    found: dict[str, object] = {}
    exec("from surgery import *", found)
    assert set(surgery.__all__) <= set(found)
    assert found["undo"] is surgery.undo


# random numbers


def states() -> tuple[bytes, str, str, int]:
    """The states of all global generators."""
    return (
        torch.get_rng_state().numpy().tobytes(),
        repr(np.random.get_state()),
        repr(random.getstate()),
        torch.initial_seed(),
    )


FOREIGN = {
    "class": Orthogonal,
    "module": Orthogonal(),
    "transform": ExpTransform(),
    "function": function(torch.exp, torch.log),
    "torch's orthogonal": lambda site: parametrizations.orthogonal(nn.Linear(6, 6)).parametrizations.weight[0],
    "torch's spectral": lambda site: parametrizations.spectral_norm(nn.Linear(6, 6)).parametrizations.weight[0],
}
QUIET = {name: spec for name, spec in FOREIGN.items() if not name.startswith("torch's")}
EVERY_SPEC = {
    **{
        spec: spec
        for spec in (*SPECS, *SQUARE_SPECS, *(SPEC_OF[name] for name in SPEC_OF if name not in CONVOLUTIONAL))
    },
    **QUIET,
}


def test_every_constraint_is_among_the_specs():
    assert set(catalogue()) == set(SPEC_OF)


def applied(spec: object) -> nn.Module:
    return surgery.apply_constraints(nn.Linear(6, 6), {"weight": spec})


@pytest.mark.parametrize("spec", EVERY_SPEC.values(), ids=EVERY_SPEC)
def test_nothing_draws_from_a_global_generator(spec: object):
    model, source, batch = nn.Linear(6, 6), nn.Linear(6, 6), torch.randn(3, 6)
    with torch.no_grad():
        model.weight.abs_().add_(0.1)
        source.weight.abs_().add_(0.1)
    torch.manual_seed(17)
    before = states()
    surgery.plan(model, {"weight": spec})
    assert states() == before, "plan"
    surgery.apply_constraints(model, {"weight": spec})
    assert states() == before, "apply"
    surgery.check(model)
    surgery.state_dict(model, format="plain")
    assert states() == before, "check, state_dict"
    model(batch).sum().backward()
    model.eval()(batch)
    assert states() == before, "forward"
    model.load_state_dict(source.state_dict())
    with torch.no_grad():
        model.weight.copy_(source.weight)
        model(batch)
    assert states() == before, "load, write"
    surgery.undo(model)
    surgery.constrain(model, weight=spec)
    model(batch)
    assert states() == before, "undo, constrain"
    surgery.bake(model)
    assert states() == before, "bake"


@pytest.mark.parametrize("name", ["torch's orthogonal", "torch's spectral"])
def test_foreign_modules_that_draw_do_so_where_they_are_made_only(name: str):
    model, batch = nn.Linear(6, 6), torch.randn(3, 6)
    module = FOREIGN[name](None)
    before = states()
    surgery.apply_constraints(model, {"weight": module})
    model(batch).sum().backward()
    surgery.check(model)
    surgery.bake(model)
    assert states() == before


def adapter(seed: int, drawn: int, spec: str) -> torch.Tensor:
    model = nn.Linear(6, 6)
    with torch.no_grad():
        model.weight.copy_(torch.arange(36.0).view(6, 6))
    torch.manual_seed(seed)
    torch.rand(drawn)
    return surgery.apply_constraints(model, {"weight": spec}).weight.raws["A"].detach()


def test_adapters_depend_on_the_seed_and_not_on_what_was_drawn():
    first = adapter(1, 0, "lora(2)")
    assert torch.equal(first, adapter(1, 5, "lora(2)"))
    assert not torch.equal(first, adapter(2, 0, "lora(2)"))
    assert torch.equal(adapter(1, 0, "lora(2, seed=7)"), adapter(2, 3, "lora(2, seed=7)"))


@pytest.mark.parametrize("act", [surgery.apply_constraints, surgery.plan])
def test_rules_are_not_changed(act: Callable[..., object]):
    rules = {"weight": Orthogonal(), "bias": "frozen"}
    kept = dict(rules)
    act(nn.Linear(6, 6), rules)
    assert rules == kept
    assert list(rules) == list(kept)
