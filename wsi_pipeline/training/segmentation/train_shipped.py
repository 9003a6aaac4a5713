"""From the data sets to a shipped compact network: train, cross-validate, measure, write weights and card."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wsi_pipeline.atomic import write_json
from wsi_pipeline.errors import DataError
from wsi_pipeline.segmentation.networks import CompactFlowNet
from wsi_pipeline.training.cards import Card, DataSource, Figure, save_weights, write_card
from wsi_pipeline.training.checkpoints import plain_recipe
from wsi_pipeline.training.segmentation.data import Sample, fold_of, split_of
from wsi_pipeline.training.segmentation.figures import Scores, figures, measure, measure_outside
from wsi_pipeline.training.segmentation.fit import RECIPES, Recipe, initial_weights, network_details, train_segmentation
from wsi_pipeline.training.segmentation.megakaryocyte_figures import megakaryocyte_figures
from wsi_pipeline.training.segmentation.shipped_fields import load_samples

FOLD_SHARES = {"compact-smear": 0.4, "compact-section": 1.0}
"""Share of the recipe's steps that the networks of a cross-validation are trained for: there are several of them."""

_SOURCES = {
    "bccd": (
        "BCCD",
        "MIT",
        "BCCD_Dataset (cosmicad, akshaylamba); white-cell masks of Banik, Saha & Kim 2020",
    ),
    "rbc-morphology": ("Chula RBC-12", "MIT", "Naruenatthanaset et al. 2021, arXiv 2012.01321"),
    "pbc": ("Peripheral blood cells", "CC BY 4.0", "Acevedo et al., Data in Brief 30:105474, 2020"),
    "marrow-cells": (
        "Bone marrow cytomorphology",
        "CC BY 4.0",
        "Matek et al., TCIA 2021, doi 10.7937/TCIA.AXH3-T579",
    ),
    "virtual": (
        "Virtual smear fields, made of cells of training images of the two sets of single cells above",
        "CC BY 4.0",
        "as above",
    ),
    "tissue-nuclei": ("DSB 2018 / BBBC038 stage 1, purple-stained tissue", "CC0", "Caicedo et al. 2019; Broad BBBC"),
    "virtual-section": ("Virtual section fields, made of nuclei of the training fields above", "CC0", "as above"),
    "megakaryocyte-fields": (
        "DSB 2018 / BBBC038 stage 1, purple-stained tissue",
        "CC0",
        "Caicedo et al. 2019; Broad BBBC",
    ),
    "megakaryocyte-composite": (
        "Composites: drawn megakaryocytes with chromatin and cytoplasm of training fields of the set above",
        "CC0",
        "as above",
    ),
}
_ABOUT: dict[str, dict[str, Any]] = {
    "compact-smear": {
        "specimens": ("blood_smear", "marrow_smear"),
        "description": "Finds white cells (with nucleus), red cells and platelets on Romanowsky-stained smears.",
        "fails_on": (
            "Red cells stacked in the thick part of a film: overlapping pairs are mostly told apart, rouleaux and "
            "heaps are merged or missed. Overlaps were learnt from virtual fields and from ellipses in boxes.",
            "Very pale red cells and ghosts are missed on thick BCCD-like fields.",
            "Red cells full of parasites may be called white cells; none were in the training data.",
            "Platelet labels come from boxes and colour, not from masks; clumps are not split into platelets.",
            "Smudge cells were not labelled; they appear as white cells or not at all.",
            "Pixel sizes of the training images are estimates; crowded marrow was seen on virtual fields only.",
        ),
    },
    "compact-section": {
        "specimens": ("trephine",),
        "description": "Finds nuclei on haematoxylin-stained sections. It also names megakaryocytes, but has seen too "
        "few to find them.",
        "fails_on": (
            "Megakaryocytes were learnt from the nuclei of very few cells, enlarged, turned and restained: expect most "
            "to be missed, lobes to be counted singly, and other large nuclei to be called so. Do not count "
            "megakaryocytes with this network without looking.",
            "Out-of-focus and overlapping nuclei are merged or missed.",
            "Trained on small fields of mixed tissues whose pixel size was estimated from the nuclei; the pink of H&E "
            "was laid under them artificially.",
        ),
    },
    "compact-megakaryocyte": {
        "specimens": ("trephine",),
        "description": "Delineates megakaryocytes on H&E sections, cell and nucleus, beside the network of nuclei.",
        "fails_on": (
            "Nearly all megakaryocytes it was trained on are drawn; real are their chromatin (12 nuclei of 6 fields), "
            "their cytoplasm (two H&E fields of another tissue) and the nuclei around them.",
            "Measured on a handful of real ones only: look at the overlay before you count.",
            "Osteoclasts, macrophages with wide cytoplasm, and lumps of platelets may be called megakaryocytes; "
            "micromegakaryocytes below 90 um2 (10.7 um across) are dropped.",
            "Pixel sizes of all training images are estimates.",
        ),
    },
}


