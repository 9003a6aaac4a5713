"""``simulate``: a virtual slide, or a cohort of simulated patients."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from wsi_pipeline.atomic import writing
from wsi_pipeline.errors import ConfigError

_SLIDE = "slide"


class _SlideUnlessNamed(TyperGroup):
    """``simulate OUT`` is ``simulate slide OUT``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help"):
            args = [_SLIDE, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_SlideUnlessNamed, help="Make virtual slides of real cells.", no_args_is_help=True)

Stain = Annotated[float, typer.Option("--stain-variation", help="How much slides differ in stain, 0 to 2.")]
Blur = Annotated[float, typer.Option("--blur-variation", help="How much slides are out of focus, 0 to 2.")]


@app.command(_SLIDE)
def slide(
    out: Annotated[Path, typer.Argument(help="The TIFF to write; its truth table goes beside it.")],
    profile: Annotated[
        str,
        typer.Option(
            help="normal, reactive, aml, apl, mds, section, trephine, trephine-tangential, trephine-no-marrow, or a "
            "YAML file."
        ),
    ] = "normal",
    size: Annotated[str, typer.Option(help="Side in pixels, or WIDTHxHEIGHT.")] = "4096",
    mpp: Annotated[float, typer.Option(help="Microns per pixel.")] = 0.25,
    seed: Annotated[int, typer.Option(help="Seed; the same seed gives the same slide.")] = 0,
    film: Annotated[
        bool,
        typer.Option("--film/--monolayer", help="A whole smear: thick, thin, feathered edge, glass; or one layer."),
    ] = False,
    stain_variation: Stain = 1.0,
    blur_variation: Blur = 1.0,
    workers: Annotated[int, typer.Option(help="Processes that draw; the slide is the same.")] = 1,
) -> None:
    """Make a virtual slide of real cells with a table of what is where."""
    from wsi_pipeline.simulation import make_virtual_slide

    sides = size.lower().replace("\u00d7", "x").split("x")
    if len(sides) > 2 or not all(side.strip().isdigit() for side in sides):
        raise ConfigError(f"--size {size!r}: give a number of pixels, or WIDTHxHEIGHT")
    with writing(out):
        made = make_virtual_slide(
            out, profile=profile, size_px=(int(sides[0]), int(sides[-1])), seed=seed, mpp=mpp, film=film,
            stain_variation=stain_variation, blur_variation=blur_variation, workers=workers,
        )  # fmt: skip
    typer.echo(f"slide: {made.path}")
    typer.echo(f"truth: {made.truth}")
    typer.echo("cells: " + ", ".join(f"{n:,} {name}" for name, n in made.counts.items()))


@app.command("cohort")
def cohort(
    out: Annotated[Path, typer.Option("--out", help="Folder for slides, manifest.csv and truth.csv.")],
    patients: Annotated[int, typer.Option(help="Patients, a slide each, of the groups in turn.")] = 60,
    seed: Annotated[int, typer.Option(help="Seed; the same seed gives the same cohort.")] = 0,
    profile: Annotated[str, typer.Option(help="blood, trephine, or a YAML file of groups.")] = "blood",
    area: Annotated[
        float | None,
        typer.Option(help="mm2 of a smear's slide (default 0.25, some 200 white cells) or of a trephine's tissue (2)."),
    ] = None,
    equal_profiles: Annotated[
        bool, typer.Option("--equal-profiles", help="Draw all from the first group: labels then mean nothing.")
    ] = False,
    stain_variation: Stain = 1.0,
    blur_variation: Blur = 1.0,
    workers: Annotated[int, typer.Option(help="Processes that draw; the slides are the same.")] = 1,
) -> None:
    """Make a cohort of simulated patients with a manifest for run and train slides; the same call resumes."""
    from wsi_pipeline.simulation import make_cohort

    with writing(out):
        made = make_cohort(
            out, patients=patients, seed=seed, profile=profile, area_mm2=area, equal_profiles=equal_profiles,
            stain_variation=stain_variation, blur_variation=blur_variation, workers=workers,
            report=lambda text: typer.echo(text, err=True),
        )  # fmt: skip
    typer.echo(f"manifest: {made.manifest}")
    typer.echo(f"truth: {made.truth}")
    if made.counts is not None:
        typer.echo(f"labels with simulated blood counts: {made.counts}")
    typer.echo("patients: " + ", ".join(f"{n} {label}" for label, n in made.patients.items()))


@app.command("reticulin")
def reticulin(
    out: Annotated[Path, typer.Option("--out", help="Folder for slides, manifest.csv and truth.csv.")],
    slides: Annotated[int, typer.Option(help="Slides, of densities of fibre from low to high.")] = 24,
    seed: Annotated[int, typer.Option(help="Seed; the same seed gives the same slides.")] = 0,
    area: Annotated[float, typer.Option(help="Area of a slide, mm2.")] = 2.0,
    uneven_stain: Annotated[
        bool, typer.Option("--uneven-stain", help="Faint to black silver, silver in nuclei, precipitate.")
    ] = False,
) -> None:
    """Draw reticulin slides of controlled fibre density, with a manifest for run and train fibrosis."""
    from wsi_pipeline.simulation.reticulin_cohort import make_reticulin_cohort

    with writing(out):
        made = make_reticulin_cohort(
            out, slides=slides, seed=seed, area_mm2=area, uneven_stain=uneven_stain,
            report=lambda text: typer.echo(text, err=True),
        )  # fmt: skip
    typer.echo(f"manifest: {made.manifest}")
    typer.echo(f"truth: {made.truth}")
    typer.echo(f"slides: {made.n}, simulated: drawn, no pixel is of a real slide")
