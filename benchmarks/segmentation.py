"""Segmentation of a whole smear and what it consists of: against peers, stage by stage, the table, the scale.

    python benchmarks/segmentation.py --cases smear --size 8192 --sopa-python ENV/bin/python
    python benchmarks/segmentation.py --cases stages --size 4096
    python benchmarks/segmentation.py --cases table --rows 100000 1000000 10000000
    python benchmarks/segmentation.py --cases scale --sizes 10240 30720

smear: ours is ``run_cohort`` on a local cluster, classifier and exports off, everything searched: from the JPEG TIFF
to ``cells.parquet`` with outlines, measures, counts and summary. The peers are ``distributed_eval`` of
``cellpose.contrib.distributed_segmentation`` (ends in a stitched label zarr) and Sopa's staining-based segmentation
(ends in polygons), with as many workers of as many threads. All run the SAME network: in the peers it replaces the
``.net`` of Cellpose's model and is loaded once a process, where Cellpose itself loads its weights once a block; the
bounds of the colours are the slide's for all. ``distributed_eval`` takes the channels for a third dimension of
space, so it is given a grey zarr, and a preprocessing step in the worker reads the colours of the block; its call of
``zarr.open`` with the mode by position, which zarr 3 refuses, is given the mode by name. Sopa runs on two Dask workers,
its own contrast and blur off. Each peer
runs with every size of ``--blocks``, the faster counts. Each is one run from fresh processes (imports and
compilation in the workers included) after an untimed run of ours on 1024 pixels. Not measured of the peers: making
their uncompressed inputs from the TIFF. Memory and processor time are sampled every 0.2 s, processor time with all
children. "without cluster" leaves out starting the cluster (ours: starting, closing and the report of the run).

stages: seconds of reading, network, flows to instances, outlines, measures and writing, in one process, by wrapping
the functions; each with what it calls taken off. The work is done once untimed on 1024 pixels before.

table: ``merge_blocks`` and ``write_cells`` with simulated parts and answers of a classifier. Making those is not
timed. Outlines have 36 corners, one cell in fifty is white; every value of every cell is its own, so that
compression has its work. Targets: 1e7 rows in 60 s and 4 GB, cost linear in the rows.

scale: a whole run on slides of two sizes; memory of the largest worker (target: within 10 %) and time a square
millimetre (within 15 %). Not measured anywhere here: a GPU, a cluster of several machines, slow storage.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import shutil
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from _harness import Contender, compare, parser, print_table, record, start, use_torch_threads
from _inputs import virtual_slide
from dynamics import average_precision
from pipeline import SPECIMEN, MemoryWatch, run_once, settings

MPP = 0.25
DIAMETER = 30
MIN_AREA_PX = 16  # 1 um2
BARE = {"cells.classifier": None, "exports.qupath": False, "exports.labels": False, "exports.report": False}
NETWORK = "compact-smear"
SOPA_HOW = 'python -m venv ENV; ENV/bin/pip install "sopa[cellpose]" safetensors; then --sopa-python ENV/bin/python'


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one contender took for the smear, and what it found."""

    name: str
    seconds: float
    seconds_with_cluster: float
    cpu_seconds: float
    worker_mib: float
    driver_mib: float
    labels: npt.NDArray[np.int32] = field(repr=False)

    @property
    def cells(self) -> int:
        return len(np.unique(self.labels)) - int((self.labels == 0).any())

    def figures(self) -> dict[str, Any]:
        kept = {k: v for k, v in vars(self).items() if k != "labels"}
        return {**kept, "cells": self.cells, "cells_per_s": round(self.cells / self.seconds_with_cluster, 2)}


# smear -----------------------------------------------------------------------------------------------------------


