"""One task on a worker: what it returns, what it wrote, who did it, and an end to it that does not come by itself."""

from __future__ import annotations

import os
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from wsi_pipeline.atomic import noting
from wsi_pipeline.errors import WsiPipelineError

R = TypeVar("R")

_POLL_S = 0.05
_HEARD_S = 1.0
_of_thread = threading.local()
_hearing = threading.Lock()
_heard = False


class Stopwatch:
    """The time of one task, without what it waits for other tasks of its process: that is their time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._waited = 0.0
        self._since: float | None = None

    def seconds(self) -> float:
        with self._lock:
            now = time.monotonic()
            waiting = 0.0 if self._since is None else now - self._since
            return now - self._started - self._waited - waiting

    @contextmanager
    def paused(self) -> Iterator[None]:
        with self._lock:
            self._since = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._waited += time.monotonic() - self._since
                self._since = None


@contextmanager
def waiting_for_others() -> Iterator[None]:
    """Do not count the block's time to the limit of the task that runs in this thread, if there is one."""
    watch: Stopwatch | None = getattr(_of_thread, "watch", None)
    if watch is None:
        yield
    else:
        with watch.paused():
            yield


class TaskLostError(WsiPipelineError, RuntimeError):
    """A task that took its process with it; the reason says how.

    ``crash``: the process ended by itself, most often in a library that decodes the slide. ``out-of-memory``: it was
    killed, or outgrew what a worker may have. ``timeout``: it did not end. ``worker-lost``: nobody knows.
    """

    reason = "worker-lost"


@dataclass(frozen=True, kw_only=True)
class TaskReport:
    """Who did a task, how long it took, and what it wrote.

    Attributes
    ----------
    task
        Name of the function.
    host, pid, address
        The process that did it; the address is that of the Dask worker, empty where there is none.
    seconds
        From its first step to its last on the worker, waiting for the worker's other threads included.
    ended
        When it ended, by the monotonic clock of its machine.
    rss_mib
        Resident memory of the process afterwards, MiB; 0 where the system does not say.
    written
        Path and bytes of every file that was written, flushed and renamed.
    timed_out
        Whether it was given up; there is no result then, and the process still hangs in it.
    """

    task: str
    host: str
    pid: int
    seconds: float
    address: str = ""
    ended: float = 0.0
    rss_mib: float = 0.0
    written: tuple[tuple[str, int], ...] = ()
    timed_out: bool = False


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A task's result and its report."""

    report: TaskReport
    result: Any = field(repr=False, default=None)


def run_packed(packed: bytes, timeout_s: float | None = None) -> Outcome:
    """Run a task that :func:`pack` made; see :func:`run_task`."""
    _let_the_nanny_hear()
    function, arguments = pickle.loads(packed)  # noqa: S301  the run's own client sent it
    return run_task(function, arguments, timeout_s)


def _let_the_nanny_hear() -> None:
    """Wait a moment before the first task of a Dask worker.

    Dask's nanny looks every 50 ms whether its worker has started. One that dies before it was seen is given up, where
    any other is started anew (distributed 2026.7.0).
    """
    global _heard  # noqa: PLW0603
    with _hearing:
        if not _heard and _address():
            time.sleep(_HEARD_S)
        _heard = True


def pack(function: Callable[..., Any], arguments: tuple[Any, ...]) -> bytes:
    """Return a task as bytes: a Dask scheduler would unpack a slide's configuration for every block it passes on."""
    import cloudpickle

    return bytes(cloudpickle.dumps((function, arguments)))


def run_task(function: Callable[..., Any], arguments: tuple[Any, ...], timeout_s: float | None = None) -> Outcome:
    """Run a task here.

    Parameters
    ----------
    timeout_s
        Seconds after which it is given up, not counting those it waits for other tasks of the process. A thread cannot
        be ended from outside, so the caller must see to it that the process is.

    Raises
    ------
    Exception
        What the task raised.
    """
    started = time.monotonic()
    try:
        result, written = _within(timeout_s, _noted, function, arguments)
        timed_out = False
    except _TimedOutError:
        result, written, timed_out = None, [], True
    ended = time.monotonic()
    report = TaskReport(
        task=name_of(function),
        host=socket.gethostname(),
        pid=os.getpid(),
        address=_address(),
        seconds=ended - started,
        ended=ended,
        rss_mib=rss_mib(),
        written=tuple(written),
        timed_out=timed_out,
    )
    return Outcome(result=result, report=report)


def timeout_message(task: str, timeout_s: float | None) -> str:
    """Return the sentence on a task that was given up."""
    return (
        f"{task} did not end within {timeout_s or 0:g} s (runtime.task_timeout_s); most often the storage of the slide "
        "hangs"
    )


def name_of(function: Callable[..., Any]) -> str:
    """Return the name that tasks of a function go by; without a dash, which ends it in a Dask key."""
    return str(getattr(function, "__name__", type(function).__name__)).replace("-", "_")


class _TimedOutError(Exception):
    pass


def _noted(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, list[tuple[str, int]]]:
    with noting() as written:
        return function(*arguments), written


def _within(timeout_s: float | None, function: Callable[..., R], *arguments: Any) -> R:
    """Call a function, in a thread of its own when there is a limit; what it leaves in the thread is kept for the next.

    PyTorch and OpenMP set up a pool of threads for each thread that calls them, so tasks share one.
    """
    if timeout_s is None:
        return function(*arguments)
    runner: ThreadPoolExecutor | None = getattr(_of_thread, "runner", None)
    if runner is None:
        runner = _of_thread.runner = ThreadPoolExecutor(1, thread_name_prefix="task")
    watch = Stopwatch()

    def timed() -> R:
        _of_thread.watch = watch
        return function(*arguments)

    future: Future[R] = runner.submit(timed)
    while True:
        try:
            return future.result(timeout=max(_POLL_S, timeout_s - watch.seconds()))
        except FutureTimeoutError:
            if future.done():
                raise  # the task's own
            if watch.seconds() >= timeout_s:
                _of_thread.runner = None
                raise _TimedOutError from None


def _address() -> str:
    try:
        from distributed import get_worker

        return str(get_worker().address)
    except (ImportError, ValueError):
        return ""


def rss_mib(pid: int | str = "self") -> float:
    """Return the resident memory of a process, MiB; 0 where the system does not say."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (OSError, ValueError, IndexError):
        return 0.0
