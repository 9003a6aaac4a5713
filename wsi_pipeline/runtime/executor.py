"""Run tasks on a Dask cluster: a local one by default, or any scheduler by its address.

Tasks return small records; pixels stay in the worker. Errors raised in a task come back as they were; a worker
that dies has its tasks given to another one, ``retries`` times.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from wsi_pipeline.config import RuntimeConfig
from wsi_pipeline.errors import WsiPipelineError
from wsi_pipeline.runtime.clusters import ClusterRequest, OpenCluster, open_cluster
from wsi_pipeline.runtime.devices import resolve_device
from wsi_pipeline.runtime.isolated import run_isolated
from wsi_pipeline.runtime.layout import layout_of, usable_cores, visible_gpus
from wsi_pipeline.runtime.tasks import (
    Outcome,
    TaskLostError,
    TaskReport,
    name_of,
    pack,
    run_packed,
    run_task,
    timeout_message,
)

if TYPE_CHECKING:
    from distributed import Client

T = TypeVar("T")
R = TypeVar("R")

_QUEUED_PER_WORKER = 4
_WORKERS_EVERY_S = 2.0
_ISOLATED_TRIES = 3
_NO_SCHEDULER = (
    "the connection to the Dask scheduler is lost; start a scheduler and workers, and give the same command again: "
    "it resumes"
)

_log = logging.getLogger(__name__)


class RunStoppedError(WsiPipelineError, RuntimeError):
    """What no slide is to blame for and ends the whole run; the same command resumes."""

    reason = "run-stopped"


@dataclass(kw_only=True)
class WorkerUse:
    """What one worker process did in a run."""

    host: str
    pid: int
    tasks: int = 0
    seconds: float = 0.0
    peak_rss_mib: float = 0.0

    def to_record(self) -> dict[str, Any]:
        return {
            "host": self.host,
            "pid": self.pid,
            "tasks": self.tasks,
            "seconds": round(self.seconds, 3),
            "peak_rss_mib": round(self.peak_rss_mib, 1),
        }


class _Reporting:
    """Keeps count of who did what, and tells of every task that is done.

    Attributes
    ----------
    on_task
        Told of each task, in the thread that waits for it, before its result is handed on; may raise.
    workers
        What each process did, by host and process id.
    """

    def __init__(self) -> None:
        self.on_task: Callable[[TaskReport], None] = _ignore
        self.workers: dict[tuple[str, int], WorkerUse] = {}
        self._counting = threading.Lock()

    def _done(self, outcome: Outcome) -> Any:
        report = outcome.report
        with self._counting:
            key = report.host, report.pid
            use = self.workers.setdefault(key, WorkerUse(host=report.host, pid=report.pid))
            use.tasks += 1
            use.seconds += report.seconds
            use.peak_rss_mib = max(use.peak_rss_mib, report.rss_mib)
        self.on_task(report)
        return outcome.result


def _ignore(_: TaskReport) -> None: ...


class Executor(_Reporting):
    """Bounded submission of tasks to a Dask client; safe to use from several threads.

    Parameters
    ----------
    client
        A connected client.
    cluster
        What it is connected to; None for workers that are all alike, on a CPU.
    """

    def __init__(self, client: Client, cluster: OpenCluster | None = None) -> None:
        super().__init__()
        self._client = client
        self._cluster = cluster
        self._known_workers, self._looked = 0, -math.inf

    @property
    def n_workers(self) -> int:
        """Return how many workers there are, as known a moment ago: to ask takes longer than a small task."""
        now = time.monotonic()
        if now - self._looked > _WORKERS_EVERY_S:
            self._known_workers = len(self._client.scheduler_info(n_workers=-1)["workers"])
            self._looked = now
        return max(1, self._known_workers)

    @property
    def dashboard(self) -> str:
        """Return the address of Dask's dashboard; empty where the scheduler has none."""
        services = self._client.scheduler_info().get("services", {})
        return str(self._client.dashboard_link) if "dashboard" in services else ""

    def device(self, requested: Literal["auto", "cpu", "cuda"]) -> Literal["cpu", "cuda"]:
        """Return the device that segments and classifies, on whichever worker."""
        return "cpu" if self._cluster is None or requested == "cpu" else self._cluster.device

    def _resources(self, function: Callable[..., Any]) -> dict[str, float] | None:
        return None if self._cluster is None else self._cluster.resources(getattr(function, "on_device", False))

    def call(self, function: Callable[..., R], *arguments: Any, timeout_s: float | None = None) -> R:
        """Run one task and return its record."""
        for result in self.map(function, [arguments], timeout_s=timeout_s):
            return result
        raise AssertionError("a task without a result")

    def map(
        self,
        function: Callable[..., R],
        argument_lists: Iterable[tuple[Any, ...]],
        *,
        timeout_s: float | None = None,
    ) -> Iterator[R]:
        """Run a task for every tuple of arguments and yield the records as they finish.

        At most a few tasks a worker are queued at once, so a slide of a million blocks costs no memory. The first
        error cancels the rest and is raised. A task whose workers died may have been beside the one at fault: it is
        tried again in a process of its own, where it can only harm itself.

        Parameters
        ----------
        timeout_s
            Seconds after which a task is given up and its worker replaced.

        Raises
        ------
        TaskLostError
            A task ended its process, ran out of memory, or did not end in time; ``reason`` says which.
        RunStoppedError
            The scheduler is gone.
        """
        from distributed import CancelledError, KilledWorker, as_completed
        from distributed.comm import CommClosedError

        if self._client.status != "running":
            raise RunStoppedError(_NO_SCHEDULER)
        waiting = iter(argument_lists)
        resources = self._resources(function)
        unfinished: dict[Any, tuple[Any, tuple[Any, ...], int]] = {}
        running: Any = as_completed(loop=self._client.loop)

        def fill() -> None:
            # Half of them at once: what the scheduler does for a call of the client is much of what a task costs it.
            most = _QUEUED_PER_WORKER * self.n_workers
            if len(unfinished) <= most // 2 and (more := list(islice(waiting, most - len(unfinished)))):
                submit(more, isolated=0)

        def submit(arguments: list[tuple[Any, ...]], *, isolated: int) -> None:
            futures: list[Any] = self._client.map(
                run_isolated if isolated else run_packed,
                [pack(function, one) for one in arguments],
                key=[f"{name_of(function)}-{uuid.uuid4().hex}" for _ in arguments],
                timeout_s=timeout_s,
                pure=False,
                resources=resources,
            )
            for future, one in zip(futures, arguments, strict=True):
                unfinished[future.key] = future, one, isolated
            running.update(futures)

        try:
            fill()
            while unfinished:
                future = next(running)
                _, arguments, isolated = unfinished.pop(future.key)
                outcome = None
                try:
                    outcome = future.result()
                except KilledWorker:
                    if isolated >= _ISOLATED_TRIES:
                        raise TaskLostError(
                            f"workers died again and again beside {name_of(function)}, which ran in a process of its "
                            "own; the machine is short of memory, or something ends its workers"
                        ) from None
                    submit([arguments], isolated=isolated + 1)
                finally:
                    future.release()
                if outcome is not None and outcome.report.timed_out:
                    self._replace(outcome.report.address)
                    raise TaskLostError(timeout_message(name_of(function), timeout_s), reason="timeout")
                fill()
                if outcome is not None:
                    yield self._done(outcome)
        except (CancelledError, CommClosedError, OSError) as error:
            # Tasks raise errors of ours or plain ones. Dask's own are of the connection, also where its client has not
            # noticed yet; a plain one is, where it has.
            of_dask = isinstance(error, (CancelledError, CommClosedError))
            if isinstance(error, WsiPipelineError) or (self._client.status == "running" and not of_dask):
                raise
            raise RunStoppedError(_NO_SCHEDULER) from None
        finally:
            running.clear()
            # It still waits for each of them, and so holds them: forgotten, they would all be computed.
            if unfinished and self._client.status == "running":
                self._client.cancel([future for future, *_ in unfinished.values()])

    def _replace(self, address: str) -> None:
        """End a worker's process, which its nanny then starts anew; one without a nanny is gone."""
        try:
            self._client.run(_leave, workers=[address], wait=False, on_error="ignore")
        except Exception as error:  # noqa: BLE001  the slide's own failure is what counts
            _log.warning("worker %s hangs and could not be replaced: %s", address, error)


