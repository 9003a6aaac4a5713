"""A whole run on a virtual slide: square millimetres and cells a second, stage by stage, and memory of the workers.

    python benchmarks/pipeline.py --size 4096             1 worker against 2, the same slide
    python benchmarks/pipeline.py --memory                largest worker on an 8192 and on a 16384 pixel slide

Measured: ``run_cohort`` on a local cluster in a process of its own, from opening the slide to the report, after an
untimed run on a 1024 pixel slide (compilation). "seconds" is the slide's own time, "with cluster" adds starting and
stopping workers. Memory is the peak resident size (VmHWM) of each process, read every 0.2 s: the largest worker,
and the driver. The cell tables of the runs are compared byte for byte.

``--memory`` prints the ratio of the largest worker on the larger slide to that on the smaller, one worker; memory
must not grow with the slide, the target is within 10 %.

Not measured: a GPU, a cluster of several machines, slow storage. No other program does the same work from slide to
counts, so the ratio is ours against ours; the parts have peers in the other benchmarks. A classifier that is not
shipped is left out with a word.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

from _harness import Watcher, memory_mib, parser, print_table, record, start
from _inputs import virtual_slide

_SAMPLE_S = 0.2
SPECIMEN = {"normal": "blood_smear", "reactive": "blood_smear", "aml": "marrow_smear", "section": "trephine"}


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one run took."""

    workers: int
    size: int
    seconds: float
    seconds_with_cluster: float
    area_mm2: float
    cells: int
    stages: Mapping[str, float]
    worker_mib: float
    driver_mib: float
    cpu_seconds: float
    table: str

    def figures(self) -> dict[str, Any]:
        return {
            **vars(self),
            "stages": {k: round(v, 3) for k, v in self.stages.items()},
            "mm2_per_s": round(self.area_mm2 / self.seconds, 5),
            "cells_per_s": round(self.cells / self.seconds, 2),
        }


class MemoryWatch(Watcher):
    """Peak memory of a process and of each of its descendants, and their processor time, sampled while they run."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        super().__init__()
        self.driver_mib = 0.0
        self.workers_mib: dict[int, float] = {}
        self._cpu: dict[int, float] = {}
        self._cpu_before = 0.0

    @property
    def cpu_seconds(self) -> float:
        return sum(self._cpu.values()) - self._cpu_before

    def __enter__(self) -> Self:
        with contextlib.suppress(OSError, IndexError):  # no /proc: what preparing took is counted too
            user, system = Path(f"/proc/{self._pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
            self._cpu_before = (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
        return super().__enter__()

    def _watch(self) -> None:
        import psutil

        while not self._stop.wait(_SAMPLE_S):
            try:
                driver = psutil.Process(self._pid)
                children = driver.children(recursive=True)
            except psutil.NoSuchProcess:
                continue
            self.driver_mib = max(self.driver_mib, _peak(self._pid))
            for child in children:
                self.workers_mib[child.pid] = max(self.workers_mib.get(child.pid, 0.0), _peak(child.pid))
            for process in (driver, *children):
                with contextlib.suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    self._cpu[process.pid] = times.user + times.system


def _peak(pid: int) -> float:
    peak = memory_mib("VmHWM", pid)
    return 0.0 if math.isnan(peak) else peak  # NaN: the process has just ended


def _child(pipe: Connection, slide: str, out: str, specimen: str, overrides: dict[str, Any]) -> None:
    from wsi_pipeline import run_cohort

    started = time.monotonic()
    result = run_cohort([slide], out, specimen, overrides=overrides)
    result.raise_failed()
    pipe.send((result.summaries[0], time.monotonic() - started))


def run_once(slide: Path, out: Path, specimen: str, overrides: dict[str, Any]) -> tuple[dict[str, Any], Run]:
    """Run the pipeline in a process of its own and return the slide's summary and what it took."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_child, args=(theirs, str(slide), str(out), specimen, overrides))
    process.start()
    theirs.close()
    try:
        with MemoryWatch(int(process.pid or 0)) as memory:
            summary, with_cluster = mine.recv()
    except EOFError:
        raise SystemExit(f"the run on {slide.name} failed; its message is above") from None
    process.join()
    width, _ = (int(v) for v in summary["provenance"]["size, level-0 px"].split(" x "))
    table = out / "slides" / summary["slide_id"] / "cells.parquet"
    return summary, Run(
        workers=overrides["runtime.workers"],
        size=width,
        seconds=summary["seconds"],
        seconds_with_cluster=round(with_cluster, 3),
        area_mm2=summary["area_mm2"],
        cells=summary["n_cells"],
        stages=summary["timings"],
        worker_mib=round(max(memory.workers_mib.values(), default=0.0), 1),
        driver_mib=round(memory.driver_mib, 1),
        cpu_seconds=round(memory.cpu_seconds, 2),
        table=hashlib.sha256(table.read_bytes()).hexdigest()[:16],
    )


def settings(options: argparse.Namespace, specimen: str) -> dict[str, Any]:
    """Return the overrides of all runs."""
    from wsi_pipeline.config import load_config, parse_overrides
    from wsi_pipeline.weights import shipped_weights

    made = {"runtime.device": "cpu", "runtime.threads": options.threads, **parse_overrides(options.set)}
    classifier = load_config(specimen, made).cells.classifier
    if classifier is not None and (options.no_classifier or classifier not in shipped_weights()):
        print(f"  classifier {classifier} is off ({'asked' if options.no_classifier else 'not shipped here'})")
        made["cells.classifier"] = None
    return made


