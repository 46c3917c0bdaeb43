"""Rules and options from files and from one argument: which file counts, what is read, and all that is refused."""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path

import pytest

from rewrite.configuration import Configuration, RuleTextError, configured, split_rule
from rewrite.toml_table import ConfigurationError
from surgery.rules.ruleset import RuleSet
from tests.architecture import run_python

WHOLE = """
[project]
name = "x"

[tool.computed-surgery]
extend-exclude = ["gen/", "!build/"]
select = ["CS101"]
ignore = ["CS2"]
root = ["Net", "pkg.Other"]
style = "parametrize"
target = "torch"

[tool.computed-surgery.rules]
"*.conv*.weight" = "spectral(bound=2)"
"*.bias" = "none"
"a.z.weight" = " symmetric | spectral "
"a.b.weight" = "frozen"
"""
RULES = (
    ("*.conv*.weight", "spectral(bound=2)"),
    ("*.bias", None),
    ("a.z.weight", "symmetric | spectral"),
    ("a.b.weight", "frozen"),
)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.joinpath("pkg").mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def table(text: str, name: str = "pyproject.toml") -> Path:
    path = Path(name)
    path.write_text(f"[tool.computed-surgery]\n{text}\n" if name == "pyproject.toml" else text)
    return path


def problems(**options: object) -> list[str]:
    with pytest.raises(ConfigurationError, match="in the configuration:\n  ") as caught:
        configured([Path("pkg")], **options)
    return list(caught.value.problems)


def test_all_that_a_project_says(project: Path):
    Path("pyproject.toml").write_text(WHOLE)
    found = configured([Path("pkg/model.py")])
    assert found == Configuration(
        file=project / "pyproject.toml",
        rules=RULES,
        extend_exclude=("gen/", "!build/"),
        select=("CS101",),
        ignore=("CS2",),
        root=("Net", "pkg.Other"),
        style="parametrize",
        target="torch",
    )
    assert found.anchor == project
    assert [str(rule.pattern.text) for rule in RuleSet.parse(found.rules).rules] == [pattern for pattern, _ in RULES]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "BOM"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_the_form_of_a_file_does_not_matter(project: Path, mark: bytes, newline: str):
    text = WHOLE.replace("torch", "日本").rstrip().replace("\n", newline)
    Path("pyproject.toml").write_bytes(mark + text.encode())
    assert configured([]).rules == RULES
    assert configured([]).target == "日本"


@pytest.mark.parametrize(
    "text",
    [
        'rules = { "*.w" = "spectral", "b.c" = "none", "a" = "symmetric" }',
        'rules = [["*.w", "spectral"], ["b.c", "none"], ["a", "symmetric"]]',
        'rules."*.w" = "spectral"\nrules."b.c" = "none"\nrules.a = "symmetric"',
    ],
)
def test_rules_keep_their_order_in_each_form(project: Path, text: str):
    table(text)
    assert configured([]).rules == (("*.w", "spectral"), ("b.c", None), ("a", "symmetric"))


def test_pairs_may_repeat_a_pattern(project: Path):
    table('rules = [["*", "spectral"], ["a", "none"], ["*", "frozen"]]')
    assert configured([]).rules == (("*", "spectral"), ("a", None), ("*", "frozen"))


def test_the_nearest_file_with_the_table_counts(project: Path):
    deep = project / "pkg" / "a b" / "日本"
    deep.mkdir(parents=True)
    table('style = "outer"')
    deep.parent.joinpath("pyproject.toml").write_text('[tool.other]\nstyle = "other"\n')
    project.joinpath("pkg", "pyproject.toml").mkdir()
    assert configured([deep / "x.py", Path("/")]).file == project / "pyproject.toml"
    assert configured([deep / "not" / "there.py"]).style == "outer"
    deep.joinpath("pyproject.toml").write_text("[tool.computed-surgery]\n")
    assert configured([deep / "x.py"]) == Configuration(file=deep / "pyproject.toml")
    assert configured([Path(), deep]).style == "outer", "the first path counts"
    os.chdir(deep.parent)
    assert configured([]).style == configured([Path("../x.py")]).style == "outer"


