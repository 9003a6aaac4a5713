"""From values and classes to a model of blood counts with its temperature and thresholds, and how its trust holds.

Temperature and thresholds come from patients that the answering ensemble did not see: inner folds by patient, and
where there are two or more centres, each centre answered by the others. A test fold is never looked at.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from wsi_pipeline.predictions.assessment.folds import grouped_folds
from wsi_pipeline.predictions.counts.ensemble import Ensemble, softmax
from wsi_pipeline.predictions.counts.features import ANALYTES, CLASSES, FloatArray
from wsi_pipeline.predictions.counts.labelled import LabelledCounts
from wsi_pipeline.predictions.counts.measured import summarise_trust
from wsi_pipeline.predictions.counts.model import CountsModel
from wsi_pipeline.predictions.counts.population import Population
from wsi_pipeline.predictions.counts.trust import NEVER, HeldOut, TrustRules, choose_rules, fit_temperature
from wsi_pipeline.training.counts.members import IntArray, fit_ensemble

INNER_FOLDS = 5
LEAST_OF_CLASS = 50
"""Patients of each class that centres must have together to answer for another one."""

_IMPORTANCE_ROWS = 200

_NO_RULES = TrustRules(green=(NEVER,) * 3, orange=(NEVER,) * 3, apl_alert=0.0)


def fit_counts(data: LabelledCounts, seed: int, *, inner_folds: int = INNER_FOLDS) -> CountsModel:
    """Return a model without a card, fitted to all of ``data``."""
    fold = grouped_folds(data.labels, data.patients, inner_folds, seed=seed)
    schemes = [_held_out(data, fold, seed)]
    centres = centre_parts(data)
    if centres is not None:
        schemes.append(_held_out(data, centres, seed))
    temperature = fit_temperature(*schemes[0])
    scaled = [HeldOut(probabilities=softmax(margins / temperature), truth=truth) for margins, truth in schemes]
    return _model(data, seed, choose_rules(scaled), temperature)


def measure_trust(data: LabelledCounts, parts: IntArray, seed: int) -> dict[str, Any]:
    """Return how answers to patients left out turned out, by trust, with 95 % intervals (Wilson).

    Parameters
    ----------
    parts
        ``(n,)``: each part in turn is left out and answered by a model of the others; -1 is answered by none.
    """
    answers = [
        (rows, fit_counts(data.take(np.flatnonzero(parts != part)), seed).predict(data.values[rows]))
        for part in np.unique(parts[parts >= 0])
        for rows in [np.flatnonzero(parts == part)]
    ]
    return summarise_trust([(found, data.labels[rows]) for rows, found in answers])


def centre_parts(data: LabelledCounts) -> IntArray | None:
    """Return the parts of :func:`measure_trust` that are centres, ``(n,)``, or None where no centre can be answered.

    A centre is answered by the others where these have :data:`LEAST_OF_CLASS` patients of every class.
    """
    present = np.unique(data.centres)
    able = [c for c in present if _least_of_class(data.labels[data.centres != c]) >= LEAST_OF_CLASS]
    return np.where(np.isin(data.centres, able), data.centres, -1) if able and len(present) > 1 else None


def _least_of_class(labels: IntArray) -> int:
    return int(np.bincount(labels, minlength=len(CLASSES)).min())


def _held_out(data: LabelledCounts, parts: IntArray, seed: int) -> tuple[FloatArray, IntArray]:
    """Return log-probabilities of the rows of each part by a model of the other rows, and their classes."""
    margins, truth = [], []
    for part in np.unique(parts[parts >= 0]):
        rest = data.take(np.flatnonzero(parts != part))
        model = _model(rest, seed, _NO_RULES, 1.0)
        rows = np.flatnonzero(parts == part)
        margins.append(np.log(np.maximum(model.probabilities(data.values[rows])[0], 1e-12)))
        truth.append(data.labels[rows])
    return np.concatenate(margins), np.concatenate(truth)


def _model(data: LabelledCounts, seed: int, rules: TrustRules, temperature: float) -> CountsModel:
    ensemble, population = fit_ensemble(data.values, data.labels, seed), Population.of(data.values)
    return CountsModel(
        ensemble,
        population,
        rules,
        temperature=temperature,
        importance=_importance(ensemble, data.values) if rules is not _NO_RULES else np.zeros(len(ANALYTES)),
        card={},
    )


def _importance(ensemble: Ensemble, values: FloatArray) -> FloatArray:
    step = max(1, len(values) // _IMPORTANCE_ROWS)
    found: FloatArray = np.abs(ensemble.contributions(values[::step])[0]).mean(axis=(0, 2))
    return found
