"""How the red-cell classifier is made: morphology measured as in a run, a support vector machine, folds by field.

Cost and kernel width were chosen among those that the card lists by cross-validation on the same fields; weights for
rare classes and copies at other scales did not help (``docs/red-cells.md``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_pipeline.atomic import write_bytes, write_json
from wsi_pipeline.cells.red_cell_model import TASK, UNCATEGORISED, RedCellClassifier, probabilities
from wsi_pipeline.cells.red_cells import FEATURE_NAMES
from wsi_pipeline.errors import ConfigError, DataError
from wsi_pipeline.evaluation.baselines import majority_labels
from wsi_pipeline.evaluation.tables import classification_metrics, classification_table
from wsi_pipeline.predictions.assessment.calibration import calibration
from wsi_pipeline.predictions.assessment.confusion import ClassificationMetrics, evaluate_classification
from wsi_pipeline.taxonomies import load_taxonomy
from wsi_pipeline.training.cards import write_card
from wsi_pipeline.training.cells.train_shipped import best_temperature
from wsi_pipeline.training.red_cells.card import BLOCK_FIELDS, COST, KEEP, REPEATS, red_cell_card
from wsi_pipeline.training.red_cells.data import (
    CHULA_MPP,
    TAXONOMY,
    LabelledRedCells,
    read_other_laboratory,
    read_red_cells,
)
from wsi_pipeline.weights import shipped_weights

MIN_CELLS = 10
"""Fewest measured cells of a class."""

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class CrossValidation:
    """What models that saw no cell of its group say of each measured cell.

    Attributes
    ----------
    scores
        ``(n, classes)``; NaN for points without a cell of their own.
    groups
        Of each point.
    """

    scores: Scores
    groups: tuple[str, ...]


def train_red_cells(
    data: Path,
    out: Path,
    *,
    name: str = "red-cells",
    mpp: float = CHULA_MPP,
    folds: int = 5,
    elsewhere: Path | None = None,
    device: str = "cpu",
    report: Callable[[str], None] = lambda _: None,
) -> Path:
    """Cross-validate, fit on all, and write ``<name>.safetensors``, its card and ``metrics.json``; return the weights.

    Parameters
    ----------
    data
        Folder of ``images`` and ``points``, see :func:`~wsi_pipeline.training.red_cells.data.read_red_cells`.
    mpp
        Microns per pixel of the images.
    folds
        Of the cross-validation, split by field.
    elsewhere
        Of the shipped recipe, the fields of BCCD: cells that look normal are learnt from, others show how often the
        classifier errs on another laboratory's slides. The card then states source and licence of both sets.

    Raises
    ------
    ConfigError
        The name is that of shipped weights of another task, or there are fewer than two folds.
    DataError
        The data cannot be used: see :func:`read_red_cells`, a class has too few cells, or there are too few fields.
    """
    if folds < 2:
        raise ConfigError(f"--folds {folds}: cross-validation needs at least two")
    if name in shipped_weights() and shipped_weights()[name].card["task"] != TASK:
        raise ConfigError(f"--name {name!r} is that of shipped weights for another task")
    cells = read_red_cells(data, mpp=mpp, device=device, report=report)
    classes = load_taxonomy(TAXONOMY).classifier_classes
    check_red_cells(cells, classes, folds)
    other = None if elsewhere is None else read_other_laboratory(elsewhere, device=device)
    normal = None if other is None else other.normal
    fields = cells.fields.tolist()
    by_field = cross_validate(cells, classes, folds, fields, normal=normal)
    by_block = cross_validate(cells, classes, folds, blocks_of(fields), normal=normal)
    again = [cross_validate(cells, classes, folds, fields, seed, normal) for seed in range(1, REPEATS)]
    repeated = [measure(cells, classes, one)[0].macro_f1.value or 0.0 for one in (by_field, *again)]
    report(f"macro-F1 of {REPEATS} arrangements of folds: {', '.join(f'{v:.3f}' for v in repeated)}")
    labelled = cells.classes != UNCATEGORISED
    seen = labelled & cells.measured
    target = np.array([classes.index(c) for c in cells.classes[seen]])
    temperature = best_temperature(by_field.scores[seen].astype(np.float32), target)
    p = probabilities(by_field.scores[seen], temperature)
    least = round(float(np.quantile(p.max(axis=1), 1 - KEEP)), 3)
    tensors, gamma = fit_svm(*with_normal(cells.features[seen], target, normal, classes), len(classes))
    weights = out / f"{name}.safetensors"
    out.mkdir(parents=True, exist_ok=True)
    _save(tensors, weights)
    found = {
        "field": measure(cells, classes, by_field),
        f"block of {BLOCK_FIELDS} fields": measure(cells, classes, by_block),
    }
    errors = error_rates(classes, cells.classes[seen], p, least)
    final = _classifier(classes, tensors, gamma, temperature, least)
    if other is not None:
        alarms = final.answer(other.held_out)[0].tolist()
        for shape, entry in errors["false_positives"].items():
            entry["elsewhere"] = [alarms.count(shape), len(alarms)]
        report("elsewhere: " + ", ".join(f"{c} {alarms.count(c)}" for c in (*classes, UNCATEGORISED)))
    trust = calibration(p.max(axis=1), p.argmax(axis=1) == target)
    report(classification_table(found["field"][0], baseline=found["field"][1]))
    card = red_cell_card(
        name, cells, classes, found, errors, trust, mpp=mpp, folds=folds, other=other, gamma=gamma,
        temperature=temperature, least=least, repeated=repeated, n_vectors=len(tensors["vectors"]),
    )  # fmt: skip
    write_card(card, weights)
    write_json(
        out / "metrics.json",
        {
            **classification_metrics(found["field"][0], baseline=found["field"][1], calibration=trust),
            "by_block_of_fields": classification_metrics(*found[f"block of {BLOCK_FIELDS} fields"][:1]),
            "points": cells.fate,
            "errors": errors,
        },
    )
    return weights


def check_red_cells(cells: LabelledRedCells, classes: Sequence[str], folds: int) -> None:
    """Raise :class:`DataError` unless every class has enough measured cells, in enough fields.

    Raises
    ------
    DataError
        With what is too few.
    """
    counts = Counter(cells.classes[cells.measured].tolist())
    few = [f"{c} ({counts[c]})" for c in classes if counts[c] < MIN_CELLS]
    if few:
        raise DataError(
            f"each of the {len(classes)} classes needs {MIN_CELLS} measured cells; too few: {', '.join(few)}"
        )
    n_fields = len(set(cells.fields.tolist()))
    if n_fields < folds * BLOCK_FIELDS:
        raise DataError(f"{folds} folds need {folds * BLOCK_FIELDS} labelled fields, found {n_fields}")


def blocks_of(fields: Sequence[str]) -> list[str]:
    """Return the block of each field: so many in the order of their names, numbers as numbers."""
    order = sorted(set(fields), key=lambda f: (not f.isdigit(), int(f) if f.isdigit() else 0, f))
    rank = {name: i for i, name in enumerate(order)}
    return [str(rank[name] // BLOCK_FIELDS) for name in fields]


def cross_validate(
    cells: LabelledRedCells,
    classes: Sequence[str],
    folds: int,
    groups: Sequence[str],
    seed: int = 0,
    normal: npt.NDArray[np.float32] | None = None,
) -> CrossValidation:
    """Return the scores of each measured, labelled cell from a model that saw no cell of its group.

    Cells that nobody could name get the scores of the model of their group's fold too. Normal cells of another
    laboratory (``normal``) are learnt from in every fold and tested in none.
    """
    scores = np.full((len(cells.classes), len(classes)), np.nan)
    fold = deal(groups, folds, seed)
    for number in range(folds):
        train = np.flatnonzero((fold != number) & cells.measured & (cells.classes != UNCATEGORISED))
        test = np.flatnonzero((fold == number) & cells.measured)
        target = np.array([classes.index(c) for c in cells.classes[train]])
        features = cells.features[train]
        lost = sorted(set(range(len(classes))) - set(target.tolist()))
        if lost:
            raise DataError(f"all cells of {', '.join(classes[i] for i in lost)} lie in one fold; use fewer --folds")
        tensors, gamma = fit_svm(*with_normal(features, target, normal, classes), len(classes))
        scores[test] = _classifier(classes, tensors, gamma).scores(cells.features[test])
    return CrossValidation(scores=scores, groups=tuple(groups))


def with_normal(
    features: npt.NDArray[np.float32],
    target: npt.NDArray[np.int64],
    normal: npt.NDArray[np.float32] | None,
    classes: Sequence[str],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return cells and classes with normal ones of another laboratory added."""
    if normal is None:
        return features, target
    more = np.full(len(normal), classes.index("red_cell_normal"))
    return np.concatenate([features, normal]), np.concatenate([target, more])