def test_without_a_table_nothing_is_asked_for(project: Path):
    Path("pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert configured([Path("pkg")]) == Configuration()
    assert configured([Path("pkg")]).anchor is None
    Path("pyproject.toml").write_text("tool = 3\n")
    assert configured([Path("pkg")]) == Configuration()


def test_isolated_reads_no_project(project: Path):
    table("broken = [")
    assert configured([Path("pkg")], isolated=True) == Configuration()
    rules = table('"*" = "spectral"', "rules.toml")
    assert configured([Path("pkg")], isolated=True, rules=rules) == Configuration(rules=(("*", "spectral"),))


def test_a_named_file_is_read_in_place_of_the_project(project: Path):
    table('style = "project"')
    plain = table('style = "plain"\n[rules]\n"*" = "none"', "other.toml")
    assert configured([Path("pkg")], config=plain) == Configuration(file=plain, style="plain", rules=(("*", None),))
    Path("other").mkdir()
    Path("other/pyproject.toml").write_text('[tool.computed-surgery]\nroot = ["Net"]\n')
    named = Path("other/pyproject.toml")
    assert configured([Path("pkg")], config=named) == Configuration(file=named, root=("Net",))
    named.write_text("[project]\n")
    assert problems(config=named) == ["other/pyproject.toml: there is no table tool.computed-surgery"]
    assert problems(config=plain, isolated=True) == [
        "other.toml: to be isolated from files and to read this one exclude each other"
    ]


@pytest.mark.parametrize(
    "text",
    [
        '"*.w" = "spectral"\nb = "none"\n',
        '[rules]\n"*.w" = "spectral"\nb = "none"\n',
        'rules = [["*.w", "spectral"], ["b", "none"]]',
    ],
)
def test_a_file_of_rules_stands_in_place_of_those_of_the_project(project: Path, text: str):
    Path("pyproject.toml").write_text(WHOLE)
    found = configured([Path("pkg")], rules=table(text, "my rules.toml"))
    assert found.rules == (("*.w", "spectral"), ("b", None))
    assert found.style == "parametrize"


def test_a_pattern_may_be_called_rules(project: Path):
    assert configured([], rules=table('rules = "spectral"\nselect = "none"', "r.toml")).rules == (
        ("rules", "spectral"),
        ("select", None),
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("selct = []", "selct: unknown key, did you mean 'select'?"),
        ("extend_exclude = []", "extend_exclude: unknown key, did you mean 'extend-exclude'?"),
        ("exclude = []", "exclude: unknown key, did you mean 'extend-exclude'?"),
        ("enable = []", "enable: unknown key, did you mean 'select'?"),
        ("Rules = {}", "Rules: unknown key, did you mean 'rules'?"),
        (
            "zzz = 1",
            "zzz: unknown key; known are rules, extend-exclude, select, ignore, root, style, target",
        ),
        ('"" = 1', "unknown key; known are rules, extend-exclude, select, ignore, root, style, target"),
        ("select = 'CS1'", "select: expected an array of texts, got a text, 'CS1'"),
        ("ignore = ['CS1', 2]", "ignore: expected an array of texts, got an array, ['CS1', 2]"),
        ("root = {}", "root: expected an array of texts, got a table, {}"),
        ("extend-exclude = true", "extend-exclude: expected an array of texts, got a boolean, True"),
        ("style = ['a']", "style: expected a text, got an array, ['a']"),
        ("target = 2.0", "target: expected a text, got a float, 2.0"),
        ("target = 1979-05-27", "target: expected a text, got date, datetime.date(1979, 5, 27)"),
        (
            "rules = 'a=b'",
            "rules: expected a table, 'pattern' = 'spec', or an array of pairs, ['pattern', 'spec'], got a text, 'a=b'",
        ),
        ("rules = ['a=b']", "rules: entry 1: expected a pair, ['pattern', 'spec'], got 'a=b'"),
        ("rules = [['a', 'b'], ['a']]", "rules: entry 2: expected a pair, ['pattern', 'spec'], got ['a']"),
        ("rules = [[1, 'b']]", "rules: entry 1: expected a pair, ['pattern', 'spec'], got [1, 'b']"),
        ("rules = { a = 1 }", "rules.'a': expected a text such as 'spectral', or 'none', got an integer, 1"),
        ("rules = { a = false }", "rules.'a': expected a text such as 'spectral', or 'none', got a boolean, False"),
        ("rules = { a = {} }", "rules.'a': expected a text such as 'spectral', or 'none', got a table, {}"),
        ("rules = [['a', ['b']]]", "rules.'a': expected a text such as 'spectral', or 'none', got an array, ['b']"),
        ("rules = { a = ' ' }", "rules.'a': it is empty; write 'none' to exempt what the pattern matches"),
        (
            "rules.conv.weight = 'spectral'",
            "rules.'conv': expected a text, got a table; a pattern with dots needs quotes, 'conv.weight'",
        ),
    ],
)
def test_what_is_wrong_is_told_with_file_and_key(project: Path, text: str, told: str):
    table(text)
    separator = ": " if told.startswith("unknown") else "."
    assert problems() == [f"{project}/pyproject.toml: tool.computed-surgery{separator}{told}"]


