"""How good the recipe for blood counts is: cross-validated, centre to centre, beside a plain refit, trust included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from wsi_pipeline.predictions.assessment import Candidate, Plan, Study, run_study
from wsi_pipeline.predictions.assessment.folds import grouped_folds
from wsi_pipeline.predictions.counts.ensemble import Ensemble, softmax
from wsi_pipeline.predictions.counts.features import ANALYTES, CLASSES, FloatArray
from wsi_pipeline.predictions.counts.labelled import LabelledCounts
from wsi_pipeline.predictions.counts.model import CountsModel
from wsi_pipeline.training.counts.fit import centre_parts, fit_counts, measure_trust
from wsi_pipeline.training.counts.members import IntArray, plain_refit

RECIPE, PLAIN = "ensemble", "plain refit"
TRUST_FOLDS = 10


@dataclass(frozen=True)
class _Plain:
    ensemble: Ensemble

    def predict_proba(self, features: FloatArray) -> FloatArray:
        return softmax(self.ensemble.margins(features))


@dataclass(frozen=True)
class _Recipe:
    model: CountsModel

    def predict_proba(self, features: FloatArray) -> FloatArray:
        return self.model.probabilities(features)[0]


def study_recipe(data: LabelledCounts, plan: Plan) -> Study:
    """Return the study of the recipe beside a plain refit; inner folds fix the temperature in every training part."""

    def recipe(features: FloatArray, labels: IntArray, seed: int, *, patients: IntArray) -> _Recipe:
        part = LabelledCounts(values=features, labels=labels, patients=patients, centres=np.zeros_like(patients))
        return _Recipe(fit_counts(part, seed, inner_folds=2))

    def plain(features: FloatArray, labels: IntArray, seed: int) -> _Plain:
        return _Plain(plain_refit(features, labels, seed))

    return run_study(
        data.values,
        [CLASSES[i] for i in data.labels],
        [Candidate(name=RECIPE, fit=recipe, uses_patients=True), Candidate(name=PLAIN, fit=plain)],
        patients=[str(p) for p in data.patients],
        centres=[data.centre_names[c] for c in data.centres] if len(data.centre_names) > 1 else None,
        classes=CLASSES,
        feature_names=ANALYTES,
        plan=plan,
    )


def study_trust(data: LabelledCounts, seed: int, report: Callable[[str], None]) -> dict[str, Any]:
    """Return how trust held on patients left out (``folds``), and on centres left out (``between_centres``).

    Which centres are answered by the others says :func:`~wsi_pipeline.training.counts.fit.centre_parts`.
    """
    report(f"trust: {TRUST_FOLDS} folds by patient, thresholds chosen inside each")
    found = {"folds": measure_trust(data, grouped_folds(data.labels, data.patients, TRUST_FOLDS, seed=seed), seed)}
    centres = centre_parts(data)
    if centres is not None:
        names = ", ".join(data.centre_names[c] for c in np.unique(centres[centres >= 0]))
        report(f"trust: {names} answered by the other centres")
        found["between_centres"] = measure_trust(data, centres, seed)
    return found
