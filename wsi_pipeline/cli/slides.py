"""``inspect`` and ``simulate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from wsi_pipeline.cli.run import Assignments, Config
from wsi_pipeline.config import load_config, parse_overrides
from wsi_pipeline.errors import ConfigError, OutputError, WsiPipelineError

SECONDS_PER_MEGAPIXEL = 1.0
"""Rough cost of a working megapixel on one CPU core with a compact network (``benchmarks/pipeline.py``)."""


def inspect(
    slide: Annotated[Path, typer.Argument(help="The slide.")],
    config: Config = None,
    mpp: Annotated[float | None, typer.Option(help="Microns per pixel, when the slide states none.")] = None,
    force_mpp: Annotated[bool, typer.Option("--force-mpp", help="Let --mpp win over what the slide says.")] = False,
    assignments: Assignments = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show format, microns per pixel, levels, regions and expected time of a slide."""
    from wsi_pipeline.regions import choose_fields, find_regions, narrow
    from wsi_pipeline.slides import describe_slide, open_slide

    settings = load_config(config, parse_overrides(assignments or []))
    working = settings.segmentation.mpp
    with open_slide(slide, mpp=mpp, force_mpp=force_mpp, config=settings.slides) as opened:
        about = describe_slide(opened, mpp=working)
        regions = find_regions(opened, specimen=settings.specimen, config=settings.regions)
        if settings.regions.chooses_fields:
            choice = choose_fields(opened, regions.included, settings.regions)
            regions = narrow(regions, choice, opened, settings.regions)
    workers = settings.runtime.workers or 1
    megapixels = regions.area_mm2 / working**2
    about["specimen"] = settings.specimen
    about["regions_mode"] = regions.mode
    about["regions_pieces"] = len(regions.included.geoms)
    about["regions_area_mm2"] = round(regions.area_mm2, 4)
    about["regions_note"] = regions.note
    about["expected_minutes_per_cpu_worker"] = round(megapixels * SECONDS_PER_MEGAPIXEL / 60 / workers, 1)
    if as_json:
        typer.echo(json.dumps(about, indent=2))
        return
    for key, value in about.items():
        if key == "levels":
            for number, level in enumerate(value):
                size = f"{level['width_px']} x {level['height_px']}"
                typer.echo(f"{f'level {number}':32}{size}, downsample {level['downsample']}")
        elif key != "properties":
            typer.echo(f"{key:32}{'' if value is None else value}")


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
