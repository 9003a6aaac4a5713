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
        str,
        typer.Option(
            help="compact-smear, compact-section or compact-megakaryocyte; with --images the name of the new weights."
        ),
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
            request, out or Path("training_runs") / model, device=resolve_device(_device(device)), report=_say
        )
    typer.echo(f"weights: {weights}\ncard: {weights.with_suffix('.md')}")


@app.command()
def cells(
    data: Annotated[
        Path | None,
        typer.Option(
            help="Class folders, patient / class folders, a CSV file (NAME,x1,y1,x2,y2,class or path,class), or the "
            "output of a run; for the shipped model the root of the data sets, default the folder in WSI_PIPELINE_DATA."
        ),
    ] = None,
    out: Out = Path("training_runs/cells"),
    taxonomy: Annotated[str, typer.Option(help="Label set.")] = "pbc-blast",
    model: Annotated[
        str,
        typer.Option(
            help="compact, wnet5, features+svm, features+xgboost, dinobloom-s|b|l|g, or timm's (timm:resnet18)."
        ),
    ] = "compact",
    name: Annotated[str | None, typer.Option(help="Name of the weights; default that of the data.")] = None,
    mpp: Annotated[float | None, typer.Option(help="Microns per pixel of images that state none.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the images that a CSV file names.")] = None,
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
    fold: Annotated[
        int | None, typer.Option(help="Of --folds, train and measure only this one: for running folds in parallel.")
    ] = None,
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
    ignore_unknown_labels: Annotated[
        bool, typer.Option("--ignore-unknown-labels", help="Leave out cells whose label the taxonomy does not have.")
    ] = False,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave out images that cannot be read.")
    ] = False,
    drop_conflicts: Annotated[
        bool, typer.Option("--drop-conflicts", help="Leave out pictures that have several labels.")
    ] = False,
    drop_rare: Annotated[
        bool, typer.Option("--drop-rare", help="Leave out classes of fewer than three images.")
    ] = False,
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
    licence: Annotated[str | None, typer.Option(help="Licence of the weights, for the card.")] = None,
    seed: Seed = 0,
    device: Device = None,
    restart: Annotated[bool, typer.Option("--restart", help="Ignore an earlier checkpoint.")] = False,
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

    root = _root(data)
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
        measure_confusion(path, root, out, device=resolve_device(_device(device)), report=_say)
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
            device=resolve_device(_device(device)),
            resume=not restart,
            report=_say,
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
        weights = train_own_cells(request, out, device=resolve_device(_device(device)), resume=not restart, report=_say)
        if ablate_synthetic:
            typer.echo(f"comparison: {weights}")
            return
        if fold is not None:
            typer.echo(f"scores: {weights}")
            return
    typer.echo(f"weights: {weights}\ncard: {weights.with_suffix('.md')}")


@app.command()
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
        data if own else _root(data),
        out,
        mpp=mpp,
        pictures=pictures,
        held_out_epochs=held_out,
        device=resolve_device(_device(device)),
        report=_say,
    )
    typer.echo(f"evidence: {made}\ncard: {path.with_suffix('.md')}")


@app.command()
def generator(
    data: Annotated[Path, typer.Option(help="Labelled cells, as `train cells` takes them.")],
    taxonomy: Annotated[str, typer.Option(help="Label set.")] = "pbc-blast",
    out: Out = Path("training_runs/generator"),
    name: Annotated[str | None, typer.Option(help="Name of the weights; default that of the data.")] = None,
    mpp: Annotated[float | None, typer.Option(help="Microns per pixel of images that state none.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the images that a CSV file names.")] = None,
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
    ignore_unknown_labels: Annotated[
        bool, typer.Option("--ignore-unknown-labels", help="Leave out cells whose label the taxonomy does not have.")
    ] = False,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave out images that cannot be read.")
    ] = False,
    drop_conflicts: Annotated[
        bool, typer.Option("--drop-conflicts", help="Leave out pictures that have several labels.")
    ] = False,
    drop_rare: Annotated[
        bool, typer.Option("--drop-rare", help="Leave out classes of fewer than three images.")
    ] = False,
    licence: Annotated[str | None, typer.Option(help="Licence of the weights, for the card.")] = None,
    seed: Seed = 0,
    device: Device = None,
    restart: Annotated[bool, typer.Option("--restart", help="Ignore an earlier checkpoint.")] = False,
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
    where = resolve_device(_device(device))
    weights = train_own_generator(
        request,
        out,
        recipe=recipe_for(where, side_px=side, steps=steps),
        classifier=classifier,
        device=where,
        resume=not restart,
        report=_say,
    )
    typer.echo(f"weights: {weights}\ncard: {weights.with_suffix('.md')}")


@app.command("red-cells")
def red_cells(
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of images/ and points/ (x y class a line); default rbc-morphology of the data sets."),
    ] = None,
    out: Out = Path("training_runs/red-cells"),
    name: Annotated[str, typer.Option(help="Name of the weights.")] = "red-cells",
    mpp: Annotated[
        float | None, typer.Option(help="Microns per pixel of the images; needed with --data.", min=0.02, max=2)
    ] = None,
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
        data or _root(None) / "rbc-morphology",
        out,
        name=name,
        mpp=mpp or CHULA_MPP,
        folds=folds,
        elsewhere=_root(None) / "bccd" / "fields" if data is None else None,
        device=resolve_device(_device(device)),
        report=_say,
    )
    typer.echo(f"weights: {weights}\ncard: {weights.with_suffix('.md')}")


@app.command("dysplasia")
def dysplasia(
    data: Annotated[
        Path | None,
        typer.Option(help="Class folders of cells of healthy people; default pbc of the data sets."),
    ] = None,
    out: Out = Path("training_runs/dysplasia"),
    name: Annotated[str, typer.Option(help="Name of the reference, and of its file.")] = "neutrophils",
    mpp: Annotated[
        float | None, typer.Option(help="Microns per pixel of the images; needed with --data.", min=0.02, max=2)
    ] = None,
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
        data or _root(None) / pbc.folder, out, mpp=mpp or pbc.mpp, taxonomy=taxonomy, name=name, source=source,
        licence=licence, per_class=per_class, seed=seed, device=resolve_device(_device(device)), report=_say,
    )  # fmt: skip
    typer.echo(f"reference: {path}")


@app.command("fibrosis")
def fibrosis(
    tiles: Annotated[
        Path,
        typer.Option(help="CSV: slide or tile (a file), grade 0 to 3, patient; perhaps mpp and simulated."),
    ],
    out: Annotated[Path, typer.Option("--out", help="The .safetensors file to write; its card goes beside it.")],
    folds: Annotated[int, typer.Option(help="Folds of whole patients to measure on; 0 does not.", min=0)] = 4,
    steps: Annotated[int | None, typer.Option(help="Training steps; default the recipe's.", min=1)] = None,
    per_slide: Annotated[int, typer.Option(help="Most tiles of a slide.", min=1, max=1000)] = 16,
    source: Annotated[str | None, typer.Option(help="What the slides are, for the card.")] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the weights, for the card.")] = None,
    seed: Seed = 0,
) -> None:
    """Train a model that ranks reticulin tiles by their fibres, on pairs of grades."""
    from wsi_pipeline.training.fibrosis.train import train_fibrosis

    weights = train_fibrosis(
        tiles, out, folds=folds, steps=steps, per_slide=per_slide, seed=seed, source=source, licence=licence,
        report=_say,
    )  # fmt: skip
    typer.echo(f"weights: {weights}\ncard: {weights.with_suffix('.md')}")


def _say(line: str) -> None:
    typer.echo(line)
