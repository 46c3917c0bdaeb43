"""Who imports whom; what is torch-free; where torch's private names are; what a facade gives."""

from __future__ import annotations

import ast
from pathlib import Path
from textwrap import dedent

import pytest

from tests.architecture import (
    LAYERS,
    ROOT,
    facades_imported,
    module_name,
    modules_loaded,
    packages,
    private_torch_names,
    sources,
    unsteady_names,
    wrong_directions,
)

PRIVATE_NAMES_LIVE_IN = "computed.torch_private"
TORCH_FREE = ("computed.spec", "computed.registry", "computed.nearmiss", "surgery.rules", "rewrite")
EVERY_FILE = [pytest.param(file, id=module_name(file)) for file in sources(*LAYERS)]
EVERY_MODULE = [each for each in EVERY_FILE if each.values[0].name != "__init__.py"]


@pytest.mark.parametrize("file", EVERY_FILE)
def test_imports_run_one_way(file: Path):
    assert not wrong_directions(module_name(file), file.read_text())


@pytest.mark.parametrize(
    "planted",
    [
        "import rewrite.cli",
        "from rewrite.cli import main",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from rewrite.cli import main",
        "def later():\n    import rewrite.cli as cli",
        "import importlib\nimportlib.import_module('rewrite.cli')",
        "from . import planning",
        "from ..computed import site",
    ],
)
def test_a_wrong_direction_is_seen(planted: str):
    assert wrong_directions("surgery.planning", planted)
    assert not wrong_directions("surgery.planning", "import torch\nfrom computed.site import Site")


@pytest.mark.parametrize("file", EVERY_MODULE)
def test_no_module_imports_a_facade(file: Path):
    assert not facades_imported(module_name(file), file.read_text(), packages())


@pytest.mark.parametrize(
    "planted", ["import computed", "from computed import Site", "from computed.constraints import Spectral"]
)
def test_an_imported_facade_is_seen(planted: str):
    facades = {"computed", "computed.constraints"}
    assert facades_imported("surgery.planning", planted, facades)
    allowed = "from computed.site import Site\nimport computed.site\nfrom computed import constraints"
    assert not facades_imported("surgery.planning", allowed, facades)


@pytest.mark.parametrize("file", EVERY_FILE)
def test_private_names_of_torch_live_in_one_file(file: Path):
    if module_name(file) != PRIVATE_NAMES_LIVE_IN:
        assert not private_torch_names(module_name(file), file.read_text())


@pytest.mark.parametrize(
    "planted",
    [
        "import torch\ntorch._lazy_clone(w)",
        "import torch as t\nt._C._data_address(w)",
        "import torch._dynamo",
        "from torch import _C",
        "from torch._C import DispatchKey",
        "from torch.nn.modules.module import _global_forward_hooks",
        "from torch.nn.modules import conv\nconv._ConvNd",
        "from torch import nn\nnn.Module._named_members(model)",
        "import torch\ngetattr(torch, '_lazy_clone')",
        "import importlib\nimportlib.import_module('torch._inductor')",
        "def later():\n    from torch.fx import _symbolic_trace",
    ],
)
def test_a_private_name_of_torch_is_seen(planted: str):
    assert private_torch_names("surgery.planning", planted)
    allowed = "import torch\nself._held = torch.zeros(1)\nhost._modules['weight'] = torch.nn.Module()"
    assert not private_torch_names("surgery.planning", allowed)


@pytest.fixture(scope="module")
def loaded_without_torch() -> set[str]:
    modules = [module_name(file) for part in TORCH_FREE for file in _files_of(part)]
    return modules_loaded("\n".join(f"import {module}" for module in modules if "__main__" not in module))


def _files_of(part: str) -> list[Path]:
    place = ROOT.joinpath(*part.split("."))
    return sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]


def test_rules_specs_catalogue_and_the_command_line_do_without_torch(loaded_without_torch: set[str]):
    assert {"computed.table", "surgery.rules.pattern", "rewrite.cli"} <= loaded_without_torch
    assert "torch" not in loaded_without_torch


def test_an_import_of_torch_is_seen(tmp_path: Path):
    tmp_path.joinpath("torch.py").touch()
    tmp_path.joinpath("hidden.py").write_text("import torch")
    assert "torch" in modules_loaded("import hidden", path=tmp_path)


@pytest.mark.parametrize("package", LAYERS)
def test_every_public_name_is_the_same_at_each_access(package: str):
    assert unsteady_names(package) == []


def test_a_module_that_hides_a_public_name_is_seen(tmp_path: Path):
    package = tmp_path / "planted"
    package.mkdir()
    package.joinpath("plan.py").write_text("def plan(): ...\ndef check(): ...")
    package.joinpath("__init__.py").write_text(
        dedent("""
            import importlib
            __all__ = ["check", "plan"]
            def __getattr__(name):
                return getattr(importlib.import_module("planted.plan"), name)
        """)
    )
    assert unsteady_names("planted", path=tmp_path) == ["plan"]


@pytest.mark.parametrize("package", LAYERS)
def test_type_checkers_see_the_names_that_a_facade_gives(package: str):
    tree = ast.parse(Path(ROOT, package, "__init__.py").read_text())
    listed = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value and "__all__" in ast.unparse(node)
    ]
    seen = {
        alias.asname
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(f"{package}.")
        for alias in node.names
    }
    assert len(listed) == 1, f"{package}: one __all__, a plain list"
    assert seen - {None} == set(listed[0])


@pytest.mark.parametrize("package", LAYERS)
def test_every_folder_is_a_package_and_typed(package: str):
    folders = {file.parent for file in sources(package)}
    assert [str(folder) for folder in folders if not Path(folder, "__init__.py").is_file()] == []
    assert Path(ROOT, package, "py.typed").is_file()
