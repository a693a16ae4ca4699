"""Calculations on many machines: Slurm, PBS, Kubernetes or several blocks of this one, through Parsl."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from matgraft.dft.engine import bound
from matgraft.dft.scratch import folder
from matgraft.errors import InputError
from matgraft.settings import Settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


HEARTBEAT, LOST = 10, 60
"""Seconds between two signs of life of a block, and without one until it is held to be lost."""


class Cluster(Settings):
    """Where calculations run, and on how much.

    Attributes
    ----------
    provider : {"local", "slurm", "pbs", "kubernetes"}
    blocks : int
        Most jobs of the scheduler at a time; lost ones are replaced.
    nodes : int
        Machines of one block.
    workers : int
        Calculations at a time on one machine.
    walltime : str
        Of one block, ``hours:minutes:seconds``.
    queue, account : str
        Partition (Slurm) or queue (PBS), and who pays.
    options : str
        Further lines of the job script, such as ``#SBATCH --exclusive``.
    prepare : str
        Shell lines that each block begins with: load modules, activate an environment that holds matgraft.
    image, namespace : str
        Of Kubernetes.
    address : str
        Under which workers reach this machine; found out by itself where possible.
    """

    provider: Literal["local", "slurm", "pbs", "kubernetes"] = "local"
    blocks: int = Field(default=1, ge=1)
    nodes: int = Field(default=1, ge=1)
    workers: int = Field(default=1, ge=1)
    walltime: str = Field(default="24:00:00", pattern=r"^\d+:\d\d:\d\d$")
    queue: str = ""
    account: str = ""
    options: str = ""
    prepare: str = ""
    image: str = ""
    namespace: str = "default"
    address: str = ""

    @property
    def at_once(self) -> int:
        """Calculations that run at the same time."""
        return self.blocks * self.nodes * self.workers


def read(path: str | Path) -> Cluster:
    """Settings from a TOML file.

    Raises
    ------
    InputError
        Not readable, or with settings that do not exist or make no sense.
    """
    try:
        settings = tomllib.loads(Path(path).read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: not a readable TOML file of settings ({error}).") from error
    return Cluster.of(settings, str(path))


@contextmanager
def executor(cluster: Cluster) -> Iterator[Executor]:
    """Workers of a cluster for as long as the context lasts.

    Raises
    ------
    InputError
        Parsl is not installed.
    """
    try:
        from parsl import load
        from parsl.addresses import address_by_hostname
        from parsl.concurrent import ParslPoolExecutor
        from parsl.config import Config
        from parsl.executors import HighThroughputExecutor
    except ImportError as error:
        raise InputError("--cluster needs one more package: pip install 'matgraft[cluster]'") from error
    logging.getLogger("parsl").setLevel(logging.WARNING)
    # Parsl starts programs of its own, which lie beside this interpreter.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    local = cluster.provider == "local"
    here = "127.0.0.1" if local else address_by_hostname()
    # Workers find their keys in it, so other machines must see it; the working folder is the likeliest.
    with folder(None if local else Path.cwd()) as runs:
        workers = HighThroughputExecutor(
            label="labels",
            address=cluster.address or here,
            max_workers_per_node=cluster.workers,
            provider=_provider(cluster),
            # By itself it would outlive this process, and keep all blocks.
            interchange_launch_cmd=bound(("interchange.py",)),
            heartbeat_period=HEARTBEAT,
            heartbeat_threshold=LOST,
            # A pod sees no file of this machine, so no key either; clusters keep pods among themselves.
            encrypted=cluster.provider != "kubernetes",
        )
        config = Config(
            executors=[workers],
            run_dir=str(runs),
            strategy="simple",
            max_idletime=600.0,
            exit_mode="cleanup",
            # It would tell of every step wherever this program logs to.
            initialize_logging=False,
        )
        with load(config) as kernel:
            yield ParslPoolExecutor(dfk=kernel)


def _provider(cluster: Cluster) -> Any:
    from parsl.providers import KubernetesProvider, LocalProvider, PBSProProvider, SlurmProvider

    common: dict[str, Any] = {
        "init_blocks": cluster.blocks,
        "max_blocks": cluster.blocks,
        "min_blocks": 0,
        "nodes_per_block": cluster.nodes,
    }
    if cluster.provider == "local":
        # No scheduler here ends what a block that is killed leaves behind.
        return LocalProvider(**common, worker_init=f"trap 'kill 0' EXIT\n{cluster.prepare}")
    if cluster.provider == "kubernetes":
        if not cluster.image:
            raise InputError("provider kubernetes needs an image that holds matgraft and Quantum ESPRESSO.")
        return KubernetesProvider(
            cluster.image, **common, namespace=cluster.namespace, worker_init=cluster.prepare
        )
    batch: dict[str, Any] = {
        "account": cluster.account or None,
        "walltime": cluster.walltime,
        "scheduler_options": cluster.options,
        "worker_init": cluster.prepare,
    }
    if cluster.provider == "slurm":
        return SlurmProvider(partition=cluster.queue or None, **batch, **common)
    return PBSProProvider(queue=cluster.queue or None, **batch, **common)