def case_smear(options: argparse.Namespace, folder: Path) -> None:
    from wsi_pipeline.weights import find_weights

    weights = str(find_weights(NETWORK, "segmentation").path)
    specimen = SPECIMEN[options.profile]
    common = {
        "runtime.device": "cpu", "runtime.threads": options.threads, "regions.mode": "all", **BARE,
    }  # fmt: skip
    small = virtual_slide(options.scratch, profile=options.profile, size_px=1024)
    run_once(small, folder / "warm", specimen, {**common, "runtime.workers": 1})
    slide = virtual_slide(options.scratch, profile=options.profile, size_px=options.size)
    found = [_ours(slide, folder / "ours", specimen, {**common, "runtime.workers": options.workers})]
    inputs = _peer_inputs(slide, folder)
    request = {
        "rgb": str(inputs.rgb), "grey": str(inputs.grey), "weights": weights, "threads": options.threads,
        "workers": options.workers,
        "eval": {
            "batch_size": 8, "diameter": DIAMETER, "flow_threshold": 0.4, "cellprob_threshold": 0.0,
            "min_size": MIN_AREA_PX, "normalize": {"lowhigh": inputs.bounds},
        },
    }  # fmt: skip
    tried = []
    for peer, missing in ((_distributed_eval, _no_distributed_eval()), (_sopa, _no_sopa(options))):
        name = peer.__name__.strip("_")
        if missing:
            print(f"  left out: {name} ({missing})")
            continue
        runs = []
        for block in options.blocks:
            print(f"{name}, blocks of {block} px ...", flush=True)
            runs.append(peer({**request, "block": block}, folder / f"{name}-{block}", options))
        tried += runs
        found.append(min(runs, key=lambda run: run.seconds_with_cluster))
    ours = found[0]
    agreement = {
        peer.name: {
            f"AP at IoU {t}": average_precision(peer.labels, ours.labels, t) for t in (0.5, 0.9)
        }
        for peer in found[1:]
    }  # fmt: skip
    print(
        f"\nsegmentation: smear, {options.profile}, {options.size} px, {options.workers} workers of {options.threads} "
        f"thread(s); the peers run {NETWORK} in place of Cellpose's own network"
    )
    rows = []
    for run in (ours, *tried):
        best = run in found
        peer = run is not ours
        rows.append(
            (
                run.name + (" *" if peer and best else ""),
                f"{run.seconds_with_cluster:.1f}", f"{run.seconds:.1f}", f"{run.cpu_seconds:.1f}", f"{run.cells:,}",
                f"{run.cells / run.seconds_with_cluster:,.1f}", f"{run.worker_mib:,.0f}", f"{run.driver_mib:,.0f}",
                f"{run.seconds_with_cluster / ours.seconds_with_cluster:.2f}" if peer else "",
                f"{run.cpu_seconds / ours.cpu_seconds:.2f}" if peer else "",
                f"{run.worker_mib / ours.worker_mib:.2f}" if peer else "",
            )
        )  # fmt: skip
    head = (
        "", "seconds", "without cluster", "cpu s", "cells", "cells/s", "worker MiB", "driver MiB", "x time", "x cpu",
        "x memory",
    )  # fmt: skip
    print_table(head, rows)
    print("  x: the peer's over ours; *: the better block size of a peer")
    for name, values in agreement.items():
        print(f"  agreement with {name}: {', '.join(f'{k} {v}' for k, v in values.items())}")
    record(
        options.results, "segmentation", "smear",
        {"profile": options.profile, "size": options.size, "workers": options.workers, "network": NETWORK},
        {"runs": [run.figures() for run in (ours, *tried)], "agreement": agreement},
    )  # fmt: skip


def _ours(slide: Path, out: Path, specimen: str, overrides: dict[str, Any]) -> Outcome:
    print("ours ...", flush=True)
    summary, run = run_once(slide, out, specimen, overrides)
    table = out / "slides" / summary["slide_id"] / "cells.parquet"
    return Outcome(
        name="ours", seconds=run.seconds, seconds_with_cluster=run.seconds_with_cluster, cpu_seconds=run.cpu_seconds,
        worker_mib=run.worker_mib, driver_mib=run.driver_mib, labels=_rasterised(table, run.size),
    )  # fmt: skip


