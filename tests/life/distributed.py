"""Ranks: processes joined by gloo on the CPU that run the functions of a test and give back results or tracebacks.

The processes start once and serve many tests, since each of them takes seconds to import torch. A function must stand
at the top of a module, where the ranks can import it. They meet in a file, so no port is taken; a rank that takes too
long says where it stands and ends. After a failure the next call starts new ones.
"""

from __future__ import annotations

import datetime
import faulthandler
import gc
import itertools
import pickle
import time
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, multiprocessing
from torch.distributed import destroy_process_group, init_process_group

SECONDS = 60  # for one call
GRACE = 5  # how long the others may go on after one has failed: a collective without it never ends
SEED = 0


State = dict[str, Tensor]


def assert_same(found: State, expected: State, tolerance: float) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=tolerance, msg=lambda text, name=name: name + text)


class RankError(AssertionError):
    """Some rank raised, hung or died; the message has what each of them said."""


class Ranks:
    """``ranks(function, *args)`` calls ``function(rank, *args)`` on every rank: a list of what they returned."""

    def __init__(self, count: int, folder: Path, seconds: float = SECONDS) -> None:
        self.count = count
        self.folder = folder
        self.seconds = seconds
        self._starts = itertools.count()
        self._running: list[tuple[Any, Connection, Path]] = []

    def __call__(self, function: Callable[..., Any], *args: object) -> list[Any]:
        if not self._running:
            self._start()
        task = pickle.dumps((function, args, self.seconds))
        for _, connection, _ in self._running:
            connection.send_bytes(task)
        answers = self._answers()
        if all(answer[0] for answer in answers):
            return [pickle.loads(result) for _, result in answers]
        self._kill()
        told = "\n".join(f"rank {rank}: {'done' if ok else text}" for rank, (ok, text) in enumerate(answers))
        raise RankError(f"{function.__qualname__}:\n{told}")

    def close(self) -> None:
        """Let the ranks end; those that do not are killed."""
        for _, connection, _ in self._running:
            connection.send_bytes(b"")
        for process, _, _ in self._running:
            process.join(GRACE)
        self._kill()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        start = next(self._starts)
        for rank in range(self.count):
            ours, theirs = context.Pipe()
            log = self.folder / f"rank-{start}-{rank}"
            where = f"file://{self.folder}/store-{start}"
            process = context.Process(target=_serve, args=(theirs, rank, self.count, where, str(log)), daemon=True)
            process.start()
            theirs.close()
            self._running.append((process, ours, log))

    def _answers(self) -> list[tuple[bool, Any]]:
        answers: dict[int, tuple[bool, Any]] = {}
        # the first call also waits for imports; a rank that hangs ends by itself
        deadline = time.monotonic() + self.seconds + 60
        while len(answers) < self.count and time.monotonic() < deadline:
            for rank, (_, connection, log) in enumerate(self._running):
                if rank in answers or not connection.poll(0.005):
                    continue
                try:
                    answers[rank] = pickle.loads(connection.recv_bytes())
                except EOFError:
                    answers[rank] = (False, f"ended\n{log.read_text() if log.exists() else ''}")
                if not answers[rank][0]:
                    deadline = min(deadline, time.monotonic() + GRACE)
        return [answers.get(rank, (False, "no answer")) for rank in range(self.count)]

    def _kill(self) -> None:
        for process, connection, _ in self._running:
            process.kill()
            process.join()
            connection.close()
        self._running = []


def _serve(connection: Connection, rank: int, count: int, where: str, log: str) -> None:
    """What a rank does: one function after the other, until an empty message."""
    torch.set_num_threads(1)
    init_process_group(
        "gloo", init_method=where, rank=rank, world_size=count, timeout=datetime.timedelta(seconds=2 * SECONDS)
    )
    with open(log, "w") as file:
        faulthandler.enable(file)
        while task := connection.recv_bytes():
            connection.send_bytes(pickle.dumps(_answer(task, rank, file)))
    gc.collect()  # a wrapper that is still alive would keep the group's threads at work
    destroy_process_group()


def _answer(task: bytes, rank: int, log: Any) -> tuple[bool, Any]:
    """``(True, pickled result)`` or ``(False, traceback)``."""
    try:
        function, args, seconds = pickle.loads(task)
        faulthandler.dump_traceback_later(seconds, exit=True, file=log)
        torch.manual_seed(SEED)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return True, pickle.dumps(function(rank, *args))
    except Exception:  # whatever it is, the test that asked gets the traceback
        return False, traceback.format_exc()
    finally:
        faulthandler.cancel_dump_traceback_later()
