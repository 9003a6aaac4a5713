"""``evaluate cytologia``."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from wsi_pipeline.atomic import write_json, write_text
from wsi_pipeline.cli.options import Assignments, Device, MetricsOut, chosen_device
from wsi_pipeline.config import parse_overrides
from wsi_pipeline.errors import ConfigError


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
    out: MetricsOut = Path("evaluation"),
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
        _answer_cytologia(truth, images, weights or "pbc-blast", mpp, out, chosen_device(device), assignments)
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
