"""A question to a process of its own, in which code of the user runs; what comes back, or who failed there."""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import surgery.rules.ruleset  # noqa: F401 - before files of the user that are called `surgery` or `computed`

HERE = Path(__file__).parents[1]
LAST_LINES = 5


class ChildError(RuntimeError):
    """The other process gave no answer: the message says who failed, and how."""


@dataclass(frozen=True)
class Failure:
    """An error in the other process, as it is told here."""

    message: str


def ask(module: str, request: object, *, subject: str, timeout: float) -> Any:
    """What ``respond`` of ``module`` answers to ``request`` in another process; ``subject`` is whose code runs there.

    The process has the working directory first among its places of imports, as ``python -m`` would. Raises `ChildError`
    where it fails, ends, or takes longer than ``timeout`` seconds.
    """
    with TemporaryDirectory() as folder:
        asked, answered = Path(folder, "request"), Path(folder, "answer")
        asked.write_bytes(pickle.dumps((subject, request)))
        # -P: files of the user must not stand for modules of this package
        command = [sys.executable, "-P", "-m", __name__, module, str(asked), str(answered)]
        try:
            ran = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=_environment(),
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ChildError(f"{subject} did not return within {timeout:g} seconds") from error
        if not answered.is_file():
            last = ran.stdout.decode(errors="replace").rstrip().splitlines()[-LAST_LINES:]
            raise ChildError("\n  ".join([f"{subject} ended its process with exit code {ran.returncode}", *last]))
        answer = pickle.loads(answered.read_bytes())
    if isinstance(answer, Failure):
        raise ChildError(answer.message)
    return answer


def serve(module: str, asked: Path, answered: Path) -> None:
    """Answer the request that this process was started for."""
    responding = importlib.import_module(module)
    subject, request = pickle.loads(asked.read_bytes())
    sys.path.insert(0, os.getcwd())
    try:
        answer = responding.respond(request)
    except ChildError as error:
        answered.write_bytes(pickle.dumps(Failure(str(error))))
        raise
    except BaseException as error:
        told = f"{subject} raised {type(error).__name__}: {error}{_place(error)}"
        answered.write_bytes(pickle.dumps(Failure(told)))
        raise
    answered.write_bytes(pickle.dumps(answer))


def _place(error: BaseException) -> str:
    """Where an error was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f" ({trace.tb_frame.f_code.co_filename}:{trace.tb_lineno})"


def _environment() -> dict[str, str]:
    """This one, with this package where it is found though it may not be installed."""
    before = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*([before] if before else []), str(HERE)])}


if __name__ == "__main__":
    # the classes of what is pickled are those of the module by its name, not of the program
    from rewrite.child import serve as serve_by_name

    serve_by_name(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
