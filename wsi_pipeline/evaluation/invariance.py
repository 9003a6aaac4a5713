"""Is a slide's result the same however it is cut, spread over workers, or interrupted?

The same slide is run once for every cut, through the real pipeline, and what each run wrote is compared with what the
reference wrote (:mod:`wsi_pipeline.evaluation.identical`): the largest core on the fewest workers, which has the
fewest borders.

Who runs the pipeline is given from outside, since this package is below it.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import yaml

from wsi_pipeline.atomic import write_text
from wsi_pipeline.config import PipelineConfig
from wsi_pipeline.errors import DataError, OutputError
from wsi_pipeline.evaluation.identical import Difference, first_difference, matched_share
from wsi_pipeline.regions import find_regions
from wsi_pipeline.regions.geojson import dump_features
from wsi_pipeline.slides import Slide
from wsi_pipeline.units import Box

DEFAULT_SIDE_PX = 1536
"""Side, working pixels, of the square that is looked at of a large slide: enough for more than a thousand red cells."""

_POLL_S = 0.02
_GONE_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How a run cuts and spreads the slide.

    Attributes
    ----------
    core_px
        Side of a block's core, working pixels.
    workers
        Worker processes.
    killed
        The run is killed in the middle and resumed.
    """

    core_px: int
    workers: int
    killed: bool = False

    @property
    def name(self) -> str:
        return f"core_{self.core_px:05d}_workers_{self.workers}" + ("_killed" if self.killed else "")


@dataclass(frozen=True, kw_only=True)
class CutResult:
    """What one run gave.

    Attributes
    ----------
    cut
        How it was run.
    n_blocks, n_cells
        Blocks the slide was cut into, and cells found.
    seconds
        Wall clock of the run.
    was_killed
        Whether the kill came before the end of the run; None where none was asked for.
    difference
        None for a run identical with the reference, and for the reference.
    matched
        Where a run differs: cells matched one to one at IoU 0.9, over the cells of the run that has more.
    """

    cut: Cut
    n_blocks: int
    n_cells: int
    seconds: float
    was_killed: bool | None = None
    difference: Difference | None = None
    matched: float | None = None


