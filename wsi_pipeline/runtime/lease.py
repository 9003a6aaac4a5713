"""Leases: one process at a time works on a run or a slide, and a dead one's work is taken over.

A lease is a folder of numbered files. The file with the highest number says who holds the lease. Whoever takes it
creates the next number, exclusively: of any who try at once, one succeeds. Numbers never go back, so neither a slow
observer nor a holder that was thought dead can take away what another one holds by now. The files work on network
file systems: nothing is needed but that creating a hard link (or a file with ``O_EXCL``) fails when the name exists,
and that a rename is atomic. No file lock is used, and no two hosts' clocks are compared.

A holder shows that it lives by a counter, rewritten every ``beat_s`` seconds. It is dead when

* this host's process table says so: same boot, same namespace of process ids, no such process; or
* an observer has seen the counter stand still for ``stale_s`` seconds of the observer's own monotonic clock.

A process that was stopped for longer may wake and find its lease taken over: :meth:`Lease.check` then raises. Between
two checks it may still write; so what is written under a lease must be whole files of which both write the same.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal

from wsi_pipeline.errors import LeaseHeldError, LeaseLostError, OutputError
from wsi_pipeline.runtime.process import ProcessName, this_process

BEAT_S = 5.0
STALE_S = 90.0
"""Longer than NFS keeps names and attributes without asking its server again (60 s unless mounted otherwise)."""

_NUMBERED = re.compile(r"([0-9]{1,15})\.json")
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV})

State = Literal["free", "alive", "dead", "unknown"]

_log = logging.getLogger(__name__)

_active: set[str] = set()
"""Tokens of the leases that this process holds."""


@dataclass(frozen=True, kw_only=True)
class Holding:
    """What the highest numbered file of a lease says.

    Attributes
    ----------
    number
        Number of the file.
    holder
        Who wrote it; None when the file cannot be read as a lease.
    token
        Random, of one holding.
    beats
        The holder's counter.
    released
        Whether the holder gave the lease back.
    """

    number: int
    holder: ProcessName | None = None
    token: str = ""
    beats: int = -1
    released: bool = False

    def to_bytes(self) -> bytes:
        holder = self.holder.to_record() if self.holder else None
        record = {"holder": holder, "token": self.token, "beats": self.beats, "released": self.released}
        return (json.dumps(record, sort_keys=True) + "\n").encode()

    @classmethod
    def of(cls, number: int, content: bytes) -> Holding:
        """Read a file; one that is not a lease is held by nobody known."""
        try:
            record = json.loads(content)
            return cls(
                number=number,
                holder=ProcessName.from_record(record["holder"]),
                token=str(record["token"])[:64],
                beats=int(record["beats"]),
                released=record["released"] is True,
            )
        except (ValueError, KeyError, TypeError, RecursionError):
            return cls(number=number)


def read_holding(folder: Path) -> Holding | None:
    """Return who holds, or last held, the lease in a folder; None when nobody ever did."""
    while True:
        numbers = _numbers(folder)
        if not numbers:
            return None
        try:
            return Holding.of(numbers[-1], (folder / f"{numbers[-1]}.json").read_bytes())
        except FileNotFoundError:  # taken over and removed between the two looks
            if _numbers(folder) == numbers:
                return Holding(number=numbers[-1])
        except OSError as error:
            raise OutputError(f"{folder} cannot be read: {error.strerror or error}") from None


def _numbers(folder: Path) -> list[int]:
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise OutputError(f"{folder} cannot be read: {error.strerror or error}") from None
    return sorted(int(match[1]) for name in names if (match := _NUMBERED.fullmatch(name)))


@dataclass
class _Seen:
    holding: Holding
    since: float
    changed: bool = False


@dataclass(kw_only=True)
class Leases:
    """Takes leases, and remembers what it has seen of those that others hold.

    Parameters
    ----------
    stale_s
        A holder elsewhere whose counter stood still for so long is dead.
    beat_s
        Seconds between two heartbeats of leases taken here; well below ``stale_s``.
    clock, sleep
        Monotonic seconds, and waiting for them.
    """

    stale_s: float = STALE_S
    beat_s: float = BEAT_S
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _seen: dict[Path, _Seen] = field(default_factory=dict, repr=False)

    def try_acquire(self, folder: Path) -> Lease | None:
        """Take the lease if it is free or its holder is known to be dead; None when another one has it.

        Call it again later: a dead holder elsewhere shows by a counter that stands still between the calls.

        Raises
        ------
        OutputError
            The folder cannot be written.
        """
        state, holding = self._state(folder)
        if state in ("alive", "unknown"):
            return None
        self._seen.pop(folder, None)
        lease = Lease._take(folder, 1 if holding is None else holding.number + 1, self)
        if lease is not None and state == "dead":
            _log.warning(
                "%s: taken over from %s, which is dead", folder, (holding and holding.holder) or "nobody known"
            )
        return lease

    def state(self, folder: Path) -> State:
        """Return what is known of a lease by now: that it is free, that its holder lives, or that it is dead."""
        return self._state(folder)[0]

    def settle(self, folder: Path) -> State:
        """Return the same, when it is known: a holder elsewhere is watched for at most ``stale_s``."""
        while (state := self.state(folder)) == "unknown":
            self.sleep(min(1.0, self.beat_s / 2))
        return state

    def acquire(self, folder: Path, what: str) -> Lease:
        """Take the lease, or refuse as soon as its holder shows that it lives.

        A holder on this host is looked up among its processes, at once. Of one elsewhere the next heartbeat is awaited,
        for at most ``stale_s``; without one it is dead and the lease is taken over.

        Parameters
        ----------
        folder
            The lease.
        what
            What it is for, as an error names it.

        Raises
        ------
        LeaseHeldError
            Another process works on it; the message names it.
        OutputError
            The folder cannot be written.
        """
        while True:
            lease = self.try_acquire(folder)
            if lease is not None:
                return lease
            state, holding = self._state(folder)
            if state == "alive":
                raise LeaseHeldError(
                    f"{what} is being worked on by {(holding and holding.holder) or 'an unknown process'}; wait until "
                    "it has ended, or stop it there"
                )
            if state == "unknown":
                self.sleep(min(1.0, self.beat_s / 2))

    def _state(self, folder: Path) -> tuple[State, Holding | None]:
        holding = read_holding(folder)
        if holding is None or holding.released:
            return "free", holding
        if holding.holder == this_process() and holding.token not in _active:
            return "dead", holding  # this process's own, which it could not give back
        runs = holding.holder.runs() if holding.holder is not None else None
        if runs is False:
            return "dead", holding
        now = self.clock()
        seen = self._seen.get(folder)
        if seen is None or seen.holding != holding:
            seen = self._seen[folder] = _Seen(holding, now, changed=seen is not None)
        if now - seen.since >= self.stale_s:
            return "dead", holding
        return ("alive" if runs or seen.changed else "unknown"), holding


class Lease:
    """A lease that this process holds; made by :class:`Leases`, given back by :meth:`release` or ``with``."""

    def __init__(self, folder: Path, holding: Holding, leases: Leases) -> None:
        self.folder = folder
        self._holding = holding
        self._leases = leases
        self._beaten = leases.clock()
        self._lost = ""
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease {folder.name}", daemon=True)
        self._thread.start()

    @classmethod
    def _take(cls, folder: Path, number: int, leases: Leases) -> Lease | None:
        holding = Holding(number=number, holder=this_process(), token=uuid.uuid4().hex, beats=0)
        _active.add(holding.token)  # before other threads can see the file
        try:
            folder.mkdir(parents=True, exist_ok=True)
            taken = _create(folder / f"{number}.json", holding.to_bytes(), holding.token)
        except OSError as error:
            _active.discard(holding.token)
            raise OutputError(f"{folder} cannot be written: {error.strerror or error}") from None
        numbers = _numbers(folder) if taken else []
        if numbers[-1:] != [number]:
            if taken:  # the number was free again: others came and went after this process had looked
                (folder / f"{number}.json").unlink(missing_ok=True)
            _active.discard(holding.token)
            return None
        for lower in numbers[:-1]:
            (folder / f"{lower}.json").unlink(missing_ok=True)
        return cls(folder, holding, leases)

    @property
    def number(self) -> int:
        """Return the number of this holding; no other one of this lease has it."""
        return self._holding.number

    @property
    def is_lost(self) -> bool:
        """Whether another process has taken over, as far as is known without looking."""
        return bool(self._lost)

    def check(self) -> None:
        """Look whether the lease is still this process's.

        Raises
        ------
        LeaseLostError
            It was taken over, removed, or could not be renewed for so long that it may have been.
        """
        with self._lock:
            if not self._lost and not self._holding.released:
                self._look()
                if not self._lost and self._leases.clock() - self._beaten > self._leases.stale_s / 2:
                    self._beat()
            if self._lost:
                raise LeaseLostError(f"{self.folder}: {self._lost}; this process must not go on writing there")

    def release(self) -> None:
        """Give the lease back; one that was lost is left to its new holder."""
        self._stopping.set()
        self._thread.join()
        _active.discard(self._holding.token)
        with self._lock:
            if self._holding.released:
                return
            self._look()
            if not self._lost:
                self._write(released=True)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.release()

    def _keep(self) -> None:
        while not self._stopping.wait(self._leases.beat_s):
            with self._lock:
                if not self._lost:
                    self._look()
                if self._lost:
                    return
                self._beat()

    def _look(self) -> None:
        try:
            holding = read_holding(self.folder)
        except OutputError:
            return  # whether it is lost cannot be seen; time decides
        if holding is None or holding.number < self._holding.number:
            self._lost = "the lease was removed by somebody"
        elif holding.number > self._holding.number or (holding.token and holding.token != self._holding.token):
            self._lost = f"it was taken over by {holding.holder or 'an unknown process'}"

    def _beat(self) -> None:
        problem = self._write()
        if problem and self._leases.clock() - self._beaten > self._leases.stale_s / 2:
            self._lost = f"the lease could not be renewed for {self._leases.stale_s / 2:.0f} s ({problem})"

    def _write(self, *, released: bool = False) -> str:
        """Rewrite the file by a rename, the counter one higher; return what went wrong."""
        mine = self._holding
        after = Holding(
            number=mine.number, holder=mine.holder, token=mine.token, beats=mine.beats + 1, released=released
        )
        temporary = self.folder / f".{mine.token}.tmp"
        now = self._leases.clock()
        try:
            temporary.write_bytes(after.to_bytes())
            os.replace(temporary, self.folder / f"{mine.number}.json")
        except OSError as error:
            with contextlib.suppress(OSError):  # on a file system that has become read-only
                temporary.unlink(missing_ok=True)
            return error.strerror or str(error)
        self._holding, self._beaten = after, now
        return ""


def _create(path: Path, content: bytes, token: str) -> bool:
    """Create a file with its content unless the name exists; return whether it was this call."""
    temporary = path.with_name(f".{token}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            # NFS may lose the server's answer and ask again, and is told of the link it has just made itself.
            return os.stat(temporary).st_nlink == 2
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return _create_alone(path, content)
        return True
    finally:
        temporary.unlink(missing_ok=True)


def _create_alone(path: Path, content: bytes) -> bool:
    """Do the same without hard links; for a moment the file is empty, which readers take for a holder unknown."""
    try:
        with path.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        return False
    return True