async def _leave() -> None:  # a coroutine, since Dask does not wait for those
    os._exit(1)


def default_workers(config: RuntimeConfig) -> int:
    """Return how many processes of this machine segment: one a core, or one a GPU."""
    gpus = len(visible_gpus()) if resolve_device(config.device) == "cuda" else 0
    layout = layout_of(config.model_copy(update={"workers": None}), cores=usable_cores(), gpus=gpus)
    return layout.gpu or layout.cpu


@contextmanager
def open_executor(cluster: str | ClusterRequest, config: RuntimeConfig) -> Iterator[Executor]:
    """Yield an executor on a cluster; see :func:`wsi_pipeline.runtime.clusters.open_cluster`.

    Raises
    ------
    ConfigError, DeviceError
        The cluster cannot be had.
    """
    request = cluster if isinstance(cluster, ClusterRequest) else ClusterRequest(kind=cluster)
    with open_cluster(request, config) as opened:
        yield Executor(opened.client, opened)


class SerialExecutor(_Reporting):
    """The same interface in this process, one task at a time: for small images and for tests of single stages."""

    n_workers = 1
    dashboard = ""

    def device(self, requested: Literal["auto", "cpu", "cuda"]) -> Literal["cpu", "cuda"]:
        """Return the device that segments and classifies."""
        return "cuda" if resolve_device(requested) == "cuda" else "cpu"

    def call(self, function: Callable[..., R], *arguments: Any, timeout_s: float | None = None) -> R:
        """Run one task and return its record; nothing here could end one that hangs, so the limit is not kept."""
        return self._done(run_task(function, arguments))

    def map(
        self,
        function: Callable[..., R],
        argument_lists: Iterable[tuple[Any, ...]],
        *,
        timeout_s: float | None = None,
    ) -> Iterator[R]:
        for arguments in argument_lists:
            yield self.call(function, *arguments)


class ThreadExecutor(SerialExecutor):
    """Several threads of this process at once, for tasks that let go of the interpreter's lock.

    One process holds the libraries and models once, where each worker process holds its own.
    """

    def __init__(self, n_workers: int) -> None:
        super().__init__()
        self.n_workers = n_workers
        self._free = threading.BoundedSemaphore(n_workers)

    def call(self, function: Callable[..., R], *arguments: Any, timeout_s: float | None = None) -> R:
        with self._free:
            return super().call(function, *arguments)
