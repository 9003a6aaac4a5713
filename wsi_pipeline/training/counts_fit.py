"""From values and classes to a model of blood counts with its temperature and thresholds, and how its trust holds.

Temperature and thresholds come from patients that the answering ensemble did not see: inner folds by patient, and
where there are two or more centres, each centre answered by the others. A test fold is never looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from wsi_pipeline.predictions.assessment.folds import grouped_folds
from wsi_pipeline.predictions.counts.ensemble import Ensemble
from wsi_pipeline.predictions.counts.features import ANALYTES, CLASSES, FloatArray
from wsi_pipeline.predictions.counts.model import CountsModel, CountsPredictions
from wsi_pipeline.predictions.counts.population import Population
from wsi_pipeline.predictions.counts.trust import NEVER, HeldOut, TrustRules, choose_rules, fit_temperature
from wsi_pipeline.predictions.intervals import wilson
from wsi_pipeline.training.counts_members import IntArray, fit_ensemble

INNER_FOLDS = 5
LEAST_OF_CLASS = 10
"""Patients of each class that a centre must have to answer for another one."""

_NO_RULES = TrustRules(green=(NEVER,) * 3, orange=(NEVER,) * 3, apl_alert=0.0)


@dataclass(frozen=True, kw_only=True)
class LabelledCounts:
    """Patients with known classes: values ``(n, 14)``, class, patient and centre of each, as indices ``(n,)``."""

    values: FloatArray
    labels: IntArray
    patients: IntArray
    centres: IntArray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: IntArray) -> LabelledCounts:
        """Return some of the rows."""
        return LabelledCounts(
            values=self.values[rows],
            labels=self.labels[rows],
            patients=self.patients[rows],
            centres=self.centres[rows],
        )


def fit_counts(data: LabelledCounts, seed: int, *, threads: int = 0, inner_folds: int = INNER_FOLDS) -> CountsModel:
    """Return a model without a card, fitted to all of ``data``."""
    fold = grouped_folds(data.labels, data.patients, inner_folds, seed=seed)
    schemes = [_held_out(data, fold, seed, threads)]
    able = [c for c in np.unique(data.centres) if _can_teach(data.labels[data.centres != c])]
    if able and len(np.unique(data.centres)) > 1:
        schemes.append(_held_out(data, np.where(np.isin(data.centres, able), data.centres, -1), seed, threads))
    temperature = fit_temperature(*schemes[0])
    scaled = [HeldOut(probabilities=_cooled(margins, temperature), truth=truth) for margins, truth in schemes]
    return _model(data, seed, threads, choose_rules(scaled), temperature)


def measure_trust(data: LabelledCounts, parts: IntArray, seed: int, *, threads: int = 0) -> dict[str, Any]:
    """Return how answers to patients left out turned out, by trust, with 95 % intervals (Wilson).

    Parameters
    ----------
    parts
        ``(n,)``: each part in turn is left out and answered by a model of the others; -1 is answered by none.
    """
    answers = [
        (rows, fit_counts(data.take(np.flatnonzero(parts != part)), seed, threads=threads).predict(data.values[rows]))
        for part in np.unique(parts[parts >= 0])
        for rows in [np.flatnonzero(parts == part)]
    ]
    return summarise_trust([(found, data.labels[rows]) for rows, found in answers])


def summarise_trust(answers: list[tuple[CountsPredictions, IntArray]]) -> dict[str, Any]:
    """Return counts with Wilson intervals: right answers by trust, coverage, abstentions, and the APL alert."""
    trust = np.concatenate([found.trust for found, _ in answers])
    predicted = np.concatenate([found.predicted for found, _ in answers])
    alert = np.concatenate([found.apl_alert for found, _ in answers])
    reason = np.concatenate([found.reason for found, _ in answers])
    truth = np.concatenate([labels for _, labels in answers])
    answered, apl = predicted >= 0, truth == CLASSES.index("APL")
    levels = {
        level: _share(predicted[rows] == truth[rows], "right")
        for level in ("green", "orange", "red")
        for rows in [answered & (trust == level)]
    }
    return {
        "n": len(truth),
        **levels,
        "green_coverage": _share(answered & (trust == "green"), "green"),
        "all_answers": _share((predicted == truth)[answered], "right"),
        "apl_alert_sensitivity": _share(alert[apl & answered], "alerted"),
        "apl_alert_specificity": _share(~alert[~apl & answered], "silent"),
        "reasons": {str(word): int(n) for word, n in zip(*np.unique(reason, return_counts=True), strict=True) if word},
    }


def _share(hits: np.ndarray, name: str) -> dict[str, Any]:
    k, n = int(hits.sum()), len(hits)
    lower, upper = wilson(k, n)
    return {name: k, "n": n, "value": k / n if n else None, "lower": lower, "upper": upper}


def _can_teach(labels: IntArray) -> bool:
    return int(np.bincount(labels, minlength=len(CLASSES)).min()) >= LEAST_OF_CLASS


def _held_out(data: LabelledCounts, parts: IntArray, seed: int, threads: int) -> tuple[FloatArray, IntArray]:
    """Return log-probabilities of the rows of each part by a model of the other rows, and their classes."""
    margins, truth = [], []
    for part in np.unique(parts[parts >= 0]):
        rest = data.take(np.flatnonzero(parts != part))
        model = _model(rest, seed, threads, _NO_RULES, 1.0)
        rows = np.flatnonzero(parts == part)
        margins.append(np.log(np.maximum(model.probabilities(data.values[rows])[0], 1e-12)))
        truth.append(data.labels[rows])
    return np.concatenate(margins), np.concatenate(truth)


def _model(data: LabelledCounts, seed: int, threads: int, rules: TrustRules, temperature: float) -> CountsModel:
    ensemble, population = fit_ensemble(data.values, data.labels, seed, threads=threads), Population.of(data.values)
    return CountsModel(
        ensemble,
        population,
        rules,
        temperature=temperature,
        importance=_importance(ensemble, data.values) if rules is not _NO_RULES else np.zeros(len(ANALYTES)),
        card={},
    )


def _importance(ensemble: Ensemble, values: FloatArray) -> FloatArray:
    found: FloatArray = np.abs(ensemble.contributions(values)[0]).mean(axis=(0, 2))
    return found


def _cooled(margins: FloatArray, temperature: float) -> FloatArray:
    from scipy.special import softmax

    result: FloatArray = softmax(margins / temperature, axis=1)
    return result
