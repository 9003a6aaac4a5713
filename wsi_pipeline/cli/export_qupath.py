"""``export qupath``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsi_pipeline.cli.export_slides import Run, Slides, Steps, each_slide


def qupath(
    run: Run,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write; RUN/qupath if not given.")] = None,
    slides: Slides = None,
) -> None:
    """Write a folder that opens in QuPath in one step: cells, regions, classes, answers, and a script.

    Then: QuPath script OUT/import.groovy, and open OUT/project/project.qpproj. QuPath 0.5 to 0.7.
    """
    from wsi_pipeline.atomic import writing
    from wsi_pipeline.exports.finished_run import RunSlide
    from wsi_pipeline.exports.qupath_project import ProjectSlide, export_slide, write_project
    from wsi_pipeline.slides import SlidePath

    folder = out or run / "qupath"
    written: list[ProjectSlide] = []
    of_run: list[RunSlide] = []

    def write(slide: RunSlide, path: SlidePath, progress: Steps) -> Path:
        with writing(folder):
            written.append(export_slide(slide, path, folder, progress=progress))
        of_run.append(slide)
        return folder / slide.slide_id

    try:
        each_slide(run, write, slides=slides, pixels=True)
    finally:
        if of_run:
            with writing(folder):
                write_project(folder, written, of_run)
            objects = sum(slide.objects for slide in written)
            typer.echo(f"{len(written)} slides, {objects:,} objects. QuPath script {folder / 'import.groovy'}")
