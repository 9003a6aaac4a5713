"""``evaluate``."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wsi_pipeline.atomic import write_json, write_text
from wsi_pipeline.cli.run import Assignments, Config, Device
from wsi_pipeline.config import parse_overrides
from wsi_pipeline.errors import ConfigError

if TYPE_CHECKING:
    from wsi_pipeline.slides import Slide
    from wsi_pipeline.units import Box

app = typer.Typer(help="Measure models on labelled data.", no_args_is_help=True)

Out = Annotated[Path, typer.Option("--out", help="Folder for metrics.json.")]


@app.command()
def segmentation(
    images: Annotated[Path, typer.Option(help="Folder of images.")],
    mpp: Annotated[str, typer.Option(help="Microns per pixel, or a CSV file with columns image,mpp.")],
    masks: Annotated[Path | None, typer.Option(help="Folder of instance or binary masks.")] = None,
    points: Annotated[Path | None, typer.Option(help="Folder of text files, x y [class] a line.")] = None,
    model: Annotated[str | None, typer.Option(help="Model; default the compact network for the kind.")] = None,
    kind: Annotated[
        str | None, typer.Option(help="white, red, platelet, nucleus or megakaryocyte; default every cell.")
    ] = None,
    radius_um: Annotated[
        float, typer.Option("--radius", help="With --points: farthest distance of a matched centre, um.", min=0)
    ] = 3.0,
    out: Out = Path("evaluation"),
    device: Device = None,
    assignments: Assignments = None,
) -> None:
    """Evaluate a segmentation model on images with masks or points, beside Otsu's threshold."""
    from wsi_pipeline.evaluation.run_segmentation import (
        evaluate_masks,
        evaluate_point_folder,
        make_segmenter,
        read_mpp,
    )
    from wsi_pipeline.evaluation.tables import (
        points_metrics,
        points_table,
        segmentation_metrics,
        segmentation_table,
    )
    from wsi_pipeline.runtime.devices import resolve_device

    if (masks is None) == (points is None):
        raise ConfigError("evaluate segmentation needs either --masks or --points")
    overrides: dict[str, Any] = parse_overrides(assignments or [])
    segmenter = make_segmenter(model, kind, resolve_device(_device(device)), overrides)
    done = 0

    def progress(name: str) -> None:
        nonlocal done
        done += 1
        typer.echo(f"{done} {name}", err=True)

    about: dict[str, Any] = {
        "model": segmenter.model.name,
        "sha256": segmenter.model.sha256,
        "kind": kind,
        "images": str(images),
    }
    if masks is not None:
        found, otsu = evaluate_masks(images, masks, segmenter, read_mpp(mpp), progress=progress)
        typer.echo(segmentation_table({segmenter.model.name: found, "Otsu": otsu}))
        metrics = segmentation_metrics(found, baseline=otsu)
    else:
        assert points is not None
        seen, trivial = evaluate_point_folder(
            images, points, segmenter, read_mpp(mpp), radius_um=radius_um, progress=progress
        )
        about["radius_um"] = radius_um
        typer.echo(points_table({segmenter.model.name: seen, "Otsu": trivial}))
        metrics = points_metrics(seen, baseline=trivial)
    write_json(out / "metrics.json", {**about, **metrics})
    typer.echo(f"metrics: {out / 'metrics.json'}")


def _device(device: str | None) -> Any:
    if device not in (None, "auto", "cpu", "cuda"):
        raise ConfigError(f"--device {device!r}: use auto, cpu or cuda")
    return device or "auto"


ASSUMED_CELL_MPP = 0.198
"""Taken, and said so, when single-cell images come without --mpp: that of halved CellaVision DM96 images."""


