"""Make a cell classifier from images: read, split, train, choose, calibrate, measure, write weights and card.

Two kinds of data. The *shipped recipe* takes the root of the public sets that ``pbc-blast`` is made of. Any other
folder is a *class-folder set*, ``DIR/<class>/*.png|jpg`` at one resolution, folder names being codes or aliases of
the taxonomy.
"""

from __future__ import annotations

import csv
import datetime
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file

from wsi_pipeline.atomic import write_text
from wsi_pipeline.cells.classifier import TASK, load_classifier
from wsi_pipeline.config import Specimen
from wsi_pipeline.csv_rows import csv_text
from wsi_pipeline.errors import DataError, DeviceError
from wsi_pipeline.taxonomies import Taxonomy, load_taxonomy
from wsi_pipeline.training.cards import Card, DataSource, save_weights, write_card
from wsi_pipeline.training.cells.confusion import calibration_cells, card_confusion, confusion_tables, write_confusion
from wsi_pipeline.training.cells.data import (
    FIELD_SETS,
    SHIPPED_SETS,
    WHITE_CELL,
    Cutout,
    PackedCells,
    pack_cached,
    read_class_folders,
    shipped_recipe,
)
from wsi_pipeline.training.cells.evidence_data import check_split
from wsi_pipeline.training.cells.fit import ARTEFACT, PLATELET, CellRecipe, Fitted, fit, logits_of, split_cells
from wsi_pipeline.training.cells.report import answers_on, report_on
from wsi_pipeline.weights import Weights, find_weights, load_weights

SHIPPED_NAME = "pbc-blast"

_SHIPPED_FAILS = (
    "Blasts come from one set of marrow smears only (7 of its 21 classes, one scanner, one stain), most other classes "
    "from another laboratory's blood smears. The embedding knows the two sets apart nearly always, and about one "
    "marrow monocyte and one marrow promyelocyte in five is called blast, none of those from blood (figures above): "
    "part of what is called blast is the look of those marrow images. Do not read a blast percentage off this model "
    "without looking at the cells.",
    "On 299 cells of an unseen laboratory with another stain and strongly yellow light (Zheng et al., Micron 107:55, "
    "2018; 0.17 um per pixel, estimated) 63 % of the answers were right by four-part class (95 % interval 58 to 68), "
    "73 % (68 to 78) where it is known that there are only these four: a fifth of the neutrophils was called "
    "eosinophil and most monocytes something else. Stains and cameras that differ this much need fine-tuning on cells "
    "of their own.",
    "Of 155 white cells of the set bccd, whose classes are not known, 115 were called eosinophil, though by eye most "
    "are segmented neutrophils: pink cytoplasm of strongly eosinophilic stains is taken for granules.",
    "Blasts are of undetermined lineage; myeloblasts and lymphoblasts are not told apart.",
    "Band and segmented neutrophils, and promyelocytes, myelocytes and metamyelocytes, are taken for each other, "
    "as human readers do; use the merged classes where it matters.",
    "Erythroblasts, basophils, bands, myelocytes and metamyelocytes were seen from blood only; in marrow, plasma "
    "cells, hairy cells, abnormal eosinophils and all other classes the model does not have are forced into the "
    "ones it has.",
    "Artefact was learnt from unidentifiable marrow cells, red cells, empty places and artificially smudged cells; "
    "clumped platelets, precipitate and real smudge cells of other stains may be called something else.",
    "Trained on resampled pixel sizes that are estimates; a scale error of more than 12 % costs accuracy.",
    "No leukaemic promyelocytes, dysplastic cells or children's samples were in the training data as such.",
)
FOLDER_FAILS = (
    "Other scanners, stains and laboratories than those of the training images were not tested.",
    "Cells of classes that the training images do not have are forced into the ones they have.",
)


