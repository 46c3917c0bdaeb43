"""Files are written whole or not at all: through links, by other names, for whoever owns them, and under kill -9."""

from __future__ import annotations

import errno
import itertools
import os
import pickle
import random
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

from rewrite import writing
from rewrite.discovery import discover
from rewrite.writing import TEMPORARY, ChangedMeanwhileError, UnwritableError, write_atomically
from tests.architecture import ROOT

OLD, NEW = b"x = 1\r\n" * 3, "y = '日本'\n".encode()
AS_ROOT = os.geteuid() == 0
NOBODY = 65534


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.py"
    path.write_bytes(OLD)
    return path


@pytest.fixture
def unprivileged(tmp_path: Path) -> Iterator[Path]:
    """A folder of a user whom permissions bind, who also runs the test."""
    if not AS_ROOT:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory() as folder:  # the one of pytest is closed to others
        os.chown(folder, NOBODY, NOBODY)
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
        try:
            yield Path(folder)
        finally:
            os.seteuid(0)
            os.setegid(0)


def leftovers(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{TEMPORARY}*"))


@pytest.mark.parametrize("data", [NEW, b"", OLD * 100_000, bytes(range(256))], ids=["short", "empty", "long", "any"])
def test_bytes_are_written(file: Path, data: bytes):
    write_atomically(file, data, expected=OLD)
    assert file.read_bytes() == data
    assert os.listdir(file.parent) == ["model.py"]


@pytest.mark.parametrize(
    "name",
    ["a b.py", "日本.py", "-rf", "a\nb.py", "'\"$(id)`.py", "é" * 125 + "x" * 5, ".py", os.fsdecode(b"\xff\xfe.py")],
)
def test_names_are_only_names(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(OLD)
    write_atomically(Path(name), NEW, expected=OLD)
    assert Path(name).read_bytes() == NEW
    assert os.listdir() == [name]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
@pytest.mark.parametrize("mode", [0o600, 0o644, 0o755, 0o664, 0o777])
def test_permissions_stay(file: Path, mode: int, umask: int):
    file.chmod(mode)
    before = os.umask(umask)
    try:
        write_atomically(file, NEW, expected=OLD)
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == mode


@pytest.mark.parametrize(("linked", "synced"), [(False, [NEW]), (True, [OLD, NEW])], ids=["one name", "two names"])
def test_all_bytes_reach_the_disk_and_nobody_else_in_between(
    file: Path, linked: bool, synced: list[bytes], monkeypatch: pytest.MonkeyPatch
):
    if linked:
        os.link(file, file.with_name("name.py"))
    file.chmod(0o600)
    seen = []

    def look(descriptor: int) -> None:
        status = os.fstat(descriptor)
        seen.append((status.st_size, stat.S_IMODE(status.st_mode)))

    monkeypatch.setattr(writing.os, "fsync", look)
    write_atomically(file, NEW, expected=OLD)
    assert seen == [(len(data), 0o600) for data in synced]


def test_the_time_of_the_change_is_now(file: Path):
    os.utime(file, (1, 1))
    write_atomically(file, NEW, expected=OLD)
    assert file.stat().st_mtime > time.time() - 3600


@pytest.mark.skipif(not AS_ROOT, reason="only root gives files away")
def test_the_owner_stays(file: Path):
    os.chown(file, 1234, 5678)
    file.chmod(0o750)
    write_atomically(file, NEW, expected=OLD)
    status = file.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1234, 5678, 0o750)


@pytest.mark.skipif(not AS_ROOT, reason="only root gives files away")
@pytest.mark.parametrize(("groups", "kept"), [([1234], (NOBODY, 1234)), ([], (NOBODY, NOBODY))], ids=["group", "none"])
def test_an_owner_that_cannot_be_kept_is_no_failure(unprivileged: Path, groups: list[int], kept: tuple[int, int]):
    file = unprivileged / "model.py"
    file.write_bytes(OLD)
    before = os.getgroups()
    os.seteuid(0)
    os.chown(file, 0, 1234)
    file.chmod(0o666)
    os.setgroups(groups)
    os.seteuid(NOBODY)
    try:
        write_atomically(file, NEW, expected=OLD)
    finally:
        os.seteuid(0)
        os.setgroups(before)
        os.seteuid(NOBODY)
    status = file.stat()
    assert file.read_bytes() == NEW
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (*kept, 0o666)


def test_extended_attributes_stay(file: Path):
    try:
        os.setxattr(file, "user.kept", b"yes")
    except (OSError, AttributeError):
        pytest.skip("no extended attributes here")
    write_atomically(file, NEW, expected=OLD)
    assert os.getxattr(file, "user.kept") == b"yes"


def test_a_link_stays_a_link_and_what_it_leads_to_is_written(tmp_path: Path):
    there = tmp_path / "there"
    there.mkdir()
    file = there / "model"
    file.write_bytes(OLD)
    tmp_path.joinpath("folder").symlink_to("there")
    first, second = tmp_path / "first.py", tmp_path / "second.py"
    first.symlink_to("folder/model")
    second.symlink_to(first)
    tmp_path.chmod(0o755)
    write_atomically(second, NEW, expected=OLD)
    assert file.read_bytes() == NEW
    assert os.readlink(first) == "folder/model"
    assert os.readlink(second) == str(first)
    assert sorted(os.listdir(tmp_path)) == ["first.py", "folder", "second.py", "there"]
    assert os.listdir(there) == ["model"]


def test_all_names_of_a_file_stay_the_same_file(file: Path, tmp_path: Path):
    other, link = tmp_path / "other.py", tmp_path / "link.py"
    os.link(file, other)
    link.symlink_to("other.py")
    for data, expected in ((NEW, OLD), (OLD, NEW), (b"", OLD), (NEW * 9, b"")):  # longer and shorter
        write_atomically(link, data, expected=expected)
        assert file.read_bytes() == other.read_bytes() == data
        assert file.stat().st_ino == other.stat().st_ino
    assert leftovers(tmp_path) == []


def no_file(path: Path) -> None:
    path.unlink()


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_link_to_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def a_link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (no_file, "No such file or directory"),
        (a_folder, "it is no regular file"),
        (a_pipe, "it is no regular file"),
        (a_link_to_nowhere, "No such file or directory"),
        (a_link_to_itself, "Too many levels of symbolic links"),
    ],
)
def test_what_is_no_file_is_refused(file: Path, make: Callable[[Path], None], reason: str):
    make(file)
    with pytest.raises(UnwritableError, match=f"^{re.escape(str(file))} cannot be written: {reason}$"):
        write_atomically(file, NEW, expected=OLD)
    assert leftovers(file.parent) == []


