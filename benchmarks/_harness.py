"""What every benchmark shares: contenders in processes of their own, timed in turn, and one line of result.

Only the standard library and numpy are imported, so a benchmark also runs where the package's own needs are missing.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import math
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

HERE = Path(__file__).resolve().parent
MIB = 2**20

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "VIPS_CONCURRENCY",
)  # fmt: skip
_PACKAGES = (
    "wsi-pipeline", "numpy", "scipy", "numba", "torch", "cellpose", "tiatoolbox", "openslide-python", "openslide-bin",
    "pyvips", "tifffile", "imagecodecs", "opencv-python-headless", "shapely", "geopandas", "pyogrio", "pyarrow",
    "dask", "distributed",
)  # fmt: skip


class SkipContender(Exception):  # noqa: N818  it is no error
    """A contender cannot run here; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way of doing the work.

    Attributes
    ----------
    name
        In the table and the result line.
    prepare
        Module-level function, called untimed in a fresh process. It returns the work: a function without
        arguments, which is called again and again and timed. An ``ImportError`` or :class:`SkipContender` leaves
        the contender out.
    arguments
        Of ``prepare``; small and picklable.
    """

    name: str
    prepare: Callable[..., Callable[[], Any]]
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What a contender took.

    Attributes
    ----------
    seconds
        Every timed call, in order.
    cpu_seconds
        Processor time of each, all threads together: says more than ``seconds`` where other work is running.
    base_mib
        Resident memory after preparing (libraries, models, inputs).
    peak_mib
        Largest resident memory during the first (untimed) and the timed calls.
    value
        What the last call returned.
    """

    name: str
    seconds: list[float]
    cpu_seconds: list[float]
    base_mib: float
    peak_mib: float
    value: Any = field(repr=False, default=None)

    @property
    def best(self) -> float:
        return min(self.seconds)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def row(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "best_s": round(self.best, 6),
            "median_s": round(self.median, 6),
            "cpu_s": round(min(self.cpu_seconds), 6),
            "runs_s": [round(s, 6) for s in self.seconds],
            "base_mib": round(self.base_mib, 1),
            "peak_mib": round(self.peak_mib, 1),
        }


def fix_threads(threads: int) -> None:
    """Fix the intra-op threads of processes started from here."""
    for name in _THREAD_VARIABLES:
        os.environ[name] = str(threads)


def memory_mib(name: str, pid: int | str = "self") -> float:
    """Return ``VmRSS`` or ``VmHWM`` (its peak) of a process, MiB; NaN where the system has no ``/proc``.

    ``resource.getrusage`` is not used for a child: on Linux its ``ru_maxrss`` starts at the parent's peak.
    """
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return math.nan


