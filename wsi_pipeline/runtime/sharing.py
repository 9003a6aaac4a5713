"""Several processes share one run: each takes slides by lease, follows those that died, and the last one finishes it.

Nothing starts or connects the processes but the run's folder. They are told apart from runs that have it alone: who
joins first says so and then looks for a run alone; a run alone takes its lease and then looks for who joined. So of
two that begin at once at least one sees the other.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from wsi_pipeline.atomic import write_text
from wsi_pipeline.errors import LeaseHeldError
from wsi_pipeline.runtime.lease import Lease, Leases, read_holding
from wsi_pipeline.runtime.process import this_process
from wsi_pipeline.runtime.progress import Progress

T = TypeVar("T")

_LOOK_S = 2.0
_FINISHED = ".finished"

_log = logging.getLogger(__name__)


def leases_folder(out: Path) -> Path:
    """Return where the leases of those who share a run are."""
    return out / "work" / ".leases"


def run_lease(out: Path) -> Path:
    """Return the lease of a run that has its folder alone."""
    return out / "work" / ".lease"


@contextmanager
def alone(out: Path, leases: Leases) -> Iterator[Lease]:
    """Hold a run's folder for this process.

    Raises
    ------
    LeaseHeldError
        Another process works on it, alone or among others.
    """
    with leases.acquire(run_lease(out), str(out)) as lease:
        folder = leases_folder(out) / "members"
        members = sorted(folder.iterdir()) if folder.is_dir() else []
        for member in members:
            leases.state(member)  # from now on all are watched, not one after the other
        for member in members:
            if leases.settle(member) == "alive":
                raise _held(out, member)
            _remove(member)
        yield lease


@contextmanager
def joined(out: Path, leases: Leases) -> Iterator[Lease]:
    """Work on a run's folder beside others that joined.

    Raises
    ------
    LeaseHeldError
        Another process has the folder alone.
    """
    folder = leases_folder(out)
    me = this_process()
    named = hashlib.sha256(f"{me.boot} {me.namespace} {me.pid} {me.started}".encode()).hexdigest()[:16]
    member = folder / "members" / named
    try:
        with leases.acquire(member, str(out)) as lease:
            if leases.settle(run_lease(out)) == "alive":
                raise _held(out, run_lease(out))
            yield lease
    finally:
        _remove(member)


def _held(out: Path, lease: Path) -> LeaseHeldError:
    holding = read_holding(lease)
    who = (holding and holding.holder) or "another process"
    return LeaseHeldError(
        f"{out} is being worked on by {who}; runs with --share and runs without do not mix: wait until it has ended, "
        "or stop it there"
    )


def _remove(folder: Path) -> None:
    try:
        for path in folder.iterdir():
            path.unlink(missing_ok=True)
        folder.rmdir()
    except OSError:
        return  # a member that came back; it is looked at again


@dataclass(frozen=True, kw_only=True)
class Shared(Generic[T]):
    """Items that several processes do between them.

    Attributes
    ----------
    out
        The run's folder.
    name_of
        Name of an item, safe as a file's name, the same in every process.
    is_done
        Whether an item is done, by whomever.
    work
        Does an item under a lease; an error while the lease is lost is of no account.
    leases
        How long a silent holder is believed.
    look_s
        Seconds between two looks at what others hold.
    """

    out: Path
    name_of: Callable[[T], str]
    is_done: Callable[[T], bool]
    work: Callable[[T, Lease], None]
    leases: Leases
    look_s: float = _LOOK_S

    def run(self, items: Sequence[T], *, threads: int, wait: bool = True) -> bool:
        """Do what others do not, until all is done; return whether it is.

        Parameters
        ----------
        items
            In the same order in every process. Each begins at another place, so that they seldom want the same.
        threads
            Items at once.
        wait
            Stay until what others hold is done, to take it over should they die; else leave it to them.
        """
        begin = int(hashlib.sha256(str(this_process()).encode()).hexdigest(), 16) % max(1, len(items))
        waiting = deque([*range(begin, len(items)), *range(begin)])
        lock = threading.Lock()
        stopping = threading.Event()

        def serve() -> None:
            looked, fruitless = time.monotonic(), 0
            while not stopping.is_set():
                with lock:
                    if not waiting:
                        return
                    index = waiting.popleft()
                if self._did(items[index]):
                    fruitless = 0
                    continue
                with lock:
                    waiting.append(index)
                    left = list(waiting)
                fruitless += 1
                if fruitless < len(left):
                    continue
                # All that is left is held by others.
                if not wait and all(self.leases.state(self._lease(items[i])) == "alive" for i in left):
                    return
                stopping.wait(max(0.0, self.look_s - (time.monotonic() - looked)))
                looked, fruitless = time.monotonic(), 0

        pool = ThreadPoolExecutor(threads, thread_name_prefix="slide")
        try:
            for future in as_completed([pool.submit(serve) for _ in range(threads)]):
                future.result()
        finally:
            # After an error or an interruption what still runs is ended by whoever runs the tasks.
            stopping.set()
            pool.shutdown(wait=False, cancel_futures=True)
        return not waiting

    def _lease(self, item: T) -> Path:
        return leases_folder(self.out) / "slides" / self.name_of(item)

    def _did(self, item: T) -> bool:
        """Do an item unless another process has it; return whether it is done."""
        if self.leases.state(self._lease(item)) in ("alive", "unknown"):
            return False
        if self.is_done(item):
            return True
        lease = self.leases.try_acquire(self._lease(item))
        if lease is None:
            return False
        with lease:
            if self.is_done(item):  # by one who came and went between the two looks
                return True
            try:
                self.work(item, lease)
            except Exception as error:
                if not lease.is_lost:
                    raise
                _log.warning("%s: another process took it over (%s)", self.name_of(item), error)
                return False
        return True


def finish_once(
    out: Path, leases: Leases, *, inputs: Sequence[Path], product: Path, finish: Callable[[], None]
) -> None:
    """Finish a run that several processes shared: one of them does, the others wait until it has.

    Parameters
    ----------
    inputs
        Files that what is written depends on; all are there.
    product
        The first file that is written. While it is as it was written, from inputs as they are, nothing is done.
    finish
        Writes.
    """
    marker = out / "work" / _FINISHED
    while (wanted := _digest(inputs)) and _read(marker) != wanted + _digest([product]):
        lease = leases.try_acquire(leases_folder(out) / "finish")
        if lease is None:
            leases.sleep(_LOOK_S / 4)
            continue
        with lease:
            if _read(marker) != wanted + _digest([product]):
                finish()
                write_text(marker, wanted + _digest([product]))


def _digest(paths: Sequence[Path]) -> str:
    found = hashlib.sha256()
    for path in paths:
        content = path.read_bytes() if path.is_file() else b""
        found.update(f"{path} {len(content)} ".encode() + content)
    return found.hexdigest()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


class WatchfulProgress:
    """Passes progress on, and raises where the lease of the slide was lost.

    Parameters
    ----------
    progress
        Told of everything.
    lease
        Of the slide.
    """

    def __init__(self, progress: Progress, lease: Lease) -> None:
        self._progress, self._lease = progress, lease

    def stage(self, slide_id: str, stage: str, total: int) -> None:
        self._lease.check()
        self._progress.stage(slide_id, stage, total)

    def advance(self, slide_id: str, parts: int = 1, *, cells: int = 0, mm2: float = 0.0) -> None:
        if self._lease.is_lost:
            self._lease.check()
        self._progress.advance(slide_id, parts, cells=cells, mm2=mm2)

    def finished(
        self, slide_id: str, outcome: str, *, status: str = "", reason: str = "", before: bool = False
    ) -> None:
        self._progress.finished(slide_id, outcome, status=status, reason=reason, before=before)

    def overall(self, text: str) -> None:
        self._progress.overall(text)

    def say(self, text: str) -> None:
        self._progress.say(text)