@app.command()
def cells(
    data: Annotated[Path, typer.Option(help="Folder with one folder of cell images a class.")],
    model: Annotated[str, typer.Option(help="Classifier, by name or by its .safetensors file.")] = "pbc-blast",
    mpp: Annotated[float | None, typer.Option(help="Microns per pixel of the images.")] = None,
    map_to: Annotated[str | None, typer.Option("--map", help="Taxonomy of the folders, for example five-part.")] = None,
    skip: Annotated[list[str] | None, typer.Option(help="Folder to leave out; may be repeated.")] = None,
    closed: Annotated[bool, typer.Option("--closed", help="Answer with classes of the folders alone.")] = False,
    out: Out = Path("evaluation"),
    device: Device = None,
) -> None:
    """Evaluate a cell classifier on class folders, beside the most frequent class."""
    from wsi_pipeline.evaluation.cells import evaluate_classifier_on_folder
    from wsi_pipeline.runtime.devices import resolve_device

    if mpp is None:
        typer.echo(
            f"note: no --mpp given; {ASSUMED_CELL_MPP} um per pixel is assumed and recorded, and figures are wrong "
            "if it is wrong",
            err=True,
        )
    result = evaluate_classifier_on_folder(
        data,
        model=model,
        mpp=ASSUMED_CELL_MPP if mpp is None else mpp,
        map_to=map_to,
        skip=tuple(skip or ()),
        closed=closed,
        device=resolve_device(_device(device)),
    )
    typer.echo(result.table())
    source = "assumed" if mpp is None else "option"
    write_json(out / "metrics.json", {**result.to_dict(), "mpp_source": source, "closed": closed, "data": str(data)})
    typer.echo(f"metrics: {out / 'metrics.json'}")


@app.command()
def counts(
    tables: Annotated[list[Path], typer.Argument(help="CSV files of patients whose class is known, one a centre.")],
    label: Annotated[str, typer.Option(help="Column of the class: AML, ALL or APL.")] = "Response",
    model: Annotated[
        str, typer.Option(help="Model, by name or by its .trees.json.gz file.")
    ] = "acute-leukaemia-counts",
    out: Out = Path("evaluation"),
) -> None:
    """Evaluate a model of blood counts on patients that it has not seen, beside the class frequencies."""
    from wsi_pipeline.evaluation.counts import evaluate_counts, metrics_rows
    from wsi_pipeline.evaluation.tables import text_table
    from wsi_pipeline.predictions.counts.findings import remark, shown
    from wsi_pipeline.predictions.counts.labelled import read_labelled
    from wsi_pipeline.predictions.counts.model import load_counts_model

    loaded = load_counts_model(model)
    data = read_labelled(tables, label=label)
    for line in shown([remark(finding) for finding in data.findings]):
        typer.echo(line, err=True)
    metrics = evaluate_counts(data, loaded, out)
    typer.echo(text_table(["", "n", "value", "95 % interval"], metrics_rows(metrics)))
    typer.echo(f"metrics: {out / 'metrics.json'}; report: {out / 'study.html'}")


@app.command()
def simulated(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run on virtual slides.")],
    truth: Annotated[Path, typer.Option(help="Folder with <slide>.truth.csv of every slide.")],
    out: Out = Path("evaluation"),
) -> None:
    """Evaluate a run on virtual slides: cells by kind, white cells by class, the differential raw and corrected."""
    from wsi_pipeline.evaluation.simulated import evaluate_simulated
    from wsi_pipeline.evaluation.simulated_tables import simulated_metrics, simulated_table

    result = evaluate_simulated(run, truth, progress=lambda slide_id: typer.echo(slide_id, err=True))
    typer.echo(simulated_table(result))
    write_json(out / "metrics.json", {"run": str(run), "truth": str(truth), **simulated_metrics(result)})
    typer.echo(f"metrics: {out / 'metrics.json'}")


@app.command()
def recovery(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run on a simulated cohort.")],
    cohort: Annotated[Path, typer.Option(help="Folder that `simulate cohort` wrote, with its truth.csv.")],
    out: Out = Path("evaluation"),
) -> None:
    """Evaluate whether a run gives back what a simulated cohort was made of.

    Smears: planted blast, promyelocyte and dysplastic fractions, within the reported intervals. Trephines: density,
    size, lobulation and arrangement of megakaryocytes, and cellularity, within 10 %.
    """
    from wsi_pipeline.evaluation.recovery_report import recovery_report

    found = recovery_report(run, cohort)
    typer.echo(found.table)
    write_text(out / "recovery.csv", found.csv)
    write_json(out / "metrics.json", {"run": str(run), "cohort": str(cohort), **found.metrics})
    typer.echo(f"metrics: {out / 'metrics.json'}")


