"""``train red-cells``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsi_pipeline.cli.options import Device, GivenMpp, TrainingOut, chosen_device, data_root
from wsi_pipeline.errors import ConfigError


def red_cells(
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of images/ and points/ (x y class a line); default rbc-morphology of the data sets."),
    ] = None,
    out: TrainingOut = Path("training_runs/red-cells"),
    name: Annotated[str, typer.Option(help="Name of the weights.")] = "red-cells",
    mpp: GivenMpp = None,
    folds: Annotated[int, typer.Option(help="Folds of the cross-validation, split by field.", min=2, max=20)] = 5,
    device: Device = None,
) -> None:
    """Train a classifier of red-cell shapes on labelled fields: cross-validate by field, fit, write card."""
    from wsi_pipeline.runtime.devices import resolve_device
    from wsi_pipeline.training.red_cells.data import CHULA_MPP
    from wsi_pipeline.training.red_cells.train import train_red_cells

    if data is not None and mpp is None:
        raise ConfigError(f"--data {data}: give the microns per pixel of its images with --mpp")
    weights = train_red_cells(
        data or data_root(None) / "rbc-morphology",
        out,
        name=name,
        mpp=mpp or CHULA_MPP,
        folds=folds,
        elsewhere=data_root(None) / "bccd" / "fields" if data is None else None,
        device=resolve_device(chosen_device(device)),
        report=typer.echo,
    )
    typer.echo(f"weights: {weights}\ncard: {weights.with_suffix('.md')}")