def compare_workers(options: argparse.Namespace, specimen: str, overrides: dict[str, Any], folder: Path) -> None:
    slide = virtual_slide(options.scratch, profile=options.profile, size_px=options.size)
    runs = []
    for workers in options.workers:
        print(f"{slide.name}, {workers} worker(s) ...", flush=True)
        best: Run | None = None
        for turn in range(options.repeats):
            out = folder / f"{workers}-{turn}"
            _, run = run_once(slide, out, specimen, {**overrides, "runtime.workers": workers})
            shutil.rmtree(out)
            best = run if best is None or run.seconds < best.seconds else best
        assert best is not None
        runs.append(best)
    first = runs[0]
    print(f"\npipeline: {options.profile}, {first.size} px, {first.area_mm2:.3f} mm2, {first.cells:,} cells")
    print_table(
        ("workers", "seconds", "with cluster", "mm2/s", "cells/s", "worker MiB", "driver MiB", "speed-up"),
        [
            (
                str(r.workers), f"{r.seconds:.1f}", f"{r.seconds_with_cluster:.1f}", f"{r.area_mm2 / r.seconds:.4f}",
                f"{r.cells / r.seconds:,.0f}", f"{r.worker_mib:,.0f}", f"{r.driver_mib:,.0f}",
                f"{first.seconds / r.seconds:.2f}",
            )
            for r in runs
        ],
    )  # fmt: skip
    names = list(dict.fromkeys(name for r in runs for name in r.stages))
    rest = [r.seconds - sum(r.stages.values()) for r in runs]
    print_table(
        ("stage, seconds", *(f"{r.workers} worker(s)" for r in runs)),
        [
            *((name, *(f"{r.stages.get(name, 0):.2f}" for r in runs)) for name in names),
            ("imports, report, waiting", *(f"{seconds:.2f}" for seconds in rest)),
        ],
    )
    same = len({r.table for r in runs}) == 1
    print(f"  cell tables byte for byte the same: {'yes' if same else 'NO'}")
    record(
        options.results, "pipeline", "workers",
        {"profile": options.profile, "size": options.size, "overrides": overrides},
        {
            "runs": [r.figures() for r in runs], "tables_same": same,
            "speed_up": {str(r.workers): round(first.seconds / r.seconds, 3) for r in runs},
        },
    )  # fmt: skip


def compare_memory(options: argparse.Namespace, specimen: str, overrides: dict[str, Any], folder: Path) -> None:
    runs = []
    for size in options.sizes:
        slide = virtual_slide(options.scratch, profile=options.profile, size_px=size)
        print(f"{slide.name}, 1 worker ...", flush=True)
        out = folder / str(size)
        runs.append(run_once(slide, out, specimen, {**overrides, "runtime.workers": 1})[1])
        shutil.rmtree(out)
    small = runs[0]
    print(f"\npipeline: memory of a worker, {options.profile}")
    print_table(
        ("size", "seconds", "cells", "worker MiB", "driver MiB", "worker, of the first"),
        [
            (
                str(r.size), f"{r.seconds:.1f}", f"{r.cells:,}", f"{r.worker_mib:,.0f}", f"{r.driver_mib:,.0f}",
                f"{r.worker_mib / small.worker_mib:.3f}",
            )
            for r in runs
        ],
    )  # fmt: skip
    ratio = runs[-1].worker_mib / small.worker_mib
    print(f"  largest slide to smallest: {ratio:.3f} (target: within 0.9 to 1.1)")
    record(
        options.results, "pipeline", "memory",
        {"profile": options.profile, "sizes": options.sizes, "overrides": overrides},
        {"runs": [r.figures() for r in runs], "ratio": round(ratio, 4), "target": [0.9, 1.1]},
    )  # fmt: skip


def main() -> None:
    options = parser(__doc__)
    options.set_defaults(repeats=1)
    options.add_argument("--size", type=int, default=4096, help="side of the slide, pixels (default 4096)")
    options.add_argument("--profile", choices=sorted(SPECIMEN), default="normal", help="what the slide shows")
    options.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="numbers of workers to compare")
    options.add_argument("--memory", action="store_true", help="compare the largest worker over slide sizes")
    options.add_argument("--sizes", type=int, nargs="+", default=[8192, 16384], help="sizes of --memory")
    options.add_argument("--no-classifier", action="store_true", help="leave the cells at their kind")
    options.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="configuration")
    options.add_argument("--no-warm-up", action="store_true", help="skip the untimed run")
    chosen = start(options.parse_args())
    specimen = SPECIMEN[chosen.profile]
    overrides = settings(chosen, specimen)
    with tempfile.TemporaryDirectory(dir=chosen.scratch, prefix="runs-") as folder:
        if not chosen.no_warm_up:
            small = virtual_slide(chosen.scratch, profile=chosen.profile, size_px=1024)
            summary, _ = run_once(small, Path(folder) / "warm", specimen, {**overrides, "runtime.workers": 1})
            print(f"warmed up: {json.dumps({'status': summary['status'], 'cells': summary['n_cells']})}", flush=True)
        (compare_memory if chosen.memory else compare_workers)(chosen, specimen, overrides, Path(folder))


if __name__ == "__main__":
    main()
