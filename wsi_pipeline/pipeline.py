"""One slide, from pixels to an answer.

    slides -> regions -> tiling -> segmentation -> cells -> predictions -> exports

The stages are tasks on a Dask cluster (``one_slide/``); this page says in which order they run.
"""

from __future__ import annotations

import time
from typing import Any

from wsi_pipeline.cells.merge import MergedTable
from wsi_pipeline.one_slide.fibrosis import read_fibres
from wsi_pipeline.one_slide.finish import finish
from wsi_pipeline.one_slide.job import SlideJob
from wsi_pipeline.one_slide.prepare import Prepared, prepare
from wsi_pipeline.one_slide.stages import classify, find_cells, merge
from wsi_pipeline.one_slide.target import reach_target
from wsi_pipeline.runtime.executor import Executor, SerialExecutor
from wsi_pipeline.runtime.progress import Progress, SilentProgress


def run_job(job: SlideJob, executor: Executor | SerialExecutor, progress: Progress | None = None) -> dict[str, Any]:
    """Run one slide to the end, or from where it stopped, and return its summary.

    Parameters
    ----------
    job
        The slide, its configuration and the run's folder.
    executor
        Where the tasks run.
    progress
        Told of every stage.

    Raises
    ------
    SlideError, ModelError
        The slide or a model cannot be used; nothing of other slides is touched.
    """
    progress = progress or SilentProgress()
    timings: dict[str, float] = {}

    # A reticulin section has no cells to find: its tiles are ranked by their fibres.
    if job.config.stain == "reticulin":
        return read_fibres(job, executor, progress)

    # Open the slide, find where to look, cut it into blocks.
    progress.stage(job.slide_id, "regions", 1)
    prepared = executor.call(prepare, job, timeout_s=job.task_timeout_s)
    timings["regions"] = prepared.seconds

    # Find the cells, put them into one order, type the white ones: everywhere, or field by field up to a target.
    if job.config.regions.has_target:
        prepared, merged = reach_target(job, prepared, executor, progress, timings)
    else:
        merged = _look_everywhere(job, prepared, executor, progress, timings)

    # Count, answer, export, report.
    progress.stage(job.slide_id, "answers and exports", 1)
    return executor.call(finish, job, prepared, merged, timings, timeout_s=job.slide_timeout_s)


def _look_everywhere(
    job: SlideJob,
    prepared: Prepared,
    executor: Executor | SerialExecutor,
    progress: Progress,
    timings: dict[str, float],
) -> MergedTable:
    key, blocks = prepared.key, prepared.blocks

    # Find the cells of every block: network, flows, ownership, measures.
    started = time.monotonic()
    progress.stage(job.slide_id, "cells", len(blocks))
    mm2 = prepared.about["area_mm2"] / max(1, len(blocks))
    tasks = ((job, key, block) for block in blocks)
    for record in executor.map(find_cells, tasks, timeout_s=job.task_timeout_s):
        progress.advance(job.slide_id, cells=record.n_cells, mm2=mm2)
    timings["segmentation"] = time.monotonic() - started

    # Put them into one order, which no cut can change.
    started = time.monotonic()
    merged = executor.call(merge, job, key, blocks, timeout_s=job.slide_timeout_s)
    timings["merge"] = time.monotonic() - started

    # Type the white cells.
    if job.config.cells.classifier is not None:
        started = time.monotonic()
        progress.stage(job.slide_id, "classes", merged.n_chunks)
        chunks = ((job, key, chunk) for chunk in range(merged.n_chunks))
        for _ in executor.map(classify, chunks, timeout_s=job.task_timeout_s):
            progress.advance(job.slide_id)
        timings["classification"] = time.monotonic() - started
    return merged
