"""What a run is doing, for another terminal: a small file that is rewritten every few seconds, and how it is read.

Rates and estimates come from monotonic clocks of the process that runs. Whether that process still lives is judged
without comparing clocks of two machines: on one machine its process is looked up; otherwise the file's time is
compared with that of a file made beside it just now, and both times are the file server's.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from wsi_pipeline.atomic import write_json
from wsi_pipeline.errors import DataError
from wsi_pipeline.runtime.gpu import gpu_use
from wsi_pipeline.runtime.process import ProcessName, this_process
from wsi_pipeline.runtime.progress import Progress
from wsi_pipeline.runtime.run_ledger import read_run_ledger

EVERY_S = 5.0
DEAD_S = 60.0
"""A run elsewhere that has not written for so long is taken for dead."""

STATUS_FILE = "status.json"
_SHARED = ".status"
_SAY_EVERY_S = 30.0
_FAILURES = 20
_STATES = ("ok", "empty", "failed")


@dataclass
class _Slide:
    stage: str = ""
    done: int = 0
    total: int = 0
    share: float = 0.0


class Tally:
    """Counts what progress is told of; safe to use from several threads.

    Parameters
    ----------
    n_slides
        Slides of the run.
    clock
        Monotonic seconds.
    """

    def __init__(self, n_slides: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._n, self._clock = n_slides, clock
        self._lock = threading.Lock()
        self._started = clock()
        self._running: dict[str, _Slide] = {}
        self._ended: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._failures: list[dict[str, str]] = []
        self._before = 0
        self._blocks = self._cells = 0
        self._mm2 = 0.0

    def stage(self, slide_id: str, stage: str, total: int) -> None:
        with self._lock:
            slide = self._running.setdefault(slide_id, _Slide())
            slide.stage, slide.done, slide.total = stage, 0, total

    def advance(self, slide_id: str, parts: int = 1, *, cells: int = 0, mm2: float = 0.0) -> None:
        with self._lock:
            slide = self._running.setdefault(slide_id, _Slide())
            slide.done += parts
            if mm2 or cells:
                # Looking for cells is nearly all of a slide's time.
                slide.share = slide.done / max(1, slide.total)
                self._blocks += parts
            self._cells += cells
            self._mm2 += mm2

    def finished(
        self, slide_id: str, outcome: str, *, status: str = "", reason: str = "", before: bool = False
    ) -> None:
        with self._lock:
            self._running.pop(slide_id, None)
            self._ended[status] += 1
            self._before += before
            if reason:
                self._reasons[reason] += 1
            if status == "failed":
                self._failures = [*self._failures, {"slide_id": slide_id, "reason": reason}][-_FAILURES:]

    def overall(self, text: str) -> None: ...

    def say(self, text: str) -> None: ...

    def ended(self) -> dict[str, int]:
        """Return how many slides ended how."""
        with self._lock:
            return {state: self._ended[state] for state in _STATES}

    def snapshot(self) -> dict[str, Any]:
        """Return everything counted, as ``status.json`` has it."""
        with self._lock:
            seconds = self._clock() - self._started
            ended = sum(self._ended.values())
            mine = ended - self._before + sum(slide.share for slide in self._running.values())
            left = self._n - ended - sum(slide.share for slide in self._running.values())
            return {
                "seconds": round(seconds, 1),
                "slides": {
                    "total": self._n,
                    **{state: self._ended[state] for state in _STATES},
                    "done_before": self._before,
                    "running": len(self._running),
                },
                "blocks": self._blocks,
                "cells": self._cells,
                "mm2": round(self._mm2, 4),
                "cells_per_s": round(self._cells / seconds, 2) if seconds > 0 else 0.0,
                "mm2_per_s": round(self._mm2 / seconds, 5) if seconds > 0 else 0.0,
                "seconds_left": round(seconds * left / mine) if mine > 0 else None,
                "reasons": dict(sorted(self._reasons.items())),
                "last_failures": list(self._failures),
                "running": [
                    {"slide_id": name, "stage": slide.stage, "done": slide.done, "total": slide.total}
                    for name, slide in sorted(self._running.items())
                ],
            }


class StatusWriter:
    """Writes a run's status every few seconds, and says it in one line, until it is left.

    Parameters
    ----------
    path
        ``OUT/status.json``, or what :func:`shared_status` returns.
    tally
        What is counted.
    progress
        Told one line every half minute.
    facts
        Called each time; what else belongs into the file (workers, the dashboard).
    """

    def __init__(
        self,
        path: Path,
        tally: Tally,
        progress: Progress,
        facts: Callable[[], Mapping[str, Any]] = dict,
        *,
        every_s: float = EVERY_S,
        gpu: bool = False,
    ) -> None:
        self._path, self._tally, self._progress, self._facts = path, tally, progress, facts
        self._every_s, self._gpu = every_s, gpu
        self._started = datetime.now(UTC)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="status", daemon=True)

    def __enter__(self) -> StatusWriter:
        self._write("running")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._write("finished" if error is None else "stopped", "" if error is None else _why(error))

    def _keep(self) -> None:
        said = time.monotonic()
        while not self._stop.wait(self._every_s):
            found = self._write("running")
            if time.monotonic() - said >= _SAY_EVERY_S:
                said = time.monotonic()
                self._progress.overall(overall_text(found))

    def _write(self, state: Literal["running", "finished", "stopped"], why: str = "") -> dict[str, Any]:
        found: dict[str, Any] = {
            "state": state,
            "why": why,
            "process": this_process().to_record(),
            "started": self._started.isoformat(timespec="seconds"),
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "every_s": self._every_s,
            **self._tally.snapshot(),
            **self._facts(),
            "gpu": gpu_use() if self._gpu else [],
        }
        with contextlib.suppress(OSError):  # the run itself meets what is wrong with the disk, and says so
            write_json(self._path, found, durable=False)
        return found


def _why(error: BaseException) -> str:
    return "interrupted" if isinstance(error, KeyboardInterrupt) else str(error) or type(error).__name__


def shared_status(out: Path, writer: str) -> Path:
    """Return where one of several processes that share a run writes its status."""
    return out / "work" / _SHARED / f"{writer}.json"


def overall_text(status: Mapping[str, Any]) -> str:
    """Return a run's status in one line."""
    slides = status["slides"]
    done = sum(slides[state] for state in _STATES)
    parts = [f"{done:,} of {slides['total']:,} slides"]
    if slides["failed"]:
        reasons = ", ".join(f"{reason} {n}" for reason, n in status["reasons"].items())
        parts.append(f"{slides['failed']:,} failed" + (f" ({reasons})" if reasons else ""))
    parts.append(f"{status['blocks']:,} blocks, {status['mm2_per_s']:.3g} mm2/s, {status['cells_per_s']:,.0f} cells/s")
    parts += [f"GPU {gpu['index']} at {gpu['use_percent']:.0f} %" for gpu in status.get("gpu", [])]
    if status.get("seconds_left") is not None and status.get("state") == "running":
        parts.append(f"{duration(status['seconds_left'])} left")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Return a time span as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def read_status(out: Path, *, clock: Callable[[], float] = time.time) -> dict[str, Any]:
    """Return what a run is doing, or what became of it.

    Parameters
    ----------
    out
        The run's folder; of a run that several processes share, their counts are added up.
    clock
        Seconds since 1970 by this machine, for a folder in which nothing can be made.

    Returns
    -------
    dict
        As ``status.json``, with ``state`` one of ``running``, ``finished``, ``stopped`` and ``dead``, ``last_heard_s``
        (null when it has ended), ``processes`` (each with its own state), and in ``slides`` what the ledger knows of
        all slides.

    Raises
    ------
    DataError
        No run was ever started there, or its status is damaged.
    """
    main = [path for path in (out / STATUS_FILE,) if path.is_file()]
    shared = sorted((out / "work" / _SHARED).glob("*.json"))
    if not (main or shared):
        raise DataError(f"{out} holds no run: neither {STATUS_FILE} nor work/{_SHARED} is there")
    now = _now_of(out, clock)
    kinds = [[_part(path, now) for path in paths] for paths in (main, shared) if paths]
    # A folder that was run both ways shows the way that was heard of last.
    parts = min(kinds, key=lambda kind: min(part["age_s"] for part in kind))
    alive = [part for part in parts if part["state"] == "running"]
    newest = min(parts, key=lambda part: part["age_s"])
    found = _sum(parts, alive)
    found["state"] = "running" if alive else newest["state"]
    found["why"] = "" if alive else newest["why"]
    found["last_heard_s"] = None if found["state"] in ("finished", "stopped") else newest["age_s"]
    found["processes"] = [
        {"process": p["process"], "state": p["state"], "last_heard_s": p["age_s"], "running": p["running"]}
        for p in parts
    ]
    ledger = read_run_ledger(out / "work")
    if ledger is not None:
        try:
            ended = Counter(record.status for record in ledger.slides() if record.status)
        finally:
            ledger.close()
        # Of a slide that two processes met both may count the end, the ledger one; it may have been removed, though.
        if len(parts) > 1 or sum(ended.values()) >= sum(found["slides"][state] for state in _STATES):
            found["slides"].update({state: ended[state] for state in _STATES})
    return found


