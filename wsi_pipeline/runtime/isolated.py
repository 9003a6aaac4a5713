"""A task in a process of its own: what kills it kills nothing beside it, and how it ended is known.

Run as ``python -m wsi_pipeline.runtime.isolated`` by :func:`run_isolated`, which speaks to it over pipes.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from wsi_pipeline.runtime.tasks import Outcome, TaskLostError, name_of, rss_mib, run_packed, timeout_message

_POLL_S = 0.2
_START_S = 60.0
_OF_LIMIT = 0.95
"""Share of a worker's memory at which a task is ended, as Dask's nanny ends a worker."""


def run_isolated(packed: bytes, timeout_s: float | None = None, memory_mib: float | None = None) -> Outcome:
    """Run a task in a new process and wait for it.

    Parameters
    ----------
    packed
        The task, of :func:`~wsi_pipeline.runtime.tasks.pack`.
    timeout_s
        Seconds after which the task is given up.
    memory_mib
        Resident memory above which it is killed; the worker's own limit when None.

    Raises
    ------
    TaskLostError
        The process died; ``reason`` is ``crash``, ``out-of-memory`` or ``timeout``.
    Exception
        What the task raised.
    """
    limit = memory_mib or _limit_of_worker()
    process = subprocess.Popen(
        [sys.executable, "-m", "wsi_pipeline.runtime.isolated"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    killed_for: list[str] = []
    done = threading.Event()

    def watch() -> None:
        # The process keeps its own time; this is for one that cannot even do that.
        deadline = None if timeout_s is None else time.monotonic() + timeout_s + _START_S
        while not done.wait(_POLL_S):
            if deadline is not None and time.monotonic() > deadline:
                killed_for.append("timeout")
            elif limit and rss_mib(process.pid) > limit * _OF_LIMIT:
                killed_for.append("out-of-memory")
            else:
                continue
            process.kill()
            return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        answer, _ = process.communicate(pickle.dumps((packed, timeout_s)))
    finally:
        done.set()
        if process.poll() is None:
            process.kill()
        watcher.join()
    if process.returncode == 0 and answer:
        fine, value = pickle.loads(answer)  # noqa: S301  our own child's answer, over a pipe
        if fine:
            return value
        raise value
    raise _lost(process.returncode, name_of(pickle.loads(packed)[0]), killed_for, timeout_s, limit)  # noqa: S301


def _timeout(task: str, timeout_s: float | None) -> TaskLostError:
    return TaskLostError(timeout_message(task, timeout_s), reason="timeout")


def _lost(code: int, task: str, killed_for: list[str], timeout_s: float | None, limit: float | None) -> TaskLostError:
    if "timeout" in killed_for:
        return _timeout(task, timeout_s)
    if killed_for:
        return TaskLostError(
            f"{task} needs more than the {limit:.0f} MiB of a worker; use fewer runtime.workers or a smaller "
            "tiling.core_px",
            reason="out-of-memory",
        )
    if code == -signal.SIGKILL:
        return TaskLostError(
            f"{task} was killed in a process of its own, most often by the system for want of memory; use fewer "
            "runtime.workers or a smaller tiling.core_px",
            reason="out-of-memory",
        )
    how = f"exit status {code}"
    if code < 0:
        try:
            how = signal.Signals(-code).name
        except ValueError:
            how = f"signal {-code}"
    return TaskLostError(
        f"{task} ended its process ({how}), also when it ran alone in one; the slide is most likely damaged where the "
        "library that decodes it does not check",
        reason="crash",
    )


def _limit_of_worker() -> float | None:
    """Return the memory a Dask worker may have, MiB; None where there is no limit, or no worker."""
    try:
        from distributed import get_worker

        limit = get_worker().memory_manager.memory_limit
    except (ImportError, ValueError, AttributeError):
        return None
    return limit / 2**20 if limit else None


def _serve() -> None:
    import cloudpickle

    # What the task prints must not get between the bytes of the answer.
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    packed, timeout_s = pickle.load(sys.stdin.buffer)  # noqa: S301  our own parent's, over a pipe
    try:
        outcome = run_packed(packed, timeout_s)
        reply: tuple[bool, Any] = True, outcome
        if outcome.report.timed_out:
            reply = False, _timeout(outcome.report.task, timeout_s)
    except Exception as error:  # noqa: BLE001  it is raised in the parent
        reply = False, error
    with answer:
        answer.write(cloudpickle.dumps(reply))
    os._exit(0)  # a thread that hangs is not waited for


if __name__ == "__main__":
    _serve()
