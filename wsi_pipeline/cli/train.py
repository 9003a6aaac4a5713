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
    model: Annotated[
        str, typer.Option(help="compact-smear or compact-section; with --images the name of the new weights.")
    ],
    data: Data = None,
    images: Annotated[Path | None, typer.Option(help="Folder of fields of your own, 8-bit colour.")] = None,
    masks: Annotated[Path | None, typer.Option(help="Folder of their instance or binary masks.")] = None,
    mpp: Annotated[
        str | None,
        typer.Option(help="Microns per pixel, or a CSV file with columns image,mpp; default what the images state."),
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help="What the masks hold: white, red, platelet, nucleus or megakaryocyte.")
    ] = None,
    specimen: Annotated[
        str | None, typer.Option(help="blood_smear, marrow_smear, trephine, separated by commas; default the kind's.")
    ] = None,
    start_from: Annotated[
        str | None,
        typer.Option(help="Fine-tune this network: a shipped name, a .safetensors file, or a Cellpose 4 name or file."),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="compact, or cellpose to fine-tune a Cellpose 4 network (cpsam_v2 without --start-from)."),
    ] = None,
    complete: Annotated[
        bool,
        typer.Option("--complete/--incomplete", help="Whether all cells of the kind have a label, or only some."),
    ] = True,
    skip_unpaired: Annotated[
        bool, typer.Option("--skip-unpaired", help="Leave out images and masks without a partner.")
    ] = False,
    allow_any_size: Annotated[
        bool, typer.Option("--allow-any-size", help="Go on when the cells have no plausible size or look joined.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for checkpoint, weights and card; the same command there resumes."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps; default the recipe's.", min=1)] = None,
    folds: Annotated[
        int, typer.Option(help="Shipped recipes: cross-validate over this many folds, too; 0 does not.", min=0, max=20)
    ] = 0,
    fold: Annotated[
        int | None, typer.Option(help="Of --folds, train and measure only this one: for running folds in parallel.")
    ] = None,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Train a flow network, evaluate it, write weights and card.

    Without --images: a shipped compact one, from the data sets in --data. With --images and --masks: one of your own,
    from fields that you labelled; with --base cellpose a fine-tuned Cellpose 4 network.
    """
    from wsi_pipeline.runtime.devices import resolve_device

    if images is None:
        from wsi_pipeline.training.segmentation import RECIPES

        own = {
            "--masks": masks, "--mpp": mpp, "--kind": kind, "--specimen": specimen, "--start-from": start_from,
            "--base": base,
            "--incomplete": not complete, "--skip-unpaired": skip_unpaired, "--allow-any-size": allow_any_size,
        }  # fmt: skip
        if given := [name for name, value in own.items() if value]:
            raise ConfigError(f"{', '.join(given)}: only for fields of your own; give their folder with --images")
        if model not in RECIPES:
            raise ConfigError(
                f"--model {model!r}: shipped recipes are {', '.join(RECIPES)}; a network of your own "
                "needs --images and --masks"
            )
        if folds == 1 or (fold is not None and not 0 <= fold < folds):
            raise ConfigError(
                f"--folds {folds}, --fold {fold}: cross-validation needs at least two folds, numbered from 0"
            )
        from wsi_pipeline.training.segmentation_card import train_shipped

        weights = train_shipped(
            _root(data),
            out or Path("training_runs/segmentation"),
            model,
            device=resolve_device(_device(device)),
            report=_say,
            steps=steps,
            seed=seed,
            folds=folds,
            fold=fold,
        )
        if fold is not None:
            typer.echo(f"scores: {weights}")
            return
    else:
        from wsi_pipeline.training.own_segmentation import train_own
        from wsi_pipeline.training.own_segmentation_request import OwnTraining

        if masks is None:
            raise ConfigError("--images needs --masks, the folder of the masks of its cells")
        if data is not None or folds or fold is not None:
            raise ConfigError("--data, --folds and --fold are for the shipped recipes; leave them out with --images")
        request = OwnTraining(
            name=model,
            images=images,
            masks=masks,
            mpp=mpp,
            kind=kind,
            specimens=tuple(s.strip() for s in specimen.split(",") if s.strip()) if specimen else (),
            start_from=start_from,
            base=base,
            complete=complete,
            skip_unpaired=skip_unpaired,
            allow_any_size=allow_any_size,
            steps=steps,
            seed=seed,
        )
        weights = train_own(
            request, out or Path("training_runs") / model, device=resolve_device(_device(device)), report=_say
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
    card_only: Annotated[
        str | None,
        typer.Option(help="Train nothing: measure the confusion of these weights (a name or a file) into their card."),
    ] = None,
) -> None:
    """Train a cell classifier: the shipped one from the data sets, or one of your own class folders (with --mpp)."""
    from wsi_pipeline.runtime.devices import resolve_device
    from wsi_pipeline.training.cells import measure_confusion, train_cells

    root = _root(data)
    if not root.is_dir():
        raise DataError(f"{root} does not exist")
    if card_only is not None:
        from wsi_pipeline.weights import find_weights

        if model is not None or epochs is not None or restart:
            raise ConfigError("--card-only trains nothing; leave --model, --epochs and --restart out")
        path = find_weights(card_only, "cells").path
        measure_confusion(path, root, out, mpp=mpp, device=resolve_device(_device(device)), report=_say)
        return
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
