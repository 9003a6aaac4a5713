"""``export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsi_pipeline.cli.export_qupath import qupath
from wsi_pipeline.cli.export_slides import Run, Slides, Steps, each_slide, open_run
from wsi_pipeline.cli.options import Level, chosen_level
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.exports.finished_run import RunSlide
from wsi_pipeline.runtime.progress import show_progress
from wsi_pipeline.slides import SlidePath

app = typer.Typer(help="Write a finished run for other tools.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Write a finished run for other tools."""


app.command("qupath")(qupath)


@app.command("ome-zarr")
def export_ome_zarr(
    run: Run,
    image: Annotated[
        bool, typer.Option("--image", help="Also the slide's pixels, at the run's working resolution.")
    ] = False,
    slides: Slides = None,
) -> None:
    """Write cells as OME-Zarr labels; with --image inside an OME-Zarr image of the slide.

    slides/ID/labels.ome.zarr, or slides/ID/image.ome.zarr with labels/cells in it.
    """
    from wsi_pipeline.exports.labels import write_labels
    from wsi_pipeline.exports.ome_zarr import write_image

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


@app.command("slide-features")
def slide_features(
    runs: Annotated[list[Path], typer.Argument(help="Folders that `run` wrote, of slides or of galleries.")],
    out: Annotated[Path, typer.Option("--out", help="CSV file to write; the cells behind each value go beside it.")],
    level: Level = "patient",
    embedding: Annotated[
        bool, typer.Option("--embedding", help="Also the statistics of the embeddings, hundreds of columns.")
    ] = False,
) -> None:
    """Write the features of each patient or slide as a table, a row a subject, and the cells behind each."""
    from wsi_pipeline.atomic import write_text, writing
    from wsi_pipeline.predictions.bags import read_runs
    from wsi_pipeline.predictions.slide_features import feature_table
    from wsi_pipeline.predictions.slide_features.table import table_csv

    bags, skipped = read_runs(runs, level=chosen_level(level), embedding=embedding)
    for slide in skipped:
        typer.echo(f"without cells: {slide}", err=True)
    table = feature_table(bags)
    numbers = out.with_name(f"{out.stem}.n.csv")
    with writing(out):
        for path, text in zip((out, numbers), table_csv(bags, table), strict=True):
            write_text(path, text)
    typer.echo(f"{out}: {len(bags)} subjects, {len(table.names)} features; cells behind each: {numbers}")


@app.command("annotations")
def export_annotations(run: Run) -> None:
    """Write cells as annotation stores of TIAToolbox: slides/ID/annotations.db. `view` draws them over the slides."""
    from wsi_pipeline.exports.annotation_store import write_annotations

    def write(slide: RunSlide, _path: SlidePath, progress: Steps) -> Path:
        out = slide.folder / "annotations.db"
        write_annotations(slide.cells, out, taxonomies=slide.taxonomies(), progress=progress)
        return out

    each_slide(run, write)


@app.command("anndata")
def export_anndata(
    run: Run,
    out: Annotated[Path, typer.Option("--out", help="File to write, .h5ad.")],
    kind: Annotated[
        list[str] | None, typer.Option(help="Of cells, for example white; may be repeated. All without it.")
    ] = None,
) -> None:
    """Write cells x measures with classes, positions and embeddings for scanpy. Needs 'wsi-pipeline[anndata]'."""
    from wsi_pipeline.cells.schema import KIND_CLASS
    from wsi_pipeline.exports.anndata_table import need, write_anndata

    need("anndata", "export anndata")
    unknown = sorted(set(kind or ()) - set(KIND_CLASS))
    if unknown:
        raise ConfigError(f"--kind {unknown[0]!r}: use {', '.join(KIND_CLASS)}")
    found, _ = open_run(run, None, pixels=False)
    with show_progress(len(found.slides)) as progress:
        cells, features = write_anndata(
            found, out, kinds=kind or (), progress=lambda slide: progress.finished(slide.slide_id, "read")
        )
    typer.echo(f"{out}: {cells:,} cells, {features} features")
    if found.damaged:
        raise typer.Exit(1)


@app.command("spatialdata")
def export_spatialdata(run: Run) -> None:
    """Write outlines and measures as SpatialData: slides/ID/spatialdata.zarr. Needs 'wsi-pipeline[spatialdata]'."""
    from wsi_pipeline.exports.anndata_table import need
    from wsi_pipeline.exports.spatialdata_store import write_spatialdata

    need("spatialdata", "export spatialdata")

    def write(slide: RunSlide, _path: SlidePath, _progress: Steps) -> Path:
        out = slide.folder / "spatialdata.zarr"
        write_spatialdata(slide, out)
        return out

    each_slide(run, write)