def deal(groups: Sequence[str], folds: int, seed: int) -> npt.NDArray[np.int64]:
    """Return the fold of each cell: groups in an order drawn by the seed, each to the fold with the fewest cells."""
    names, of = np.unique(np.asarray(groups), return_inverse=True)
    sizes = np.bincount(of)
    held = np.zeros(folds, np.int64)
    fold = np.zeros(len(names), np.int64)
    for group in np.random.default_rng(seed).permutation(len(names)):
        fold[group] = held.argmin()
        held[fold[group]] += sizes[group]
    return fold[of]


def fit_svm(
    features: npt.NDArray[np.float32], target: npt.NDArray[np.int64], n_classes: int
) -> tuple[dict[str, npt.NDArray[Any]], float]:
    """Fit scaler and machine; return the tensors of :class:`RedCellClassifier` and the kernel's gamma, 1 / features."""
    from sklearn.svm import SVC

    median = np.nanmedian(features, axis=0).astype(np.float32)
    filled = np.where(np.isfinite(features), features, median).astype(np.float64)
    mean, spread = filled.mean(axis=0), np.maximum(filled.std(axis=0), 1e-9)
    gamma = 1 / features.shape[1]
    machine = SVC(C=COST, gamma=gamma).fit((filled - mean) / spread, target)
    if len(machine.classes_) != n_classes:
        raise DataError(f"cells of {len(machine.classes_)} classes, not {n_classes}")
    return {
        "median": median,
        "mean": mean,
        "spread": spread,
        "vectors": machine.support_vectors_.astype(np.float32),
        "dual": machine.dual_coef_.astype(np.float32),
        "bias": machine.intercept_.astype(np.float32),
        "per_class": machine.n_support_.astype(np.int32),
    }, gamma


