"""Several processes that train one network on the same batches, each on its share of the structures."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from matgraft.errors import InputError, LostWorker

_LONGEST_STEP = timedelta(minutes=5)
"""No step, validation or checkpoint lasts so long: a worker that stays silent for this time is lost."""

_LONGEST_START = timedelta(hours=12)
"""The same for reading data and building graphs."""

_REMEDY = "repeat the command to go on."


class Workers:
    """One process that trains by itself; :func:`joined` gives the form for several.

    Attributes
    ----------
    rank, count : int
        Which process this is, and how many there are. Rank 0 writes files and speaks.
    """

    rank = 0
    count = 1

    def share(self, costs: np.ndarray) -> slice:
        """The run of structures that is this worker's part of a batch; may be empty.

        Parameters
        ----------
        costs : ndarray of int, shape (n,)
            Atom pairs of each structure of the batch.
        """
        return slice(0, len(costs))

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter], loss: torch.Tensor) -> float:
        """Replace all gradients by their sums over the workers; the sum of the losses is returned."""
        return float(loss)

    def sum(self, value: float) -> float:
        """Sum of one number over the workers."""
        return value

    def start_equal(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Give every worker the weights of rank 0."""

    def agree(self, what: str, value: str) -> None:
        """Wait for all workers, and raise InputError unless all bring the same value."""

    @contextmanager
    def rank_zero_first(self) -> Iterator[None]:
        """Context that rank 0 leaves before the others enter: it builds, they find what was built."""
        yield


ALONE = Workers()


class _Group(Workers):
    def __init__(self, store: dist.Store, rank: int, count: int, device: str):
        self.store, self.rank, self.count, self.device = store, rank, count, device
        self._meetings = 0

    def share(self, costs: np.ndarray) -> slice:
        return balanced_share(costs, self.rank, self.count)

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter], loss: torch.Tensor) -> float:
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = _flat([*gradients, loss])
        self._together(dist.all_reduce, flat)
        *gradients, loss = flat.split([*(p.numel() for p in parameters), 1])
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.view_as(parameter)
        return float(loss)

    def sum(self, value: float) -> float:
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        self._together(dist.all_reduce, total)
        return float(total)

    def start_equal(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        parameters = list(parameters)
        flat = _flat([parameter.detach() for parameter in parameters])
        self._together(dist.broadcast, flat, 0)
        with torch.no_grad():
            for parameter, values in zip(
                parameters, flat.split([p.numel() for p in parameters]), strict=True
            ):
                parameter.copy_(values.view_as(parameter))

    def agree(self, what: str, value: str) -> None:
        keys = [f"{self._meeting()} {rank}" for rank in range(self.count)]
        self._together(self.store.set, keys[self.rank], value)
        for key in keys:
            self._wait_for(key)
        if any(self._together(self.store.get, key).decode() != value for key in keys):
            raise InputError(
                f"the {self.count} workers do not have the same {what}. Start all of them with the same "
                "command, data and versions, and with an --out folder that all of them see."
            )

    @contextmanager
    def rank_zero_first(self) -> Iterator[None]:
        ready = self._meeting()
        if self.rank > 0:
            self._wait_for(ready)
        yield
        if self.rank == 0:
            self._together(self.store.set, ready, "")

    def first_to_fail(self) -> bool:
        """Whether this worker is the one to say what went wrong: the first, or one that cannot ask."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            return self.store.add("failed", 1) == 1
        except RuntimeError:
            return True

    def _meeting(self) -> str:
        self._meetings += 1
        return f"meeting {self._meetings}"

    def _wait_for(self, key: str) -> None:
        # Asking again and again, unlike one long wait, lets a signal through.
        until = time.monotonic() + _LONGEST_START.total_seconds()
        while not self._together(self.store.check, [key]):
            if time.monotonic() > until:
                raise LostWorker(_lost(f"silent for {_LONGEST_START}"))
            time.sleep(0.05)

    @staticmethod
    def _together(call: Callable, *arguments):
        """A call that fails only where another worker is gone."""
        try:
            return call(*arguments)
        except RuntimeError as error:
            # Launchers stop the rest when one is gone; what is said then should be said to the end.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            raise LostWorker(_lost(_reason(error))) from error


def balanced_share(costs: np.ndarray, rank: int, count: int) -> slice:
    """Cut a batch into ``count`` runs of nearly equal cost and return the one of ``rank``.

    Parameters
    ----------
    costs : ndarray of int, shape (n,)
        Atom pairs of each structure.

    Notes
    -----
    A structure belongs to the worker in whose stretch of the cumulated cost its middle lies, so that no
    worker has more than the mean plus one structure.
    """
    costs = np.asarray(costs, dtype=np.int64) + 1  # a structure without pairs costs something, too
    middles = 2 * np.cumsum(costs) - costs
    owners = middles * count // (2 * costs.sum())
    start, stop = np.searchsorted(owners, [rank, rank + 1])
    return slice(int(start), int(stop))


def _launched() -> int:
    """Number of processes that torchrun (or another launcher) started for this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def joined() -> Iterator[Workers]:
    """The workers of this run, as the variables that torchrun sets describe them; one process without.

    Of several workers that fail, the first raises its error; the others exit in silence with the code of
    theirs. SIGTERM, by which launchers end the rest of a run that lost a worker, raises LostWorker.

    Raises
    ------
    InputError
        Variables are missing, or there are fewer GPUs than processes on this machine.
    LostWorker
        From any method of the workers once another process is gone; raised within seconds if it died, and
        within minutes if it went silent.
    """
    if _launched() < 2:
        yield ALONE
        return
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    group = _join()
    before = signal.signal(signal.SIGTERM, _told_to_stop)
    try:
        yield group
    except (InputError, LostWorker) as error:
        first = group.first_to_fail()
        if group.device == "cpu":
            # A thread of gloo that frees its last tensor while Python shuts down aborts the process. NCCL
            # is left as it is: it waits here for what a lost worker never sends.
            dist.destroy_process_group()
        if not first:
            raise SystemExit(2 if isinstance(error, InputError) else 1) from None
        raise
    signal.signal(signal.SIGTERM, before)
    dist.destroy_process_group()


def _join() -> _Group:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        local, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= gpus:
            raise InputError(
                f"more processes than the {gpus} GPUs here: use torchrun --nproc-per-node {gpus}."
            )
        torch.cuda.set_device(local)
    try:
        store, rank, count = next(rendezvous("env://", timeout=_LONGEST_STEP))
        # With --max-restarts the store outlives the processes, and holds the addresses of dead ones.
        store = dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        dist.init_process_group(
            "nccl" if device == "cuda" else "gloo",
            store=dist.PrefixStore("collectives", store),
            rank=rank,
            world_size=count,
            timeout=_LONGEST_STEP,
        )
    except ValueError as error:
        raise InputError(
            f"WORLD_SIZE is {_launched()}, but the workers cannot find each other ({error}). "
            "Start them with torchrun, or unset WORLD_SIZE to train in one process."
        ) from error
    except RuntimeError as error:
        raise LostWorker(_lost(_reason(error))) from error
    return _Group(store, rank, count, device)


def _flat(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _told_to_stop(*_) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise LostWorker(f"a worker was lost, or the run was stopped (SIGTERM); {_REMEDY}")


def _reason(error: RuntimeError) -> str:
    """The first line of torch's message, without the place in its source."""
    return str(error).splitlines()[0].split("] ", 1)[-1].split(". ")[0]


def _lost(reason: str) -> str:
    return f"a worker was lost ({reason}); {_REMEDY}"
