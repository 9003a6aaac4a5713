"""Run tasks on a Dask cluster: a local one by default, or any scheduler by its address.

Tasks return small records; pixels stay in the worker. Errors raised in a task come back as they were; a worker
that dies has its tasks given to another one, ``retries`` times.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from wsi_pipeline.config import RuntimeConfig
from wsi_pipeline.errors import ConfigError, WsiPipelineError
from wsi_pipeline.runtime.devices import resolve_device

if TYPE_CHECKING:
    from distributed import Client, LocalCluster

T = TypeVar("T")
R = TypeVar("R")

_QUEUED_PER_WORKER = 4
_WORKERS_ON_GPU = 4
_CLOSE_S = 60
# A block's arrays are freed and asked for again, over and over. glibc gives each back to the system and takes it anew,
# page by page, which was half of a worker's time: kept, a block took 18 s of processor where it had taken 35.
KEEP_MEMORY = {
    "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_ARENA_MAX": "1",
}
"""Environment of a worker process, for glibc; others ignore it."""

_THREAD_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")

_log = logging.getLogger(__name__)


class WorkerLostError(WsiPipelineError, RuntimeError):
    """Workers died again and again on one task, most often for want of memory."""

    reason = "worker-lost"


class Executor:
    """Bounded submission of tasks to a Dask client; safe to use from several threads.

    Parameters
    ----------
    client
        A connected client.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    @property
    def n_workers(self) -> int:
        return max(1, len(self._client.scheduler_info(n_workers=-1)["workers"]))

    def call(self, function: Callable[..., R], *arguments: Any) -> R:
        """Run one task and return its record."""
        for result in self.map(function, [arguments]):
            return result
        raise AssertionError("a task without a result")

    def map(self, function: Callable[..., R], argument_lists: Iterable[tuple[Any, ...]]) -> Iterator[R]:
        """Run a task for every tuple of arguments and yield the records as they finish.

        At most a few tasks a worker are queued at once, so a slide of a million blocks costs no memory. The first
        error cancels the rest and is raised. A task whose workers died may have been beside the one at fault: it is
        tried again at the end, with no other of this call, before it is given up.
        """
        from distributed import KilledWorker, as_completed

        waiting = iter(argument_lists)
        unfinished: dict[Any, tuple[Any, tuple[Any, ...]]] = {}
        blamed: list[tuple[Any, ...]] = []
        last_chance = False
        running: Any = as_completed(loop=self._client.loop)
        open_tasks = 0

        def fill() -> int:
            added = 0
            most = _QUEUED_PER_WORKER * self.n_workers
            while open_tasks + added < most:
                arguments = next(waiting, None)
                if arguments is None:
                    break
                submit(arguments)
                added += 1
            return added

        def submit(arguments: tuple[Any, ...]) -> None:
            future = self._client.submit(function, *arguments, pure=False)
            unfinished[future.key] = future, arguments
            running.add(future)

        try:
            open_tasks += fill()
            while open_tasks:
                future = next(running)
                open_tasks -= 1
                _, arguments = unfinished.pop(future.key)
                lost = False
                try:
                    result = future.result()
                except KilledWorker:
                    if last_chance:
                        raise WorkerLostError(
                            "the worker died on this task again and again; if memory ran out use fewer "
                            "runtime.workers or a smaller tiling.core_px"
                        ) from None
                    blamed.append(arguments)
                    lost = True
                finally:
                    future.release()
                open_tasks += fill()
                if not open_tasks and blamed:
                    last_chance = True
                    submit(blamed.pop())
                    open_tasks += 1
                if not lost:
                    yield result
        finally:
            running.clear()
            # It still waits for each of them, and so holds them: forgotten, they would all be computed.
            if unfinished and self._client.status == "running":
                self._client.cancel([future for future, _ in unfinished.values()])


def default_workers(config: RuntimeConfig) -> int:
    """Return one worker a core, or a few that share the GPU."""
    cores = os.cpu_count() or 1
    return min(_WORKERS_ON_GPU, cores) if resolve_device(config.device) == "cuda" else cores


@contextmanager
def open_executor(cluster: str, config: RuntimeConfig) -> Iterator[Executor]:
    """Yield an executor on ``local`` workers or on the scheduler at an address such as ``tcp://host:8786``.

    Raises
    ------
    ConfigError
        The address cannot be reached, or the kind of cluster is unknown.
    """
    import dask
    from distributed import Client, LocalCluster

    for name in ("distributed", "distributed.nanny", "distributed.scheduler", "distributed.http.proxy"):
        logging.getLogger(name).setLevel(logging.ERROR)  # its import sets INFO, which fills the user's terminal
    settings = {
        "distributed.scheduler.allowed-failures": config.retries,
        # Only as many tasks as threads: those waiting behind one that kills its worker would be blamed for the death.
        "distributed.scheduler.worker-saturation": 1.0,
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        # A paused worker would wait for ever for memory that no Dask key holds; running out is an error instead.
        "distributed.worker.memory.pause": False,
        "distributed.comm.timeouts.connect": "20s",
        "distributed.admin.large-graph-warning-threshold": "50MB",
        # Set before the process starts: later neither the allocator nor OpenMP reads it.
        "distributed.nanny.pre-spawn-environ": {
            **dict.fromkeys(_THREAD_SETTINGS, str(config.threads)),
            **KEEP_MEMORY,
        },
    }
    with dask.config.set(settings):
        if cluster == "local":
            workers = config.workers or default_workers(config)
            local = LocalCluster(
                n_workers=workers,
                threads_per_worker=1 + config.prefetch,
                processes=True,
                dashboard_address=":0",
                silence_logs=50,
            )
            client = Client(local, set_as_default=False)
            try:
                yield Executor(client)
            finally:
                _close(client)
                _close(local)
            return
        if "://" not in cluster:
            raise ConfigError(f"--cluster {cluster!r}: use local or a scheduler address such as tcp://host:8786")
        try:
            client = Client(cluster, timeout=20, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ConfigError(f"--cluster {cluster}: no Dask scheduler answers there ({error})") from None
        try:
            _await_workers(client, cluster)
            yield Executor(client)
        finally:
            _close(client)


def _await_workers(client: Client, cluster: str) -> None:
    try:
        client.wait_for_workers(1, timeout=120)
    except TimeoutError:
        raise ConfigError(f"--cluster {cluster}: the scheduler has no workers; start dask workers there") from None


def _close(part: Client | LocalCluster) -> None:
    """Close a client or cluster; what the run found is not lost because a worker is slow to stop."""
    try:
        part.close(timeout=_CLOSE_S)
    except TimeoutError:
        _log.info("%s did not close within %s s", type(part).__name__, _CLOSE_S)


class SerialExecutor:
    """The same interface in this process, one task at a time: for small images and for tests of single stages."""

    n_workers = 1

    def call(self, function: Callable[..., R], *arguments: Any) -> R:
        return function(*arguments)

    def map(self, function: Callable[..., R], argument_lists: Iterable[tuple[Any, ...]]) -> Iterator[R]:
        for arguments in argument_lists:
            yield self.call(function, *arguments)


class ThreadExecutor(SerialExecutor):
    """Several threads of this process at once, for tasks that let go of the interpreter's lock.

    One process holds the libraries and models once, where each worker process holds its own.
    """

    def __init__(self, n_workers: int) -> None:
        self.n_workers = n_workers
        self._free = threading.BoundedSemaphore(n_workers)

    def call(self, function: Callable[..., R], *arguments: Any) -> R:
        with self._free:
            return function(*arguments)
