"""Many slides in one run: two workers against one, a cohort against peers slide by slide, and the gaps between slides.

    python benchmarks/cohort.py --cases workers
    python benchmarks/cohort.py --cases peers --slides 64 --sopa-python ENV/bin/python
    python benchmarks/cohort.py --cases workers peers

workers: the same cohort on one worker and on two, each with one thread (``runtime.prefetch=0``). "network": JPEG tiles
at the working resolution. "decode": JPEG 2000 tiles at four times the working resolution and no pyramid, so that most
of the time is decoding; the share of reading is printed. Target: 1.8 times. Counted is the time from the start of the
first task to the end of the last, so starting workers is in neither. "gaps": share of that time in which a worker has
no task, over all workers; the target is 2 %. Cell tables of both runs are compared bit by bit.

peers: ``--slides`` slides in one of our runs, from the JPEG TIFFs to cell tables, against ``distributed_eval`` of
``cellpose.contrib.distributed_segmentation`` and Sopa, one slide after the other on the same pixels with the SAME
network (see ``segmentation.py``, whose ways are used). ``distributed_eval`` keeps one cluster for all slides; Sopa
starts one a slide, as it does. Not measured of the peers: starting Python and making their uncompressed inputs; of
ours both are. Target: 3 times the throughput. A peer that is not installed is left out with a word.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import segmentation
from _harness import parser, print_table, record, start
from _inputs import virtual_slide

BARE = {"cells.classifier": None, "exports.qupath": False, "exports.labels": False, "exports.report": False}
FINER = 4
_READ_PX = 2048


def slides_of(scratch: Path, *, n: int, size_px: int, different: int, finer: bool) -> list[Path]:
    """Return links to ``different`` slides under ``n`` names."""
    sources = [virtual_slide(scratch, profile="normal", size_px=size_px, seed=seed) for seed in range(1, different + 1)]
    if finer:
        sources = [_finer(source) for source in sources]
    folder = scratch / f"cohort-{n}-{size_px}{'-finer' if finer else ''}"
    folder.mkdir(parents=True, exist_ok=True)
    links = []
    for number in range(n):
        link = folder / f"slide-{number:03d}.tiff"
        if not link.is_symlink():
            link.symlink_to(sources[number % different].absolute())
        links.append(link)
    return links


def _finer(source: Path) -> Path:
    """Write a slide at four times its resolution, in JPEG 2000 tiles, without a pyramid; made once."""
    import cv2
    import numpy as np
    import tifffile

    path = source.with_name(f"{source.stem}-finer.tiff")
    if not path.is_file():
        print(f"making {path.name} ...", flush=True)
        pixels = np.ascontiguousarray(tifffile.imread(source, key=0))
        large = cv2.resize(pixels, None, fx=FINER, fy=FINER, interpolation=cv2.INTER_CUBIC)
        temporary = path.with_suffix(".tmp")
        tifffile.imwrite(
            temporary, large, tile=(512, 512), photometric="rgb", compression="jpeg2000", metadata=None,
            resolution=(40_000 * FINER, 40_000 * FINER), resolutionunit="CENTIMETER",
        )  # fmt: skip
        temporary.rename(path)
    return path


# workers ---------------------------------------------------------------------------------------------------------


def _run_cohort(pipe: Connection, slides: list[str], out: str, overrides: dict[str, Any]) -> None:
    """Run a cohort and send every task's process, start and end."""
    from wsi_pipeline import run_cohort
    from wsi_pipeline.many_slides.folder import RunFolder

    tasks: list[tuple[int, float, float]] = []
    inner = RunFolder.record

    def noted(self: RunFolder, report: Any) -> None:
        tasks.append((report.pid, report.ended - report.seconds, report.ended))
        inner(self, report)

    RunFolder.record = noted  # type: ignore[method-assign]
    started = time.monotonic()
    result = run_cohort(slides, out, "blood_smear", overrides=overrides)
    result.raise_failed()
    pipe.send((time.monotonic() - started, tasks, sum(s["area_mm2"] for s in result.summaries)))