def _rasterised(table: Path, size: int) -> npt.NDArray[np.int32]:
    """Return the label image of a parquet file with a column of WKB polygons in pixels."""
    import pyarrow.parquet as pq
    import shapely

    from wsi_pipeline.regions.rasterise import rasterise
    from wsi_pipeline.units import Box

    polygons = shapely.from_wkb(pq.read_table(table, columns=["geometry"]).column("geometry").to_numpy())
    labels = np.zeros((size, size), np.uint32)
    rasterise(polygons, np.arange(1, len(polygons) + 1), labels, Box(x0=0, y0=0, x1=size, y1=size))
    return labels.astype(np.int32)


@dataclass(frozen=True, kw_only=True)
class PeerInputs:
    """Colours and grey as zarr, and the slide's colour bounds of each channel."""

    rgb: Path
    grey: Path
    bounds: list[list[float]]


def _peer_inputs(slide_path: Path, folder: Path) -> PeerInputs:
    import zarr

    from wsi_pipeline.segmentation.normalise import colour_histogram, normalisation_from_histogram
    from wsi_pipeline.slides import open_slide
    from wsi_pipeline.units import Box

    rgb, grey = folder / "rgb.zarr", folder / "grey.zarr"
    with open_slide(slide_path) as slide:
        width, height = slide.size_at(MPP)
        chunk = min(1024, height)
        colours = zarr.create_array(
            rgb, shape=(height, width, 3), chunks=(chunk, chunk, 3), dtype="u1", compressors=None
        )
        greys = zarr.create_array(grey, shape=(height, width), chunks=(chunk, chunk), dtype="u1", compressors=None)
        histogram = np.zeros((3, 256), np.int64)
        for y in range(0, height, chunk):
            strip = slide.read(Box(x0=0, y0=y, x1=width, y1=min(y + chunk, height)), MPP)
            colours[y : y + chunk] = strip
            greys[y : y + chunk] = strip.mean(axis=2).astype(np.uint8)
            histogram += colour_histogram(strip)
    normal = normalisation_from_histogram(histogram)
    bounds = [[float(a), float(b)] for a, b in zip(normal.low, normal.high, strict=True)]
    return PeerInputs(rgb=rgb, grey=grey, bounds=bounds)


def _no_distributed_eval() -> str:
    for module in ("cellpose", "dask_image", "dask_jobqueue"):
        if importlib.util.find_spec(module) is None:
            return f"no module {module}; pip install --no-deps dask-image dask-jobqueue"
    return ""


def serve_distributed_eval(pipe: Connection, requests: list[dict[str, Any]], folder: str) -> None:
    """Run ``distributed_eval`` on slide after slide on one cluster when told to; send seconds.

    They are those of starting the cluster, of the slides, and of all with the cluster's end.
    """
    # The peer writes its settings to the home folder, logs to the current one, and a line a block to the terminal.
    os.chdir(folder)
    os.environ["HOME"] = folder
    Path(folder, ".config", "dask").mkdir(parents=True)
    with Path("log").open("w") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    use_torch_threads()
    import zarr
    from _compact_in_cellpose import colours_and_network
    from cellpose.contrib import distributed_segmentation

    opened = zarr.open
    # It calls zarr.open(path, "w", ...), which zarr 3 refuses: mode is to be named.
    distributed_segmentation.zarr.open = lambda path, mode="a", **rest: opened(path, mode=mode, **rest)
    pipe.send("ready")
    pipe.recv()
    started = time.monotonic()
    cluster = distributed_segmentation.myLocalCluster(
        ncpus=1, n_workers=requests[0]["workers"], threads_per_worker=1, dashboard_address=":0"
    )
    with cluster:
        up = time.monotonic()
        for number, request in enumerate(requests):
            distributed_segmentation.distributed_eval(
                input_zarr=zarr.open(request["grey"], mode="r"),
                blocksize=(request["block"], request["block"]),
                write_path=str(Path(folder, f"labels-{number}.zarr")),
                preprocessing_steps=[
                    (colours_and_network, {name: request[name] for name in ("rgb", "weights", "threads")}),
                ],
                eval_kwargs=request["eval"],
                cluster=cluster,
            )
        seconds = time.monotonic() - up
    pipe.send((up - started, seconds, time.monotonic() - started))