@pytest.mark.parametrize("linked", [False, True], ids=["one name", "two names"])
def test_a_file_without_permission_to_write_is_refused(unprivileged: Path, linked: bool):
    file = unprivileged / "model.py"
    file.write_bytes(OLD)
    if linked:
        os.link(file, unprivileged / "other.py")
    file.chmod(0o444)
    with pytest.raises(UnwritableError, match=f"^{re.escape(str(file))} cannot be written: Permission denied$"):
        write_atomically(file, NEW, expected=OLD)
    assert file.read_bytes() == OLD
    assert leftovers(unprivileged) == []


def test_a_folder_without_permission_to_write_is_told(unprivileged: Path):
    file = unprivileged / "model.py"
    file.write_bytes(OLD)
    unprivileged.chmod(0o555)
    told = f"{file} cannot be written: Permission denied, for a file beside it in {unprivileged}"
    try:
        with pytest.raises(UnwritableError, match=f"^{re.escape(told)}$") as caught:
            write_atomically(file, NEW, expected=OLD)
    finally:
        unprivileged.chmod(0o755)
    assert caught.value.errno == errno.EACCES
    assert file.read_bytes() == OLD


def rewritten(path: Path) -> None:
    path.write_bytes(OLD + b"z")


def replaced(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(OLD[:-1])
    other.replace(path)


@pytest.mark.parametrize("linked", [False, True], ids=["one name", "two names"])
@pytest.mark.parametrize("change", [rewritten, replaced])
def test_what_somebody_else_has_written_is_kept(
    file: Path, change: Callable[[Path], None], linked: bool, monkeypatch: pytest.MonkeyPatch
):
    if linked:
        os.link(file, file.with_name("name.py"))
    sync = os.fsync

    def change_then_sync(descriptor: int) -> None:  # while the new bytes are on their way to the disk
        change(file)
        sync(descriptor)

    monkeypatch.setattr(writing.os, "fsync", change_then_sync)
    with pytest.raises(ChangedMeanwhileError, match=r"model\.py cannot be written: it has changed since it was read"):
        write_atomically(file, NEW, expected=OLD)
    assert file.read_bytes() in (OLD + b"z", OLD[:-1])
    assert leftovers(file.parent) == []


def test_errors_come_whole_from_another_process(file: Path):
    with pytest.raises(ChangedMeanwhileError, match="changed") as caught:
        write_atomically(file, NEW, expected=b"")
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is ChangedMeanwhileError
    assert (str(again), again.filename) == (str(caught.value), str(file))


@pytest.mark.parametrize("linked", [False, True], ids=["one name", "two names"])
def test_a_full_disk_changes_nothing(file: Path, linked: bool, monkeypatch: pytest.MonkeyPatch):
    if linked:
        os.link(file, file.with_name("name.py"))
    calls = itertools.count()
    sync = os.fsync

    def full(descriptor: int) -> None:
        if next(calls) == linked:  # of two names, the second is for the file itself
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(writing.os, "fsync", full)
    with pytest.raises(UnwritableError, match=r"model\.py cannot be written: No space left on device"):
        write_atomically(file, NEW, expected=OLD)
    assert file.read_bytes() == OLD
    assert leftovers(file.parent) == []


def test_old_bytes_that_cannot_be_put_back_are_kept_beside(file: Path, monkeypatch: pytest.MonkeyPatch):
    os.link(file, file.with_name("name.py"))

    def broken(target: Path, data: bytes) -> None:
        target.write_bytes(data[:2])
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(writing, "_overwrite", broken)
    with pytest.raises(UnwritableError, match=r"what it held is in .*\.kept$"):
        write_atomically(file, NEW, expected=OLD)
    assert [kept.read_bytes() for kept in leftovers(file.parent)] == [OLD]


def interrupted_at(step: int, file: Path) -> str | None:
    """Write, but with an interrupt before a line of the module; which line of code that was, None if none was."""
    count = itertools.count()
    hit: list[str] = []

    def trace(frame: FrameType, event: str, _: object) -> Callable | None:
        if frame.f_code.co_filename != writing.__file__:
            return None
        if event == "line" and next(count) == step:
            hit.append(Path(writing.__file__).read_text().splitlines()[frame.f_lineno - 1].strip())
            raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        write_atomically(file, NEW, expected=OLD)
    except KeyboardInterrupt:
        sys.settrace(None)
        return hit[0]
    finally:
        sys.settrace(None)
    return None


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("linked", [False, True], ids=["one name", "two names"])
def test_an_interrupt_before_any_line_leaves_old_or_new_and_nothing_else(tmp_path: Path, linked: bool):
    met = []
    for step in itertools.count():
        folder = tmp_path / str(step)
        folder.mkdir()
        file = folder / "model.py"
        file.write_bytes(OLD)
        if linked:
            os.link(file, folder / "other.py")
        line = interrupted_at(step, file)
        if line is None:
            break
        met.append(line)
        assert file.read_bytes() in (OLD, NEW), line
        assert leftovers(folder) == [] or line == "file.unlink(missing_ok=True)", line
        shutil.rmtree(folder)
    assert file.read_bytes() == NEW
    assert len(met) > 20
    assert {"opened.write(data)", "file.unlink(missing_ok=True)"} <= set(met)


LOOP = """
import itertools, sys
from pathlib import Path
from rewrite.writing import write_atomically
{writer}
folder = Path(sys.argv[1])
files = sorted(folder.glob("*.py"))
held = {{file: file.read_bytes() for file in files}}
print("ready", flush=True)
for number in itertools.count():
    for file in files:
        data = b"%d\\n" % number * (4000 + 3000 * (number % 5))
        write_atomically(file, data, expected=held[file])
        held[file] = data
"""
IN_PIECES = """
def write_atomically(file, data, *, expected):
    with file.open("wb") as opened:
        for piece in data.splitlines(keepends=True):
            opened.write(piece)
"""


def killed(folder: Path, writer: str = "") -> None:
    """Write the files of ``folder`` over and over, and kill that some time."""
    command = [sys.executable, "-c", LOOP.format(writer=writer), str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(random.uniform(0, 0.05))
        process.kill()
    assert process.returncode == -signal.SIGKILL


def is_whole(data: bytes) -> bool:
    lines = data.splitlines()
    return len(set(lines)) == 1 and len(lines) == 4000 + 3000 * (int(lines[0]) % 5) and data.endswith(b"\n")


def set_up(folder: Path, files: int = 5) -> list[Path]:
    folder.mkdir()
    made = [folder / f"{number}.py" for number in range(files)]
    for file in made:
        file.write_bytes(b"0\n" * 4000)
        file.chmod(0o640)
    return made


def test_a_kill_leaves_every_file_whole(tmp_path: Path, size: str, evidence: Callable[[str, str], None]):
    kills = {"small": 5, "full": 100}[size]
    written = left = 0
    for kill in range(kills):
        files = set_up(tmp_path / str(kill))
        killed(tmp_path / str(kill))
        assert all(is_whole(file.read_bytes()) for file in files)
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o640}
        assert len(leftovers(tmp_path / str(kill))) <= 1
        assert discover([tmp_path / str(kill)]).files == tuple(files)
        written += sum(file.read_bytes() != b"0\n" * 4000 for file in files)
        left += len(leftovers(tmp_path / str(kill)))
    assert written
    evidence("files in two states, in folders whose rewriting met kill -9", f"0 of {5 * kills}; {left} temporary left")


def test_a_kill_in_a_plain_write_is_seen(tmp_path: Path):
    for kill in range(50):
        files = set_up(tmp_path / str(kill))
        killed(tmp_path / str(kill), IN_PIECES)
        if not all(is_whole(file.read_bytes()) for file in files):
            return
    pytest.fail("no kill met a write")


HALF = """
import os, signal, sys
from pathlib import Path
from rewrite import writing

def half(target, data):
    with target.open("r+b") as opened:
        opened.write(data[: len(data) // 2])
        opened.flush()
        os.kill(os.getpid(), signal.SIGKILL)

writing._overwrite = half
file = Path(sys.argv[1])
writing.write_atomically(file, b"new" * 9, expected=file.read_bytes())
"""


def test_a_kill_in_a_file_of_two_names_leaves_the_old_bytes_beside_it(file: Path):
    os.link(file, file.with_name("name.py"))
    ran = subprocess.run([sys.executable, "-c", HALF, str(file)], cwd=ROOT, check=False)
    assert ran.returncode == -signal.SIGKILL
    assert file.read_bytes() not in (OLD, b"new" * 9), "the kill came within"
    (beside,) = leftovers(file.parent)
    assert beside.suffix == ".old"
    assert beside.read_bytes() == OLD
    assert beside not in discover([file.parent]).files