def test_all_problems_of_all_files_are_told_at_once(project: Path):
    table("selct = []\nstyle = 1\nrules = { a = 1, b = '' }")
    rules = table("[rules]\nc = 2\n[other]\n", "rules.toml")
    told = problems(rules=rules)
    assert [each.split(": ")[:2] for each in told] == [
        [f"{project}/pyproject.toml", "tool.computed-surgery.selct"],
        [f"{project}/pyproject.toml", "tool.computed-surgery.rules.'a'"],
        [f"{project}/pyproject.toml", "tool.computed-surgery.rules.'b'"],
        [f"{project}/pyproject.toml", "tool.computed-surgery.style"],
        ["rules.toml", "other"],
        ["rules.toml", "rules.'c'"],
    ]
    error = ConfigurationError(told)
    assert str(error).splitlines() == ["6 problems in the configuration:", *(f"  {each}" for each in told)]
    assert pickle.loads(pickle.dumps(error)).problems == error.problems


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"a = [\n", r"it is no TOML: .*end of document"),
        (b"a = 1\nb = = 2\n", r"it is no TOML: .*line 2, column 5"),
        (b"a = 1\na = 2\n", r"it is no TOML: .*line 2"),
        (b"[tool.computed-surgery]\n[tool.computed-surgery]\n", r"it is no TOML: .*twice"),
        (b"a = '\x00'", r"it is no TOML: Found invalid character"),
        (b"# caf\xe9\n", r"it is not UTF-8: invalid continuation byte in line 1"),
        (b"a = 1\r\nb = '\xff'", r"it is not UTF-8: invalid start byte in line 2"),
        ("a = 1".encode("utf-16"), r"it is not UTF-8"),
        (b"a = " + b"[" * 5000, r"it is no TOML: .*recursion"),
        (b"a = " + b"1" * 5000, r"it is no TOML: .*digits"),
    ],
)
@pytest.mark.parametrize("option", ["project", "config", "rules"])
def test_broken_files_are_told(project: Path, data: bytes, told: str, option: str):
    file = Path("pyproject.toml" if option == "project" else "x.toml")
    file.write_bytes(data)
    (problem,) = problems(**({} if option == "project" else {option: file}))
    assert re.search(rf"^\S*{file}: {told}", problem)


def test_a_broken_project_hides_no_table_further_out(project: Path):
    table('style = "outer"')
    Path("pkg/pyproject.toml").write_text("[tool")
    assert [each.split(": ")[0] for each in problems()] == [f"{project}/pkg/pyproject.toml"]
    Path("pkg/pyproject.toml").unlink()
    Path("pkg/pyproject.toml").symlink_to("pyproject.toml")
    assert "symbolic links" in problems()[0]


@pytest.mark.parametrize("option", ["config", "rules"])
def test_files_that_are_named_must_be_there(project: Path, option: str):
    assert problems(**{option: Path("no.toml")}) == ["no.toml: No such file or directory"]
    assert problems(**{option: Path("pkg")}) == ["pkg: Is a directory"]


