"""``evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from wsi_pipeline.atomic import write_json, write_text
from wsi_pipeline.cli import evaluate_cytologia, evaluate_invariance, evaluate_slides
from wsi_pipeline.cli.options import Assignments, Device, MetricsOut, chosen_device
from wsi_pipeline.config import parse_overrides
from wsi_pipeline.errors import ConfigError

app = typer.Typer(help="Measure models on labelled data.", no_args_is_help=True)

ASSUMED_CELL_MPP = 0.198
"""Taken, and said so, when single-cell images come without --mpp: that of halved CellaVision DM96 images."""


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
    out: MetricsOut = Path("evaluation"),
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
    segmenter = make_segmenter(model, kind, resolve_device(chosen_device(device)), overrides)
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


@app.command()
def cells(
    data: Annotated[Path, typer.Option(help="Folder with one folder of cell images a class.")],
    model: Annotated[str, typer.Option(help="Classifier, by name or by its .safetensors file.")] = "pbc-blast",
    mpp: Annotated[float | None, typer.Option(help="Microns per pixel of the images.")] = None,
    map_to: Annotated[str | None, typer.Option("--map", help="Taxonomy of the folders, for example five-part.")] = None,
    skip: Annotated[list[str] | None, typer.Option(help="Folder to leave out; may be repeated.")] = None,
    closed: Annotated[bool, typer.Option("--closed", help="Answer with classes of the folders alone.")] = False,
    out: MetricsOut = Path("evaluation"),
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
        device=resolve_device(chosen_device(device)),
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
    out: MetricsOut = Path("evaluation"),
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
    out: MetricsOut = Path("evaluation"),
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
    out: MetricsOut = Path("evaluation"),
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


app.command("cytologia")(evaluate_cytologia.cytologia)
app.command("invariance")(evaluate_invariance.invariance)
app.command("slides")(evaluate_slides.evaluate_slides)
