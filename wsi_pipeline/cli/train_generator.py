"""``train generator``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsi_pipeline.cli.options import (
    CellImages,
    CellMpp,
    CellTaxonomy,
    Device,
    DropConflicts,
    DropRare,
    IgnoreUnknownCells,
    Restart,
    Seed,
    SkipUnreadable,
    TrainingOut,
    WeightsLicence,
    WeightsName,
    chosen_device,
)


def generator(
    data: Annotated[Path, typer.Option(help="Labelled cells, as `train cells` takes them.")],
    taxonomy: CellTaxonomy = "pbc-blast",
    out: TrainingOut = Path("training_runs/generator"),
    name: WeightsName = None,
    mpp: CellMpp = None,
    images: CellImages = None,
    labels: Annotated[Path | None, typer.Option(help="Of a run: corrected labels, as for `train cells`.")] = None,
    group: Annotated[
        str | None,
        typer.Option(help="Split by patient, slide, centre or near-duplicate; as the classifier will be."),
    ] = None,
    folds: Annotated[
        int, typer.Option(help="Train a generator for each of so many folds, too; 0 does not.", min=0)
    ] = 0,
    fold: Annotated[int | None, typer.Option(help="Of --folds, train only this one.")] = None,
    side: Annotated[
        int | None, typer.Option(help="Side of the images, pixels: 32, 64 (default on a CPU) or 128 (on a GPU).")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps; default the recipe's.", min=1)] = None,
    classifier: Annotated[
        str, typer.Option(help="Whose embedding images are compared in: a shipped name or a .safetensors file.")
    ] = "pbc-blast",
    ignore_unknown_labels: IgnoreUnknownCells = False,
    skip_unreadable: SkipUnreadable = False,
    drop_conflicts: DropConflicts = False,
    drop_rare: DropRare = False,
    licence: WeightsLicence = None,
    seed: Seed = 0,
    device: Device = None,
    restart: Restart = False,
) -> None:
    """Train a class-conditional generator of cell images on the training part of cells of your own."""
    from wsi_pipeline.runtime.devices import resolve_device
    from wsi_pipeline.training.cells.own_request import CellTraining
    from wsi_pipeline.training.synthetic.fit import recipe_for
    from wsi_pipeline.training.synthetic.train import train_own_generator

    request = CellTraining(
        data=data,
        images=images,
        labels=labels,
        mpp=mpp,
        taxonomy=taxonomy,
        name=name,
        licence=licence,
        group=group,
        folds=folds,
        fold=fold,
        seed=seed,
        ignore_unknown_labels=ignore_unknown_labels,
        skip_unreadable=skip_unreadable,
        drop_conflicts=drop_conflicts,
        drop_rare=drop_rare,
    )
    where = resolve_device(chosen_device(device))
    weights = train_own_generator(
        request,
        out,
        recipe=recipe_for(where, side_px=side, steps=steps),
        classifier=classifier,
        device=where,
        resume=not restart,
        report=typer.echo,
    )
    typer.echo(f"weights: {weights}\ncard: {weights.with_suffix('.md')}")
