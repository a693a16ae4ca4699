"""Processes of one thread each that end with the one that started them."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any

import torch

from matgraft.errors import LostWorker

Submit = Callable[..., Future]
"""Takes a function of a module, since processes import it anew, and what follows the shared arguments."""

_shared: tuple = ()


@contextmanager
def pool(workers: int, *shared: object) -> Iterator[Submit]:
    """A pool of processes, which end with what they do on an error; yields what gives them work.

    Parameters
    ----------
    workers : int
    *shared : object
        Handed to each process once: the first arguments of all that it is to call.

    Raises
    ------
    LostWorker
        A process ended before its work was done.
    """
    # Children import the libraries anew and must not bring a thread per core each.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Through a file, for a pipe makes the parent wait until a child has imported all it needs, one after the
    # other, and for ever if a child dies meanwhile.
    with tempfile.TemporaryDirectory(prefix="matgraft-pool-") as folder:
        order = Path(folder) / "order"
        order.write_bytes(pickle.dumps(shared))
        context = _Context()
        with ProcessPoolExecutor(
            max_workers=workers,
            mp_context=context,
            initializer=_start,
            initargs=(order,),
        ) as executor:
            try:
                yield lambda function, *more: executor.submit(_call, function, *more)
            except BrokenProcessPool as broken:
                raise LostWorker(
                    "a process ended before its work was done: killed, out of memory, or started by a script "
                    'that makes its calls without if __name__ == "__main__". Repeat the call: what was done '
                    "is kept."
                ) from broken
            except BaseException:
                executor.shutdown(wait=False, cancel_futures=True)
                for child in context.children:
                    child.terminate()
                raise


class _Process(SpawnProcess):
    """Deaf to the Ctrl-C of a terminal, which goes to all processes at once: its parent ends it."""

    def start(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            super().start()
            return
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            super().start()
        finally:
            signal.signal(signal.SIGINT, before)


class _Context(SpawnContext):
    """Where such processes come from; it remembers them."""

    def __init__(self) -> None:
        self.children: list[_Process] = []

    def Process(self, *args: Any, **kwargs: Any) -> _Process:  # type: ignore[override]
        self.children.append(_Process(*args, **kwargs))
        return self.children[-1]


def finished(pending: dict[Future, Any]) -> Iterable[tuple[Any, Any]]:
    """What each future stands for, and its result, as they finish."""
    for future in as_completed(list(pending)):
        yield pending.pop(future), future.result()


def _start(order: Path) -> None:
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, args=(order.parent,), daemon=True).start()
    global _shared
    _shared = pickle.loads(order.read_bytes())


def _call(function: Callable, *arguments: object) -> object:
    return function(*_shared, *arguments)


def _end_with_parent(folder: Path) -> None:
    """A parent that is killed cannot clean up, nor tell its workers, which would wait for ever for work."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)
