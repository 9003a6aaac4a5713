"""``export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsi_pipeline.cli.export_slides import Run, Slides, Steps, each_slide

app = typer.Typer(help="Write a finished run for other tools.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Write a finished run for other tools."""


@app.command("ome-zarr")
def ome_zarr(
    run: Run,
    image: Annotated[
        bool, typer.Option("--image", help="Also the slide's pixels, at the run's working resolution.")
    ] = False,
    slides: Slides = None,
) -> None:
    """Write cells as OME-Zarr labels; with --image inside an OME-Zarr image of the slide.

    slides/ID/labels.ome.zarr, or slides/ID/image.ome.zarr with labels/cells in it.
    """
    from wsi_pipeline.errors import ConfigError
    from wsi_pipeline.exports.finished_run import RunSlide
    from wsi_pipeline.exports.labels import write_labels
    from wsi_pipeline.exports.ome_zarr import write_image
    from wsi_pipeline.slides import SlidePath

    if slides is not None and not image:
        raise ConfigError("--slides goes with --image: labels alone are made from the tables of the run")

    def write_both(slide: RunSlide, path: SlidePath, progress: Steps) -> Path:
        out = slide.folder / "image.ome.zarr"
        with slide.spec(path).open() as pixels:
            write_image(pixels, slide.cells, out, mpp=slide.working_mpp, name=slide.slide_id, progress=progress)
        return out

    def write_own(slide: RunSlide, _path: SlidePath, _progress: Steps) -> Path:
        out = slide.folder / "labels.ome.zarr"
        write_labels(
            slide.cells,
            out,
            slide_size_px0=slide.size_px0,
            frame=slide.frame,
            mpp=slide.working_mpp,
            name=slide.slide_id,
        )
        return out

    each_slide(run, write_both if image else write_own, slides=slides, pixels=image)
