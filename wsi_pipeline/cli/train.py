"""``train``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from wsi_pipeline.cli.evaluate import _device
from wsi_pipeline.cli.run import Device
from wsi_pipeline.errors import ConfigError, DataError

app = typer.Typer(help="Train models; a training that was killed resumes.", no_args_is_help=True)

Data = Annotated[Path | None, typer.Option(help="Root of the data sets; default the folder in WSI_PIPELINE_DATA.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Out = Annotated[Path, typer.Option("--out", help="Folder for checkpoint, weights and card.")]


def _root(data: Path | None) -> Path:
    if data is not None:
        return data
    if folder := os.environ.get("WSI_PIPELINE_DATA"):
        return Path(folder)
    raise ConfigError("no data given: use --data DIR or set WSI_PIPELINE_DATA")


@app.command()
def segmentation(
    model: Annotated[str, typer.Option(help="compact-smear or compact-section.")],
    data: Data = None,
    out: Out = Path("training_runs/segmentation"),
    steps: Annotated[int | None, typer.Option(help="Training steps; default the recipe's.", min=1)] = None,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Train a compact flow network from the shippable data sets, evaluate it, write weights and card."""
    from wsi_pipeline.runtime.devices import resolve_device
    from wsi_pipeline.training.segmentation_card import train_shipped

    weights = train_shipped(
        _root(data), out, model, device=resolve_device(_device(device)), report=_say, steps=steps, seed=seed
    )
    typer.echo(f"weights: {weights}\ncard: {weights.with_suffix('.md')}")


@app.command()
def cells(
    data: Data = None,
    out: Out = Path("training_runs/cells"),
    taxonomy: Annotated[str, typer.Option(help="Label set.")] = "pbc-blast",
    mpp: Annotated[float | None, typer.Option(help="Microns per pixel of a set of class folders of your own.")] = None,
    model: Annotated[str | None, typer.Option(help="Name of the weights.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs; default the recipe's.", min=1)] = None,
    seed: Seed = 0,
    device: Device = None,
    restart: Annotated[bool, typer.Option("--restart", help="Ignore an earlier checkpoint.")] = False,
) -> None:
    """Train a cell classifier: the shipped one from the data sets, or one of your own class folders (with --mpp)."""
    from wsi_pipeline.runtime.devices import resolve_device
    from wsi_pipeline.training.cells import train_cells

    root = _root(data)
    if not root.is_dir():
        raise DataError(f"{root} does not exist")
    weights = train_cells(
        root,
        out,
        taxonomy=taxonomy,
        mpp=mpp,
        name=model,
        seed=seed,
        epochs=epochs,
        device=resolve_device(_device(device)),
        resume=not restart,
        report=_say,
    )
    typer.echo(f"weights: {weights}\ncard: {weights.with_suffix('.md')}")


def _say(line: str) -> None:
    typer.echo(line)
