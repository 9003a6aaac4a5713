"""Progress of long work: a bar with rate and estimate on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """Receives what happens; methods may be called from several threads."""

    def stage(self, slide_id: str, stage: str, total: int) -> None:
        """A stage of a slide begins, with ``total`` parts."""

    def advance(self, slide_id: str, parts: int = 1, *, cells: int = 0, mm2: float = 0.0) -> None:
        """Parts of the slide's stage are done, and so many cells were found on so much of it."""

    def finished(
        self, slide_id: str, outcome: str, *, status: str = "", reason: str = "", before: bool = False
    ) -> None:
        """A slide is done; ``outcome`` is one line for people, ``before`` that an earlier run did it."""

    def overall(self, text: str) -> None:
        """Where the run as a whole stands, in one line, every now and then."""

    def say(self, text: str) -> None:
        """Something about the run that people want to know, in one line."""


class SilentProgress:
    """Shows nothing."""

    def stage(self, slide_id: str, stage: str, total: int) -> None: ...

    def advance(self, slide_id: str, parts: int = 1, *, cells: int = 0, mm2: float = 0.0) -> None: ...

    def finished(
        self, slide_id: str, outcome: str, *, status: str = "", reason: str = "", before: bool = False
    ) -> None: ...

    def overall(self, text: str) -> None: ...

    def say(self, text: str) -> None: ...


class BothProgress:
    """Tells two of everything."""

    def __init__(self, first: Progress, second: Progress) -> None:
        self._both = first, second

    def stage(self, slide_id: str, stage: str, total: int) -> None:
        for one in self._both:
            one.stage(slide_id, stage, total)

    def advance(self, slide_id: str, parts: int = 1, *, cells: int = 0, mm2: float = 0.0) -> None:
        for one in self._both:
            one.advance(slide_id, parts, cells=cells, mm2=mm2)

    def finished(
        self, slide_id: str, outcome: str, *, status: str = "", reason: str = "", before: bool = False
    ) -> None:
        for one in self._both:
            one.finished(slide_id, outcome, status=status, reason=reason, before=before)

    def overall(self, text: str) -> None:
        for one in self._both:
            one.overall(text)

    def say(self, text: str) -> None:
        for one in self._both:
            one.say(text)


class LineProgress:
    """Plain lines: one a stage, one every ``every`` seconds within it, one a slide."""

    def __init__(self, n_slides: int, every: float = 30.0) -> None:
        self._n, self._done, self._every = n_slides, 0, every
        self._lock = threading.Lock()
        self._state: dict[str, list[float]] = {}
        self._name: dict[str, str] = {}

    def say(self, text: str) -> None:
        with self._lock:
            self._say(text)

    def _say(self, text: str) -> None:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def stage(self, slide_id: str, stage: str, total: int) -> None:
        with self._lock:
            now = time.monotonic()
            self._state[slide_id] = [0, total, now, now]
            self._name[slide_id] = stage
            if total > 1:
                self._say(f"{slide_id}: {stage}, {total} parts")

    def advance(self, slide_id: str, parts: int = 1, *, cells: int = 0, mm2: float = 0.0) -> None:
        with self._lock:
            state = self._state[slide_id]
            state[0] += parts
            now = time.monotonic()
            if now - state[3] >= self._every and state[0] < state[1]:
                state[3] = now
                rate = state[0] / (now - state[2])
                left = (state[1] - state[0]) / rate
                self._say(
                    f"{slide_id}: {self._name[slide_id]} {state[0]:.0f}/{state[1]:.0f}, "
                    f"{rate:.2f} parts/s, {left:.0f} s left"
                )

    def finished(
        self, slide_id: str, outcome: str, *, status: str = "", reason: str = "", before: bool = False
    ) -> None:
        with self._lock:
            self._done += 1
            self._state.pop(slide_id, None)
            self._name.pop(slide_id, None)
            self._say(f"[{self._done}/{self._n}] {slide_id}: {outcome}")

    def overall(self, text: str) -> None:
        if self._n > 1:
            with self._lock:
                self._say(text)


class BarProgress:
    """A bar for the cohort and one for each slide in work."""

    def __init__(self, n_slides: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._lock = threading.Lock()
        self._tasks: dict[str, object] = {}
        self._started = time.monotonic()
        self._cells, self._mm2, self._failed = 0, 0.0, 0
        self._all = self._bars.add_task("slides", total=n_slides, rate="")

    def __enter__(self) -> BarProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def stage(self, slide_id: str, stage: str, total: int) -> None:
        from rich.markup import escape

        with self._lock:
            if slide_id in self._tasks:
                self._bars.remove_task(self._tasks[slide_id])  # type: ignore[arg-type]
            self._tasks[slide_id] = self._bars.add_task(escape(f"{slide_id[:40]}: {stage}"), total=total, rate="")

    def advance(self, slide_id: str, parts: int = 1, *, cells: int = 0, mm2: float = 0.0) -> None:
        with self._lock:
            self._cells += cells
            self._mm2 += mm2
            if self._mm2:
                passed = time.monotonic() - self._started
                self._bars.update(self._all, rate=self._rate(passed))
            task = self._tasks[slide_id]
            self._bars.advance(task, parts)  # type: ignore[arg-type]
            speed = next(t.speed for t in self._bars.tasks if t.id == task)
            self._bars.update(task, rate=f"{speed:.2f}/s" if speed else "")  # type: ignore[arg-type]

    def _rate(self, passed: float) -> str:
        failed = f", {self._failed} failed" if self._failed else ""
        return f"{self._mm2 / passed:.3g} mm2/s, {self._cells / passed:,.0f} cells/s{failed}"

    def overall(self, text: str) -> None: ...

    def say(self, text: str) -> None:
        from rich.markup import escape

        with self._lock:
            self._bars.console.print(escape(text), highlight=False)

    def finished(
        self, slide_id: str, outcome: str, *, status: str = "", reason: str = "", before: bool = False
    ) -> None:
        from rich.markup import escape

        with self._lock:
            self._failed += status == "failed"
            if slide_id in self._tasks:
                self._bars.remove_task(self._tasks.pop(slide_id))  # type: ignore[arg-type]
            self._bars.advance(self._all)
            self._bars.console.print(escape(f"{slide_id}: {outcome}"), highlight=False)


@contextmanager
def show_progress(n_slides: int) -> Iterator[Progress]:
    """Yield bars on a terminal, lines elsewhere."""
    if sys.stderr.isatty():
        with BarProgress(n_slides) as bars:
            yield bars
    else:
        yield LineProgress(n_slides)
