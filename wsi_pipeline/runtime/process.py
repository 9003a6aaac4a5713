"""Which process this is, such that another one can tell whether it still runs."""

from __future__ import annotations

import os
import platform
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

_LONGEST = 200
_NAMES = ("host", "boot", "namespace", "started", "job")


@dataclass(frozen=True, kw_only=True)
class ProcessName:
    """A process, named so that no other one, on any host, at any time, has the name.

    Attributes
    ----------
    host
        Name of the host, for people.
    boot
        The kernel's random id of this boot: equal ids mean one running kernel, whatever hosts are called.
    namespace
        The namespace of process ids; a container has its own, in which the same ids are other processes.
    pid, started
        Process id and when it started, in the system's own unit: ids are used again.
    job
        The Slurm job, with its array task; empty outside Slurm.
    """

    host: str
    boot: str
    namespace: str
    pid: int
    started: str
    job: str = ""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}" + (f" (Slurm job {self.job})" if self.job else "")

    def runs(self) -> bool | None:
        """Return whether the process runs; None when this process cannot tell, most often as it is elsewhere."""
        here = this_process()
        if not self.boot or (self.boot, self.namespace) != (here.boot, here.namespace):
            return None
        return process_start(self.pid) == self.started

    def to_record(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_record(cls, record: Any) -> ProcessName:
        """Read what :meth:`to_record` gave; ValueError when it is something else."""
        if not isinstance(record, dict) or not isinstance(record.get("pid"), int):
            raise ValueError("no process")
        texts = {name: record.get(name, "") for name in _NAMES}
        if not all(isinstance(t, str) and len(t) <= _LONGEST and (not t or t.isprintable()) for t in texts.values()):
            raise ValueError("no process")
        return cls(pid=record["pid"], **texts)


def this_process() -> ProcessName:
    """Return the name of the process that calls."""
    return _named(os.getpid())


@lru_cache(maxsize=2)
def _named(pid: int) -> ProcessName:
    return ProcessName(
        host=socket.gethostname()[:_LONGEST],
        boot=_boot(),
        namespace=_link("/proc/self/ns/pid"),
        pid=pid,
        started=process_start(pid) or "",
        job=_slurm_job(),
    )


def _slurm_job() -> str:
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID", ""), os.environ.get("SLURM_ARRAY_TASK_ID", "")
    job = f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")
    return job[:_LONGEST] if job.isprintable() else ""


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        import psutil

        # Without the kernel's id: a host restarts at another second, and two hosts seldom share name and second.
        return f"{platform.node()}-{int(psutil.boot_time())}"[:_LONGEST]


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


@contextmanager
def told_to_end() -> Iterator[None]:
    """Take SIGTERM, which Slurm and other keepers of processes send, as an interruption from the keyboard.

    So what is held is given back: leases, workers, jobs in a queue. Outside the main thread nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def process_start(pid: int) -> str | None:
    """Return when a process of this host started, in the system's unit; None when it does not run.

    A process that ended and waits for its parent to ask (a zombie) does not run.
    """
    try:
        stat = Path(f"/proc/{int(pid)}/stat").read_text(encoding="utf-8", errors="replace")
        fields = stat.rsplit(")", 1)[1].split()  # the program's name, in brackets, may hold anything
        return None if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        if Path("/proc/self/stat").exists():
            return None
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except (psutil.Error, OverflowError):
        return None
