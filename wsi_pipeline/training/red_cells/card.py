"""What the card of a red-cell classifier says: data, figures, errors, and where it fails."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_pipeline.cells.red_cell_model import TASK, UNCATEGORISED
from wsi_pipeline.cells.red_cells import FEATURE_NAMES
from wsi_pipeline.evaluation.tables import classification_table
from wsi_pipeline.predictions.assessment.calibration import Calibration
from wsi_pipeline.predictions.assessment.confusion import ClassificationMetrics
from wsi_pipeline.training.cards import Card, DataSource, Figure, figure_of
from wsi_pipeline.training.cells.train_shipped import today
from wsi_pipeline.training.red_cells.data import SEGMENTED_BY, TAXONOMY, LabelledRedCells, OtherLaboratory
from wsi_pipeline.weights import find_weights

COST = 10.0
"""Of a cell on the wrong side of a margin."""
REPEATS = 4
"""Arrangements of the folds: the figure differs between them."""
KEEP = 0.95
"""Share of labelled cells that keep an answer; the others, least sure, are uncategorised."""
BLOCK_FIELDS = 6
"""Fields in a row that make a block: neighbours in number resemble each other more."""


def domain_of(features: npt.NDArray[np.float32], other: OtherLaboratory | None) -> dict[str, list[float]]:
    """Return the 1st and 99th percentile of each feature among the cells learnt from, 0 for one without values.

    A slide whose mean cell lies outside is unlike all that the classifier has seen.
    """
    everything = features if other is None else np.concatenate([features, other.normal])
    low, high = np.nan_to_num(np.nanquantile(everything.astype(np.float64), [0.01, 0.99], axis=0))
    return {"lower": [round(v, 6) for v in low.tolist()], "upper": [round(v, 6) for v in high.tolist()]}


def red_cell_card(
    name: str,
    cells: LabelledRedCells,
    classes: tuple[str, ...],
    found: dict[str, tuple[ClassificationMetrics, ClassificationMetrics]],
    errors: dict[str, Any],
    trust: Calibration,
    *,
    mpp: float,
    folds: int,
    other: OtherLaboratory | None,
    gamma: float,
    temperature: float,
    least: float,
    repeated: list[float],
    n_vectors: int,
) -> Card:
    """Return the card.

    Parameters
    ----------
    found
        Figures and those of the majority class, by what the folds were split by: ``field``, and blocks of fields.
    errors
        Of :func:`~wsi_pipeline.training.red_cells.train.error_rates`.
    trust
        Calibration on the measured cells.
    mpp
        Of the images, um per pixel.
    other
        Another laboratory's cells; None for a user's own recipe, whose sources are not known.
    repeated
        Macro-F1 of each arrangement of the folds.
    """
    (mine, trivial), n = found["field"], found["field"][0].n
    seen = cells.measured & (cells.classes != UNCATEGORISED)
    unnamed = cells.measured & (cells.classes == UNCATEGORISED)
    on = f"all labelled points, {folds} folds by field; points without a cell of their own count as wrong"
    f1 = {score.name: score.f1 for score in mine.per_class}
    support = {score.name: score.support for score in mine.per_class}
    blocks = found[f"block of {BLOCK_FIELDS} fields"][0]
    figures = [
        figure_of("macro-F1", on, n, mine.macro_f1, trivial.macro_f1),
        Figure(
            name="macro-F1, mean and range", on=f"{REPEATS} arrangements of the folds", n=n,
            value=float(np.mean(repeated)), lower=min(repeated), upper=max(repeated),
        ),
        figure_of("accuracy", on, n, mine.accuracy, trivial.accuracy),
        *(figure_of(f"F1 of {c}", on, support[c], f1[c]) for c in classes),
        figure_of(
            "macro-F1, blocks of fields", f"folds by blocks of {BLOCK_FIELDS} consecutive fields", n, blocks.macro_f1
        ),
        Figure(
            name="expected calibration error", on="measured cells, on which the temperature was fitted",
            n=int(seen.sum()), value=trust.ece,
        ),
    ]  # fmt: skip
    n_seen = int(seen.sum())
    sources = (
        (
            DataSource(
                title="Chula RBC-12, 120 of its fields", licence="MIT",
                attribution="Naruenatthanaset et al., arXiv 2012.01321", n_train=n_seen,
            ),
            DataSource(
                title="BCCD, normal red cells by a rule (no labels of shape)", licence="MIT",
                attribution="BCCD_Dataset", n_train=len(other.normal),
            ),
        )
        if other is not None
        else (DataSource(title="your own fields", licence="not stated", attribution="not stated", n_train=n_seen),)
    )  # fmt: skip
    fails = (
        "No patient numbers exist, so cells of one patient may lie on both sides of a fold; the segmentation network "
        "was trained on these fields, too. On other laboratories' slides expect less.",
        "Elliptocytes come from fields of their own: telling them may be telling the batch.",
        f"Cells that the annotators could not name ({int(unnamed.sum())} measured) are not recognised as such: only "
        f"the {100 - 100 * KEEP:.0f} % of cells it is least sure of become {UNCATEGORISED}.",
        "A share of a rare class below its false-positive rate says nothing; red_cells.csv gives both.",
        "How well it finds abnormal cells on other laboratories' slides is not known: no other set has labels. How "
        "often it takes their (mostly normal) cells for abnormal ones stands under elsewhere, and may be many times "
        "the rate in cross-validation.",
        "Teardrop, microcyte and burr cell rest on few cells.",
    )
    sure = (
        f"red cells of {sources[0].title}, answered by {folds} models that saw no cell of their field, p >= {least:g}"
    )
    return Card(
        name=name,
        task=TASK,
        description="Shapes of red cells of blood smears, by morphology: scaler and support vector machine (RBF).",
        classes=classes,
        specimens=("blood_smear",),
        mpp=0.25,
        data=sources,
        licence="Apache-2.0",
        split={"folds": folds, "by": "field", "fields": len(set(cells.fields.tolist())), **cells.fate},
        figures=tuple(figures),
        fails_on=fails,
        date=today(),
        details={
            "taxonomy": TAXONOMY,
            "features": list(FEATURE_NAMES),
            "gamma": gamma,
            "cost": COST,
            "temperature": temperature,
            "least_probability": least,
            "n_vectors": n_vectors,
            "images_mpp": mpp,
            "segmented_by": SEGMENTED_BY,
            "segmented_by_sha256": find_weights(SEGMENTED_BY, "segmentation").sha256,
            "confusion": {
                "specimens": {"blood_smear": {"classes": list(classes), "counts": errors["counts"], "images": sure}}
            },
            "domain": domain_of(cells.features[seen], other),
            "errors": {key: errors[key] for key in ("uncategorised", "false_positives")},
        },
        tables={
            "By class, and confusion": classification_table(mine, baseline=trivial),
            "False positives (answered / cells of other classes, folds by field)": json.dumps(
                errors["false_positives"], indent=1
            ),
        },
    )
