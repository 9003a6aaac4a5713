"""Workers inside the Slurm allocation that this process is in, started by ``srun``."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsi_pipeline.config import RuntimeConfig
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.runtime.cluster_config import ClusterConfig, TlsFiles
from wsi_pipeline.runtime.layout import Layout

if TYPE_CHECKING:
    from distributed import Client

_FIRST_WORKER_S = 300
_STOP_S = 30

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """What Slurm gave this job.

    Attributes
    ----------
    tasks
        Places for workers, over all nodes.
    cores, gpus
        Of each task.
    """

    tasks: int
    cores: int
    gpus: int


def allocation_of() -> Allocation:
    """Return the allocation that this process is in.

    Raises
    ------
    ConfigError
        It is in none, or ``srun`` is missing.
    """
    if not os.environ.get("SLURM_JOB_ID") or shutil.which("srun") is None:
        raise ConfigError("--cluster srun works inside an allocation: submit slurm/run_dask.sbatch, or use salloc")
    tasks = max(1, _number("SLURM_NTASKS"))
    nodes = max(1, _number("SLURM_JOB_NUM_NODES"))
    gpus = _number("SLURM_GPUS_PER_TASK") or _number("SLURM_GPUS_ON_NODE") // max(1, tasks // nodes)
    return Allocation(tasks=tasks, cores=max(1, _number("SLURM_CPUS_PER_TASK")), gpus=gpus)


def _number(variable: str) -> int:
    """Return the number at the end of a variable of Slurm's (``a100:2`` is 2); 0 where there is none."""
    match = re.search(r"(\d+)\Z", os.environ.get(variable, ""))
    return int(match[1]) if match else 0


class _Workers:
    def __init__(self, words: list[str]) -> None:
        self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL)

    def wait_for_first(self, client: Client) -> None:
        """Wait for a worker.

        Raises
        ------
        ConfigError
            The workers ended instead, or none came in time.
        """
        until = time.monotonic() + _FIRST_WORKER_S
        while not client.scheduler_info(n_workers=1)["workers"]:
            ended = self._process.poll()
            if ended is not None or time.monotonic() > until:
                how = f"srun ended with status {ended}" if ended is not None else f"none came in {_FIRST_WORKER_S} s"
                raise ConfigError(
                    f"--cluster srun: no worker started ({how}); where the allocation has several nodes, name their "
                    "network by interface in --cluster-config"
                )
            time.sleep(0.2)

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def start_workers(
    address: str, cluster: ClusterConfig, config: RuntimeConfig, layout: Layout, tls: TlsFiles | None
) -> Iterator[_Workers]:
    """Start the workers of an allocation, one set of processes a task, and stop them in the end."""
    allocation = allocation_of()
    scratch = os.path.expandvars(cluster.scratch) if cluster.scratch else os.environ.get("TMPDIR", "/tmp")
    words = [
        "srun", f"--ntasks={allocation.tasks}", f"--cpus-per-task={allocation.cores}",
        "--no-kill", "--kill-on-bad-exit=0", "--cpu-bind=none",
        sys.executable, "-m", "wsi_pipeline.cli.main", "worker", address,
        "--cpu-processes", str(layout.cpu), "--gpu-processes", str(layout.gpu),
        "--cpu-threads", str(layout.cpu_threads), "--gpu-threads", str(layout.gpu_threads),
        "--compute-threads", str(config.threads), "--local-directory", scratch,
        "--death-timeout", str(cluster.death_timeout_s),
        *(["--interface", cluster.interface] if cluster.interface else ["--host", "127.0.0.1"]),
    ]  # fmt: skip
    if tls is not None:
        words += ["--tls-ca-file", str(tls.ca_file), "--tls-cert", str(tls.cert), "--tls-key", str(tls.key)]
    workers = _Workers(words)
    try:
        yield workers
    finally:
        workers.stop()