def _part(path: Path, now: float) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        process = ProcessName.from_record(found["process"])
        found["age_s"] = max(0.0, round(now - path.stat().st_mtime, 1))
        every_s = float(found["every_s"])
        overall_text(found)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not the status of a run: {error}") from None
    if found["state"] == "running":
        runs = process.runs()
        if runs is False or (runs is None and found["age_s"] > max(DEAD_S, 6 * every_s)):
            found["state"] = "dead"
    return found


def _sum(parts: list[dict[str, Any]], alive: list[dict[str, Any]]) -> dict[str, Any]:
    """Add up what several processes counted; rates are of those that live."""
    if len(parts) == 1:
        return dict(parts[0])
    slides, reasons = Counter[str](), Counter[str]()
    for part in parts:
        slides.update({k: v for k, v in part["slides"].items() if k != "total"})
        reasons.update(part["reasons"])
    total = max(part["slides"]["total"] for part in parts)
    speed = sum(_ended(part) / part["seconds"] for part in alive if part["seconds"])
    left = total - sum(_ended(part) for part in parts)
    return {
        **parts[0],
        "started": min(part["started"] for part in parts),
        "seconds": max(part["seconds"] for part in parts),
        "slides": {**{key: slides[key] for key in parts[0]["slides"]}, "total": total},
        **{key: sum(part[key] for part in parts) for key in ("blocks", "cells", "mm2")},
        **{key: sum(part[key] for part in alive) for key in ("cells_per_s", "mm2_per_s")},
        "seconds_left": round(max(0, left) / speed) if speed else None,
        "reasons": dict(sorted(reasons.items())),
        "last_failures": [failure for part in parts for failure in part["last_failures"]][-_FAILURES:],
        "running": [slide for part in alive for slide in part["running"]],
        "gpu": [gpu for part in alive for gpu in part["gpu"]],
    }


