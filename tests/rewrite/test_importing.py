"""Where the import of an edited file goes, and under which name: traps on which other tools stumble."""

from __future__ import annotations

import ast

import pytest

from rewrite.importing import NoPlaceError, importing
from rewrite.insertion import inserted
from rewrite.scopes import Scoped
from rewrite.source import Source

IMPORT = "from surgery import constrain"
TRY = "try:\n    import b\nexcept ImportError:\n    b = None\n"
FUTURE = "from __future__ import annotations\n"
LONG = "from a import (\n    b,\n    c,\n)\n"


def written(text: str, function: str = "constrain") -> tuple[str, str]:
    """The text with its import, and the local name."""
    found = importing(Scoped(Source.checked("a.py", text)), [function])
    after = inserted(text, [found.insertion] if found.insertion else [])
    name = found.names[function]
    before_tree, after_tree = ast.parse(text), ast.parse(after)
    present = set(map(ast.dump, before_tree.body))
    new = [
        node
        for node in after_tree.body
        if isinstance(node, ast.ImportFrom) and node.module == "surgery" and ast.dump(node) not in present
    ]
    for node in new:
        after_tree.body.remove(node)
    assert ast.dump(after_tree) == ast.dump(before_tree)
    assert ast.get_docstring(after_tree) == ast.get_docstring(before_tree)
    return after, name


TRAPS = {
    "after the imports": ("import a\nimport b\nx = 1\n", f"import a\nimport b\n{IMPORT}\nx = 1\n"),
    "after the docstring": ('"""d"""\nx = 1\n', f'"""d"""\n{IMPORT}\nx = 1\n'),
    "docstring and imports": ('"""d"""\n\nimport a\n', f'"""d"""\n\nimport a\n{IMPORT}\n'),
    "after __future__": (f"{FUTURE}x = 1\n", f"{FUTURE}{IMPORT}\nx = 1\n"),
    "comments first": ("# licence\n\nx = 1\n", f"# licence\n\n{IMPORT}\nx = 1\n"),
    "not into a try": (f"import a\n{TRY}", f"import a\n{IMPORT}\n{TRY}"),
    "before a leading try": (TRY, f"{IMPORT}\n{TRY}"),
    "before a decorator": ("@f\ndef g(): pass\n", f"{IMPORT}\n@f\ndef g(): pass\n"),
    "a long import": (f"{LONG}x = 1\n", f"{LONG}{IMPORT}\nx = 1\n"),
    "a comment behind": ("import a  # why\nx = 1\n", f"import a  # why\n{IMPORT}\nx = 1\n"),
    "no final newline": ("import a", f"import a\n{IMPORT}"),
    "CRLF": ("import a\r\nx = 1\r\n", f"import a\r\n{IMPORT}\r\nx = 1\r\n"),
    "form feed": ("import a\n\fx = 1\n", f"import a\n{IMPORT}\n\fx = 1\n"),
    "there already": (f"{IMPORT}\nx = 1\n", f"{IMPORT}\nx = 1\n"),
    "there with others": ("from surgery import bake, constrain\n", "from surgery import bake, constrain\n"),
    "there, but late": (f"import a\nx = 1\n{IMPORT}\n", None),
    "there, but conditional": (f"import a\nif x:\n    {IMPORT}\n", None),
    "a later def": ("import a\ndef constrain(): pass\n", None),
    "a parameter": ("import a\ndef f(constrain): pass\n", None),
    "an assignment": ("import a\nconstrain = None\n", None),
    "a load": ("import a\nprint(constrain)\n", None),
    "a word in a string": ("import a\nx = 'constrain'\n", None),
    "a star import": ("from a import *\nx = 1\n", None),
    "another's import": ("from b import constrain\n", None),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_the_import_stands_where_it_should(trap: str):
    text, expected = TRAPS[trap]
    after, name = written(text)
    if expected is None:
        assert name == "_constrain"
        assert "from surgery import constrain as _constrain" in after
    else:
        assert (after, name) == (expected, "constrain")


def test_a_name_that_is_taken_twice_gets_more_underscores():
    _, name = written("import a\nconstrain = _constrain = None\n")
    assert name == "__constrain"


def test_an_import_under_another_name_is_used_again():
    text = "from surgery import constrain as c\nx = 1\n"
    assert written(text) == (text, "c")


def test_a_line_with_another_statement_is_refused():
    with pytest.raises(NoPlaceError, match="another statement"):
        written("import a; x = 1\n")


def test_two_functions_come_in_one_line():
    found = importing(Scoped(Source.checked("a.py", "import a\n")), ["constrained", "constrain"])
    assert found.insertion is not None
    assert found.insertion.text == "from surgery import constrain, constrained\n"