def train_shipped(
    root: Path,
    out: Path,
    name: str,
    *,
    device: str,
    report: Callable[[str], None],
    steps: int | None = None,
    seed: int = 0,
    folds: int = 0,
    fold: int | None = None,
) -> Path:
    """Train a shipped compact network from the data root, measure it, write weights and card.

    Parameters
    ----------
    root
        Folder that holds the data sets.
    out
        Folder for checkpoint, weights and card; a killed training continues from there.
    name
        One of :data:`~wsi_pipeline.training.segmentation.fit.RECIPES`.
    steps, seed
        Override the recipe.
    folds
        Cross-validate over this many folds first: as many networks are trained, each measured on the fields it did
        not see. 0 does not. Folds that were measured into ``out`` before are not repeated.
    fold
        Train and measure only this fold, and stop.

    Returns
    -------
    Path
        The weights, the card beside them; with ``fold`` the scores of the fold.

    Raises
    ------
    DataError
        No such recipe, data are missing, or the checkpoint belongs to another training.
    """
    if name not in RECIPES:
        raise DataError(f"--model {name!r}: shipped recipes are {', '.join(RECIPES)}")
    if folds and name == "compact-megakaryocyte":
        raise DataError(
            f"--folds {folds}: {name} is measured on held-out cut-outs, not by cross-validation; leave it out"
        )
    recipe = replace(RECIPES[name], seed=seed, steps=steps or RECIPES[name].steps)
    wanted = range(folds) if fold is None else (fold,)
    scored = [_fold(root, out, name, recipe, (i, folds), device=device, report=report) for i in wanted]
    if fold is not None:
        return scored[0]
    samples = load_samples(root, name)
    network = train_segmentation(samples, out, recipe, device=device, report=report, initial=initial_weights(name))
    weights = out / f"{name}.safetensors"
    save_weights(network.state_dict(), weights)
    write_card(_card(name, recipe, samples, network, ()), weights)
    report("measuring on the test split and on the sets of other laboratories")
    found: list[Figure] = []
    if scored:
        pooled = Scores.pooled(json.loads(path.read_text(encoding="utf-8")) for path in scored)
        how = f"{folds}-fold cross-validation by image, networks of {_fold_recipe(name, recipe).steps} steps"
        found += figures(pooled, how)
    if name == "compact-megakaryocyte":
        found += megakaryocyte_figures(root, name, weights, device)
    else:
        found += figures(
            measure(root, name, weights, device, lambda image: split_of(image) == "test"),
            "test split of the shipped network",
        )
        found += figures(measure_outside(root, name, weights, device), "shipped network")
    write_card(_card(name, recipe, samples, network, tuple(found)), weights)
    return weights


def _fold_recipe(name: str, recipe: Recipe) -> Recipe:
    return replace(recipe, steps=max(1, round(FOLD_SHARES[name] * recipe.steps)))


def _fold(
    root: Path,
    out: Path,
    name: str,
    recipe: Recipe,
    fold: tuple[int, int],
    *,
    device: str,
    report: Callable[[str], None],
) -> Path:
    """Train without one fold, score on it, and return the file of the scores."""
    number, folds = fold
    folder = out / f"fold-{number}-of-{folds}"
    scores = folder / "scores.json"
    recipe = _fold_recipe(name, recipe)
    about = plain_recipe(recipe)
    if scores.is_file():
        if json.loads(scores.read_text(encoding="utf-8"))["recipe"] != about:
            raise DataError(f"{scores} was written by another recipe; choose another --out or remove {folder}")
        report(f"fold {number} of {folds} was measured before")
        return scores
    report(f"fold {number} of {folds}: labelling")
    samples = load_samples(root, name, fold=fold)
    network = train_segmentation(samples, folder, recipe, device=device, report=report, initial=initial_weights(name))
    weights = folder / f"{name}-fold-{number}.safetensors"
    save_weights(network.state_dict(), weights)
    write_card(_card(name, recipe, samples, network, ()), weights)
    report(f"fold {number} of {folds}: measuring")
    found = measure(root, name, weights, device, lambda image: fold_of(image, folds) == number)
    write_json(scores, {"recipe": about, **found.to_dict()})
    return scores


def _card(
    name: str, recipe: Recipe, samples: Sequence[Sample], network: CompactFlowNet, figures: tuple[Figure, ...]
) -> Card:
    train = [s.name.split("/", 1)[0] for s in samples if s.split == "train"]
    data = tuple(
        DataSource(title=title, licence=licence, attribution=by, n_train=train.count(folder))
        for folder, (title, licence, by) in _SOURCES.items()
        if folder in train
    )
    return Card(
        name=name,
        task="segmentation",
        description=_ABOUT[name]["description"],
        classes=recipe.kinds,
        specimens=_ABOUT[name]["specimens"],
        mpp=recipe.mpp,
        data=data,
        licence="Apache-2.0",
        split={
            "rule": "hash of the path, near-duplicates together; reserved images are test",
            **{part: sum(s.split == part for s in samples) for part in ("train", "validation", "test")},
        },
        figures=figures,
        fails_on=_ABOUT[name]["fails_on"],
        date=datetime.now(UTC).date().isoformat(),
        details={
            **network_details(recipe),
            "parameters": sum(p.numel() for p in network.parameters()),
        },
    )