def train_cells(
    data: Path,
    out: Path,
    *,
    taxonomy: str = "pbc-blast",
    mpp: float | None = None,
    name: str | None = None,
    start_from: str | Path | None = None,
    licence: str | None = None,
    specimens: Sequence[Specimen] = ("blood_smear", "marrow_smear"),
    seed: int = 0,
    epochs: int | None = None,
    device: str = "cpu",
    resume: bool = True,
    recipe: CellRecipe = CellRecipe(),  # noqa: B008 - frozen
    report: Callable[[str], None],
) -> Path:
    """Train a cell classifier and return the path of its weights.

    Parameters
    ----------
    data
        Root of the public sets (``pbc``, ``marrow-cells``, ``bccd``, ``rbc-morphology``) when ``mpp`` is None, else
        a class-folder set.
    out
        Receives ``<name>.safetensors``, ``.json`` and ``.md``, ``split.csv``, the packed images and the checkpoint.
    taxonomy
        Label set; of a class-folder set, its folders are codes or aliases of it.
    mpp
        Microns per pixel of a class-folder set.
    name
        Name of the weights; ``pbc-blast`` for the shipped recipe, else the name of the folder.
    start_from
        Shipped weights by name, or a ``.safetensors`` file, to fine-tune instead of starting from nothing; classes
        may differ.
    licence
        Licence of the weights, for the card.
    specimens
        Specimens the weights may be used on.
    seed, epochs
        Seed of everything random, and length of the training.
    device
        ``cpu`` or a CUDA device.
    resume
        Continue after the last whole epoch of the checkpoint in ``out``; False starts again.
    recipe
        All other settings.
    report
        Receives progress lines.

    Raises
    ------
    DataError
        The data cannot be used, or ``out`` holds the checkpoint of another recipe.
    DeviceError
        The device is not there.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise DeviceError(f"device {device} was asked for, but torch sees no CUDA device; use cpu")
    earlier = find_weights(str(start_from), TASK) if start_from is not None else None
    recipe = replace(recipe, seed=seed, epochs=epochs or recipe.epochs)
    labels = load_taxonomy(taxonomy)
    cutouts = shipped_recipe(data) if mpp is None else _folder_cutouts(data, mpp, labels)
    present = {c.class_name for c in cutouts} - ({WHITE_CELL} if mpp is None else set())
    classes = tuple(code for code in labels.classifier_classes if code in present)
    if len(classes) < 2 or present - set(classes):
        raise DataError(
            f"{data}: images of {', '.join(sorted(present))} found; "
            f"two or more of {', '.join(labels.classifier_classes)} are needed"
        )
    report(f"reading {len(cutouts)} cells of {len(classes)} classes")
    cells = pack_cached(cutouts, side=recipe.side_px, mpp=recipe.mpp, cache=out / "cells.npz")
    split, groups = _fixed_split(cells, out / "split.csv", recipe.window_px, resume=resume, report=report)
    white = [code for code in classes if code not in (PLATELET, ARTEFACT)]
    fitted = fit(
        cells,
        split,
        classes,
        out,
        recipe,
        partial={WHITE_CELL: white} if mpp is None else None,
        device=device,
        resume=resume,
        start_from=tensors_of(earlier) if earlier is not None else None,
        report=report,
    )
    weights = out / f"{name or (SHIPPED_NAME if mpp is None else plain_name(data))}.safetensors"
    save_weights(fitted.network.state_dict(), weights, half=mpp is None)
    temperature = _temperature(fitted, cells, np.flatnonzero(split == "val"), recipe, device)
    card = Card(
        name=weights.stem,
        task=TASK,
        description=(
            f"Types single cells of stained smears into {len(classes)} classes from a window of "
            f"{recipe.window_px * recipe.mpp:g} um centred on the cell."
        ),
        classes=classes,
        specimens=tuple(specimens),
        mpp=recipe.mpp,
        data=sources_of(cells, split, shipped=mpp is None),
        licence=licence or ("Apache-2.0, with the attribution of the data below" if mpp is None else "not stated"),
        split={
            "method": "by near-duplicate group, from a hash of the pixels; images of the simulator are in test",
            "salt": "cells-1",
            **{s: int((split == s).sum()) for s in ("train", "val", "test")},
            "epoch chosen on val": fitted.best_epoch,
        },
        figures=(),
        fails_on=_SHIPPED_FAILS if mpp is None else FOLDER_FAILS,
        date=today(),
        details={
            "taxonomy": labels.name,
            "window_px": recipe.window_px,
            "network": fitted.network.spec.to_dict(),
            "temperature": temperature,
            **recipe.preparation.to_card(),
            "seed": recipe.seed,
            "epochs": recipe.epochs,
            "started_from": None if earlier is None else f"{earlier.name}, SHA-256 {earlier.sha256}",
        },
    )
    # The card without figures makes the weights loadable, so that what is measured is what will be used.
    write_card(card, weights)
    classifier = load_classifier(weights, device)
    measured = report_on(answers_on(classifier, cells, np.flatnonzero(split == "test"), groups), labels, classes)
    chosen = calibration_cells(cells, split, groups, shipped=mpp is None)
    errors = answers_on(classifier, cells, chosen, groups)
    confusion = card_confusion(errors, classes, card.specimens, shipped=mpp is None)
    full = replace(
        card,
        figures=measured.figures,
        tables={**measured.tables, **confusion_tables(confusion)},
        details={**card.details, "confusion": confusion},
    )
    write_card(full, weights)
    for figure in measured.figures:
        report(f"{figure.name}, {figure.on}, n={figure.n}: {figure.value}")
    return weights


def is_shipped_root(folder: Path) -> bool:
    """Tell whether a folder is the root of the sets the shipped classifier is made of."""
    return all((folder / known.folder).is_dir() for known in SHIPPED_SETS)


def measure_confusion(
    weights: Path,
    data: Path,
    work: Path,
    *,
    mpp: float | None = None,
    device: str = "cpu",
    recipe: CellRecipe = CellRecipe(),  # noqa: B008 - frozen
    report: Callable[[str], None],
) -> None:
    """Make the ``confusion`` of a classifier's card again from its images, without training.

    The split of the training is made anew and must have the numbers of the card; weights and figures stay as they
    are.

    Parameters
    ----------
    weights
        A ``.safetensors`` file with its card, for example the shipped one.
    data, mpp
        As :func:`train_cells` was given them.
    work
        Folder that keeps the packed images and the split, or has them from the training.
    recipe
        Of the training.

    Raises
    ------
    DataError
        The data are not those of the training.
    """
    cells, split, groups = cells_of_card(weights, data, work, mpp=mpp, recipe=recipe, report=report)
    classifier = load_classifier(weights, device)
    chosen = calibration_cells(cells, split, groups, shipped=mpp is None)
    errors = answers_on(classifier, cells, chosen, groups)
    write_confusion(weights, card_confusion(errors, classifier.classes, classifier.specimens, shipped=mpp is None))
    report(f"confusion of {len(chosen)} images in {weights.with_suffix('.json')}")


def cells_of_card(
    weights: Path,
    data: Path,
    work: Path,
    *,
    mpp: float | None = None,
    recipe: CellRecipe = CellRecipe(),  # noqa: B008 - frozen
    report: Callable[[str], None],
) -> tuple[PackedCells, npt.NDArray[np.str_], npt.NDArray[np.int64]]:
    """Return the cells that weights were trained on, the split of each and its near-duplicate group.

    Parameters as of :func:`measure_confusion`; the split is made anew and must have the numbers of the card.

    Raises
    ------
    DataError
        The data are not those of the training.
    """
    card = load_weights(weights).card
    recipe = replace(recipe, mpp=float(card["mpp"]), window_px=int(card["window_px"]))
    labels = load_taxonomy(card["taxonomy"])
    cutouts = shipped_recipe(data) if mpp is None else _folder_cutouts(data, mpp, labels)
    report(f"reading {len(cutouts)} cells")
    cells = pack_cached(cutouts, side=recipe.side_px, mpp=recipe.mpp, cache=work / "cells.npz")
    split, groups = _fixed_split(cells, work / "split.csv", recipe.window_px, resume=True, report=report)
    check_split(weights, split, data)
    return cells, split, groups


def tensors_of(weights: Weights) -> dict[str, torch.Tensor]:
    """Return the tensors of a file whose SHA-256 is that of its card."""
    weights.verify()
    return load_file(weights.path)


def _folder_cutouts(data: Path, mpp: float, taxonomy: Taxonomy) -> list[Cutout]:
    """List a user's class folders under the codes of the taxonomy."""
    cutouts = read_class_folders(data, mpp)
    codes = {}
    unknown = []
    for folder in sorted({c.class_name for c in cutouts}):
        try:
            codes[folder] = taxonomy.resolve(folder)
        except DataError:
            unknown.append(folder)
    if unknown:
        raise DataError(
            f"{data}: {', '.join(unknown)} are no classes of taxonomy {taxonomy.name} "
            f"({', '.join(taxonomy.classifier_classes)}); rename the folders or move them away"
        )
    return [replace(c, class_name=codes[c.class_name]) for c in cutouts]


