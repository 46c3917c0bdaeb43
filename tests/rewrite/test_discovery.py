"""Which files are found: ignored ones by git's own word, links, names of all kinds, and what cannot be read."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rewrite.discovery import Discovery, MissingPathsError, Skipped, discover
from rewrite.ignoring import Patterns
from tests.architecture import run_python

NOBODY = 65534


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the current one."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def plant(*files: str, **texts: str) -> None:
    """Make files, with the folders around them; a keyword's name is one where ``__`` is a slash."""
    for file in files:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).touch()
    for file, text in texts.items():
        path = Path(file.replace("__", "/").replace("gitignore", ".gitignore"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def found(*paths: str, **options: object) -> list[str]:
    return [str(path) for path in discover([Path(path) for path in paths or (".",)], **options).files]


def test_folders_are_walked_in_the_order_of_names(here: Path):
    plant("b.py", "a/z.py", "a/b/c.py", "a.py", "c/__init__.py", "c/text.txt", "c/a.pyi", "B.py", "é.py", "a/b.py")
    expected = ["B.py", "a/b/c.py", "a/b.py", "a/z.py", "a.py", "b.py", "c/__init__.py", "é.py"]
    assert found() == expected
    assert found("c", "a") == ["c/__init__.py", "a/b/c.py", "a/b.py", "a/z.py"]
    assert found("b.py", ".") == ["b.py", *(each for each in expected if each != "b.py")]
    assert found(str(here)) == [str(here / each) for each in expected]


@pytest.mark.parametrize(
    "name", ["a b", "-rf", "日本", "new\nline", "[a]*?", "#x", "!x", "'\"", "\\", os.fsdecode(b"\xff")]
)
def test_names_are_only_names(here: Path, name: str):
    plant(f"{name}/{name}.py")
    assert found() == [f"{name}/{name}.py"]
    assert found(f"./{name}") == [f"{name}/{name}.py"]


def test_a_named_file_is_taken_whatever_it_is(here: Path):
    plant("script", "x.pyi", "build/a.py", ".venv/b.py", "x.PY", gitignore="*\n")
    names = ["script", "x.pyi", "build/a.py", ".venv/b.py", "x.PY"]
    assert found(*names, extend_exclude=["*"]) == names
    assert found() == []


def test_no_file_is_there_twice(here: Path):
    plant("a/x.py", "a/y.py")
    os.link("a/x.py", "a/z.py")
    os.symlink("a", "b")
    os.symlink("a/y.py", "y.py")
    assert found("a/y.py", "a", "b", "./a/../a/x.py", "y.py", ".") == ["a/y.py", "a/x.py"]


def test_all_missing_paths_are_told_at_once(here: Path):
    plant("there.py")
    os.symlink("nowhere", "link.py")
    names = ["a b.py", "there.py", "there.py/x.py", "link.py", "null\0.py", "no/folder"]
    with pytest.raises(
        MissingPathsError, match=r"no such file or folder: 'a b\.py', 'there\.py/x\.py', 'link\.py'"
    ) as caught:
        found(*names)
    assert caught.value.paths == tuple(Path(each) for each in names if each != "there.py")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.paths, str(again)) == (caught.value.paths, str(caught.value))


def test_notebooks_are_set_aside(here: Path):
    plant("a/x.ipynb", "a/y.py", "b.ipynb", "c/.ipynb_checkpoints/x.ipynb", "c/z.ipynb", gitignore="z.*\n")
    assert discover([Path("b.ipynb"), Path()]) == Discovery(
        files=(Path("a/y.py"),), notebooks=(Path("b.ipynb"), Path("a/x.ipynb"))
    )


def test_nothing_is_found_in_an_empty_folder(here: Path):
    assert discover([Path()]) == Discovery()
    assert discover([]) == Discovery()


@pytest.mark.parametrize(
    "folder",
    [
        *(".git", ".hg", ".venv", ".venv-3.12", "venv", "build", "dist", "node_modules", "__pycache__", "x.egg-info"),
        *(".tox", ".nox", ".eggs", ".mypy_cache", ".ruff_cache", ".pytest_cache", "lib/python3.11/site-packages"),
    ],
)
def test_folders_that_tools_make_are_left_out(here: Path, folder: str):
    plant("x.py", f"{folder}/a.py", f"pkg/{folder}/b/c.py", f"{folder.split('/')[-1]}.py")
    assert found() == sorted(["x.py", f"{folder.split('/')[-1]}.py"])
    assert found(folder) == [f"{folder}/a.py"], "unless they are named"
    assert found(extend_exclude=[f"!{folder.split('/')[-1]}/"])[-1] == "x.py"
    assert f"{folder}/a.py" in found(extend_exclude=[f"!{folder.split('/')[-1]}/"])


def test_an_environment_is_known_by_its_file(here: Path):
    plant("env/pyvenv.cfg", "env/lib/x.py", "environment/x.py")
    assert found() == ["environment/x.py"]
    assert found("env") == ["env/lib/x.py"]


def test_ignore_files_count_at_every_level(here: Path):
    plant("a/x.py", "a/gen/y.py", "a/gen/keep.py", "a/z_pb2.py", "b/z_pb2.py", "b/deep/w.py", "gen.py", ".git/HEAD")
    plant(gitignore="*_pb2.py\n/b/deep/\n", a__gitignore="gen/*\n!keep.py\n", b__gitignore="!*_pb2.py\r\n")
    assert found() == ["a/gen/keep.py", "a/x.py", "b/z_pb2.py", "gen.py"]
    assert found("b", "a") == ["b/z_pb2.py", "a/gen/keep.py", "a/x.py"], "those around a folder too"
    assert found("a/gen") == ["a/gen/keep.py"]
    assert found("b/deep") == ["b/deep/w.py"]
    os.chdir("b")
    assert found() == ["z_pb2.py"]
    assert found("..") == ["../a/gen/keep.py", "../a/x.py", "../b/z_pb2.py", "../gen.py"]


def test_ignore_files_count_up_to_the_root_of_the_repository_alone(here: Path):
    plant("repo/.git/HEAD", "repo/a/x.py", "repo/a/worktree/.git", "repo/a/worktree/x.py", "loose/x.py")
    plant(gitignore="x.py\n")
    assert found("repo", "loose", "repo/a") == ["repo/a/worktree/x.py", "repo/a/x.py", "loose/x.py"]
    plant(repo__gitignore="x.py")
    assert found("repo") == ["repo/a/worktree/x.py"], "what stands around a repository says nothing about it"
    assert found() == ["repo/a/worktree/x.py"]


def test_a_folder_that_is_named_is_wanted(here: Path):
    plant("a/x.py", "a/b/y.py", "a/b/gen/z.py", ".git/HEAD", gitignore="*\n", a__b__gitignore="gen\n")
    assert found("a") == ["a/b/y.py", "a/x.py"], "whatever those around it say"
    assert found("a/b") == ["a/b/y.py"]
    assert found() == []


def test_an_ignored_folder_cannot_give_back_what_is_in_it(here: Path):
    plant("a/x.py", "b/x.py", gitignore="a/\n!a/x.py\nb/*\n!b/x.py\n")
    assert found() == ["b/x.py"]


@pytest.mark.parametrize(
    ("pattern", "ignored", "kept"),
    [
        ("x.py", ["x.py", "a/x.py", "a/b/x.py"], ["xx.py", "x.pyc"]),
        ("/x.py", ["x.py"], ["a/x.py"]),
        ("a/x.py", ["a/x.py"], ["b/a/x.py"]),
        ("**/a/x.py", ["a/x.py", "b/a/x.py"], ["ba/x.py"]),
        ("a/**/x.py", ["a/x.py", "a/b/x.py", "a/b/c/x.py"], ["ax.py"]),
        ("a/**", ["a/x.py", "a/b/c.py"], ["a", "b/a/x.py"]),
        ("a/*", ["a/x.py", "a/b"], ["a/b/x.py"]),
        ("*.py", ["x.py", "a/.py"], ["x.pyi", "py"]),
        ("?.py", ["x.py"], ["xx.py", ".py", "é.py"]),
        ("[a-c1].py", ["b.py", "1.py"], ["d.py", "-.py"]),
        ("[!a-c].py", ["d.py", "-.py"], ["a.py", "ax.py"]),
        ("[^a].py", ["b.py"], ["a.py"]),
        ("[]a].py", ["].py", "a.py"], ["b.py"]),
        ("[a-].py", ["-.py", "a.py"], ["b.py"]),
        ("[[:upper:][:digit:]].py", ["A.py", "7.py"], ["a.py", ":.py"]),
        ("[[:klingon:]].py", [], ["k.py"]),
        ("[b-a].py", [], ["a.py", "b.py"]),
        ("[a.py", [], ["a.py", "[a.py"]),
        (r"\[a.py", ["[a.py"], ["a.py"]),
        (r"[\]].py", ["].py"], [r"\.py"]),
        ("x.py\\", [], ["x.py", "x.py\\"]),
        (r"\#x.py", ["#x.py"], ["x.py"]),
        ("#x.py", [], ["#x.py", "x.py"]),
        (r"\!x.py", ["!x.py"], ["x.py"]),
        ("x.py  ", ["x.py"], ["x.py  "]),
        ("x\\  ", ["x "], ["x", "x  "]),
        (" x.py", [" x.py"], ["x.py"]),
        ("a b.py", ["a b.py"], ["a", "b.py"]),
        ("日*.py", ["日本.py"], ["本.py"]),
        ("(a|b)+.$", ["(a|b)+.$"], ["a"]),
        ("x\x85", ["x\x85"], ["x"]),
        ("//x.py", [], ["x.py"]),
        ("/", [], ["x.py"]),
        ("   ", [], [" ", "x.py"]),
        ("a/", [], ["a", "b/a"]),
    ],
)
def test_a_pattern(pattern: str, ignored: list[str], kept: list[str]):
    patterns = Patterns.of([pattern])
    assert [path for path in ignored + kept if patterns.decide(path, folder=False)] == ignored
    if not pattern.startswith("#"):
        given_back = Patterns.read(f"*\n!{pattern}\n".encode())
        assert [path for path in ignored + kept if given_back.decide(path, folder=False) is False] == ignored


def test_a_pattern_with_a_slash_at_its_end_is_for_folders():
    patterns = Patterns.read(b"\xef\xbb\xbfa/\r\n/b/c/")
    assert [patterns.decide(path, folder=True) for path in ("a", "x/a", "b/c", "x/b/c")] == [True, True, True, None]
    assert [patterns.decide(path, folder=False) for path in ("a", "x/a", "b/c")] == [None] * 3


SEGMENTS = ["*", "**", "a", "b", "a*", "?", "[ab]", "x.py", "*.py", "build", "a.d", "a b", "é", "[!a]", "[^b]", "***"]
SEGMENTS += ["\\*", "[[:alpha:]]", "[]-]", "[z-a]", "[", "*\\", "\\#c", "\\!d", "e\\ ", "e ", "x.p?", "#c"]
NAMES = ["a", "b", "c", "x.py", "y.py", "a.d", "a b", "é", "-", "]", "z[", "#c", "!d", "e ", "A1"]


def random_pattern() -> str:
    body = "/".join(random.choice(SEGMENTS) for _ in range(random.choice([1, 1, 2, 3])))
    return random.choice(["", "", "!"]) + random.choice(["", "", "/"]) + body + random.choice(["", "", "/", "  "])


def fill(folder: Path, depth: int) -> None:
    for name in random.sample(NAMES, 5):
        if depth and random.random() < 0.5 and not name.endswith(".py"):
            folder.joinpath(name).mkdir()
            fill(folder / name, depth - 1)
        else:
            folder.joinpath(name).with_suffix(".py").touch()


@pytest.mark.skipif(shutil.which("git") is None, reason="git says what is right")
def test_what_is_ignored_is_what_git_ignores(tmp_path: Path, size: str):
    differing = 0
    for number in range({"small": 20, "full": 400}[size]):
        root = tmp_path / str(number)
        subprocess.run(["git", "init", "-q", root], check=True)
        fill(root, 3)
        folders = [root, *(each for each in root.rglob("*") if each.is_dir() and ".git" not in each.parts)]
        for folder in random.sample(folders, min(3, len(folders))):
            lines = [random_pattern() for _ in range(random.randint(1, 4))]
            folder.joinpath(".gitignore").write_text(random.choice(["\n", "\r\n"]).join(lines), newline="")
        listing = subprocess.run(
            ["git", "ls-files", "--others", "--exclude-per-directory=.gitignore", "-z"],
            cwd=root,
            capture_output=True,
            check=True,
        )
        expected = {os.fsdecode(each) for each in listing.stdout.split(b"\0") if each.endswith(b".py")}
        files = discover([root]).files
        assert {str(file.relative_to(root)) for file in files} == expected
        differing += 0 < len(files) < sum(1 for _ in root.rglob("*.py"))
    assert differing, "some patterns have ignored some files"


def test_more_patterns_are_for_paths_from_their_anchor(here: Path):
    plant("a/x.py", "a/gen/y.py", "b/a/x.py", "docs/conf.py")
    assert found(extend_exclude=["/a/x.py", "docs/"]) == ["a/gen/y.py", "b/a/x.py"]
    assert found("a", "b", extend_exclude=["/a/x.py"]) == ["a/gen/y.py", "b/a/x.py"]
    assert found(extend_exclude=["/x.py"], anchor=here / "a") == found()
    assert found("a", extend_exclude=["/x.py"], anchor=here / "a") == ["a/gen/y.py"]
    assert found("docs", "a/gen", extend_exclude=["docs", "a"]) == [], "they may leave out what is named"
    assert found(".", extend_exclude=["*", "!a/", "!x.py"]) == ["a/x.py"]


def test_links_in_the_repository_are_followed(here: Path):
    plant("pkg/x.py", "shared/y.py", "shared/gen/z.py", "text", ".git/HEAD", gitignore="gen/\n")
    os.symlink("../shared", "pkg/link")
    os.symlink("../text", "pkg/text.py")
    os.symlink("../shared/gen/z.py", "pkg/z.py")
    os.symlink("../shared/gen", "pkg/ignored")
    assert discover([Path("pkg")]) == Discovery(files=tuple(map(Path, ["pkg/link/y.py", "pkg/text.py", "pkg/x.py"])))
    assert found() == ["pkg/text.py", "pkg/x.py", "shared/y.py"], "under its own name, where that is walked too"


def test_links_that_lead_out_up_or_nowhere_are_told(here: Path, tmp_path: Path):
    plant("../outside/x.py", "a/x.py", "b/c/y.py", ".git/HEAD")
    os.symlink(tmp_path / "outside", "a/folder")
    os.symlink("../../outside/x.py", "a/file.py")
    os.symlink("..", "a/up")
    os.symlink("nowhere", "a/gone.py")
    os.symlink("self.py", "a/self.py")
    os.symlink("nowhere", "a/gone.txt")
    assert discover([Path("a")]) == Discovery(
        files=(Path("a/x.py"),),
        links=(
            Skipped(Path("a/file.py"), f"a link out of {here}"),
            Skipped(Path("a/folder"), f"a link out of {here}"),
            Skipped(Path("a/gone.py"), "a link that leads nowhere"),
            Skipped(Path("a/self.py"), "a link that leads nowhere"),
            Skipped(Path("a/up"), "a link to a folder around it"),
        ),
    )
    assert found("a/folder", "a/file.py") == ["a/folder/x.py"], "a link that is named is followed"


def test_loops_of_links_end(here: Path):
    plant("a/x.py", "b/y.py", ".git/HEAD")
    os.symlink("../b", "a/to_b")
    os.symlink("../a", "b/to_a")
    os.symlink(".", "a/itself")
    os.symlink("../b", "a/to_b_again")
    assert found("a") == ["a/to_b/y.py", "a/x.py"]
    assert found() == ["a/x.py", "b/y.py"]
    os.symlink("../b", "b/deeper")  # from a, neither around it nor in it
    assert discover([Path("a")]).unreadable == ()
    assert found("a") == ["a/to_b/y.py", "a/x.py"]


def test_depth_costs_no_recursion(here: Path):
    depth = 1500
    for _ in range(depth):
        os.mkdir("d")
        os.chdir("d")
    Path("x.py").touch()
    os.chdir(here)
    try:
        assert found() == ["/".join(["d"] * depth + ["x.py"])]
    finally:  # pytest, which removes folders by recursion, cannot
        os.chdir("/".join(["d"] * depth))
        os.remove("x.py")
        for _ in range(depth):
            os.chdir("..")
            os.rmdir("d")
    assert os.listdir() == []


def test_what_is_no_regular_file_is_told(here: Path):
    os.mkfifo("pipe.py")
    assert discover([Path()]) == Discovery(unreadable=(Skipped(Path("pipe.py"), "it is no regular file"),))
    assert discover([Path("pipe.py")]) == Discovery(unreadable=(Skipped(Path("pipe.py"), "it is no regular file"),))


@pytest.fixture
def bound(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A current folder of a user whom permissions bind, who also runs the test."""
    if os.geteuid() != 0:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:  # the one of pytest is closed to others
        os.chown(folder, NOBODY, NOBODY)
        monkeypatch.chdir(folder)
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
        try:
            yield
        finally:
            os.seteuid(0)
            os.setegid(0)


@pytest.mark.usefixtures("bound")
def test_what_cannot_be_read_is_told_and_the_rest_is_found():
    plant("a/x.py", "b/y.py", "c/z.py", "d.py", "e/w.py", a__gitignore="x.py\n", e__gitignore="*\n", gitignore="d.py\n")
    Path("b").chmod(0)
    Path("c").chmod(0o600)  # what is in it can be listed, and no more
    Path("e/.gitignore").chmod(0)
    try:
        seen = discover([Path(), Path("a"), Path("c/z.py")])
    finally:
        Path("b").chmod(0o700)
        Path("c").chmod(0o700)
    base = Path().resolve()
    assert seen.files == (Path("e/w.py"),)
    assert seen.unreadable == (
        Skipped(Path("b"), "Permission denied"),
        Skipped(Path("c/z.py"), "Permission denied"),
        Skipped(base / "e/.gitignore", "Permission denied"),
    )


def test_it_is_cheap_to_import():
    loaded = set(
        run_python("import rewrite.discovery, rewrite.writing, rewrite.pragmas, sys; print(*sys.modules)").split()
    )
    assert "rewrite.ignoring" in loaded
    assert not {"torch", "libcst", "rich", "typer", "numpy"} & loaded
