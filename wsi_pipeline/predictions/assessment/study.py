"""A whole evaluation in one call: every figure of every candidate, a trivial baseline beside it, and what to doubt."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.predictions.assessment.assess import Assessment, assess
from wsi_pipeline.predictions.assessment.auc import AucDifference, compare_areas, delong
from wsi_pipeline.predictions.assessment.candidates import BASELINE, Candidate, baseline, checked
from wsi_pipeline.predictions.assessment.centres import Transfer, transfers
from wsi_pipeline.predictions.assessment.cross_validation import (
    CHOSEN,
    Predictions,
    cross_validate,
    nested_cross_validate,
    repeated_folds,
)
from wsi_pipeline.predictions.assessment.document import document
from wsi_pipeline.predictions.assessment.folds import grouped_folds
from wsi_pipeline.predictions.assessment.leakage import Finding, leakage
from wsi_pipeline.predictions.assessment.learning import LearningCurve, learning_curve
from wsi_pipeline.predictions.assessment.null import NullCheck, null_check
from wsi_pipeline.predictions.assessment.plan import Plan
from wsi_pipeline.predictions.assessment.subjects import Subjects


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two candidates on the same subjects and folds, for one class: DeLong's test, patients as units."""

    first: str
    second: str
    class_name: str
    auc: AucDifference


@dataclass(frozen=True, kw_only=True)
class CentreTable:
    """One centre's subjects, as the cross-validation over all centres predicted them."""

    centre: str
    n_by_class: tuple[int, ...]
    assessments: tuple[Assessment, ...]


@dataclass(frozen=True, kw_only=True)
class FeatureSummary:
    """A feature, and the share of subjects that lack it."""

    name: str
    missing: float


