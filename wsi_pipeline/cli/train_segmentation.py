"""``train segmentation``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsi_pipeline.cli.options import Device, OneFold, Seed, chosen_device, data_root
from wsi_pipeline.errors import ConfigError


def segmentation(
    model: Annotated[
        str,
        typer.Option(
            help="compact-smear, compact-section or compact-megakaryocyte; with --images the name of the new weights."
        ),
    ],
    data: Annotated[
        Path | None, typer.Option(help="Root of the data sets; default the folder in WSI_PIPELINE_DATA.")
    ] = None,
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
    fold: OneFold = None,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Train a flow network, evaluate it, write weights and card.

    Without --images: a shipped compact one, from the data sets in --data. With --images and --masks: one of your own,
    from fields that you labelled; with --base cellpose a fine-tuned Cellpose 4 network.
    """
    from wsi_pipeline.runtime.devices import resolve_device

    if images is None:
        from wsi_pipeline.training.segmentation.fit import RECIPES

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
        from wsi_pipeline.training.segmentation.train_shipped import train_shipped

        weights = train_shipped(
            data_root(data),
            out or Path("training_runs/segmentation"),
            model,
            device=resolve_device(chosen_device(device)),
            report=typer.echo,
            steps=steps,
            seed=seed,
            folds=folds,
            fold=fold,
        )
        if fold is not None:
            typer.echo(f"scores: {weights}")
            return
    else:
        from wsi_pipeline.training.segmentation.own_request import OwnTraining
        from wsi_pipeline.training.segmentation.train_own import train_own

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
            request,
            out or Path("training_runs") / model,
            device=resolve_device(chosen_device(device)),
            report=typer.echo,
        )
    typer.echo(f"weights: {weights}\ncard: {weights.with_suffix('.md')}")