def _fixed_split(
    cells: PackedCells, path: Path, window_px: int, *, resume: bool, report: Callable[[str], None]
) -> tuple[npt.NDArray[np.str_], npt.NDArray[np.int64]]:
    """Return split and group of each cell, kept in ``split.csv`` so that it can be looked at and reused."""
    if path.is_file() and resume:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        if [r["digest"] for r in rows] == cells.digests.tolist():
            return np.array([r["split"] for r in rows]), np.array([int(r["group"]) for r in rows])
    report("looking for near-duplicates")
    split, groups = split_cells(cells, window_px=window_px)
    # Cells of unknown class are trained on, but nothing can be measured on them.
    split = np.where((cells.class_names == WHITE_CELL) & (split != "train"), "unused", split)
    write_text(
        path,
        csv_text(
            ["file", "source", "class", "digest", "group", "split"],
            zip(cells.files, cells.sources, cells.class_names, cells.digests, groups.tolist(), split, strict=True),
        ),
    )
    return split, groups


def _temperature(
    fitted: Fitted, cells: PackedCells, val: npt.NDArray[np.int64], recipe: CellRecipe, device: str
) -> float:
    """Return the temperature with the least negative log-likelihood on the validation split."""
    logits = logits_of(fitted.network, cells, val, recipe, device=device)
    rank = {name: i for i, name in enumerate(fitted.classes)}
    return best_temperature(logits, np.array([rank[name] for name in cells.class_names[val].tolist()]))