@dataclass(frozen=True, kw_only=True)
class Study:
    """Everything an evaluation found, in a fixed order.

    Parameters
    ----------
    n_by_class
        Subjects of each class.
    assessments
        Cross-validated figures: the candidates, then nested cross-validation where asked for, the baseline last.
    chosen
        Candidate chosen in each fold of each repeat of the nested cross-validation.
    centres, transfers
        Empty without two or more centres.
    trained_elsewhere
        The models were given (:func:`study_answers`): folds only chose thresholds, and leakage was not looked for.
    """

    plan: Plan
    classes: tuple[str, ...]
    n: int
    n_patients: int
    n_by_class: tuple[int, ...]
    features: tuple[FeatureSummary, ...]
    findings: tuple[Finding, ...]
    assessments: tuple[Assessment, ...]
    comparisons: tuple[Comparison, ...]
    chosen: tuple[str, ...]
    centres: tuple[CentreTable, ...]
    transfers: tuple[Transfer, ...]
    learning: tuple[LearningCurve, ...]
    null: tuple[NullCheck, ...]
    trained_elsewhere: bool = False

    def document(self) -> dict[str, Any]:
        """Return the study as dictionaries and lists, numbers rounded to six decimals."""
        result: dict[str, Any] = document(self)
        return result

    def to_json(self) -> str:
        """Return the study as JSON: no dates, fixed order, the same characters whenever the same study is made."""
        return json.dumps(self.document(), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def run_study(
    features: npt.ArrayLike,
    labels: Sequence[str],
    candidates: Sequence[Candidate],
    *,
    patients: Sequence[str] | None = None,
    centres: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    feature_names: Sequence[str] | None = None,
    plan: Plan | None = None,
    findings: Sequence[Finding] = (),
) -> Study:
    """Evaluate candidates on a table of subjects.

    Parameters
    ----------
    features
        ``(n, d)`` float64, NaN where a value is missing.
    labels, patients, centres
        One name a subject; without ``patients`` each subject is a patient of its own.
    candidates
        One or more; the trivial baseline is added.
    classes
        Their order; by name when not given.
    plan
        Sizes, rules, seed.
    findings
        What was found of the subjects beyond their features, cells that two patients share for one; put first.

    Raises
    ------
    ConfigError
        No candidate, two of one name, or one that has the name of the baseline.
    DataError
        The table cannot be used, a class has fewer patients than there are folds, or a candidate gives no
        probabilities.
    """
    plan = plan or Plan()
    names = [c.name for c in candidates]
    if not names or len(set(names)) < len(names) or {BASELINE, CHOSEN} & set(names):
        raise ConfigError(
            f"one or more candidates of different names are needed, none called '{BASELINE}' or '{CHOSEN}'"
        )
    subjects = Subjects.of(
        features, labels, patients=patients, centres=centres, classes=classes, feature_names=feature_names
    )
    with_baseline = [*candidates, baseline(len(subjects.classes))]
    folds = repeated_folds(subjects, plan.folds, plan.repeats, seed=plan.seed)
    found = [cross_validate(c, subjects, folds, seed=plan.seed) for c in candidates]
    chosen: tuple[str, ...] = ()
    if plan.inner_folds:
        nested, chosen = nested_cross_validate(
            candidates, subjects, folds, inner_folds=plan.inner_folds, seed=plan.seed
        )
        found.append(nested)
    found.append(cross_validate(with_baseline[-1], subjects, folds, seed=plan.seed))
    null = tuple(
        null_check(
            c, subjects, folds=plan.folds, shuffles=plan.null_repeats, replicates=plan.replicates, seed=plan.seed
        )
        for c in candidates
        if plan.null_repeats
    )
    return Study(
        plan=plan,
        classes=subjects.classes,
        n=len(subjects),
        n_patients=subjects.n_patients,
        n_by_class=_counts(subjects),
        features=_features(subjects),
        findings=(*findings, *leakage(subjects, folds[0]), *_null_findings(null)),
        assessments=tuple(assess(f, subjects, plan) for f in found),
        comparisons=_comparisons(found, subjects),
        chosen=chosen,
        centres=_by_centre(found, subjects, plan),
        transfers=transfers(with_baseline, subjects, plan),
        learning=tuple(
            learning_curve(c, subjects, folds[0], plan.fractions, replicates=plan.replicates, seed=plan.seed)
            for c in candidates
            if plan.fractions
        ),
        null=null,
    )


def study_answers(
    features: npt.ArrayLike,
    labels: Sequence[str],
    answers: Mapping[str, npt.ArrayLike],
    *,
    patients: Sequence[str] | None = None,
    centres: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    feature_names: Sequence[str] | None = None,
    plan: Plan | None = None,
    findings: Sequence[Finding] = (),
) -> Study:
    """Evaluate models that were trained elsewhere, on subjects that they have not seen.

    Parameters
    ----------
    answers
        Probabilities ``(n, classes)`` by name of the model; the class frequencies of these subjects are added as the
        trivial baseline. The other parameters are those of :func:`run_study`; of the plan, what asks for a training
        is left out, and its folds choose each other's thresholds.

    Raises
    ------
    ConfigError, DataError
        As :func:`run_study`; what a model gave are no probabilities.
    """
    plan = replace(plan or Plan(), repeats=1, inner_folds=0, null_repeats=0, fractions=())
    if not answers or {BASELINE, CHOSEN} & set(answers):
        raise ConfigError(f"one or more models are needed, none called '{BASELINE}' or '{CHOSEN}'")
    subjects = Subjects.of(
        features, labels, patients=patients, centres=centres, classes=classes, feature_names=feature_names
    )
    rows = np.arange(len(subjects))
    parts = grouped_folds(subjects.labels, subjects.patients, plan.folds, seed=plan.seed)
    frequencies = baseline(len(subjects.classes)).fit(subjects.features, subjects.labels, plan.seed)
    every = {**answers, BASELINE: frequencies.predict_proba(subjects.features)}
    given = {name: checked(name, p, subjects) for name, p in every.items()}
    found = [
        Predictions(
            candidate=name,
            rows=rows,
            probabilities=p,
            strata=np.zeros_like(rows),
            repeats=np.zeros_like(rows),
            threshold_folds=parts,
        )
        for name, p in given.items()
    ]
    return Study(
        plan=plan,
        classes=subjects.classes,
        n=len(subjects),
        n_patients=subjects.n_patients,
        n_by_class=_counts(subjects),
        features=_features(subjects),
        findings=tuple(findings),
        assessments=tuple(assess(f, subjects, plan) for f in found),
        comparisons=_comparisons(found, subjects),
        chosen=(),
        centres=_by_centre(found, subjects, plan),
        transfers=(),
        learning=(),
        null=(),
        trained_elsewhere=True,
    )


def _features(subjects: Subjects) -> tuple[FeatureSummary, ...]:
    return tuple(
        FeatureSummary(name=name, missing=float(np.isnan(subjects.features[:, j]).mean()))
        for j, name in enumerate(subjects.feature_names)
    )


def _counts(subjects: Subjects) -> tuple[int, ...]:
    return tuple(int(n) for n in np.bincount(subjects.labels, minlength=len(subjects.classes)))


def _comparisons(found: Sequence[Predictions], subjects: Subjects) -> tuple[Comparison, ...]:
    """Compare each pair of candidates, the baseline included, class by class."""
    # All were predicted on the same folds in the same order.
    rows, strata = found[0].rows, found[0].strata
    labels, units = subjects.labels[rows], subjects.patients[rows]
    result = []
    for c, name in enumerate(subjects.classes):
        areas = delong(np.stack([f.probabilities[:, c] for f in found]), labels == c, strata=strata, units=units)
        result += [
            Comparison(
                first=found[i].candidate,
                second=found[j].candidate,
                class_name=name,
                auc=compare_areas(areas, i, j),
            )
            for i in range(len(found))
            for j in range(i + 1, len(found))
        ]
    return tuple(result)


def _by_centre(found: Sequence[Predictions], subjects: Subjects, plan: Plan) -> tuple[CentreTable, ...]:
    if subjects.centres is None or len(subjects.centre_names) < 2:
        return ()
    tables = []
    for number, name in enumerate(subjects.centre_names):
        inside = subjects.centres == number
        tables.append(
            CentreTable(
                centre=name,
                n_by_class=_counts(subjects.take(inside)),
                assessments=tuple(assess(f.take(inside[f.rows]), subjects, plan) for f in found),
            )
        )
    return tuple(tables)


def _null_findings(checks: Sequence[NullCheck]) -> list[Finding]:
    return [
        Finding(
            kind="null-check-failed",
            count=sum(not (e.lower or 0) <= 0.5 <= (e.upper or 1) for row in check.auc for e in row),
            message=f"{check.candidate} tells shuffled labels apart: some interval of its AUC does not contain 0.5, so "
            "the procedure leaks or its intervals are too narrow.",
        )
        for check in checks
        if not check.passed
    ]
