"""``evaluate invariance``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wsi_pipeline.atomic import write_json
from wsi_pipeline.cli.options import AllowSimulated, Assignments, Config, Device, ForceMpp, chosen_device
from wsi_pipeline.config import parse_overrides
from wsi_pipeline.errors import ConfigError

if TYPE_CHECKING:
    from wsi_pipeline.slides import Slide
    from wsi_pipeline.units import Box


def invariance(
    slide: Annotated[Path, typer.Argument(help="A slide file.")],
    config: Config = None,
    model: Annotated[str | None, typer.Option(help="Segmentation model; default the configuration's.")] = None,
    mpp: Annotated[float | None, typer.Option(help="Microns per pixel of a slide that states none.")] = None,
    force_mpp: ForceMpp = False,
    core: Annotated[str, typer.Option(help="Core sizes, working pixels.")] = "512,1024,2048,4096",
    workers: Annotated[str, typer.Option(help="Numbers of worker processes.")] = "1,2,4",
    side_um: Annotated[
        float | None, typer.Option(help="Side of the square that is looked at, um; default 1,536 working pixels.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for metrics.json and the runs.")] = Path("evaluation"),
    device: Device = None,
    assignments: Assignments = None,
    allow_simulated: AllowSimulated = False,
) -> None:
    """Check that a slide gives the same cells and answers however it is cut, spread over workers or interrupted.

    The whole pipeline runs once for every core size and number of workers, and once more killed and resumed. A large
    slide is looked at in one square. Exit status 1 when a run differs.
    """
    from wsi_pipeline.cohort import plan_cohort, run_cohort
    from wsi_pipeline.config import load_config
    from wsi_pipeline.evaluation.invariance import Cut, choose_square, measure_invariance, plan_cuts, prepare_scratch
    from wsi_pipeline.evaluation.tables import invariance_metrics, invariance_table
    from wsi_pipeline.slides import open_slide

    if side_um is not None and not side_um > 0:
        raise ConfigError(f"--side-um {side_um:g}: it must be more than 0")
    cuts = plan_cuts(_whole_numbers("--core", core), _whole_numbers("--workers", workers))
    overrides = {
        **parse_overrides(assignments or []),
        **({} if model is None else {"segmentation.model": model}),
        **({} if device is None else {"runtime.device": chosen_device(device)}),
        "exports.qupath": True,
        "exports.labels": False,
        "exports.report": False,
    }
    configs = {
        cut: load_config(config, {**overrides, "tiling.core_px": cut.core_px, "runtime.workers": cut.workers})
        for cut in cuts
    }
    first = configs[cuts[0]]
    options: dict[str, Any] = {"mpp": mpp, "force_mpp": force_mpp, "allow_simulated": allow_simulated}
    plan = plan_cohort([slide], out, first, **options)
    with open_slide(slide, mpp=mpp, force_mpp=force_mpp, config=first.slides) as opened:
        square = choose_square(opened, first, largest_core_px=cuts[0].core_px, side_um=side_um)
        scratch = prepare_scratch(out / "invariance-runs", opened, plan.jobs[0].slide_id, configs, square)
        looked_at = _looked_at(opened, square)
    typer.echo(f"{slide.name}: {looked_at}, {first.segmentation.model} at {first.segmentation.mpp:g} um/px", err=True)
    done = 0

    def progress(cut: Cut) -> None:
        nonlocal done
        done += 1
        how = ", killed and resumed" if cut.killed else ""
        typer.echo(f"{done}/{len(cuts)} core {cut.core_px}, {cut.workers} worker(s){how}", err=True)

    def run(cut: Cut) -> None:
        folder, settings = scratch.run_folder(cut), scratch.config_file(cut)
        run_cohort([scratch.manifest], folder, settings, **options).raise_failed()

    def start(cut: Cut) -> subprocess.Popen[bytes]:
        words = [
            str(scratch.manifest),
            "--config",
            str(scratch.config_file(cut)),
            "--out",
            str(scratch.run_folder(cut)),
        ]
        words += [] if mpp is None else ["--mpp", str(mpp)]
        words += ["--force-mpp"] * force_mpp + ["--allow-simulated"] * allow_simulated
        return subprocess.Popen(
            [sys.executable, "-m", "wsi_pipeline.cli.main", "run", *words],
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    result = measure_invariance(cuts, scratch, run=run, start=start, progress=progress)
    typer.echo(f"{slide.name}: {looked_at}")
    typer.echo(invariance_table(result))
    about = {
        "slide": str(slide),
        "specimen": first.specimen,
        "model": first.segmentation.model,
        "working_mpp": first.segmentation.mpp,
        "looked_at": looked_at,
        "square_px0": None if square is None else [square.x0, square.y0, square.x1, square.y1],
    }
    write_json(out / "metrics.json", {**about, **invariance_metrics(result)})
    typer.echo(f"metrics: {out / 'metrics.json'}")
    if not result.identical:
        typer.echo(f"the runs that differ: {scratch.folder}", err=True)
        raise typer.Exit(1)


def _whole_numbers(option: str, text: str) -> list[int]:
    """Return ``1,2,4`` as numbers."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise ConfigError(f"{option} {text!r}: give whole numbers, for example {option} 1,2")
    return numbers


def _looked_at(slide: Slide, square: Box | None) -> str:
    if square is None:
        return "the whole slide"
    width, height = square.width * slide.mpp.x, square.height * slide.mpp.y
    return f"{width:.0f} x {height:.0f} um at x {square.x0}, y {square.y0}"
