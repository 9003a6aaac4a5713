"""Exports of a run, slide by slide: what cannot be exported is named, and the rest goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from wsi_pipeline.errors import WsiPipelineError
from wsi_pipeline.exports.finished_run import FinishedRun, RunSlide, locate_slides, read_finished_run
from wsi_pipeline.runtime.progress import Progress, show_progress
from wsi_pipeline.slides import SlidePath

Run = Annotated[Path, typer.Argument(help="Folder that `run` wrote.")]
Slides = Annotated[
    Path | None,
    typer.Option(
        help="Where the slides are if they moved: a folder, or a CSV file with columns slide_id,slide. "
        "Each must have the fingerprint of the run."
    ),
]
Steps = Callable[[int, int], None]
"""Told how many parts of a slide are done, and of how many."""


Write = Callable[[RunSlide, SlidePath, Steps], Path]
"""Writes a slide's export, given the slide's file, and returns where."""


def open_run(folder: Path, slides: Path | None, *, pixels: bool) -> tuple[FinishedRun, dict[str, SlidePath]]:
    """Read a run and find its slides, where pixels are needed; name those without results."""
    from wsi_pipeline.manifest import list_slides

    run = read_finished_run(folder)
    for slide_id, reason in (*run.without_cells.items(), *run.damaged.items()):
        typer.echo(f"left out: {slide_id}: {reason}", err=True)
    if not pixels:
        return run, {}
    entries = None if slides is None else [(entry.slide_id, entry.path) for entry in list_slides([slides])]
    return run, locate_slides(run.slides, entries, given=f"--slides {slides}")


def _steps(progress: Progress, slide_id: str) -> Steps:
    """Return what tells a slide's progress from the parts that are done."""
    before = 0

    def tell(done: int, total: int) -> None:
        nonlocal before
        if not before:
            progress.stage(slide_id, "writing", total)
        progress.advance(slide_id, done - before)
        before = done

    return tell


def each_slide(folder: Path, write: Write, *, slides: Path | None = None, pixels: bool = False) -> None:
    """Export every slide of a run; leave with 1 when one could not be.

    Parameters
    ----------
    folder
        Of the run.
    slides
        Where the slides are now, if they moved.
    pixels
        Whether the slides themselves are read.
    """
    run, paths = open_run(folder, slides, pixels=pixels)
    failed = len(run.damaged)
    with show_progress(len(run.slides)) as progress:
        for slide in run.slides:
            try:
                steps = _steps(progress, slide.slide_id)
                outcome = str(write(slide, paths.get(slide.slide_id, slide.path), steps))
            except WsiPipelineError as error:
                outcome, failed = f"failed: {error}", failed + 1
            progress.finished(slide.slide_id, outcome)
    if failed:
        raise typer.Exit(1)
