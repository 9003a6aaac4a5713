"""Workers inside the Slurm allocation that this process is in, started by ``srun``."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wsi_pipeline.config import RuntimeConfig
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.runtime.cluster_config import ClusterConfig, TlsFiles
from wsi_pipeline.runtime.layout import Layout

if TYPE_CHECKING:
    from distributed import Client
    from distributed.deploy.spec import SpecCluster as Cluster

_FIRST_WORKER_S = 300
_STOP_S = 15
_LOOK_S = 1.0

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
    memory_mib
        Of each task; 0 where Slurm does not say.
    """

    tasks: int
    cores: int
    gpus: int
    memory_mib: int


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
    cores = max(1, _number("SLURM_CPUS_PER_TASK"))
    memory = _number("SLURM_MEM_PER_CPU") * cores or _number("SLURM_MEM_PER_NODE") // -(-tasks // nodes)
    return Allocation(tasks=tasks, cores=cores, gpus=gpus, memory_mib=memory)


def _number(variable: str) -> int:
    """Return the number at the end of a variable of Slurm's (``a100:2`` is 2); 0 where there is none."""
    match = re.search(r"(\d+)\Z", os.environ.get(variable, ""))
    return int(match[1]) if match else 0


class _Workers:
    def __init__(self, words: list[str]) -> None:
        self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

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

    def watch(self, cluster: Cluster) -> None:
        """Take the scheduler down when all workers are gone: the run ends, where it would wait for ever."""

        def look() -> None:
            while not self._stopping.wait(_LOOK_S):
                if self._process.poll() is not None:
                    _log.error("all workers of the allocation ended; srun's status is %s", self._process.returncode)
                    scheduler: Any = cluster.scheduler
                    cluster.sync(scheduler.close)
                    return

        self._thread = threading.Thread(target=look, name="srun", daemon=True)
        self._thread.start()

    def let_end(self) -> None:
        """Expect the workers to end from now on."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(_STOP_S)

    def stop(self) -> None:
        """Wait until the workers have ended, as they do without a scheduler, and end those that have not."""
        for end in (self._process.terminate, self._process.kill):
            try:
                self._process.wait(_STOP_S)
                return
            except subprocess.TimeoutExpired:
                end()
        self._process.wait()


def start_workers(
    address: str, cluster: ClusterConfig, config: RuntimeConfig, layout: Layout, tls: TlsFiles | None
) -> _Workers:
    """Start the workers of an allocation, one set of processes a task."""
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
    if allocation.memory_mib:
        words += ["--memory-limit", f"{allocation.memory_mib // layout.processes}MiB"]
    if tls is not None:
        words += ["--tls-ca-file", str(tls.ca_file), "--tls-cert", str(tls.cert), "--tls-key", str(tls.key)]
    return _Workers(words)