def _ended(part: Mapping[str, Any]) -> int:
    """Return how many slides a process finished itself."""
    return int(sum(part["slides"][state] for state in _STATES) - part["slides"]["done_before"])


def _now_of(out: Path, clock: Callable[[], float]) -> float:
    """Return the time by the clock that stamps files in the folder."""
    probe = out / f".now.{uuid.uuid4().hex[:12]}.tmp"
    try:
        probe.write_bytes(b"")
        return probe.stat().st_mtime
    except OSError:
        return clock()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def status_lines(status: Mapping[str, Any]) -> list[str]:
    """Return a run's status for people."""
    state = status["state"]
    heard = status["last_heard_s"]
    lines = [
        {
            "running": "running",
            "finished": "finished",
            "stopped": f"stopped: {status['why']}; the same command resumes",
            "dead": f"dead: last heard from {duration(heard or 0)} ago; the same command resumes",
        }[state]
        + f", started {status['started']}, {duration(status['seconds'])} of work",
        overall_text(status),
    ]
    lines += [
        f"  {slide['slide_id']}: {slide['stage']}, {slide['done']} of {slide['total']}"
        for slide in status["running"]
        if state == "running"
    ]
    lines += [f"  failed, {failure['reason']}: {failure['slide_id']}" for failure in status["last_failures"]]
    if len(status["processes"]) > 1:
        lines += [f"  {_named(p['process'])}: {p['state']}" for p in status["processes"]]
    if state == "running" and status.get("dashboard"):
        lines.append(f"  dashboard: {status['dashboard']}")
    return lines


def _named(record: Mapping[str, Any]) -> str:
    return str(ProcessName.from_record(record))