def _reset_peak() -> None:
    """Free what preparing left over and let the peak start from here, where the system can."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):  # the peak then includes the preparation
        Path("/proc/self/clear_refs").write_text("5")


def _serve(pipe: Connection, prepare: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...]) -> None:
    warnings.simplefilter("ignore")  # of the peers; a table is read more easily without
    try:
        try:
            work = prepare(*arguments)
        except (ImportError, SkipContender) as error:
            pipe.send(("skip", str(error)))
            return
        _reset_peak()
        pipe.send(("ready", memory_mib("VmRSS")))
        value = None
        while pipe.recv() == "run":
            value = None  # the last result must not count into the memory of the next
            started, cpu = time.perf_counter(), time.process_time()
            value = work()
            pipe.send(("ran", (time.perf_counter() - started, time.process_time() - cpu)))
        pipe.send(("value", (memory_mib("VmHWM"), value)))
    except EOFError:
        return  # the parent gave up
    except Exception:  # noqa: BLE001  it is told to the parent, which raises
        pipe.send(("failed", traceback.format_exc()))


def _receive(pipe: Connection, wanted: str, name: str) -> Any:
    try:
        kind, what = pipe.recv()
    except EOFError:
        raise RuntimeError(f"the process of {name} died; most often memory ran out") from None
    if kind == "skip":
        raise SkipContender(what)
    if kind != wanted:
        raise RuntimeError(f"{name}: {what}")
    return what


def compare(contenders: Sequence[Contender], *, repeats: int, say: Callable[[str], None] = print) -> list[Timing]:
    """Run contenders, each in a spawned process, in turn (A, B, A, B ...), so that other load meets all alike.

    Every contender has one untimed call first (compilation, caches, allocator), then ``repeats`` timed ones. While
    one runs, the others wait. Contenders that cannot run here are left out with a word.
    """
    context = multiprocessing.get_context("spawn")
    running = []
    try:
        for contender in contenders:
            mine, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, contender.prepare, contender.arguments))
            process.start()
            theirs.close()
            try:
                base = _receive(mine, "ready", contender.name)
            except SkipContender as reason:
                say(f"  left out: {contender.name} ({reason})")
                mine.close()
                continue
            running.append((contender.name, mine, base, []))
        for turn in range(repeats + 1):
            for name, pipe, _, took in running:
                pipe.send("run")
                seconds = _receive(pipe, "ran", name)
                if turn:
                    took.append(seconds)
        timings = []
        for name, pipe, base, took in running:
            pipe.send("stop")
            peak, value = _receive(pipe, "value", name)
            seconds, cpu = ([run[i] for run in took] for i in (0, 1))
            timings.append(
                Timing(name=name, seconds=seconds, cpu_seconds=cpu, base_mib=base, peak_mib=peak, value=value)
            )
        return timings
    finally:
        for _, pipe, _, _ in running:
            pipe.close()  # which ends a process that still waits


def machine() -> dict[str, Any]:
    """Return processor, cores this process may use, memory and GPU; never the host's name."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found: dict[str, Any] = {"cpu": platform.machine(), "cores": cores, "system": platform.system()}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                found["cpu"] = line.split(":", 1)[1].strip()
                break
        found["memory_gib"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    except (OSError, ValueError):
        pass
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def versions() -> dict[str, str]:
    """Return the versions of Python and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    try:
        return subprocess.run(
            ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True, text=True, timeout=10, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None


def record(results: Path, subject: str, case: str, work: Mapping[str, Any], figures: Mapping[str, Any]) -> None:
    """Append one JSON line to ``<results>/<subject>.jsonl``.

    Parameters
    ----------
    case
        Which of the subject's comparisons.
    work
        What was done: sizes, counts, parameters.
    figures
        What was found.
    """
    line = {
        "subject": subject,
        "case": case,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": machine(),
        "load_average": [round(v, 2) for v in os.getloadavg()],
        "threads": int(os.environ.get("OMP_NUM_THREADS", "0")),
        "versions": versions(),
        "work": dict(work),
        "figures": dict(figures),
    }
    results.mkdir(parents=True, exist_ok=True)
    with (results / f"{subject}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, default=float) + "\n")


def report(
    options: argparse.Namespace,
    subject: str,
    case: str,
    timings: Sequence[Timing],
    *,
    work: Mapping[str, Any],
    amount: float,
    unit: str,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Print the comparison of one case and append its result line; the first contender is ours.

    Parameters
    ----------
    options
        With ``results``.
    amount, unit
        How much work one call did, for example 16.8 and ``Mpx``.
    extra
        Further figures, printed below the table.
    """
    ours = timings[0]
    print(f"\n{subject}: {case} ({', '.join(f'{k} {v}' for k, v in work.items())})")
    rows = []
    for t in timings:
        ratios = (t.best / ours.best, t.median / ours.median, min(t.cpu_seconds) / max(min(ours.cpu_seconds), 1e-9))
        figures = (f"{t.best:.3f}", f"{t.median:.3f}", f"{min(t.cpu_seconds):.3f}", f"{amount / t.best:,.1f}")
        memory = (f"{t.base_mib:,.0f}", f"{t.peak_mib:,.0f}")
        rows.append((t.name, *figures, *memory, *("" if t is ours else f"{ratio:.2f}" for ratio in ratios)))
    head = ("", "best s", "median s", "cpu s", f"{unit}/s", "base MiB", "peak MiB", "x best", "x median", "x cpu")
    print_table(head, rows)
    if len(timings) > 1:
        print(f"  x: how many times faster {ours.name} is")
    for key, value in (extra or {}).items():
        print(f"  {key}: {value}")
    by_peer = {
        t.name: {
            "speed_best": round(t.best / ours.best, 3),
            "speed_median": round(t.median / ours.median, 3),
            "speed_cpu": round(min(t.cpu_seconds) / max(min(ours.cpu_seconds), 1e-9), 3),
            "peak_memory": round(ours.peak_mib / t.peak_mib, 3),
        }
        for t in timings[1:]
    }
    found = {
        "contenders": [{**t.row(), f"{unit}_per_s": round(amount / t.best, 3)} for t in timings],
        "ours_over_peer": by_peer,
        **(extra or {}),
    }
    record(options.results, subject, case, {**work, "amount": round(amount, 3), "unit": unit}, found)


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under a head, the first column to the left, the others to the right."""
    lines = [tuple(head), *(tuple(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    for line in lines:
        rest = (text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True))
        print("  " + "  ".join([line[0].ljust(widths[0]), *rest]))


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return the options that all benchmarks take."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--repeats", type=int, default=5, help="timed calls of each contender (default 5)")
    made.add_argument("--threads", type=int, default=1, help="intra-op threads of each contender (default 1)")
    made.add_argument("--results", type=Path, default=HERE / "results", help="folder of the result lines")
    made.add_argument(
        "--scratch", type=Path, default=HERE.parent / "build" / "benchmarks", help="folder of slides and other inputs"
    )
    return made


def start(options: argparse.Namespace) -> argparse.Namespace:
    """Fix threads, make the scratch folder, warn of load."""
    fix_threads(options.threads)
    options.scratch.mkdir(parents=True, exist_ok=True)
    load, cores = os.getloadavg()[0], machine()["cores"]
    if load > 0.5:
        print(f"load average is {load:.1f} on {cores} cores: figures are provisional", flush=True)
    return options


class Watcher:
    """Looks at something again and again, in a thread of its own, while a block runs; ``_watch`` says at what.

    ``_watch`` returns when ``_stop`` is set.
    """

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        raise NotImplementedError


def use_torch_threads() -> None:
    """Give torch and OpenCV of this process the threads that :func:`fix_threads` chose."""
    threads = int(os.environ["OMP_NUM_THREADS"])
    import torch

    torch.set_num_threads(threads)
    try:
        import cv2
    except ImportError:
        return
    cv2.setNumThreads(threads)
