"""Evaluate a model of blood counts on patients whose class is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wsi_pipeline.atomic import write_json, writing
from wsi_pipeline.errors import DataError
from wsi_pipeline.exports.report.assessment import write_assessment
from wsi_pipeline.predictions.assessment import Plan
from wsi_pipeline.predictions.assessment.study import Study, study_answers
from wsi_pipeline.predictions.counts.features import ANALYTES, CLASSES
from wsi_pipeline.predictions.counts.labelled import LabelledCounts
from wsi_pipeline.predictions.counts.measured import summarise_trust
from wsi_pipeline.predictions.counts.model import CountsModel
from wsi_pipeline.predictions.counts.words import PRECONDITION

FOLDS = 5
"""In which thresholds of the operating points are chosen for each other."""


def evaluate_counts(data: LabelledCounts, model: CountsModel, out: Path, *, seed: int = 0) -> dict[str, Any]:
    """Write ``study.html``, ``study.json`` and ``metrics.json`` of a model's answers; return the metrics.

    AUC and calibration are of all patients, those included to whom the model gives no answer; accuracy by trust is of
    the answers.

    Raises
    ------
    DataError
        A class has fewer patients than there are folds.
    OutputError
        ``out`` cannot be written.
    """
    few = [f"{name} {n}" for name, n in data.n_by_class.items() if n < FOLDS]
    if few:
        raise DataError(f"{', '.join(few)} patients: figures with intervals need {FOLDS} of each class")
    name = str(model.card.get("name", "model"))
    study = study_answers(
        data.values,
        [CLASSES[i] for i in data.labels],
        {name: model.probabilities(data.values)[0]},
        patients=[str(p) for p in data.patients],
        centres=[data.centre_names[c] for c in data.centres] if len(data.centre_names) > 1 else None,
        classes=CLASSES,
        feature_names=ANALYTES,
        plan=Plan(folds=FOLDS, seed=seed),
    )
    metrics = {**_metrics(study), "trust": summarise_trust([(model.predict(data.values), data.labels)])}
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        write_assessment(study, out / "study.html", title=f"{name} on {len(data)} patients", notes=[PRECONDITION["en"]])
        write_json(out / "metrics.json", metrics)
    return metrics


def _metrics(study: Study) -> dict[str, Any]:
    found = study.assessments[0]
    return {
        "model": found.candidate,
        "n": study.n,
        "accuracy": vars(found.accuracy),
        "macro_f1": vars(found.macro_f1),
        "ece": vars(found.ece),
        "baseline_accuracy": vars(study.assessments[-1].accuracy),
        "per_class": {
            c.name: {"n": c.n, "auc": vars(c.auc), "recall": vars(c.recall), "precision": vars(c.precision)}
            for c in found.per_class
        },
    }


def metrics_rows(metrics: dict[str, Any]) -> Sequence[Sequence[str]]:
    """Return the metrics as rows of a table: figure, n, value, 95 % interval."""
    rows = [_row(f"AUC {name}", entry["n"], entry["auc"]) for name, entry in metrics["per_class"].items()]
    rows += [_row(name, metrics["n"], metrics[name]) for name in ("accuracy", "baseline_accuracy", "macro_f1", "ece")]
    trust = metrics["trust"]
    for key in ("green", "orange", "red", "green_coverage", "apl_alert_sensitivity", "apl_alert_specificity"):
        label = f"accuracy of {key} answers" if key in ("green", "orange", "red") else key.replace("_", " ")
        rows.append(_row(label, trust[key]["n"], trust[key]))
    return rows


def _row(name: str, n: int, found: dict[str, Any]) -> list[str]:
    value = "-" if found["value"] is None else f"{found['value']:.3f}"
    missing = found["lower"] is None or found["upper"] is None
    return [name, str(n), value, "-" if missing else f"{found['lower']:.3f} to {found['upper']:.3f}"]
