"""How long a run of a slide would take on this machine, from a few windows of the slide itself.

The windows go through the stages of a run (:mod:`wsi_pipeline.one_slide.stages`) on one worker, in a temporary folder.
Their cost has two parts. Network and flows cost by the network tile: a block computes its halo too and pads its last
batch, and blocks at the edge of the region compute fewer. Cells cost by the area: a block measures only those of its
core. A window with almost no core gives the first, what larger ones take beyond it the second.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.base import BaseGeometry

from wsi_pipeline.config import PipelineConfig
from wsi_pipeline.exports.region_map import OverviewFrame
from wsi_pipeline.one_slide.job import SlideJob
from wsi_pipeline.one_slide.prepare import prepare, searched_region
from wsi_pipeline.one_slide.stages import classify, find_cells, merge
from wsi_pipeline.regions import Regions
from wsi_pipeline.runtime.executor import Executor, SerialExecutor, default_workers, open_executor
from wsi_pipeline.runtime.worker import segmentation_model, slide_of
from wsi_pipeline.tiling import Block, TileLattice, halo_px, plan_blocks
from wsi_pipeline.units import Box

_SIDE_PX = 512
_WARM_UP_PX = 32
_BUDGET_S = 8.0
"""For the larger windows together, on an idle machine."""
_SPREAD = (0.85, 1.25)
"""How far a whole slide may lie from its windows. Beside other work the upper end is not safe."""
_ONE_WINDOW_SPREAD = (0.6, 1.6)
_SHARED = 1.2
"""Allowance for workers that share caches and memory, in the upper end alone."""
_FINISH_S = 5.0
"""Allowance for starting the workers, and for tables and report, in the upper end alone."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """An approximate range for the wall clock of a run, and what it was measured on.

    Attributes
    ----------
    low_s, high_s
        Seconds from the start of the command to the report.
    s_per_mm2
        Seconds of one worker for a mm2 of this slide: network, flows, measures.
    device, workers
        What the run would use.
    n_windows, window_px
        Windows that were measured, and the side of their core, working pixels.
    calibration_s
        Seconds that all of this took, loading the models included.
    white_per_mm2
        Cells to classify per mm2 in the windows; None when the configuration classifies none.
    s_per_white
        Seconds per such cell; None when there was none.
    cpu_share
        Share of a core that the windows got; well below 1 on a CPU when the machine is busy with other work, and
        then an idle one would need about that share of the time.
    """

    low_s: float
    high_s: float
    s_per_mm2: float
    device: str
    workers: int
    n_windows: int
    window_px: int
    calibration_s: float
    cpu_share: float
    white_per_mm2: float | None = None
    s_per_white: float | None = None


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """What a window took; ``area_px`` is that of its core in the region, working pixels."""

    block: Block
    seconds: float
    cpu_s: float
    tiles: int
    area_px: float
    on_cpu: bool

    @property
    def own_s(self) -> float:
        """Return what the window would take on an idle machine; on a GPU the CPU only waits."""
        return min(self.seconds, self.cpu_s) if self.on_cpu else self.seconds


@dataclass(frozen=True, kw_only=True)
class _Costs:
    """Seconds of one worker for a tile, and for a working pixel of the region in each of the windows."""

    tile_s: float
    pixel_s: tuple[float, ...]
    cpu_share: float

    @classmethod
    def of(cls, network: _Measured, windows: Sequence[_Measured]) -> _Costs:
        both = (network, *windows)
        wall, cpu = sum(one.seconds for one in both), sum(one.cpu_s for one in both)
        # Beside other work one window may wait longer than the next; their CPU times still compare.
        seconds = [one.cpu_s * wall / cpu if one.on_cpu else one.seconds for one in both]
        tile_s = seconds[0] / network.tiles
        pixel_s = [
            max(0.0, took - tile_s * one.tiles) / one.area_px for one, took in zip(windows, seconds[1:], strict=True)
        ]
        return cls(tile_s=tile_s, pixel_s=tuple(pixel_s) or (0.0,), cpu_share=min(1.0, cpu / wall))

    def total(self, tiles: float, area_px: float) -> tuple[float, float, float]:
        """Return the seconds of one worker at the least, the mean and the largest cost of an area."""
        mean = float(np.mean(self.pixel_s))
        low, high = (min(self.pixel_s) + mean) / 2, (max(self.pixel_s) + mean) / 2
        return (
            self.tile_s * tiles + low * area_px,
            self.tile_s * tiles + mean * area_px,
            self.tile_s * tiles + high * area_px,
        )


class _Bench:
    """The windows of one slide: which, what they compute, how long they take."""

    def __init__(self, executor: Executor | SerialExecutor, job: SlideJob, key: str, batch_size: int, device: str):
        config = job.config.segmentation
        self._executor, self._job, self._key, self._batch = executor, job, key, batch_size
        width, height = slide_of(job.spec).size_at(config.mpp)
        tile_px, overlap_px = executor.call(_tile_of, job.config, device)
        self._lattice = TileLattice(tile_px=tile_px, overlap_px=overlap_px, width=width, height=height)
        self.size = (width, height)
        self.region = searched_region(job, key)
        self.halo = halo_px(config.max_cell_diameter_um, config.mpp, job.config.tiling.halo_um)
        self._dilated = self.region.buffer(halo_px(config.max_cell_diameter_um, config.mpp), join_style="mitre")
        self._done = 0
        self._on_cpu = device == "cpu"

    def tiles(self, block: Block) -> int:
        """Return the network tiles of a block, those that only fill its last batch included."""
        return self._batch * math.ceil(len(self._lattice.computed(block.window, self._dilated)) / self._batch)

    def measure(self, block: Block) -> _Measured:
        # A ledger never computes a name twice, and windows of different sizes would share names.
        named = replace(block, row=self._done, col=0)
        self._done += 1
        seconds, cpu_s = self._executor.call(_timed, find_cells, self._job, self._key, named)
        return _Measured(
            block=named,
            seconds=seconds,
            cpu_s=cpu_s,
            tiles=max(1, self.tiles(block)),
            area_px=float(self.region.intersection(_core(block)).area),
            on_cpu=self._on_cpu,
        )

    def middle(self, block: Block, side: int) -> Block:
        """Return a smaller block in the middle of another."""
        x, y = (block.core.x0 + block.core.x1 - side) // 2, (block.core.y0 + block.core.y1 - side) // 2
        core = Box(x0=x, y0=y, x1=x + side, y1=y + side).clip(block.core)
        window = core.grow(self.halo).clip(Box(x0=0, y0=0, x1=self.size[0], y1=self.size[1]))
        return replace(block, core=core, window=window)

    def classify(self, measured: Sequence[_Measured]) -> tuple[int, float | None]:
        """Return the cells to classify in the windows and the seconds for one of them."""
        parts = sorted((one.block for one in measured), key=lambda block: (block.core.y0, block.core.x0))
        merged = self._executor.call(merge, self._job, self._key, tuple(parts))
        if not merged.n_chunks:
            return 0, None
        seconds = sum(
            self._executor.call(_timed, classify, self._job, self._key, chunk)[0] for chunk in range(merged.n_chunks)
        )
        # The classifier fills its last batch too, and a slide has batches enough for that not to matter.
        batch = self._job.config.cells.batch_size
        return merged.n_targets, seconds / (batch * math.ceil(merged.n_targets / batch))


def _timed(function: Callable[..., Any], *arguments: Any) -> tuple[float, float]:
    """Call a stage on the worker; return seconds, and CPU seconds of the worker."""
    started, cpu = time.perf_counter(), time.process_time()
    function(*arguments)
    return time.perf_counter() - started, time.process_time() - cpu


def _tile_of(config: PipelineConfig, device: str) -> tuple[int, int]:
    """Return side and overlap of the tiles of the segmentation model."""
    model = segmentation_model(config, device)
    return model.tile_px, model.overlap_px


def stain_cover(
    blocks: Sequence[Block], where: OverviewFrame, pixels: npt.NDArray[np.uint8], scale: float
) -> list[int]:
    """Return how dark each block is in the overview: the mean of 255 less the darkest channel, times 1000.

    Parameters
    ----------
    where, pixels
        The overview and its ``(h, w, 3)`` uint8 pixels.
    scale
        Overview pixels per working pixel.
    """
    height, width = pixels.shape[:2]
    dark = np.pad(np.cumsum(np.cumsum(255 - pixels.min(axis=2).astype(np.int64), axis=0), axis=1), ((1, 0), (1, 0)))
    covers = []
    for block in blocks:
        core = block.core
        x0, y0 = (
            int(np.clip(math.floor(v * scale) - o, 0, m - 1))
            for v, o, m in ((core.x0, where.box.x0, width), (core.y0, where.box.y0, height))
        )
        x1, y1 = (
            int(np.clip(math.ceil(v * scale) - o, a + 1, m))
            for v, o, a, m in ((core.x1, where.box.x0, x0, width), (core.y1, where.box.y0, y0, height))
        )
        total = dark[y1, x1] - dark[y0, x1] - dark[y1, x0] + dark[y0, x0]
        covers.append(int(1000 * total // ((x1 - x0) * (y1 - y0))))
    return covers


def choose_windows(blocks: Sequence[Block], region: BaseGeometry, covers: Sequence[int]) -> list[Block]:
    """Return the block of median stain cover, then those of the lower and the upper quartile; always the same.

    Blocks wholly inside the region are preferred. There are fewer than three when there are fewer blocks.
    """
    shapely.prepare(region)
    cores = shapely.box(*np.array([(b.core.x0, b.core.y0, b.core.x1, b.core.y1) for b in blocks], dtype=float).T)
    inside = np.flatnonzero(shapely.contains(region, cores))
    chosen = inside if len(inside) else np.arange(len(blocks))
    order = sorted(chosen.tolist(), key=lambda i: (covers[i], i))
    last = len(order) - 1
    return [blocks[i] for i in dict.fromkeys(order[round(share * last)] for share in (0.5, 0.25, 0.75))]


def estimate_run(
    job: SlideJob, regions: Regions, where: OverviewFrame, pixels: npt.NDArray[np.uint8], *, found_s: float = 0.0
) -> Estimate:
    """Measure a few windows of a slide and say how long a run would take.

    Parameters
    ----------
    job
        The slide and its configuration; its folder is not used.
    regions
        What was found on it; not empty.
    where, pixels
        Its overview.
    found_s
        Seconds that finding the regions took.

    Raises
    ------
    ModelError, DeviceError
        The models cannot be used here.
    SlideError
        A window cannot be read.
    """
    started = time.perf_counter()
    # A worker like those of a run: threads and allocator are set when it starts, and change what a block takes.
    one_worker = job.config.runtime.model_copy(update={"workers": 1})
    with (
        tempfile.TemporaryDirectory(prefix="wsi-pipeline-") as folder,
        open_executor("local", one_worker) as executor,
    ):
        job = replace(job, out=Path(folder))
        prepared = executor.call(prepare, job, regions)
        loaded_s = time.perf_counter() - started
        device = str(prepared.about["device"])
        bench = _Bench(executor, job, prepared.key, int(prepared.about["batch_size"]), device)
        network, windows = _measure(bench, job, where, pixels)
        measured = windows or [network]
        n_white, per_white = bench.classify(measured) if job.config.cells.classifier else (0, None)
        tiles = [bench.tiles(block) for block in prepared.blocks]
        area_px = float(bench.region.area)
    mm2_per_px = regions.area_mm2 / area_px
    # A window of almost no core says nothing of how many cells there are.
    white_per_mm2 = n_white / (mm2_per_px * sum(one.area_px for one in windows)) if per_white and windows else None
    classified_s = (white_per_mm2 or 0.0) * regions.area_mm2 * (per_white or 0.0)
    costs = _Costs.of(network, windows)
    totals = costs.total(sum(tiles), area_px)
    workers = job.config.runtime.workers or default_workers(job.config.runtime)
    busy = max(1, min(workers, len(tiles)))
    # The last blocks leave workers idle; workers that share a GPU may wait for it.
    rounds = math.ceil(len(tiles) / busy) / len(tiles) if device == "cpu" else 1.0
    below, above = _SPREAD if len(windows) > 1 else _ONE_WINDOW_SPREAD
    fixed = found_s + loaded_s
    return Estimate(
        low_s=fixed + below * (totals[0] + classified_s) / busy,
        high_s=fixed + above * (_SHARED if busy > 1 else 1.0) * (totals[2] * rounds + classified_s / busy) + _FINISH_S,
        s_per_mm2=totals[1] / regions.area_mm2,
        device=device,
        workers=workers,
        n_windows=len(measured),
        window_px=measured[0].block.core.width,
        calibration_s=time.perf_counter() - started,
        cpu_share=costs.cpu_share,
        white_per_mm2=white_per_mm2,
        s_per_white=per_white if white_per_mm2 is not None else None,
    )


def _measure(
    bench: _Bench, job: SlideJob, where: OverviewFrame, pixels: npt.NDArray[np.uint8]
) -> tuple[_Measured, list[_Measured]]:
    """Measure one window of almost no core, then up to three larger ones, none where the network is slow."""
    blocks = plan_blocks(bench.size, bench.region, core_px=_SIDE_PX, halo=bench.halo)
    scale = job.config.segmentation.mpp / where.mpp
    chosen = choose_windows(blocks, bench.region, stain_cover(blocks, where, pixels, scale))
    bench.measure(bench.middle(chosen[0], _WARM_UP_PX))  # the first of all compiles, and is not counted
    network = bench.measure(bench.middle(chosen[0], _WARM_UP_PX))
    windows: list[_Measured] = []
    expected = network.own_s / network.tiles * bench.tiles(chosen[0])
    while len(windows) < len(chosen) and expected <= _BUDGET_S - sum(one.own_s for one in windows):
        windows.append(bench.measure(chosen[len(windows)]))
        expected = windows[-1].own_s
    return network, [one for one in windows if one.area_px > 0]


def _core(block: Block) -> BaseGeometry:
    return shapely.box(block.core.x0, block.core.y0, block.core.x1, block.core.y1)
