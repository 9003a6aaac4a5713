"""``models`` and ``doctor``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from wsi_pipeline.errors import DataError

app = typer.Typer(help="Shipped and local models.", no_args_is_help=True)


@app.command("list")
def list_models() -> None:
    """List models, what they are for, and whether their weights are here."""
    from wsi_pipeline.errors import MissingWeightsError
    from wsi_pipeline.evaluation.tables import text_table
    from wsi_pipeline.segmentation.models import CELLPOSE_NAMES, cellpose_weights
    from wsi_pipeline.weights import shipped_weights

    rows = []
    for name, weights in shipped_weights().items():
        card = weights.card
        rows.append([name, card["task"], ", ".join(card["specimens"]), card.get("licence", ""), "shipped"])
    for name in CELLPOSE_NAMES:
        try:
            where = str(cellpose_weights(name))
        except MissingWeightsError:
            where = "not on this machine"
        rows.append([name, "segmentation", "any", "trained on CC-BY-NC data", where])
    typer.echo(text_table(["model", "task", "specimens", "licence", "weights"], rows))


@app.command()
def verify(
    name: Annotated[str | None, typer.Argument(help="One model; all shipped ones by default.")] = None,
) -> None:
    """Check the SHA-256 of weights against their cards."""
    from wsi_pipeline.errors import MissingWeightsError, ModelError
    from wsi_pipeline.weights import shipped_weights

    known = shipped_weights()
    if name is not None and name not in known:
        raise MissingWeightsError(f"model {name!r} is not shipped; shipped are {', '.join(known)}")
    damaged = 0
    for weights in known.values() if name is None else [known[name]]:
        try:
            weights.verify()
            typer.echo(f"{weights.name}: intact, SHA-256 {weights.sha256}")
        except ModelError as error:
            damaged += 1
            typer.echo(f"{weights.name}: DAMAGED, {error}", err=True)
    if damaged:
        raise typer.Exit(1)


@app.command()
def evidence(
    name: Annotated[str, typer.Argument(help="A cell classifier: a shipped name or a .safetensors file.")],
    data: Annotated[
        Path | None,
        typer.Option(help="The images of its training; default the folder in WSI_PIPELINE_DATA."),
    ] = None,
    work: Annotated[
        Path, typer.Option(help="Keeps the packed images and the split, or has them from the training.")
    ] = Path("training_runs/cells"),
    mpp: Annotated[float | None, typer.Option(help="Microns per pixel, where the training was given them.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Make the evidence file of a cell classifier anew (reference cells, map, out-of-distribution score); no training.

    It is written beside the weights and entered into their card.
    """
    from wsi_pipeline.runtime.devices import resolve_device
    from wsi_pipeline.training.cell_evidence import make_evidence_again
    from wsi_pipeline.weights import find_weights

    root = data or (Path(os.environ["WSI_PIPELINE_DATA"]) if os.environ.get("WSI_PIPELINE_DATA") else None)
    if root is None or not root.exists():
        raise DataError(f"{root or '--data'} does not exist; give --data, the images the classifier was trained on")
    path = find_weights(name, "cells").path
    made = make_evidence_again(path, root, work, mpp=mpp, device=resolve_device(device), report=typer.echo)
    typer.echo(f"evidence: {made}")


@app.command("fetch")
def fetch_models(
    names: Annotated[list[str], typer.Argument(help="Cellpose models, for example cpsam_v2.")],
    force: Annotated[bool, typer.Option("--force", help="Fetch anew what is there, and replace it.")] = False,
) -> None:
    """Download Cellpose weights to CELLPOSE_LOCAL_MODELS_PATH or ~/.cellpose/models, and check that they load."""
    from wsi_pipeline.segmentation.cellpose_files import LICENCE_NOTE
    from wsi_pipeline.segmentation.fetch import fetch, plan_fetch

    for name, (address, final) in plan_fetch(names, force=force).items():
        sha256 = fetch(name, address, final, report=lambda line: typer.echo(line, err=True))
        typer.echo(f"{name}: {final}, loads, SHA-256 {sha256}")
    typer.echo(LICENCE_NOTE)


def doctor() -> None:
    """Check this machine: libraries, devices, weights, memory."""
    from wsi_pipeline.runtime.doctor import check_all

    problems = 0
    for check in check_all():
        problems += not check.ok
        typer.echo(f"{'ok     ' if check.ok else 'PROBLEM'}  {check.name}: {check.found}")
    if problems:
        typer.echo(f"{problems} problem(s)", err=True)
        raise typer.Exit(1)