def _distributed_eval(request: dict[str, Any], folder: Path, options: argparse.Namespace) -> Outcome:
    import zarr

    del options
    folder.mkdir()
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=serve_distributed_eval, args=(theirs, [request], str(folder)))
    process.start()
    theirs.close()
    try:
        mine.recv()
        with MemoryWatch(int(process.pid or 0)) as watch:
            mine.send("run")
            _, seconds, with_cluster = mine.recv()
    except EOFError:
        raise SystemExit(f"distributed_eval failed:\n{(folder / 'log').read_text()[-2000:]}") from None
    process.join()
    return Outcome(
        name=f"distributed_eval, {request['block']}", seconds=seconds, seconds_with_cluster=with_cluster,
        cpu_seconds=watch.cpu_seconds, worker_mib=max(watch.workers_mib.values()), driver_mib=watch.driver_mib,
        labels=np.asarray(zarr.open(folder / "labels-0.zarr", mode="r")[...]).astype(np.int32),
    )  # fmt: skip


def _no_sopa(options: argparse.Namespace) -> str:
    if options.sopa_python is None:
        return f"its needs clash with ours: {SOPA_HOW}"
    return ""


def _sopa(request: dict[str, Any], folder: Path, options: argparse.Namespace) -> Outcome:
    folder.mkdir()
    files = {name: str(folder / f"{name}.{kind}") for name, kind in (("sdata", "zarr"), ("cells", "parquet"))}
    took = folder / "took.json"
    asked = {**request, **files, "overlap": 2 * DIAMETER, "min_area": MIN_AREA_PX, "took": str(took)}
    (folder / "request.json").write_text(json.dumps(asked), encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [str(options.sopa_python), str(Path(__file__).with_name("_sopa_runner.py")), str(folder / "request.json")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment, cwd=folder, text=True,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "ready":
                break
        with MemoryWatch(process.pid) as watch:
            process.communicate("run\n")
    if process.returncode or not took.is_file():
        raise SystemExit(f"sopa failed:\n{(folder / 'log').read_text()[-2000:]}")
    figures = json.loads(took.read_text(encoding="utf-8"))
    return Outcome(
        name=f"sopa {figures['sopa']}, {request['block']}", seconds=figures["seconds"] - figures["cluster"],
        seconds_with_cluster=figures["seconds"], cpu_seconds=watch.cpu_seconds,
        worker_mib=max(watch.workers_mib.values()), driver_mib=watch.driver_mib,
        labels=_rasterised(Path(files["cells"]), options.size),
    )  # fmt: skip


# stages ----------------------------------------------------------------------------------------------------------


class Clock:
    """Seconds spent in named functions, each without what it calls of the others."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner: list[float] = []

    @contextmanager
    def _span(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        self._inner.append(0.0)
        try:
            yield
        finally:
            took = time.perf_counter() - started
            self.seconds[name] += took - self._inner.pop()
            if self._inner:
                self._inner[-1] += took

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self._span(name):
                return function(*args, **kwargs)

        return timed


def case_stages(options: argparse.Namespace, folder: Path) -> None:
    small = virtual_slide(options.scratch, profile=options.profile, size_px=1024)
    slide = virtual_slide(options.scratch, profile=options.profile, size_px=options.size)
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(
        target=_serve_stages, args=(theirs, str(small), str(slide), str(folder), options.profile, options.threads)
    )
    process.start()
    theirs.close()
    try:
        seconds, total, cpu, cells, area = mine.recv()
    except EOFError:
        raise SystemExit("the run failed; its message is above") from None
    process.join()
    print(f"\nsegmentation: stages in one process, {options.profile}, {options.size} px, {cells:,} cells")
    pixels = options.size**2 / 1e6
    rows = sorted([*seconds.items(), ("all else", total - sum(seconds.values()))], key=lambda row: -row[1])
    print_table(
        ("", "seconds", "share", "ms/Mpx"),
        [(n, f"{s:.3f}", f"{100 * s / total:.1f} %", f"{1000 * s / pixels:.1f}") for n, s in rows],
    )
    print(f"  together {total:.2f} s, cpu {cpu:.2f} s, {cells / total:,.0f} cells/s, {area / total:.4f} mm2/s")
    record(
        options.results, "segmentation", "stages", {"profile": options.profile, "size": options.size},
        {
            "seconds": {k: round(v, 4) for k, v in rows}, "total": round(total, 3), "cpu": round(cpu, 3),
            "cells": cells, "area_mm2": area,
        },
    )  # fmt: skip


def _serve_stages(pipe: Connection, small: str, slide: str, folder: str, profile: str, threads: int) -> None:
    use_torch_threads()
    import pyarrow.parquet as pq

    from wsi_pipeline import pipeline
    from wsi_pipeline.cells import measure
    from wsi_pipeline.cohort import plan_cohort
    from wsi_pipeline.one_slide import stages, typed_table
    from wsi_pipeline.runtime.executor import SerialExecutor
    from wsi_pipeline.segmentation import engines, segment
    from wsi_pipeline.segmentation.models import CompactModel
    from wsi_pipeline.slides import Slide

    overrides = {"runtime.device": "cpu", "runtime.threads": threads, "regions.mode": "all", **BARE}

    def run(path: str, out: str) -> Any:
        plan = plan_cohort([path], Path(folder, out), SPECIMEN[profile], overrides=overrides)
        return pipeline.run_job(plan.jobs[0], SerialExecutor())

    run(small, "warm")
    clock = Clock()
    for owner, attribute, name in (
        (Slide, "read", "read"),
        (CompactModel, "predict", "network"),
        (segment, "predict_window", "normalise, blend tiles"),
        (engines, "flows_to_labels", "flows to labels"),
        (engines, "extract_instances", "instances"),
        (stages, "segment_block", "flows scaled, layers, kinds"),
        (measure, "region_polygons", "outlines"),
        (measure, "mask_polygons", "outlines"),
        (measure, "cell_id", "ids"),
        (stages, "measure_block", "measures"),
        (pq, "write_table", "write parts"),
        (stages, "merge_blocks", "merge"),
        (typed_table, "write_cells", "write cells"),
        (pipeline, "prepare", "regions, colours"),
        (pipeline, "finish", "counts, summary"),
    ):
        setattr(owner, attribute, clock.wrap(name, getattr(owner, attribute)))
    started, cpu = time.perf_counter(), time.process_time()
    summary = run(slide, "timed")
    total, cpu = time.perf_counter() - started, time.process_time() - cpu
    pipe.send((dict(clock.seconds), total, cpu, summary["n_cells"], summary["area_mm2"]))


# table -----------------------------------------------------------------------------------------------------------

_CORE_PX = 2048
_CELLS_A_BLOCK = 2000
_CORNERS = 37
_KINDS = ("red", "platelet", "white")
_SHARES = (0.93, 0.05, 0.02)
_GLASS = (235, 232, 236)
_CHUNK_CELLS = 2048
_WKB = np.dtype([("head", "V13"), ("xy", "<f8", (_CORNERS, 2))])
"""A polygon of one ring: byte order, type, one ring, number of points; then the points."""


def _ids(rng: np.random.Generator, n: int) -> npt.NDArray[np.uint8]:
    """Return ``(n, 36)`` characters of random UUIDs."""
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)[rng.integers(0, 16, (n, 32))]
    made = np.full((n, 36), ord("-"), np.uint8)
    made[:, [i for i in range(36) if i not in (8, 13, 18, 23)]] = digits
    return made


def _make_parts(rows: int, folder: Path) -> list[tuple[Any, Path]]:
    """Write parts of ``rows`` cells as the stages do: one block's cells, moved, with values of their own."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import shapely

    from wsi_pipeline.cells.schema import KIND_CLASS, MEASURED
    from wsi_pipeline.tiling import plan_blocks

    rng = np.random.default_rng(1)
    side = max(1, round(np.sqrt(rows / _CELLS_A_BLOCK)))
    extent = side * _CORE_PX
    blocks = plan_blocks((extent, extent), shapely.box(0, 0, extent, extent), core_px=_CORE_PX, halo=176)
    seed = np.sort(rng.choice(_CORE_PX**2, -(-rows // len(blocks)), replace=False))
    seed = np.stack(np.divmod(seed, _CORE_PX), axis=1)[:, ::-1]
    angle = np.linspace(0, 2 * np.pi, _CORNERS)
    ring = np.rint(15 * np.stack([np.cos(angle), np.sin(angle)], axis=1))
    ring[-1] = ring[0]
    shapes = seed[:, None] + ring + rng.integers(-1, 2, (len(seed), _CORNERS, 2))
    head = np.frombuffer(shapely.to_wkb(shapely.Polygon(ring), byte_order=1), "V13", count=1)[0]
    parts, left = [], rows
    folder.mkdir()
    for i, block in enumerate(blocks):
        n = left // (len(blocks) - i)
        left -= n
        keep = np.arange(n) if n == len(seed) else np.sort(rng.choice(len(seed), n, replace=False))
        corner = (block.core.x0, block.core.y0)
        wkb = np.empty(n, _WKB)
        wkb["head"] = head
        wkb["xy"] = shapes[keep] + corner
        kind = rng.choice(len(_KINDS), n, p=_SHARES)
        centre = seed[keep] + corner + rng.uniform(-1, 1, (n, 2))
        whole = pa.Array.from_buffers(pa.binary(), n, [None, _offsets(n, _WKB.itemsize), pa.py_buffer(wkb.tobytes())])
        white = pa.array(kind == _KINDS.index("white"))
        made: dict[str, Any] = {
            "cell_id": pa.Array.from_buffers(
                pa.string(), n, [None, _offsets(n, 36), pa.py_buffer(_ids(rng, n).tobytes())]
            ),
            "geometry": whole,
            "x_px0": centre[:, 0], "y_px0": centre[:, 1], "x_um": centre[:, 0] * MPP, "y_um": centre[:, 1] * MPP,
            "kind": pa.array(_KINDS).take(pa.array(kind)),
            "class_name": pa.array([KIND_CLASS[k] for k in _KINDS]).take(pa.array(kind)),
            "nucleus": pa.compute.if_else(white, whole, pa.scalar(None, pa.binary())),
            "block": pa.repeat(block.name, n),
            "truncated": rng.random(n) < 0.02,
            "seed_x": seed[keep, 0] + block.core.x0, "seed_y": seed[keep, 1] + block.core.y0,
            # Well apart in colour, so that few white cells are called red by their dye, but some are.
            "mean_red": rng.normal(np.array([205, 190, 140])[kind], 8), "mean_blue": rng.normal(190, 8, n),
            "mean_green": rng.normal(np.array([150, 160, 110])[kind], 8),
        }  # fmt: skip
        arrays = []
        for column in MEASURED:
            values = made.get(column.name)
            if values is None:
                values = rng.random(n, np.float32)
                if column.name in ("nucleus_area_um2", "nc_ratio"):
                    values = pa.compute.if_else(white, pa.array(values), pa.scalar(None, pa.float32()))
            if not isinstance(values, pa.Array):
                values = pa.array(values.astype(column.type.to_pandas_dtype()), column.type)
            arrays.append(values)
        path = folder / f"{block.name}.parquet"
        pq.write_table(pa.Table.from_arrays(arrays, schema=MEASURED), path, compression="zstd")
        parts.append((block, path))
    return parts


def _offsets(n: int, width: int) -> Any:
    import pyarrow as pa

    return pa.py_buffer((np.arange(n + 1, dtype=np.int32) * width).tobytes())


def _make_chunks(targets: Path, n_chunks: int, folder: Path, classes: list[str]) -> list[Path]:
    """Write the answers a classifier would give, one file a chunk."""
    from wsi_pipeline.cells.merge import read_targets
    from wsi_pipeline.cells.table import write_classes

    rng = np.random.default_rng(2)
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{chunk:06d}.parquet" for chunk in range(n_chunks)]
    for chunk, path in enumerate(paths):
        p = rng.random((len(read_targets(targets, chunk)), len(classes)), np.float32)
        write_classes(path, classes, p / p.sum(axis=1, keepdims=True), None)
    return paths


def prepare_table(rows: int, folder: Path) -> Callable[[], Any]:
    """Make parts and answers of ``rows`` cells, and return the work on them."""
    from wsi_pipeline.cells.merge import merge_blocks
    from wsi_pipeline.cells.table import write_cells
    from wsi_pipeline.weights import find_weights

    print(f"making the parts of {rows:,} cells ...", flush=True)
    folder.mkdir()
    parts = _make_parts(rows, folder / "parts")
    classes = list(find_weights("pbc-blast", "cells").card["classes"])
    files = folder / "table.parquet", folder / "targets.parquet"
    glass = np.array(_GLASS, np.uint8)

    def merge() -> Any:
        return merge_blocks(parts, *files, chunk_cells=_CHUNK_CELLS, background=glass)

    chunks = _make_chunks(files[1], merge().n_chunks, folder / "classes", classes)

    def work() -> dict[str, float]:
        started = time.perf_counter()
        merged = merge()
        between = time.perf_counter()
        write_cells(files[0], chunks, folder / "cells.parquet", classes=classes, embedding_dim=None)
        return {
            "merge_s": between - started,
            "write_s": time.perf_counter() - between,
            "cells": merged.n_cells,
            "targets": merged.n_targets,
            "mib_out": (folder / "cells.parquet").stat().st_size / 2**20,
        }

    return work


def case_table(options: argparse.Namespace, folder: Path) -> None:
    rows, runs = [], []
    for n in options.rows:
        contender = Contender(name=f"{n:,} rows", prepare=prepare_table, arguments=(n, folder / f"table-{n}"))
        timing = compare([contender], repeats=options.repeats)[0]
        shutil.rmtree(folder / f"table-{n}")
        value = timing.value
        assert value["cells"] == n
        runs.append({**timing.row(), **value, "rows": n, "s_per_million": round(timing.best / n * 1e6, 4)})
        rows.append(
            (
                timing.name, f"{timing.best:.2f}", f"{value['merge_s']:.2f}", f"{value['write_s']:.2f}",
                f"{min(timing.cpu_seconds):.2f}", f"{timing.best / n * 1e6:.2f}", f"{timing.base_mib:,.0f}",
                f"{timing.peak_mib:,.0f}", f"{value['targets']:,}", f"{value['mib_out']:,.0f}",
            )
        )  # fmt: skip
    print("\nsegmentation: ownership and table, blocks of 2,000 cells")
    head = (
        "", "best s", "merge s, last", "write s, last", "cpu s", "s per million", "base MiB", "peak MiB", "white",
        "MiB out",
    )  # fmt: skip
    print_table(head, rows)
    cost = [run["s_per_million"] for run in runs]
    print(f"  seconds per million, most rows to fewest: {cost[-1] / cost[0]:.3f}")
    largest = runs[-1]
    if largest["rows"] >= 1e7:
        met = largest["best_s"] < 60 and largest["peak_mib"] < 4 * 1024
        print(f"  target, 1e7 rows in 60 s and 4 GB: {'met' if met else 'MISSED'}")
    record(
        options.results, "segmentation", "table", {"rows": options.rows, "cells_a_block": _CELLS_A_BLOCK},
        {"runs": runs, "linear": round(cost[-1] / cost[0], 4), "target": {"rows": 1e7, "seconds": 60, "gib": 4}},
    )  # fmt: skip


# scale -----------------------------------------------------------------------------------------------------------


def case_scale(options: argparse.Namespace, folder: Path) -> None:
    specimen = SPECIMEN[options.profile]
    overrides = {**settings(options, specimen), "runtime.workers": options.workers}
    run_once(
        virtual_slide(options.scratch, profile=options.profile, size_px=1024), folder / "warm-scale", specimen,
        overrides,
    )  # fmt: skip
    runs = []
    for size in options.sizes:
        slide = virtual_slide(options.scratch, profile=options.profile, size_px=size)
        print(f"{slide.name}, {options.workers} worker(s) ...", flush=True)
        runs.append(run_once(slide, folder / f"scale-{size}", specimen, overrides)[1])
        shutil.rmtree(folder / f"scale-{size}")
    first = runs[0]

    def cost(run: Any) -> float:
        return float(run.seconds / run.area_mm2)

    print(f"\nsegmentation: scale, {options.profile}, {options.workers} worker(s)")
    print_table(
        ("size", "seconds", "mm2", "s/mm2", "cells", "worker MiB", "driver MiB", "memory, of first", "time, of first"),
        [
            (
                str(r.size), f"{r.seconds:.1f}", f"{r.area_mm2:.2f}", f"{cost(r):.2f}", f"{r.cells:,}",
                f"{r.worker_mib:,.0f}", f"{r.driver_mib:,.0f}", f"{r.worker_mib / first.worker_mib:.3f}",
                f"{cost(r) / cost(first):.3f}",
            )
            for r in runs
        ],
    )  # fmt: skip
    memory, seconds = runs[-1].worker_mib / first.worker_mib, cost(runs[-1]) / cost(first)
    print(f"  largest to smallest: memory {memory:.3f} (target 0.9 to 1.1), s/mm2 {seconds:.3f} (target 0.85 to 1.15)")
    record(
        options.results, "segmentation", "scale",
        {"profile": options.profile, "sizes": options.sizes, "overrides": overrides},
        {"runs": [r.figures() for r in runs], "memory": round(memory, 4), "s_per_mm2": round(seconds, 4)},
    )  # fmt: skip


CASES = {"smear": case_smear, "stages": case_stages, "table": case_table, "scale": case_scale}


def main() -> None:
    options = parser(__doc__)
    options.set_defaults(repeats=1)
    options.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES), help="what to measure")
    options.add_argument("--profile", choices=sorted(SPECIMEN), default="normal", help="what the slides show")
    options.add_argument("--size", type=int, default=8192, help="slide of smear and stages, pixels (default 8192)")
    options.add_argument("--workers", type=int, default=2, help="workers of smear and scale (default 2)")
    options.add_argument("--blocks", type=int, nargs="+", default=[1024, 2048], help="block sizes tried of the peers")
    options.add_argument("--sopa-python", type=Path, help=f"Python of an environment with Sopa: {SOPA_HOW}")
    options.add_argument("--rows", type=int, nargs="+", default=[10**5, 10**6, 10**7], help="rows of table")
    options.add_argument("--sizes", type=int, nargs="+", default=[10240, 30720], help="slides of scale, pixels")
    options.add_argument("--no-classifier", action="store_true", help="of scale: leave the cells at their kind")
    options.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="of scale")
    chosen = start(options.parse_args())
    chosen.scratch = chosen.scratch.absolute()
    chosen.results = chosen.results.absolute()
    for case in chosen.cases:
        with tempfile.TemporaryDirectory(dir=chosen.scratch, prefix="segmentation-") as folder:
            CASES[case](chosen, Path(folder))


if __name__ == "__main__":
    main()
