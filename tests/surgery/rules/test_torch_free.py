"""Rules are read, decided and complained of without torch."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.architecture import modules_loaded

EVERYTHING = """
import computed, computed.spec, computed.registry, computed.nearmiss, surgery, surgery.rules
from surgery.rules import Candidate, RuleError, RuleSet, decide
computed.registry.lookup("spectral")
rules = RuleSet.parse({"*.weight": "symmetric | spectral(bound=2)", "*.conv*": None})
assert decide(rules, [Candidate(("conv.weight",), (("Conv2d",),))]).hints
try:
    RuleSet.parse({"*..": "spectrall"})
except RuleError as error:
    assert len(error.problems) == 2
"""


def test_rules_do_without_torch():
    loaded = modules_loaded(EVERYTHING)
    assert {"computed.registry", "surgery.rules.hints"} <= loaded
    assert loaded.isdisjoint({"torch", "numpy", "libcst"})


@pytest.mark.parametrize("use", ["import surgery\nsurgery.plan", "import computed\ncomputed.Constraint"])
def test_what_loads_torch_is_seen(use: str):
    assert "torch" in modules_loaded(use)


def test_a_hidden_import_of_torch_is_seen(tmp_path: Path):
    tmp_path.joinpath("torch.py").touch()
    tmp_path.joinpath("hidden.py").write_text("def read():\n    import torch")
    assert "torch" not in modules_loaded("import hidden", path=tmp_path)
    assert "torch" in modules_loaded("import hidden\nhidden.read()", path=tmp_path)
