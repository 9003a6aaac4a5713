"""``inspect`` and ``simulate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from wsi_pipeline.cli.run import Assignments, Config, Device, overrides_of
from wsi_pipeline.config import load_config
from wsi_pipeline.errors import ConfigError, OutputError, WsiPipelineError


def inspect(
    slide: Annotated[str, typer.Argument(help="The slide: a file or a URL.")],
    config: Config = None,
    mpp: Annotated[float | None, typer.Option(help="Microns per pixel, when the slide states none.")] = None,
    force_mpp: Annotated[bool, typer.Option("--force-mpp", help="Let --mpp win over what the slide says.")] = False,
    device: Device = None,
    assignments: Assignments = None,
    regions: Annotated[
        Path | None, typer.Option("--regions", help="GeoJSON drawn in QuPath, as in a manifest's regions column.")
    ] = None,
    thumbnail: Annotated[
        Path | None, typer.Option("--thumbnail", help="Draw the regions into this PNG, or into a folder that exists.")
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate/--no-calibrate", help="Time a few windows to estimate how long a run takes.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show format, microns per pixel, levels, regions with their areas, and the expected time of a run."""
    from wsi_pipeline.inspection import as_json as json_of
    from wsi_pipeline.inspection import as_rows, inspect_slide
    from wsi_pipeline.slides import SlideSpec, slide_path

    if force_mpp and mpp is None:
        raise ConfigError("--force-mpp needs --mpp")
    settings = load_config(config, overrides_of(assignments, device))
    spec = SlideSpec(path=slide_path(slide), mpp=mpp, force_mpp=force_mpp, config=settings.slides)
    found = inspect_slide(
        spec,
        settings,
        regions_file=regions,
        thumbnail=thumbnail,
        calibrate=calibrate,
        before_calibration=lambda: typer.echo("timing a few windows (--no-calibrate skips this) ...", err=True),
    )
    if as_json:
        typer.echo(json.dumps(json_of(found), indent=2))
        return
    rows = as_rows(found)
    width = max(len(name) for name, _ in rows) + 2
    for name, value in rows:
        typer.echo(f"{name:{width}}{value}")


def simulate(
    out: Annotated[Path, typer.Argument(help="The TIFF to write; its truth table goes beside it.")],
    profile: Annotated[str, typer.Option(help="normal, reactive, aml, apl, mds, section, or a YAML file.")] = "normal",
    size: Annotated[str, typer.Option(help="Side in pixels, or WIDTHxHEIGHT.")] = "4096",
    mpp: Annotated[float, typer.Option(help="Microns per pixel.")] = 0.25,
    seed: Annotated[int, typer.Option(help="Seed; the same seed gives the same slide.")] = 0,
    film: Annotated[
        bool,
        typer.Option("--film/--monolayer", help="A whole smear: thick, thin, feathered edge, glass; or one layer."),
    ] = False,
    stain_variation: Annotated[float, typer.Option(help="How much slides differ in stain, 0 to 2.")] = 1.0,
    blur_variation: Annotated[float, typer.Option(help="How much slides are out of focus, 0 to 2.")] = 1.0,
    workers: Annotated[int, typer.Option(help="Processes that draw; the slide is the same.")] = 1,
) -> None:
    """Make a virtual slide of real cells with a table of what is where."""
    from wsi_pipeline.simulation import make_virtual_slide

    sides = size.lower().replace("\u00d7", "x").split("x")
    if len(sides) > 2 or not all(side.strip().isdigit() for side in sides):
        raise ConfigError(f"--size {size!r}: give a number of pixels, or WIDTHxHEIGHT")
    try:
        made = make_virtual_slide(
            out, profile=profile, size_px=(int(sides[0]), int(sides[-1])), seed=seed, mpp=mpp, film=film,
            stain_variation=stain_variation, blur_variation=blur_variation, workers=workers,
        )  # fmt: skip
    except OSError as error:
        if isinstance(error, WsiPipelineError):
            raise
        raise OutputError(f"{out} cannot be written: {error.strerror or error}") from None
    typer.echo(f"slide: {made.path}")
    typer.echo(f"truth: {made.truth}")
    typer.echo("cells: " + ", ".join(f"{n:,} {name}" for name, n in made.counts.items()))