@dataclass(frozen=True, kw_only=True)
class InvarianceResult:
    """All runs of a slide; the first is the reference."""

    runs: tuple[CutResult, ...]

    @property
    def reference(self) -> CutResult:
        return self.runs[0]

    @property
    def identical(self) -> bool:
        """Return whether every run gave what the reference gave."""
        return all(run.difference is None for run in self.runs)

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what the runs do not show, in sentences."""
        found = []
        if len({run.n_blocks for run in self.runs}) == 1:
            found.append(
                f"Every run had {self.reference.n_blocks} block(s), so no border was moved: use smaller cores."
            )
        if any(run.was_killed is False for run in self.runs):
            found.append("One run ended before it could be killed, so resuming was not tested.")
        return tuple(found)


@dataclass(frozen=True, kw_only=True)
class Scratch:
    """Where the runs go, and what they start from.

    Attributes
    ----------
    folder
        A folder of its own for all runs.
    slide_id
        Id of the slide in every run.
    manifest
        CSV manifest of the one slide.
    """

    folder: Path
    slide_id: str
    manifest: Path

    def run_folder(self, cut: Cut) -> Path:
        return self.folder / cut.name

    def config_file(self, cut: Cut) -> Path:
        return self.folder / f"{cut.name}.yaml"


Run = Callable[[Cut], None]
Start = Callable[[Cut], "subprocess.Popen[bytes]"]


def plan_cuts(cores: Sequence[int], workers: Sequence[int]) -> list[Cut]:
    """Return every core size with every worker count, the reference first, and one run that is killed.

    The killed run has the smallest core, which is cut most often, and two workers where that is one of the counts,
    else the most.
    """
    pairs = product(sorted(set(cores), reverse=True), sorted(set(workers)))
    cuts = [Cut(core_px=core, workers=n) for core, n in pairs]
    return [*cuts, Cut(core_px=min(cores), workers=2 if 2 in workers else max(workers), killed=True)]


def choose_square(slide: Slide, config: PipelineConfig, *, largest_core_px: int, side_um: float | None) -> Box | None:
    """Return the square to look at, level-0 pixels, or None when the slide is small enough to be run whole.

    The square lies in the searched region, as near to the middle of the slide as it can, where possible around the
    middle of one block of the largest core: that run has no border in it, and every smaller core has.

    Parameters
    ----------
    slide
        The open slide.
    config
        Its configuration; how regions are found, and the working resolution.
    largest_core_px
        Side of the largest core, working pixels.
    side_um
        Side of the square; ``DEFAULT_SIDE_PX`` working pixels when None.

    Raises
    ------
    DataError
        Nothing on the slide is to be searched.
    """
    mpp, bounds = config.segmentation.mpp, slide.bounds
    side = np.array([(side_um or DEFAULT_SIDE_PX * mpp) / size for size in (slide.mpp.x, slide.mpp.y)])
    low, high = np.array([bounds.x0, bounds.y0], float), np.array([bounds.x1, bounds.y1], float)
    if (side >= high - low).all():
        return None
    included = find_regions(
        slide, specimen=config.specimen, config=_with_mode(config, _mode(config)).regions, stain=config.stain
    ).included
    if included.is_empty:
        raise DataError(f"{slide.path}: nothing to search was found on this slide, so there are no cells to compare")
    middle, frame = (low + high) / 2, slide.frame(mpp)
    blocks = np.array(list(product(*(range(-(-n // largest_core_px)) for n in slide.size_at(mpp)))))
    centres = frame.to_px0((blocks + 0.5) * largest_core_px)
    fits = ((centres - side / 2 >= low) & (centres + side / 2 <= high)).all(axis=1)
    fits &= shapely.contains_xy(included, centres)
    piece = max(included.geoms, key=lambda one: one.area)
    if fits.any():
        nearest = centres[fits]
        centre = nearest[np.argmin(np.hypot(*(nearest - middle).T))]
    else:
        centre = (
            middle if shapely.contains_xy(included, *middle) else shapely.get_coordinates(piece.point_on_surface())[0]
        )
    start = np.clip(centre - side / 2, low, np.maximum(low, high - side))
    end = np.minimum(start + side, high)
    (x0, y0), (x1, y1) = np.rint(start).astype(int), np.rint(end).astype(int)
    return Box(x0=int(x0), y0=int(y0), x1=int(x1), y1=int(y1))


def _with_mode(config: PipelineConfig, mode: str) -> PipelineConfig:
    return config.model_copy(update={"regions": config.regions.model_copy(update={"mode": mode})})


def _mode(config: PipelineConfig) -> str:
    """Return how regions are found where no square is looked at: drawn ones have no file here."""
    return "auto" if config.regions.mode == "file" else config.regions.mode


def prepare_scratch(
    folder: Path, slide: Slide, slide_id: str, configs: dict[Cut, PipelineConfig], square: Box | None
) -> Scratch:
    """Make an empty scratch folder with manifest, region and one configuration a cut; what was there goes.

    Raises
    ------
    OutputError
        The folder cannot be written.
    """
    scratch = Scratch(folder=folder, slide_id=slide_id, manifest=folder / "manifest.csv")
    row = {"slide": str(slide.path.absolute()), "slide_id": slide_id}
    try:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        if square is not None:
            row["regions"] = "square.geojson"
            write_text(folder / "square.geojson", dump_features([_feature(square, slide)]))
        text = io.StringIO()
        writer = csv.DictWriter(text, list(row), lineterminator="\n")
        writer.writeheader()
        writer.writerow(row)
        write_text(scratch.manifest, text.getvalue())
        for cut, config in configs.items():
            tree = _with_mode(config, "file" if square is not None else _mode(config)).model_dump(mode="json")
            write_text(scratch.config_file(cut), yaml.safe_dump(tree, sort_keys=False))
    except OSError as error:
        raise OutputError(f"--out {folder.parent} cannot be written: {error.strerror or error}") from None
    return scratch


def _feature(square: Box, slide: Slide) -> dict[str, Any]:
    x, y = slide.bounds.x0, slide.bounds.y0
    drawn = shapely.box(square.x0 - x, square.y0 - y, square.x1 - x, square.y1 - y)
    return {"type": "Feature", "properties": {"name": "looked at"}, "geometry": json.loads(shapely.to_geojson(drawn))}


def measure_invariance(
    cuts: Sequence[Cut], scratch: Scratch, *, run: Run, start: Start, progress: Callable[[Cut], None] = lambda _: None
) -> InvarianceResult:
    """Run every cut and compare it with the first; what runs that are identical wrote is removed again.

    Parameters
    ----------
    cuts
        The reference first, for example of :func:`plan_cuts`.
    scratch
        Of :func:`prepare_scratch`.
    run
        Runs the pipeline on ``scratch.manifest`` into ``scratch.run_folder(cut)``, resumes what is there, and raises
        when the slide fails.
    start
        Starts the same as a process, the leader of a new process group.
    progress
        Told of every cut before it runs.

    Raises
    ------
    DataError
        The reference found no cell.
    WsiPipelineError
        The slide failed; of ``run``.
    """
    results: list[CutResult] = []
    blocks: dict[int, int] = {}
    first = scratch.run_folder(cuts[0])
    for cut in cuts:
        progress(cut)
        started = time.monotonic()
        folder = scratch.run_folder(cut)
        was_killed = None
        if cut.killed:
            # Half of the blocks are there: a ledger with finished parts, and work to be done.
            was_killed = kill_midway(
                start(cut), folder, scratch.slide_id, parts=max(1, blocks.get(cut.core_px, 1) // 2)
            )
        run(cut)
        seconds = time.monotonic() - started
        summary = json.loads((folder / "slides" / scratch.slide_id / "summary.json").read_text(encoding="utf-8"))
        blocks[cut.core_px] = summary["quality"]["blocks"]
        difference = matched = None
        if results:
            difference = first_difference(first, folder, scratch.slide_id)
        elif not summary["n_cells"]:
            raise DataError(
                f"{scratch.slide_id}: no cell was found where it was looked, so nothing can be compared; "
                "try another slide, or a larger --side-um"
            )
        if difference is not None:
            matched = matched_share(first, folder, scratch.slide_id)
        results.append(
            CutResult(
                cut=cut,
                n_blocks=summary["quality"]["blocks"],
                n_cells=summary["n_cells"],
                seconds=seconds,
                was_killed=was_killed,
                difference=difference,
                matched=matched,
            )
        )
        if len(results) > 1 and difference is None:
            shutil.rmtree(folder, ignore_errors=True)
    result = InvarianceResult(runs=tuple(results))
    if result.identical:
        shutil.rmtree(scratch.folder, ignore_errors=True)
    return result


def kill_midway(process: subprocess.Popen[bytes], out: Path, slide_id: str, *, parts: int) -> bool:
    """Kill a run, workers and all, once that many blocks are done; return False if it ended before.

    Parameters
    ----------
    process
        Leader of its own process group.
    out
        The run's folder.
    parts
        Finished blocks to wait for.
    """
    found = out / "work" / slide_id
    while process.poll() is None:
        if sum(1 for _ in found.glob("*/blocks/*.parquet")) >= parts:
            break
        time.sleep(_POLL_S)
    ended = process.poll() is not None
    deadline = time.monotonic() + _GONE_S
    try:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            time.sleep(_POLL_S)
    except ProcessLookupError:
        pass  # every process of the group is gone
    return not ended and not (out / "slides" / slide_id / "summary.json").is_file()
