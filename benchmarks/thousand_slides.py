"""A thousand small slides in one run: is the memory of client, scheduler and workers flat, what does a task cost?

    python benchmarks/thousand_slides.py                       1,000 slides of 0.05 mm2, two workers
    python benchmarks/thousand_slides.py --slides 100          a shorter one
    python benchmarks/thousand_slides.py --virtual 100000      one slide of 100k x 100k pixels, at most 2 % stained

Slides: ``--files`` virtual smears of 0.05 mm2 under ``--slides`` names (links). Every slide is opened, counted and
reported by itself; only the system's cache of files is warmer than with as many files.

Scheduler, workers and client are processes of their own. Resident memory of each is read every two seconds, and kept
in ``memory-*.csv`` of the scratch folder as it goes. "first" is the largest in the second tenth of the run, "last" in
the last tenth; flat is last over first near 1. A task's cost: 2,000 tasks that do nothing, with the arguments of a real
one, through the same executor and scheduler; and the share that this makes of the run's time, were nothing of it hidden
behind computing.

``--virtual N``: a TIFF of N x N pixels at 0.25 um/px, all of it the same white tile but for at most 2 % of tiles from
real fields, which are shared, so the file is small and the work is not. Memory of the largest worker is told.
"""

from __future__ import annotations

import multiprocessing
import shutil
import sys
import time
from collections import defaultdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from _dask_processes import Cluster, dask_processes
from _harness import Watcher, parser, print_table, record, start
from _inputs import virtual_slide

SIDE_PX = 894
_SAMPLE_S = 2.0
_NOTHING_TASKS = 2000


def nothing(*_: Any) -> None:
    """Do nothing with a block's arguments."""


def _child(pipe: Connection, manifest: str, out: str, address: str, overrides: dict[str, Any]) -> None:
    """Measure a task's cost and run the cohort, in the process whose memory counts as the client's."""
    import cloudpickle

    from wsi_pipeline import run_cohort
    from wsi_pipeline.cohort import plan_cohort
    from wsi_pipeline.many_slides.folder import RunFolder
    from wsi_pipeline.runtime.executor import open_executor
    from wsi_pipeline.tiling import Block
    from wsi_pipeline.units import Box

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    plan = plan_cohort([manifest], out, "blood_smear", overrides=overrides)
    block = Block(row=0, col=0, core=Box(x0=0, y0=0, x1=1, y1=1), window=Box(x0=0, y0=0, x1=1, y1=1))
    with open_executor(address, plan.config.runtime) as executor:
        list(executor.map(nothing, [(plan.jobs[0], "key", block)] * 100, timeout_s=60))
        began, cpu = time.monotonic(), time.process_time()
        list(executor.map(nothing, [(plan.jobs[0], "key", block)] * _NOTHING_TASKS, timeout_s=60))
        cost = (time.monotonic() - began) / _NOTHING_TASKS
        client_cpu = (time.process_time() - cpu) / _NOTHING_TASKS
    pipe.send(("task", (cost, client_cpu)))
    tasks: dict[str, list[float]] = defaultdict(list)
    inner = RunFolder.record

    def noted(self: RunFolder, report: Any) -> None:
        tasks[report.task].append(report.seconds)
        inner(self, report)

    RunFolder.record = noted  # type: ignore[method-assign]
    began = time.monotonic()
    result = run_cohort([manifest], out, "blood_smear", overrides=overrides, cluster=address)
    seconds = time.monotonic() - began
    ended = {state: sum(s["status"] == state for s in result.summaries) for state in ("ok", "empty", "failed")}
    pipe.send(("ran", (seconds, ended, {name: (len(v), sum(v)) for name, v in tasks.items()})))