@pytest.mark.parametrize("name", ["computed_surgery", "Computed-Surgery"])
def test_a_table_by_nearly_this_name_is_told(project: Path, name: str):
    Path("pyproject.toml").write_text(f"[tool.{name}]\n")
    assert problems() == [f"{project}/pyproject.toml: tool.{name}: unknown table, did you mean 'computed-surgery'?"]


def test_a_table_that_is_none_is_told(project: Path):
    Path("pyproject.toml").write_text("tool.computed-surgery = 3\n")
    assert problems() == [f"{project}/pyproject.toml: tool.computed-surgery: expected a table, got an integer, 3"]


@pytest.mark.parametrize(
    ("text", "pattern", "spec"),
    [
        ("*.weight=spectral", "*.weight", "spectral"),
        (" *.weight = symmetric | spectral ", "*.weight", "symmetric | spectral"),
        ("*.conv*.weight=spectral(bound=2.0)", "*.conv*.weight", "spectral(bound=2.0)"),
        ("a=f(x=g(y=[1], z={2: 3}))|h(k=1)", "a", "f(x=g(y=[1], z={2: 3}))|h(k=1)"),
        ("a=f(x='=)', y=\"(=\")", "a", "f(x='=)', y=\"(=\")"),
        ("*.bias=none", "*.bias", None),
        ("*.bias= none ", "*.bias", None),
        ("*.bias=frozen", "*.bias", "frozen"),
        ("[]=].w=f(x=1)", "[]=].w", "f(x=1)"),
        ("{a,b[=]}.w=f", "{a,b[=]}.w", "f"),
        ("re:(?=a)it's[)=]=f(x=1)", "re:(?=a)it's[)=]", "f(x=1)"),
        (r"re:a\(=f", r"re:a\(", "f"),
        ("a=b=c", "a=b", "c"),
        ("*@Linear.weight=f", "*@Linear.weight", "f"),
        ("日本=é", "日本", "é"),
        ("*.weight='a=b'", "*.weight", "'a=b'"),  # what is wrong with a spec, its own reader tells
    ],
)
def test_a_rule_of_one_argument(text: str, pattern: str, spec: str | None):
    assert split_rule(text) == (pattern, spec)


@pytest.mark.parametrize(
    ("text", "position", "reason"),
    [
        ("", 0, "there is no '=' between a pattern and a spec; write PATTERN=SPEC, such as '*.weight=spectral'"),
        ("*.weight", 8, "there is no '=' between a pattern and a spec"),
        ("spectral(bound=2)", 17, "there is no '=' between a pattern and a spec"),
        ("=none", 0, "no pattern stands before '='"),
        (" =none", 1, "no pattern stands before '='"),
        ("*.bias=", 6, "no spec follows '='; write 'none' to exempt what the pattern matches"),
        ("*.bias= ", 6, "no spec follows '='"),
        ("a=f(b=2", 3, "'(' is not closed; write ')' after the last argument"),
        ("a=f(b", 3, "'(' is not closed"),
        ("a=f(x=[1)", 6, "'[' is not closed"),
        ("a=f(x={1])", 6, "'{' is not closed"),
        ("f(", 1, "'(' is not closed"),
        ("a=f(2))", 6, "')' closes what nothing opens"),
        ("a=f('x)", 4, "the quote has no other end"),
        ('a=f(x")', 5, "the quote has no other end"),
    ],
)
def test_a_wrong_rule_of_one_argument(text: str, position: int, reason: str):
    whole = f"rule {text!r}, column {position + 1}: {reason}"
    with pytest.raises(RuleTextError, match=f"^{re.escape(whole)}") as caught:
        split_rule(text)
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.text, error.position, str(error)) == (text, position, str(caught.value))


def test_it_is_cheap_to_import():
    loaded = set(run_python("import rewrite.configuration, sys; print(*sys.modules)").split())
    assert "rewrite.toml_table" in loaded
    assert not {"torch", "libcst", "rich", "typer", "numpy"} & loaded
