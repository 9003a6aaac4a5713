"""``inspect``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from wsi_pipeline.cli.options import Assignments, Config, Device, ForceMpp, overrides_of
from wsi_pipeline.config import load_config
from wsi_pipeline.errors import ConfigError


def inspect(
    slide: Annotated[str, typer.Argument(help="The slide: a file or a URL.")],
    config: Config = None,
    mpp: Annotated[float | None, typer.Option(help="Microns per pixel, when the slide states none.")] = None,
    force_mpp: ForceMpp = False,
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
    from wsi_pipeline.one_slide.inspection import as_json as json_of
    from wsi_pipeline.one_slide.inspection import as_rows, inspect_slide
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
