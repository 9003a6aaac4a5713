"""A Dask scheduler and its workers as processes of their own, so that each can be measured, and killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_START_S = 120
_SETTINGS = {
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_SATURATION": "1.0",
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "2",
    "DASK_DISTRIBUTED__WORKER__MEMORY__TARGET": "False",
    "DASK_DISTRIBUTED__WORKER__MEMORY__SPILL": "False",
    "DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE": "False",
}


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A scheduler, its address, and the nannies of its workers."""

    address: str
    scheduler: subprocess.Popen[bytes]
    nannies: tuple[subprocess.Popen[bytes], ...]

    def pids(self) -> dict[str, list[int]]:
        """Return the process ids by what they are; a worker is a nanny's child."""
        import psutil

        workers = []
        for nanny in self.nannies:
            try:
                children = psutil.Process(nanny.pid).children(recursive=True)
            except psutil.NoSuchProcess:
                continue
            workers += [child.pid for child in children if "resource_tracker" not in " ".join(child.cmdline())]
        return {"scheduler": [self.scheduler.pid], "workers": workers}


@contextmanager
def dask_processes(scratch: Path, *, workers: int, threads: int = 2) -> Iterator[Cluster]:
    """Start a scheduler and workers on this machine, and end them.

    Parameters
    ----------
    scratch
        Where the workers keep their files.
    workers
        Worker processes, each with a nanny.
    threads
        Of each worker: one computes, the others read ahead.
    """
    from wsi_pipeline.runtime.layout import KEEP_MEMORY

    environment = {**os.environ, **_SETTINGS, **KEEP_MEMORY, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    scratch.mkdir(parents=True, exist_ok=True)
    told = scratch / "scheduler.json"
    told.unlink(missing_ok=True)
    log = (scratch / "dask.log").open("ab")

    def start(*words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "distributed.cli.dask_" + words[0], *words[1:]],
            env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip

    scheduler = start(
        "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(told)
    )
    started: list[subprocess.Popen[bytes]] = [scheduler]
    try:
        deadline = time.monotonic() + _START_S
        while not told.is_file():
            if scheduler.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the Dask scheduler did not start; see {scratch / 'dask.log'}")
            time.sleep(0.1)
        address = json.loads(told.read_text())["address"]
        for number in range(workers):
            started.append(
                start(
                    "worker", address, "--nthreads", str(threads), "--no-dashboard", "--name", f"worker-{number}",
                    "--local-directory", str(scratch / f"worker-{number}"), "--memory-limit", "0",
                )
            )  # fmt: skip
        yield Cluster(address=address, scheduler=scheduler, nannies=tuple(started[1:]))
    finally:
        for process in reversed(started):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.close()
