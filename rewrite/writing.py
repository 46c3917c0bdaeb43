"""New bytes for a file, all of them or none."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY = ".computed-surgery-"  # so begin the names of our own files; none ends with .py


class UnwritableError(OSError):
    """A file cannot be written: ``filename`` is its path, ``strerror`` says why. It holds what it did.

    >>> print(UnwritableError(errno.EACCES, "Permission denied", "model.py"))
    model.py cannot be written: Permission denied
    """

    def __str__(self) -> str:
        return f"{self.filename} cannot be written: {self.strerror}"


class ChangedMeanwhileError(UnwritableError):
    """A file holds other bytes than when it was read: somebody else has written it."""


def write_atomically(path: Path, data: bytes, *, expected: bytes) -> None:
    """Replace what ``path`` holds, which is ``expected``, by ``data``; where that fails, it holds what it did.

    Whoever reads, and whoever comes after a crash, finds the old bytes or the new ones: these are written to a
    file in the same folder, which then takes the place of the old one. A link stays a link, and what it leads to
    is written; permissions, extended attributes and, where the system allows, the owner are kept.

    A file with several names (hard links) must stay the same file, so it is written where it is, and that takes
    more than an instant: a reader may see a part, and a kill or a power cut in it leaves a mixture. The old bytes
    are then beside it, in a file ``.computed-surgery-*.old``; any other failure puts them back.

    Raises `ChangedMeanwhileError` where the file does not hold ``expected``, and `UnwritableError` where the system
    refuses, also for a file without permission to write, which its folder would allow to be replaced.
    """
    try:
        target = Path(os.path.realpath(path, strict=True))
        status = target.stat()
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        if status.st_nlink > 1:
            _write_in_place(path, target, data, expected)
        else:
            _replace(path, target, data, expected)
    except UnwritableError:
        raise
    except OSError as error:
        raise UnwritableError(error.errno, _reason(error, path), str(path)) from error


def _replace(path: Path, target: Path, data: bytes, expected: bytes) -> None:
    with _beside(target, data, ".new") as new:
        _take_over_owner(new, target.stat())
        shutil.copystat(target, new)  # after the owner: to change that takes some permissions away
        os.utime(new)  # but it is new
        _check(path, target, expected)  # as late as can be: between this and the next line nobody must write
        os.replace(new, target)  # the folder is not synced: a power cut may bring back the old file, but a whole one


def _write_in_place(path: Path, target: Path, data: bytes, expected: bytes) -> None:
    with _beside(target, expected, ".old") as old:
        _check(path, target, expected)
        try:
            _overwrite(target, data)
        except BaseException:
            _put_back(target, old, expected)
            raise


def _put_back(target: Path, old: Path, expected: bytes) -> None:
    try:
        _overwrite(target, expected)
    except BaseException as error:  # a second interrupt, or a disk that gives up: now it matters where the rest is
        kept = old.rename(old.with_suffix(".kept"))
        raise OSError(errno.EIO, f"{error!r} came while it was written; what it held is in {kept}") from error


@contextmanager
def _beside(target: Path, data: bytes, suffix: str) -> Iterator[Path]:
    """A file with ``data`` in the folder of ``target``, on disk; removed in the end, if it still has this name."""
    # the name is chosen here, not by tempfile, so that an interrupt finds it known before there is a file
    file = target.with_name(f"{TEMPORARY}{secrets.token_hex(8)}{suffix}")
    try:
        with open(file, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as opened:
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())
        yield file
    finally:
        file.unlink(missing_ok=True)


def _check(path: Path, target: Path, expected: bytes) -> None:
    with target.open("r+b") as opened:  # to write, so that a file that is protected says so
        if opened.read() != expected:
            raise ChangedMeanwhileError(errno.EBUSY, "it has changed since it was read; run again", str(path))


def _overwrite(target: Path, data: bytes) -> None:
    with target.open("r+b") as opened:
        opened.write(data)
        opened.truncate()
        opened.flush()
        os.fsync(opened.fileno())


def _take_over_owner(file: Path, status: os.stat_result) -> None:
    mine = file.stat()
    if os.name != "posix" or (mine.st_uid, mine.st_gid) == (status.st_uid, status.st_gid):
        return
    for owner in ((status.st_uid, status.st_gid), (-1, status.st_gid)):  # a group may be allowed where a user is not
        try:
            os.chown(file, *owner)
        except PermissionError:
            continue
        return


def _reason(error: OSError, path: Path) -> str:
    said = error.strerror or str(error)
    temporary = error.filename is not None and Path(os.fsdecode(error.filename)).name.startswith(TEMPORARY)
    return f"{said}, for a file beside it in {os.path.dirname(os.path.realpath(path))}" if temporary else said