def best_temperature(logits: npt.NDArray[np.float32], target: npt.NDArray[np.int64]) -> float:
    """Return what to divide logits ``(n, classes)`` by for the least negative log-likelihood of ``target``, 0.25 to 4.

    Guo et al., ICML 2017 (arXiv 1706.04599).
    """
    wide = logits.astype(np.float64)
    candidates = np.exp(np.linspace(np.log(0.25), np.log(4.0), 161))
    losses = []
    for temperature in candidates:
        scaled = wide / temperature
        scaled -= scaled.max(axis=1, keepdims=True)
        log_p = scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))
        losses.append(-log_p[np.arange(len(target)), target].mean())
    return round(float(candidates[int(np.argmin(losses))]), 4)


def sources_of(cells: PackedCells, split: npt.NDArray[np.str_], *, shipped: bool) -> tuple[DataSource, ...]:
    """Return the sets trained on with the number of cells of each, for the card."""
    counts = Counter(cells.sources[split == "train"].tolist())
    if shipped:
        return tuple(
            DataSource(title=s.title, licence=s.licence, attribution=s.attribution, n_train=counts[s.folder])
            for s in (*SHIPPED_SETS, *FIELD_SETS)
        )
    return tuple(
        DataSource(title=source, licence="not stated", attribution="not stated", n_train=n)
        for source, n in sorted(counts.items())
    )


def plain_name(data: Path) -> str:
    """Return the name of a folder, or of a file without its suffix, in lower-case letters, digits and hyphens."""
    stem = data.resolve().stem if data.is_file() else data.resolve().name
    return re.sub(r"[^a-z0-9-]+", "-", stem.lower()).strip("-") or "cells"


def today() -> str:
    """Return the date, which ``SOURCE_DATE_EPOCH`` fixes for reproducible files."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    moment = datetime.datetime.fromtimestamp(int(epoch), datetime.UTC) if epoch else datetime.datetime.now(datetime.UTC)
    return moment.date().isoformat()
