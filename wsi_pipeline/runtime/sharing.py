"""Several processes share one run: each takes slides by lease, follows those that died, and the last one finishes it.

Nothing starts or connects the processes but the run's folder. They are told apart from runs that have it alone: who
joins first says so and then looks for a run alone; a run alone takes its lease and then looks for who joined. So of
two that begin at once at least one sees the other.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from wsi_pipeline.errors import LeaseHeldError, LeaseLostError
from wsi_pipeline.runtime.lease import Lease, Leases, read_holding
from wsi_pipeline.runtime.process import this_process

T = TypeVar("T")
R = TypeVar("R")

_LOOK_S = 2.0


def leases_folder(out: Path) -> Path:
    """Return where the leases of a run are."""
    return out / "work" / ".leases"


@contextmanager
def alone(out: Path, leases: Leases) -> Iterator[Lease]:
    """Hold a run's folder for this process.

    Raises
    ------
    LeaseHeldError
        Another process works on it, alone or among others.
    """
    with leases.acquire(leases_folder(out) / "run", str(out)) as lease:
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
def joined(out: Path, leases: Leases) -> Iterator[None]:
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
        with leases.acquire(member, str(out)):
            if leases.settle(folder / "run") == "alive":
                raise _held(out, folder / "run")
            yield
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
class Shared(Generic[T, R]):
    """Items that several processes do between them.

    Attributes
    ----------
    out
        The run's folder.
    name_of
        Name of an item, safe as a file's name, the same in every process.
    done
        What became of an item that is done, by whomever; None when it is not.
    work
        Does an item under a lease and returns what :attr:`done` will; raises
        :class:`~wsi_pipeline.errors.LeaseLostError` when another process took it over.
    leases
        How long a silent holder is believed.
    look_s
        Seconds between two looks at what others hold.
    """

    out: Path
    name_of: Callable[[T], str]
    done: Callable[[T], R | None]
    work: Callable[[T, Lease], R]
    leases: Leases
    look_s: float = _LOOK_S

    def run(self, items: Sequence[T], *, threads: int, wait: bool = True) -> list[R | None]:
        """Do what others do not, until all is done.

        Parameters
        ----------
        items
            In the same order in every process. Each begins at another place, so that they seldom want the same.
        threads
            Items at once.
        wait
            Stay until what others hold is done, to take it over should they die; else leave, with None for it.
        """
        results: dict[int, R] = {}
        begin = int(hashlib.sha256(str(this_process()).encode()).hexdigest(), 16) % max(1, len(items))
        waiting = deque([*range(begin, len(items)), *range(begin)])
        lock = threading.Lock()
        failed = threading.Event()

        def take() -> int | None:
            with lock:
                return waiting.popleft() if waiting else None

        def one(index: int) -> bool:
            """Return whether anything came of it."""
            item = items[index]
            result = self.done(item)
            if result is None:
                lease = self.leases.try_acquire(leases_folder(self.out) / "slides" / self.name_of(item))
                if lease is None:
                    return False
                with lease:
                    # Another one may have done it between the look and the lease.
                    result = self.done(item)
                    if result is None:
                        try:
                            result = self.work(item, lease)
                        except LeaseLostError:
                            return False
            results[index] = result
            return True

        def serve() -> None:
            looked, fruitless = time.monotonic(), 0
            while not failed.is_set() and (index := take()) is not None:
                try:
                    fruitful = one(index)
                except BaseException:
                    failed.set()
                    raise
                if fruitful:
                    fruitless = 0
                    continue
                with lock:
                    waiting.append(index)
                    left = list(waiting)
                fruitless += 1
                if fruitless < len(left):
                    continue
                # All that is left is held by others.
                if not wait and all(self._is_alive(items[i]) for i in left):
                    return
                time.sleep(max(0.0, self.look_s - (time.monotonic() - looked)))
                looked, fruitless = time.monotonic(), 0

        with ThreadPoolExecutor(threads, thread_name_prefix="slide") as pool:
            for future in [pool.submit(serve) for _ in range(threads)]:
                future.result()
        return [results.get(index) for index in range(len(items))]

    def _is_alive(self, item: T) -> bool:
        return self.leases.state(leases_folder(self.out) / "slides" / self.name_of(item)) == "alive"
