"""From a trained compact network to weights with a card: save, evaluate on the test split, describe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wsi_pipeline.errors import DataError
from wsi_pipeline.evaluation.bootstrap import Estimate
from wsi_pipeline.evaluation.run_segmentation import (
    evaluate_masks,
    evaluate_point_folder,
    make_segmenter,
)
from wsi_pipeline.segmentation.networks import WIDTHS, CompactFlowNet
from wsi_pipeline.training.cards import Card, DataSource, Figure, save_weights, write_card
from wsi_pipeline.training.checkpoints import plain_recipe
from wsi_pipeline.training.segmentation import RECIPES, Recipe, train_segmentation
from wsi_pipeline.training.segmentation_data import (
    BCCD_MPP,
    COMPLETE_RBC_FIELDS,
    RBC_MPP,
    Sample,
    load_samples,
    split_of,
)

TILE_PX, OVERLAP_PX = 256, 32

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
    "tissue-nuclei": ("DSB 2018 / BBBC038 stage 1, purple-stained tissue", "CC0", "Caicedo et al. 2019; Broad BBBC"),
}
_ABOUT: dict[str, dict[str, Any]] = {
    "compact-smear": {
        "specimens": ("blood_smear", "marrow_smear"),
        "description": "Finds white cells (with nucleus), red cells and platelets on Romanowsky-stained smears.",
        "fails_on": (
            "Red cells that overlap in thick areas are merged or missed; only separate or touching ones were labelled.",
            "Very pale red cells and ghosts are missed on thick BCCD-like fields.",
            "Platelet labels come from boxes and colour, not from masks; clumps are not split.",
            "Smudge cells were not labelled; they appear as white cells or not at all.",
            "Pixel sizes of the training images are estimates; crowded marrow, where cells touch, was hardly labelled.",
        ),
    },
    "compact-section": {
        "specimens": ("trephine",),
        "description": "Finds nuclei on haematoxylin-stained sections.",
        "fails_on": (
            "Megakaryocytes are not told from other nuclei, and large lobulated nuclei may be cut.",
            "Out-of-focus and overlapping nuclei are merged or missed.",
            "Trained on 61 small fields of mixed tissues whose pixel size was estimated from the nuclei.",
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
) -> Path:
    """Train a shipped compact network from the data root, evaluate it on the test split, write weights and card.

    Parameters
    ----------
    root
        Folder that holds the data sets (``bccd``, ``rbc-morphology``, ``tissue-nuclei``).
    out
        Folder for checkpoint, weights and card; a killed training continues from there.
    name
        ``compact-smear`` or ``compact-section``.
    steps, seed
        Override the recipe.

    Returns
    -------
    Path
        The weights; the card lies beside them.
    """
    if name not in RECIPES:
        raise DataError(f"--model {name!r}: shipped recipes are {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    recipe = replace(recipe, seed=seed, steps=steps or recipe.steps)
    samples = load_samples(root, name)
    network = train_segmentation(samples, out, recipe, device=device, report=report)
    weights = out / f"{name}.safetensors"
    save_weights(network.state_dict(), weights)
    card = _card(name, recipe, samples, network, ())
    write_card(card, weights)
    report("evaluating on the test split")
    if name == "compact-smear":
        figures = _smear_figures(root, weights, device)
    else:
        figures = _section_figures(root, samples, weights, device)
    write_card(_card(name, recipe, samples, network, tuple(figures)), weights)
    return weights


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
            "kinds": list(recipe.kinds),
            "tile_px": TILE_PX,
            "overlap_px": OVERLAP_PX,
            "widths": list(WIDTHS),
            "simulated": False,
            "recipe": plain_recipe(recipe),
            "parameters": sum(p.numel() for p in network.parameters()),
        },
    )


def _figure(name: str, on: str, n: int, found: Estimate, baseline: Estimate | None = None) -> Figure:
    return Figure(
        name=name,
        on=on,
        n=n,
        value=found.value,
        lower=found.lower,
        upper=found.upper,
        baseline=baseline.value if baseline else None,
    )


def _smear_figures(root: Path, weights: Path, device: str) -> list[Figure]:
    white = make_segmenter(str(weights), "white", device, {})
    on = "bccd test fields, white-cell masks (objects cut by the border ignored)"
    model, otsu = evaluate_masks(
        root / "bccd" / "fields",
        root / "bccd" / "wbc_masks",
        white,
        lambda _: BCCD_MPP,
        only=lambda pair: split_of(f"bccd/fields/{pair.image.name}") == "test",
    )
    figures = [
        _figure("AP50", on, model.n_true, model.ap50, otsu.ap50),
        _figure("AP75", on, model.n_true, model.ap75, otsu.ap75),
        _figure("recall at IoU 0.5", on, model.n_true, model.recall, otsu.recall),
    ]
    red = make_segmenter(str(weights), "red", device, {})
    points, trivial = evaluate_point_folder(
        root / "rbc-morphology" / "images",
        root / "rbc-morphology" / "points",
        red,
        lambda _: RBC_MPP,
        only=lambda pair: (
            pair.image.stem in COMPLETE_RBC_FIELDS and split_of(f"rbc-morphology/images/{pair.image.name}") == "test"
        ),
    )
    on = "fully labelled rbc-morphology test fields"
    return [
        *figures,
        _figure("recall of points", on, points.n_points, points.recall, trivial.recall),
        _figure("predicted / true", on, points.n_points, points.ratio, trivial.ratio),
    ]


def _section_figures(root: Path, samples: Sequence[Sample], weights: Path, device: str) -> list[Figure]:
    mpp = {Path(s.name).stem: s.mpp for s in samples if s.split == "test"}
    model, otsu = evaluate_masks(
        root / "tissue-nuclei" / "images",
        root / "tissue-nuclei" / "labels",
        make_segmenter(str(weights), "nucleus", device, {}),
        lambda image: mpp[image.stem],
        only=lambda pair: pair.image.stem in mpp,
    )
    on = "tissue-nuclei test fields, pixel size from the median nucleus"
    return [
        _figure("AP50", on, model.n_true, model.ap50, otsu.ap50),
        _figure("AP75", on, model.n_true, model.ap75, otsu.ap75),
        _figure("recall at IoU 0.5", on, model.n_true, model.recall, otsu.recall),
    ]