class Samples(Watcher):
    """Resident memory over time, MiB, of the client, the scheduler and the largest worker."""

    def __init__(self, client: int, cluster: Cluster, log: Path) -> None:
        self._client, self._cluster, self._log = client, cluster, log
        super().__init__()
        self.rows: list[tuple[float, float, float, float]] = []

    def _watch(self) -> None:
        from wsi_pipeline.runtime.tasks import rss_mib

        began = time.monotonic()
        self._log.write_text("seconds,client_mib,scheduler_mib,largest_worker_mib\n", encoding="utf-8")
        while not self._stop.wait(_SAMPLE_S):
            pids = self._cluster.pids()
            self.rows.append(
                (
                    time.monotonic() - began,
                    rss_mib(self._client),
                    rss_mib(pids["scheduler"][0]),
                    max((rss_mib(pid) for pid in pids["workers"]), default=0.0),
                )
            )
            with self._log.open("a", encoding="utf-8") as file:
                file.write(",".join(f"{value:.1f}" for value in self.rows[-1]) + "\n")

    def flatness(self) -> dict[str, dict[str, float]]:
        """Return first, last and peak of each process; see the module's text."""
        rows = self.rows
        tenth = max(1, len(rows) // 10)
        found = {}
        for place, name in enumerate(("client", "scheduler", "largest worker"), start=1):
            first = max(row[place] for row in rows[tenth : 2 * tenth] or rows[:1])
            last = max(row[place] for row in rows[-tenth:])
            found[name] = {
                "first_mib": round(first, 1),
                "last_mib": round(last, 1),
                "peak_mib": round(max(row[place] for row in rows), 1),
                "last_over_first": round(last / first, 3) if first else 0.0,
            }
        return found


def make_manifest(scratch: Path, *, slides: int, files: int) -> Path:
    """Return a manifest of links to a few small virtual slides."""
    sources = [virtual_slide(scratch, profile="normal", size_px=SIDE_PX, seed=seed) for seed in range(1, files + 1)]
    folder = scratch / f"thousand-{slides}"
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["slide,slide_id,specimen,patient"]
    for number in range(slides):
        link = folder / f"slide-{number:05d}.tiff"
        if not link.is_symlink():
            link.symlink_to(sources[number % files].absolute())
        rows.append(f"{link.name},slide-{number:05d},blood_smear,patient-{number:05d}")
    manifest = folder / "manifest.csv"
    manifest.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return manifest


def sparse_slide(path: Path, *, side_px: int, stained: float, source: Path) -> Path:
    """Write a tiled TIFF that is white but for scattered tiles of a source slide; equal tiles are stored once.

    Parameters
    ----------
    side_px
        Side of level 0.
    stained
        Share of tiles that are not white, in one square patch, as tissue is.
    source
        A slide whose tiles are taken, in turn.
    """
    import imagecodecs
    import numpy as np
    import tifffile

    tile = 512
    n = -(-side_px // tile)
    fields = tifffile.imread(source, key=0)
    high, wide = (size // tile for size in fields.shape[:2])
    cut = [fields[y * tile : (y + 1) * tile, x * tile : (x + 1) * tile] for y in range(high) for x in range(wide)]
    patch = int((stained * n * n) ** 0.5)
    at = (n - patch) // 2

    def encoded(pixels: Any) -> bytes:
        return bytes(
            imagecodecs.jpeg8_encode(np.ascontiguousarray(pixels), level=90, colorspace="RGB", outcolorspace="RGB")
        )

    white, stains = encoded(np.full((tile, tile, 3), 245, np.uint8)), [encoded(one) for one in cut]
    with path.open("wb") as file:
        file.write(b"II" + (43).to_bytes(2, "little") + (8).to_bytes(2, "little") + bytes(2) + bytes(8))
        places = []
        for content in (white, *stains):
            places.append((file.tell(), len(content)))
            file.write(content)
        offsets, counts = np.empty((n, n), np.uint64), np.empty((n, n), np.uint64)
        offsets[:], counts[:] = places[0]
        for y in range(at, at + patch):
            for x in range(at, at + patch):
                offsets[y, x], counts[y, x] = places[1 + (y * patch + x) % len(stains)]
        at_offsets = file.tell()
        file.write(offsets.tobytes())
        at_counts = file.tell()
        file.write(counts.tobytes())
        ifd = file.tell()
        tags = [
            (256, 4, 1, side_px), (257, 4, 1, side_px), (258, 3, 3, 8 | 8 << 16 | 8 << 32),
            (259, 3, 1, 7), (262, 3, 1, 2), (277, 3, 1, 3), (282, 5, 1, 40_000 | 1 << 32),
            (283, 5, 1, 40_000 | 1 << 32), (284, 3, 1, 1), (296, 3, 1, 3),
            (322, 3, 1, tile), (323, 3, 1, tile), (324, 16, n * n, at_offsets), (325, 16, n * n, at_counts),
        ]  # fmt: skip
        file.write(len(tags).to_bytes(8, "little"))
        for tag, kind, count, value in tags:
            file.write(
                tag.to_bytes(2, "little")
                + kind.to_bytes(2, "little")
                + count.to_bytes(8, "little")
                + value.to_bytes(8, "little")
            )
        file.write(bytes(8))
        file.seek(8)
        file.write(ifd.to_bytes(8, "little"))
    return path


def run(options: Any, manifest: Path, *, case: str, overrides: dict[str, Any], slides: int) -> None:
    """Run a manifest on two workers, print the figures and keep them."""
    out = options.scratch / f"out-{case}"
    shutil.rmtree(out, ignore_errors=True)
    context = multiprocessing.get_context("spawn")
    with dask_processes(options.scratch / "dask", workers=options.workers) as cluster:
        mine, theirs = context.Pipe()
        process = context.Process(target=_child, args=(theirs, str(manifest), str(out), cluster.address, overrides))
        process.start()
        theirs.close()
        try:
            _, (cost, client_cpu) = mine.recv()
            with Samples(int(process.pid or 0), cluster, options.scratch / f"memory-{case}.csv") as samples:
                _, (seconds, ended, tasks) = mine.recv()
        except EOFError:
            raise SystemExit("the run failed; its message is above") from None
        process.join()
    n_tasks = sum(n for n, _ in tasks.values())
    flat = samples.flatness()
    figures = {
        "seconds": round(seconds, 1),
        "slides": ended,
        "seconds_a_slide": round(seconds / slides, 3),
        "tasks": n_tasks,
        "task_cost_ms": round(1e3 * cost, 3),
        "task_cost_client_cpu_ms": round(1e3 * client_cpu, 3),
        "task_cost_share": round(n_tasks * cost / seconds, 5),
        "tasks_by_name": {name: {"n": n, "mean_s": round(total / n, 3)} for name, (n, total) in sorted(tasks.items())},
        "memory": flat,
        "memory_over_time_mib": [
            [round(v, 1) for v in row] for row in samples.rows[:: max(1, len(samples.rows) // 50)]
        ],
        "ledger_bytes": sum(p.stat().st_size for p in (out / "work").glob(".ledger*")),
    }
    print_table(
        ("process", "first MiB", "last MiB", "last / first", "peak MiB"),
        [
            (
                name,
                *(f"{one[key]:.1f}" for key in ("first_mib", "last_mib")),
                f"{one['last_over_first']:.3f}",
                f"{one['peak_mib']:.1f}",
            )
            for name, one in flat.items()
        ],
    )
    print(
        f"{slides:,} slides ({ended}) in {seconds:.0f} s; {n_tasks:,} tasks, {1e3 * cost:.2f} ms each to schedule "
        f"({100 * n_tasks * cost / seconds:.2f} % of the time)"
    )
    record(
        options.results, "thousand_slides", case, {"slides": slides, "workers": options.workers, **overrides}, figures
    )


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--slides", type=int, default=1000)
    options.add_argument("--files", type=int, default=8, help="different files behind the slides")
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--virtual", type=int, default=0, help="instead: one slide with so many pixels a side")
    options.add_argument("--stained", type=float, default=0.02, help="share of its tiles that are not white")
    chosen = start(options.parse_args())
    if chosen.virtual:
        source = virtual_slide(chosen.scratch, profile="normal", size_px=4096)
        slide = sparse_slide(
            chosen.scratch / f"sparse-{chosen.virtual}.tiff",
            side_px=chosen.virtual,
            stained=chosen.stained,
            source=source,
        )
        manifest = chosen.scratch / "sparse.csv"
        manifest.write_text(f"slide,slide_id,specimen\n{slide.name},sparse,blood_smear\n", encoding="utf-8")
        run(chosen, manifest, case=f"sparse-{chosen.virtual}", overrides={}, slides=1)
        return
    manifest = make_manifest(chosen.scratch, slides=chosen.slides, files=chosen.files)
    run(chosen, manifest, case=f"{chosen.slides}-slides", overrides={}, slides=chosen.slides)


if __name__ == "__main__":
    main()
