"""The ledger of a run: which files are whole and what became of each slide, so that a rerun believes nothing else.

A file is *done* when it was written, flushed, renamed, its folder flushed (:mod:`wsi_pipeline.atomic`), and recorded
here with its size. A rerun removes parts that are not recorded, or have another size, before it starts
(:func:`sweep`). A record that is lost costs work, never a result: so neither form flushes more often than it must.

Two forms, chosen once a run and kept in the run's folder:

``sqlite``
    ``work/.ledger.sqlite`` in WAL mode: one file, transactions, any number of slides. Writers of one machine may share
    it; they wait for each other. It needs locks and shared memory that hold, so it is used on file systems of one
    machine.
``append``
    ``work/<slide_id>/.ledger-<writer>.log``: every process appends to a file of its own, one line a file, each with a
    checksum, flushed before the call returns. What became of the slide is in ``work/<slide_id>/.slide.json``, replaced
    by renaming. Nothing is locked. Assumed is that one process at a time works on a slide (it holds the run's lock, or
    the slide's lease), that a rename is atomic, and that what a process wrote and flushed is seen by processes that
    open the file afterwards (NFS: close-to-open). A line that is torn or damaged counts as not written.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from wsi_pipeline.atomic import flush_folder, refusal, write_json, write_text
from wsi_pipeline.errors import OutputError
from wsi_pipeline.runtime.file_systems import is_local

Form = Literal["sqlite", "append"]

_BUSY_S = 60.0
_DATABASE = ".ledger.sqlite"
_LOG = ".ledger-"
_STATE = ".slide.json"
_CHOICE = ".ledger-form"


@dataclass(frozen=True, kw_only=True)
class SlideRecord:
    """What is known of a slide.

    Attributes
    ----------
    slide_id
        The slide.
    asked
        What its results depend on, flat; empty when never recorded.
    status, reason
        ``ok``, ``empty`` or ``failed``, and why; empty while it is not finished.
    """

    slide_id: str
    asked: Mapping[str, Any]
    status: str = ""
    reason: str = ""


class RunLedger(Protocol):
    """Records of one run; safe to use from several threads."""

    form: Form

    def begin(self, slide_id: str, asked: Mapping[str, Any]) -> None:
        """Record that a slide is worked on, and with what."""

    def add(self, slide_id: str, files: Sequence[tuple[str, int]]) -> None:
        """Record files (path relative to the run's folder, bytes) that are on the disk under their names."""

    def end(self, slide_id: str, status: str, reason: str) -> None:
        """Record what became of a slide."""

    def forget(self, slide_id: str) -> None:
        """Record that nothing of a slide is left."""

    def files(self, slide_id: str) -> dict[str, int]:
        """Return the recorded files of a slide: path relative to the run's folder to bytes."""

    def slide(self, slide_id: str) -> SlideRecord | None:
        """Return what is known of a slide."""

    def slides(self) -> Iterator[SlideRecord]:
        """Yield what is known of all slides, by their ids."""

    def close(self) -> None: ...


def open_run_ledger(work: Path, form: Form | Literal["auto"] = "auto", *, writer: str) -> RunLedger:
    """Open the ledger of a run, or begin one.

    Parameters
    ----------
    work
        ``OUT/work``.
    form
        ``auto`` takes SQLite on a file system of one machine. A run keeps the form that it began with.
    writer
        Name of this process among those that write; letters, digits, dash and underscore.

    Raises
    ------
    OutputError
        The ledger is damaged, or cannot be written.
    """
    choice = work / _CHOICE
    try:
        chosen = choice.read_text(encoding="utf-8").strip()
    except OSError:
        chosen = form if form != "auto" else "sqlite" if is_local(work) else "append"
        write_text(choice, chosen + "\n")
    if chosen == "sqlite":
        return SqliteLedger(work / _DATABASE)
    if chosen == "append":
        return AppendLedger(work, writer)
    raise OutputError(f"{choice} says {chosen!r}, not sqlite or append; run again with --restart")


def read_run_ledger(work: Path) -> RunLedger | None:
    """Open the ledger of a run to look into it, or return None where there is none."""
    try:
        chosen = (work / _CHOICE).read_text(encoding="utf-8").strip()
    except OSError:
        return None
    if chosen == "sqlite":
        if not (work / _DATABASE).is_file():
            return None
        ledger = SqliteLedger(work / _DATABASE, read_only=True)
        if ledger.is_made():
            return ledger
        ledger.close()
        return None
    return AppendLedger(work, "")


def remove_run_ledger(work: Path) -> None:
    """Remove the records of a run, not its files."""
    for path in (*work.glob(f"{_DATABASE}*"), *work.glob(f"*/{_LOG}*.log"), *work.glob(f"*/{_STATE}"), work / _CHOICE):
        path.unlink(missing_ok=True)


def sweep(out: Path, slide_id: str, recorded: Mapping[str, int]) -> int:
    """Remove parts of a slide that are not recorded, or have another size; return how many.

    Only parts are looked at (``work/<slide_id>/<key>/...``) and ``regions.geojson``, which is one of them.
    """
    removed = 0
    parts = (p for p in (out / "work" / slide_id).glob("*/**/*") if not p.name.startswith("."))
    for path in (*parts, out / "slides" / slide_id / "regions.geojson"):
        try:
            size = path.stat().st_size if path.is_file() else None
        except OSError:
            size = None
        if size is not None and recorded.get(path.relative_to(out).as_posix()) != size:
            path.unlink(missing_ok=True)
            removed += 1
    return removed


class SqliteLedger:
    """The records in one SQLite file."""

    form: Form = "sqlite"

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._path = path
        self._lock = threading.Lock()
        mode = "ro" if read_only else "rwc"
        try:
            self._db = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode={mode}",
                uri=True, timeout=_BUSY_S, check_same_thread=False, isolation_level=None,
            )  # fmt: skip
            if not read_only:
                self._db.execute("pragma journal_mode=wal")
                # After a loss of power the last records may be missing, never wrong: that costs work and no result.
                self._db.execute("pragma synchronous=normal")
                self._db.executescript(
                    """
                    create table if not exists slide
                        (id text primary key, asked text not null, status text not null, reason text not null);
                    create table if not exists file
                        (slide text not null, path text not null, bytes integer not null, primary key (slide, path))
                        without rowid;
                    """
                )
        except sqlite3.Error as error:
            raise self._error(error) from None

    def is_made(self) -> bool:
        """Return whether the tables are there: not yet in the first moment of a run."""
        return self._read("select count(*) from sqlite_master where name in ('slide', 'file')") == [(2,)]

    def begin(self, slide_id: str, asked: Mapping[str, Any]) -> None:
        text = json.dumps(dict(asked), sort_keys=True)
        self._write(
            "insert into slide values (?, ?, '', '') "
            "on conflict (id) do update set asked = excluded.asked, status = '', reason = ''",
            [(slide_id, text)],
        )

    def add(self, slide_id: str, files: Sequence[tuple[str, int]]) -> None:
        rows = [(slide_id, path, size) for path, size in files]
        self._write("insert or replace into file values (?, ?, ?)", rows)

    def end(self, slide_id: str, status: str, reason: str) -> None:
        self._write(
            "insert into slide values (?, '{}', ?, ?) "
            "on conflict (id) do update set status = excluded.status, reason = excluded.reason",
            [(slide_id, status, reason)],
        )

    def forget(self, slide_id: str) -> None:
        self._write("delete from file where slide = ?", [(slide_id,)])
        self._write("delete from slide where id = ?", [(slide_id,)])

    def files(self, slide_id: str) -> dict[str, int]:
        return dict(self._read("select path, bytes from file where slide = ?", slide_id))

    def slide(self, slide_id: str) -> SlideRecord | None:
        for row in self._read("select id, asked, status, reason from slide where id = ?", slide_id):
            return _record(*row)
        return None

    def slides(self) -> Iterator[SlideRecord]:
        for row in self._read("select id, asked, status, reason from slide order by id"):
            yield _record(*row)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _write(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        if not rows:
            return
        try:
            with self._lock:
                self._db.execute("begin immediate")
                try:
                    self._db.executemany(statement, rows)
                    self._db.execute("commit")
                except BaseException:
                    if self._db.in_transaction:
                        self._db.execute("rollback")
                    raise
        except sqlite3.Error as error:
            raise self._error(error) from None

    def _read(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        try:
            with self._lock:
                return self._db.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise self._error(error) from None

    def _error(self, error: sqlite3.Error) -> OutputError:
        full = getattr(error, "sqlite_errorname", "") == "SQLITE_FULL"
        if full:
            return OutputError(
                f"{self._path.parent}: the disk or the quota is full; make room and give the same command again: "
                "it resumes",
                reason="disk-full",
            )
        return OutputError(
            f"{self._path}: the run's ledger cannot be used ({error}); remove it to compute unfinished slides again, "
            "or use --restart"
        )


def _record(slide_id: str, asked: str, status: str, reason: str) -> SlideRecord:
    return SlideRecord(slide_id=slide_id, asked=json.loads(asked), status=status, reason=reason)


class AppendLedger:
    """The records in files that only grow, one a process and slide; a slide's own state in a file that is replaced."""

    form: Form = "append"

    def __init__(self, work: Path, writer: str) -> None:
        self._work, self._writer = work, writer
        self._lock = threading.Lock()

    def begin(self, slide_id: str, asked: Mapping[str, Any]) -> None:
        self._replace(slide_id, asked, "", "")

    def add(self, slide_id: str, files: Sequence[tuple[str, int]]) -> None:
        if not files:
            return
        lines = []
        for name, size in files:
            text = json.dumps({"file": name, "bytes": size}, sort_keys=True)
            lines.append(f"{zlib.crc32(text.encode()):08x} {text}\n")
        path = self._work / slide_id / f"{_LOG}{self._writer}.log"
        try:
            with self._lock:
                new = not path.exists()
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("ab") as file:
                    # A line that an earlier crash left open must not swallow this one.
                    file.write(("\n" + "".join(lines)).encode())
                    file.flush()
                    os.fsync(file.fileno())
                if new:
                    flush_folder(path.parent)
        except OSError as error:
            raise refusal(error, path) or OutputError(f"{path} cannot be written: {error.strerror or error}") from None

    def end(self, slide_id: str, status: str, reason: str) -> None:
        before = self.slide(slide_id)
        self._replace(slide_id, before.asked if before else {}, status, reason)

    def forget(self, slide_id: str) -> None:
        folder = self._work / slide_id
        for path in (*folder.glob(f"{_LOG}*.log"), folder / _STATE):
            path.unlink(missing_ok=True)

    def files(self, slide_id: str) -> dict[str, int]:
        found: dict[str, int] = {}
        for path in sorted((self._work / slide_id).glob(f"{_LOG}*.log")):
            for line in path.read_bytes().split(b"\n"):
                crc, _, text = line.partition(b" ")
                # One that is torn by a loss of power, or lies between two appends, is none.
                if text and crc == f"{zlib.crc32(text):08x}".encode():
                    record = json.loads(text)
                    found[record["file"]] = record["bytes"]
        return found

    def slide(self, slide_id: str) -> SlideRecord | None:
        path = self._work / slide_id / _STATE
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return SlideRecord(slide_id=slide_id, **found)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise OutputError(f"{path}: the ledger entry is damaged ({error}); run again with --restart") from None

    def slides(self) -> Iterator[SlideRecord]:
        for path in sorted(self._work.glob(f"*/{_STATE}")):
            if (found := self.slide(path.parent.name)) is not None:
                yield found

    def close(self) -> None: ...

    def _replace(self, slide_id: str, asked: Mapping[str, Any], status: str, reason: str) -> None:
        write_json(self._work / slide_id / _STATE, {"asked": dict(asked), "status": status, "reason": reason})
