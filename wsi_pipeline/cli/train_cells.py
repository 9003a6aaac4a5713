"""``train cells``, ``train evidence`` and ``train dysplasia``."""

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
    GivenMpp,
    IgnoreUnknownCells,
    OneFold,
    Restart,
    Seed,
    SkipUnreadable,
    TrainingOut,
    WeightsLicence,
    WeightsName,
    chosen_device,
    data_root,
)
from wsi_pipeline.errors import ConfigError, DataError


def cells(
    data: Annotated[
        Path | None,
        typer.Option(
            help="Class folders, patient / class folders, a CSV file (NAME,x1,y1,x2,y2,class or path,class), or the "
            "output of a run; for the shipped model the root of the data sets, default the folder in WSI_PIPELINE_DATA."
        ),
    ] = None,
    out: TrainingOut = Path("training_runs/cells"),
    taxonomy: CellTaxonomy = "pbc-blast",
    model: Annotated[
        str,
        typer.Option(
            help="compact, wnet5, features+svm, features+xgboost, dinobloom-s|b|l|g, or timm's (timm:resnet18)."
        ),
    ] = "compact",
    name: WeightsName = None,
    mpp: CellMpp = None,
    images: CellImages = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Of a run: corrected labels, a GeoJSON of QuPath (or a folder of them), or CSV cell_id,label."
        ),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(help="Split by patient, slide, centre or near-duplicate; default the first that is known."),
    ] = None,
    folds: Annotated[int, typer.Option(help="Cross-validate over this many folds, too; 0 does not.", min=0)] = 0,
    fold: OneFold = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs; default the recipe's.", min=1)] = None,
    patience: Annotated[int, typer.Option(help="Stop after so many epochs without gain; 0 does not.", min=0)] = 0,
    mixup: Annotated[float, typer.Option(help="Shape of mixup's Beta distribution, for example 0.2; 0 is off.")] = 0.0,
    cutmix: Annotated[float, typer.Option(help="Shape of CutMix's Beta distribution, for example 1; 0 is off.")] = 0.0,
    stain: Annotated[
        str | None,
        typer.Option(
            help="nuclear-density brings each cell's nucleus to one stain (default); tiatoolbox:macenko and "
            "tiatoolbox:reinhard normalise each window so; as-is does nothing."
        ),
    ] = None,
    views: Annotated[
        int | None, typer.Option(help="Turned and mirrored views averaged for an answer: 1 (default), 2, 4 or 8.")
    ] = None,
    start_from: Annotated[
        str | None, typer.Option(help="Fine-tune this compact network: a shipped name or a .safetensors file.")
    ] = None,
    backbone_weights: Annotated[
        Path | None, typer.Option(help="First weights of a timm or DinoBloom backbone: .safetensors or .pth.")
    ] = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Download timm's weights of the backbone.")] = False,
    tune: Annotated[
        str | None,
        typer.Option(help="Of a backbone: all, linear or last-blocks; default linear for DinoBloom, else all."),
    ] = None,
    ignore_unknown_labels: IgnoreUnknownCells = False,
    skip_unreadable: SkipUnreadable = False,
    drop_conflicts: DropConflicts = False,
    drop_rare: DropRare = False,
    synthetic: Annotated[
        Path | None,
        typer.Option(help="Add images of this generator (of `train generator`) to the training part, and only there."),
    ] = None,
    synthetic_per_class: Annotated[
        str, typer.Option(help="So many images of each class, or balance: fill each class up to the largest.")
    ] = "balance",
    ablate_synthetic: Annotated[
        int,
        typer.Option(help="Compare training with and without --synthetic, from so many seeds; 0 does not.", min=0),
    ] = 0,
    licence: WeightsLicence = None,
    seed: Seed = 0,
    device: Device = None,
    restart: Restart = False,
    attributes: Annotated[
        str | None,
        typer.Option(
            help="Learn attributes too: a CSV file (name, attr_<code>: 1, 0 or empty), or 'columns' of --data."
        ),
    ] = None,
    card_only: Annotated[
        str | None,
        typer.Option(help="Train nothing: measure the confusion of these weights (a name or a file) into their card."),
    ] = None,
) -> None:
    """Train a cell classifier on cells of your own, or repeat the shipped one from the root of its data sets."""
    from wsi_pipeline.runtime.devices import resolve_device
    from wsi_pipeline.training.cells.models import ModelChoice
    from wsi_pipeline.training.cells.train_shipped import is_shipped_root, measure_confusion, train_cells

    root = data_root(data)
    if not root.exists():
        raise DataError(f"{root} does not exist")
    given = {
        "--images": images, "--labels": labels, "--group": group, "--folds": folds, "--fold": fold,
        "--patience": patience, "--mixup": mixup, "--cutmix": cutmix, "--backbone-weights": backbone_weights,
        "--pretrained": pretrained, "--tune": tune, "--ignore-unknown-labels": ignore_unknown_labels,
        "--skip-unreadable": skip_unreadable, "--drop-conflicts": drop_conflicts, "--drop-rare": drop_rare,
        "--model": model != "compact", "--attributes": attributes, "--stain": stain, "--views": views,
        "--synthetic": synthetic, "--ablate-synthetic": ablate_synthetic,
    }  # fmt: skip
    own_only = [option for option, value in given.items() if value or (value == 0 and option == "--fold")]
    if card_only is not None:
        from wsi_pipeline.weights import find_weights

        if own_only or name is not None or epochs is not None or restart or mpp is not None:
            raise ConfigError(
                "--card-only repeats the card of the shipped model and trains nothing; leave out all but --data, "
                "--out and --device"
            )
        path = find_weights(card_only, "cells").path
        measure_confusion(path, root, out, device=resolve_device(chosen_device(device)), report=typer.echo)
        return
    if mpp is None and is_shipped_root(root):
        if own_only:
            raise ConfigError(
                f"{', '.join(own_only)}: {root} is the root of the shipped model's data sets, whose recipe is fixed; "
                "give --data one of the sets, with --mpp"
            )
        weights = train_cells(
            root,
            out,
            taxonomy=taxonomy,
            name=name,
            start_from=start_from,
            licence=licence,
            seed=seed,
            epochs=epochs,
            device=resolve_device(chosen_device(device)),
            resume=not restart,
            report=typer.echo,
        )
    else:
        from wsi_pipeline.training.cells.mixing import Mixing
        from wsi_pipeline.training.cells.own_request import CellTraining
        from wsi_pipeline.training.cells.train_own import train_own_cells
        from wsi_pipeline.training.synthetic.choice import BALANCE, SyntheticChoice

        if synthetic is None and synthetic_per_class != BALANCE:
            raise ConfigError("--synthetic-per-class goes with --synthetic, the generator")
        mixing = Mixing(mixup=mixup, cutmix=cutmix)
        request = CellTraining(
            data=root,
            images=images,
            labels=labels,
            mpp=mpp,
            taxonomy=taxonomy,
            model=ModelChoice(name=model, weights=backbone_weights, pretrained=pretrained, tune=tune),  # type: ignore[arg-type]
            name=name,
            start_from=start_from,
            licence=licence,
            group=group,
            folds=folds,
            fold=fold,
            stain=stain,  # type: ignore[arg-type]
            views=views,
            attributes=attributes,
            mixing=mixing if mixup or cutmix else None,
            patience=patience,
            epochs=epochs,
            seed=seed,
            ignore_unknown_labels=ignore_unknown_labels,
            skip_unreadable=skip_unreadable,
            drop_conflicts=drop_conflicts,
            drop_rare=drop_rare,
            synthetic=None if synthetic is None else SyntheticChoice.parse(synthetic, synthetic_per_class),
            ablate_synthetic=ablate_synthetic,
        )
        weights = train_own_cells(
            request, out, device=resolve_device(chosen_device(device)), resume=not restart, report=typer.echo
        )
        if ablate_synthetic:
            typer.echo(f"comparison: {weights}")
            return
        if fold is not None:
            typer.echo(f"scores: {weights}")
            return
    typer.echo(f"weights: {weights}\ncard: {weights.with_suffix('.md')}")