def _measured(slides: list[Path], out: Path, overrides: dict[str, Any]) -> dict[str, Any]:
    """Run a cohort in a process of its own and return its figures."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_run_cohort, args=(theirs, [str(s) for s in slides], str(out), overrides))
    process.start()
    theirs.close()
    try:
        with_cluster, tasks, area = mine.recv()
    except EOFError:
        raise SystemExit("the run failed; its message is above") from None
    process.join()
    first, last = min(task[1] for task in tasks), max(task[2] for task in tasks)
    seconds = last - first
    busy = sum(_covered([task[1:] for task in tasks if task[0] == pid]) for pid in {task[0] for task in tasks})
    workers = overrides["runtime.workers"]
    return {
        "seconds": round(seconds, 2),
        "seconds_with_cluster": round(with_cluster, 2),
        "mm2_per_s": round(area / seconds, 5),
        "gaps": round(1 - busy / (workers * seconds), 4),
        "tasks": len(tasks),
    }


def _covered(spans: list[tuple[float, float]]) -> float:
    """Return the length of the union of spans."""
    total, until = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def _reading_share(slide: Path) -> float:
    """Return the seconds a megapixel of the working resolution takes to read, on one thread."""
    from wsi_pipeline.slides import open_slide
    from wsi_pipeline.units import Box

    with open_slide(slide) as opened:
        width, height = opened.size_at(segmentation.MPP)
        side_x, side_y = min(_READ_PX, width), min(_READ_PX, height)
        began = time.perf_counter()
        opened.read(Box(x0=0, y0=0, x1=side_x, y1=side_y), segmentation.MPP)
        return (time.perf_counter() - began) / (side_x * side_y / 1e6)


def case_workers(options: argparse.Namespace, folder: Path) -> None:
    rows, kept = [], {}
    for name, finer in (("network", False), ("decode", True)):
        slides = slides_of(
            options.scratch, n=options.few, size_px=options.size, different=min(4, options.few), finer=finer
        )
        read_s = _reading_share(slides[0])
        common = {
            **BARE, "regions.mode": "all", "runtime.device": "cpu", "runtime.prefetch": 0, "runtime.threads": 1,
        }  # fmt: skip
        _measured(slides[:1], folder / f"{name}-warm", {**common, "runtime.workers": 1})
        runs = {}
        for workers in (1, 2):
            print(f"{name}, {workers} worker(s) ...", flush=True)
            runs[workers] = _measured(slides, folder / f"{name}-{workers}", {**common, "runtime.workers": workers})
        faster = runs[1]["seconds"] / runs[2]["seconds"]
        mpx = options.few * options.size**2 / 1e6
        same = _same(folder / f"{name}-1", folder / f"{name}-2", slides)
        kept[name] = {
            "one": runs[1], "two": runs[2], "faster": round(faster, 3), "identical": same,
            "reading_share": round(read_s * mpx / runs[1]["seconds"], 3),
        }  # fmt: skip
        rows.append(
            (
                name, f"{100 * kept[name]['reading_share']:.0f} %", f"{runs[1]['seconds']:.1f}",
                f"{runs[2]['seconds']:.1f}", f"{faster:.2f}", f"{100 * runs[1]['gaps']:.1f} %",
                f"{100 * runs[2]['gaps']:.1f} %", "yes" if same else "NO",
            )
        )  # fmt: skip
    print(f"\ncohort: {options.few} slides of {options.size} px, one worker against two, one thread each")
    print_table(("", "reading", "1: s", "2: s", "x", "1: gaps", "2: gaps", "identical"), rows)
    record(options.results, "cohort", "workers", {"slides": options.few, "size": options.size}, kept)


def _same(one: Path, two: Path, slides: list[Path]) -> bool:
    from wsi_pipeline.evaluation.identical import first_difference

    return all(first_difference(one, two, slide.stem) is None for slide in slides)


# peers -----------------------------------------------------------------------------------------------------------


def _distributed_eval(requests: list[dict[str, Any]], folder: Path) -> float:
    """Return the seconds of all slides on one cluster, with its start and without its end."""
    folder.mkdir()
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=segmentation.serve_distributed_eval, args=(theirs, requests, str(folder)))
    process.start()
    theirs.close()
    try:
        mine.recv()
        mine.send("run")
        start_up, seconds, _ = mine.recv()
    except EOFError:
        raise SystemExit(f"distributed_eval failed:\n{(folder / 'log').read_text()[-2000:]}") from None
    process.join()
    return float(start_up + seconds)


def case_peers(options: argparse.Namespace, folder: Path) -> None:
    from wsi_pipeline.weights import find_weights

    weights = str(find_weights(segmentation.NETWORK, "segmentation").path)
    different = min(8, options.slides)
    slides = slides_of(options.scratch, n=options.slides, size_px=options.size, different=different, finer=False)
    common = {**BARE, "regions.mode": "all", "runtime.device": "cpu", "runtime.workers": options.workers}
    _measured(slides[:1], folder / "warm", common)
    print("ours ...", flush=True)
    began = time.monotonic()
    ours = _measured(slides, folder / "ours", common)
    ours["seconds_with_python"] = round(time.monotonic() - began, 2)
    requests = []
    for number, slide in enumerate(slides[:different]):
        place = folder / f"input-{number}"
        place.mkdir()
        inputs = segmentation._peer_inputs(slide, place)
        requests.append(
            {
                "rgb": str(inputs.rgb), "grey": str(inputs.grey), "weights": weights, "threads": 1,
                "workers": options.workers, "block": options.block,
                "eval": {
                    "batch_size": 8, "diameter": segmentation.DIAMETER, "flow_threshold": 0.4,
                    "cellprob_threshold": 0.0, "min_size": segmentation.MIN_AREA_PX,
                    "normalize": {"lowhigh": inputs.bounds},
                },
            }
        )  # fmt: skip
    every = [requests[number % different] for number in range(options.slides)]
    found: dict[str, float] = {}
    if missing := segmentation._no_distributed_eval():
        print(f"  left out: distributed_eval ({missing})")
    else:
        print("distributed_eval ...", flush=True)
        found["distributed_eval"] = _distributed_eval(every, folder / "distributed_eval")
    if missing := segmentation._no_sopa(options):
        print(f"  left out: sopa ({missing})")
    else:
        print("sopa ...", flush=True)
        found["sopa"] = 0.0
        for number, request in enumerate(every):
            outcome = segmentation._sopa(request, folder / f"sopa-{number}", options)
            found["sopa"] += outcome.seconds_with_cluster
            shutil.rmtree(folder / f"sopa-{number}", ignore_errors=True)
    print(f"\ncohort: {options.slides} slides of {options.size} px on {options.workers} workers, one thread each")
    rows = [("ours", f"{ours['seconds_with_python']:.1f}", f"{100 * ours['gaps']:.1f} %", "")]
    rows += [(n, f"{s:.1f}", "", f"{s / ours['seconds_with_python']:.2f}") for n, s in found.items()]
    print_table(("", "seconds", "gaps", "x"), rows)
    work = {"slides": options.slides, "different": different, "size": options.size, "workers": options.workers}
    record(
        options.results, "cohort", "peers", work,
        {
            "ours": ours,
            "peers_s": {name: round(seconds, 2) for name, seconds in found.items()},
            "x": {name: round(seconds / ours["seconds_with_python"], 3) for name, seconds in found.items()},
        },
    )  # fmt: skip


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--cases", nargs="+", choices=("workers", "peers"), default=["workers"])
    options.add_argument("--slides", type=int, default=64, help="of case peers")
    options.add_argument("--few", type=int, default=12, help="slides of case workers")
    options.add_argument("--size", type=int, default=2048, help="side of a slide, pixels of 0.25 um")
    options.add_argument("--workers", type=int, default=2, help="of case peers")
    options.add_argument("--block", type=int, default=1024, help="blocks of the peers, pixels")
    options.add_argument("--sopa-python", type=Path, help="Python of an environment with Sopa")
    chosen = start(options.parse_args())
    with tempfile.TemporaryDirectory(dir=chosen.scratch) as folder:
        for case in chosen.cases:
            {"workers": case_workers, "peers": case_peers}[case](chosen, Path(folder))


if __name__ == "__main__":
    main()