@app.command()
def cytologia(
    truth: Annotated[Path, typer.Option(help="CSV file NAME,x1,y1,x2,y2,class: the true boxes.")],
    predictions: Annotated[
        Path | None, typer.Option(help="Answers to score: a CSV file of the same form, with an optional column score.")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of the images, answered by the pipeline; instead of --predictions."),
    ] = None,
    weights: Annotated[
        str | None, typer.Option("--weights", help="Cell classifier, by name or file; default pbc-blast.")
    ] = None,
    mpp: Annotated[
        str | None,
        typer.Option(help="Microns per pixel of the images, or a CSV file image,mpp; default the truth's column mpp."),
    ] = None,
    out: Out = Path("evaluation"),
    device: Device = None,
    assignments: Assignments = None,
) -> None:
    """Score boxes and classes as the CytologIA challenge does: 0.2 mean (GIoU + 1) / 2 + 0.8 macro-F1.

    With --images the pipeline finds and types the cells itself, and writes its answers to predictions.csv.
    """
    from wsi_pipeline.evaluation.cytologia import cytologia_score, read_boxes

    if (predictions is None) == (images is None):
        raise ConfigError("evaluate cytologia needs either --predictions or --images")
    if images is not None:
        _answer_cytologia(truth, images, weights or "pbc-blast", mpp, out, _device(device), assignments)
        return
    assert predictions is not None
    given = [
        option
        for option, value in (("--weights", weights), ("--mpp", mpp), ("--device", device), ("--set", assignments))
        if value
    ]
    if given:
        raise ConfigError(f"{', '.join(given)} only with --images: nothing is computed from --predictions")
    result = cytologia_score(read_boxes(truth), read_boxes(predictions))
    typer.echo(result.table())
    write_json(out / "metrics.json", result.to_dict())
    typer.echo(f"metrics: {out / 'metrics.json'}")


def _answer_cytologia(
    truth: Path, images: Path, weights: str, mpp: str | None, out: Path, device: Any, assignments: list[str] | None
) -> None:
    from wsi_pipeline.cells.classifier import load_classifier
    from wsi_pipeline.evaluation.cytologia import read_boxes
    from wsi_pipeline.evaluation.cytologia_images import (
        evaluate_images,
        in_challenge_codes,
        list_images,
        write_predictions,
    )
    from wsi_pipeline.evaluation.run_segmentation import make_segmenter, read_mpp
    from wsi_pipeline.runtime.devices import resolve_device

    boxes = in_challenge_codes(read_boxes(truth), truth)
    listed = list_images(truth, images, None if mpp is None else read_mpp(mpp))
    used = resolve_device(device)
    segmenter = make_segmenter(None, "white", used, parse_overrides(assignments or []))
    result = evaluate_images(
        boxes, listed, segmenter, load_classifier(weights, used), progress=_counter(len(listed), every=50)
    )
    write_text(out / "predictions.csv", write_predictions(result.predictions))
    typer.echo(result.table())
    write_text(out / "table.txt", result.table() + "\n")
    about = {"truth": str(truth), "images": str(images), "mpp": mpp or "column mpp", **result.to_dict()}
    write_json(out / "metrics.json", about)
    typer.echo(f"predictions: {out / 'predictions.csv'}\nmetrics: {out / 'metrics.json'}")


def _counter(total: int, *, every: int) -> Callable[[str], None]:
    """Return what prints how many images are done and how long the rest will take."""
    started, done = time.monotonic(), 0

    def progress(_name: str) -> None:
        nonlocal done
        done += 1
        if done % every == 0 or done == total:
            rate = done / max(time.monotonic() - started, 1e-9)
            typer.echo(f"{done} of {total} images, {rate:.1f}/s, {(total - done) / rate:.0f} s left", err=True)

    return progress


@app.command()
def invariance(
    slide: Annotated[Path, typer.Argument(help="A slide file.")],
    config: Config = None,
    model: Annotated[str | None, typer.Option(help="Segmentation model; default the configuration's.")] = None,
    mpp: Annotated[float | None, typer.Option(help="Microns per pixel of a slide that states none.")] = None,
    force_mpp: Annotated[bool, typer.Option("--force-mpp", help="Let --mpp win over what the slide says.")] = False,
    core: Annotated[str, typer.Option(help="Core sizes, working pixels.")] = "512,1024,2048,4096",
    workers: Annotated[str, typer.Option(help="Numbers of worker processes.")] = "1,2,4",
    side_um: Annotated[
        float | None, typer.Option(help="Side of the square that is looked at, um; default 1,536 working pixels.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for metrics.json and the runs.")] = Path("evaluation"),
    device: Device = None,
    assignments: Assignments = None,
    allow_simulated: Annotated[
        bool, typer.Option("--allow-simulated", help="Allow models that were trained on simulated data.")
    ] = False,
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
        **({} if device is None else {"runtime.device": _device(device)}),
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