def evidence(
    weights: Annotated[
        str, typer.Option(help="A cell classifier that is there: a shipped name or a .safetensors file.")
    ] = "pbc-blast",
    data: Annotated[
        Path | None,
        typer.Option(help="Of the shipped recipe: root of its data sets, default the folder in WSI_PIPELINE_DATA."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The --out of its training (cells.npz, split.csv); default the weights' folder."),
    ] = None,
    mpp: Annotated[float | None, typer.Option(help="Microns per pixel, where the training was given them.")] = None,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Whether the file holds small pictures of training cells.")
    ] = True,
    held_out: Annotated[
        int, typer.Option(help="Epochs of small networks that each leave two classes out; 0 trains none.", min=0)
    ] = 0,
    device: Device = None,
) -> None:
    """Make the evidence of a cell classifier: reference cells, their map, an out-of-distribution score; its card.

    Writes NAME.evidence.safetensors beside the weights and enters it into their card. The weights stay as they are.
    """
    from wsi_pipeline.runtime.devices import resolve_device
    from wsi_pipeline.training.cells.evidence import make_evidence_of
    from wsi_pipeline.weights import find_weights, load_weights, shipped_weights

    path = find_weights(weights, "cells").path
    own = "training" in load_weights(path).card
    if out is None:
        out = Path("training_runs/cells") if weights in shipped_weights() else path.parent
    made = make_evidence_of(
        path,
        data if own else data_root(data),
        out,
        mpp=mpp,
        pictures=pictures,
        held_out_epochs=held_out,
        device=resolve_device(chosen_device(device)),
        report=typer.echo,
    )
    typer.echo(f"evidence: {made}\ncard: {path.with_suffix('.md')}")


def dysplasia(
    data: Annotated[
        Path | None,
        typer.Option(help="Class folders of cells of healthy people; default pbc of the data sets."),
    ] = None,
    out: TrainingOut = Path("training_runs/dysplasia"),
    name: Annotated[str, typer.Option(help="Name of the reference, and of its file.")] = "neutrophils",
    mpp: GivenMpp = None,
    taxonomy: Annotated[str, typer.Option(help="Folder names are its codes or aliases.")] = "pbc-blast",
    source: Annotated[str | None, typer.Option(help="What the cells are, for the provenance.")] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the data.")] = None,
    per_class: Annotated[int, typer.Option(help="Images of a class at most.", min=80, max=100_000)] = 600,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Make a reference of normal neutrophils, and test it on cells whose granules are attenuated."""
    from wsi_pipeline.runtime.devices import resolve_device
    from wsi_pipeline.training.cells.data import SHIPPED_SETS
    from wsi_pipeline.training.cells.dysplasia import train_dysplasia

    if data is not None and mpp is None:
        raise ConfigError(f"--data {data}: give the microns per pixel of its images with --mpp")
    pbc = SHIPPED_SETS[0]
    if data is None:
        source, licence = source or f"{pbc.title}; {pbc.attribution}", licence or pbc.licence
    path = train_dysplasia(
        data or data_root(None) / pbc.folder, out, mpp=mpp or pbc.mpp, taxonomy=taxonomy, name=name, source=source,
        licence=licence, per_class=per_class, seed=seed, device=resolve_device(chosen_device(device)),
        report=typer.echo,
    )  # fmt: skip
    typer.echo(f"reference: {path}")