def measure(
    cells: LabelledRedCells, classes: Sequence[str], found: CrossValidation
) -> tuple[ClassificationMetrics, ClassificationMetrics]:
    """Return the figures over all labelled points, those without a cell being wrong, and the majority's."""
    labelled = np.flatnonzero(cells.classes != UNCATEGORISED)
    truth = cells.classes[labelled].tolist()
    groups = [found.groups[i] for i in labelled]
    scores = found.scores[labelled]
    answers = [classes[int(row.argmax())] if np.isfinite(row[0]) else None for row in scores]
    mine = evaluate_classification(truth, answers, classes=classes, groups=groups)
    return mine, evaluate_classification(truth, majority_labels(truth), classes=classes, groups=groups)


def error_rates(
    classes: Sequence[str], truth: npt.NDArray[np.object_], p: npt.NDArray[np.float64], least: float
) -> dict[str, Any]:
    """Return how cells of known class are answered: by class, and how often normal and other cells are taken for it.

    Cells whose best probability is below ``least`` are counted as uncategorised.
    """
    best = np.asarray(classes, object)[p.argmax(axis=1)]
    answer = np.where(p.max(axis=1) >= least, best, UNCATEGORISED)
    named = answer != UNCATEGORISED
    normal = truth == "red_cell_normal"
    return {
        "counts": [[int(((truth == a) & (answer == b)).sum()) for b in classes] for a in classes],
        "uncategorised": {a: int(((truth == a) & ~named).sum()) for a in classes},
        "false_positives": {
            c: {
                "normal": [int((normal & (answer == c)).sum()), int(normal.sum())],
                "other": [int(((truth != c) & (answer == c)).sum()), int((truth != c).sum())],
            }
            for c in classes
            if c != "red_cell_normal"
        },
    }


def _classifier(
    classes: Sequence[str],
    tensors: dict[str, npt.NDArray[Any]],
    gamma: float,
    temperature: float = 1.0,
    least: float = 0.0,
) -> RedCellClassifier:
    card = {
        "name": "fold", "classes": classes, "features": FEATURE_NAMES, "taxonomy": TAXONOMY, "gamma": gamma,
        "temperature": temperature, "least_probability": least,
    }  # fmt: skip
    return RedCellClassifier(card, tensors)


def _save(tensors: dict[str, npt.NDArray[Any]], path: Path) -> None:
    from safetensors.numpy import save

    write_bytes(path, save({key: np.ascontiguousarray(value) for key, value in tensors.items()}))
