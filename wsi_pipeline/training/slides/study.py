"""How good a recipe for slide-level models is, on patients left out, beside what a person could read off a count."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsi_pipeline.predictions.assessment import Candidate, Estimate, Plan, Study, run_study
from wsi_pipeline.predictions.assessment.auc import bootstrap_auc
from wsi_pipeline.predictions.assessment.leakage import Finding
from wsi_pipeline.predictions.slide_features.feature import FloatArray
from wsi_pipeline.predictions.slide_features.groups import BLASTS, PROMYELOCYTES, groups_of, member
from wsi_pipeline.predictions.slide_models.ensemble import SlideEnsemble
from wsi_pipeline.predictions.slide_models.inputs import Labels
from wsi_pipeline.predictions.slide_models.subject import Subject
from wsi_pipeline.training.slides.fit import FittedModel, fit_slide_model
from wsi_pipeline.training.slides.members import ROUTINE, TrainingSet, is_of_sections, routine_input

IntArray = npt.NDArray[np.int64]

COLUMN = "drawn number of the subject"
"""By which a candidate finds its cells; it says nothing of them."""
SECTION_ALONE = "megakaryocytes and marrow alone"
"""The model of trephines without the routine counts, beside that with them: what each adds is tested (DeLong)."""
ROUTINE_ALONE = "routine counts, logistic"
"""The baseline of trephines: the counts of the table, without the slide."""
_CELL_REPLICATES = 300


@dataclass(frozen=True)
class _Fitted:
    """A model that is asked by the drawn numbers of subjects."""

    model: SlideEnsemble
    data: TrainingSet
    rows: IntArray

    def predict_proba(self, features: FloatArray) -> FloatArray:
        asked = [self.data.subjects[i] for i in self.rows[features[:, 0].astype(np.int64)].tolist()]
        return np.stack([self.model.resampled(s, np.ones((1, len(s.bag))))[0] for s in asked])


@dataclass(frozen=True)
class _Logistic:
    """A logistic regression on a few shares, asked the same way."""

    coefficients: FloatArray
    intercept: FloatArray
    table: FloatArray
    rows: IntArray

    def predict_proba(self, features: FloatArray) -> FloatArray:
        x = self.table[self.rows[features[:, 0].astype(np.int64)]]
        margins = x @ self.coefficients + self.intercept
        p = np.exp(margins - margins.max(axis=1, keepdims=True))
        found: FloatArray = p / p.sum(axis=1, keepdims=True)
        return found


def study_slides(
    data: TrainingSet,
    names: tuple[str, ...],
    kind: str,
    plan: Plan,
    *,
    centres: Sequence[str] | None,
    findings: Sequence[Finding] = (),
) -> Study:
    """Return the study of the members ``names``, put together and calibrated anew inside every training part.

    Beside it stand logistic regressions on the shares of the labels that folders gave (of the classes by the
    classifier, where not every subject has labels), and on one share alone.
    """
    drawn = np.random.default_rng(plan.seed).permutation(len(data)).astype(np.int64)
    rows = np.argsort(drawn)

    def fit_of(members: tuple[str, ...]) -> Callable[..., _Fitted]:
        def fit(features: FloatArray, labels: IntArray, seed: int, *, patients: IntArray) -> _Fitted:
            part = data.take(rows[features[:, 0].astype(np.int64)], labels)
            return _Fitted(fit_slide_model(part, members, seed=seed).model, data, rows)

        return fit

    def logistic(name: str, table: FloatArray) -> Candidate:
        def fit_table(features: FloatArray, labels: IntArray, seed: int) -> _Logistic:
            x = table[rows[features[:, 0].astype(np.int64)]]
            return _Logistic(*_logistic(x, labels, data.n_classes), table, rows)

        return Candidate(name=name, fit=fit_table)

    plain = plain_tables(data, data.subjects, data.label_names)
    without = tuple(name for name in names if name != ROUTINE)
    alone = without != names and is_of_sections(data.task) and bool(data.analytes)
    return run_study(
        drawn[:, None].astype(np.float64),
        [data.task.codes[i] for i in data.labels],
        [
            Candidate(name=kind, fit=fit_of(names), uses_patients=True),
            *([Candidate(name=SECTION_ALONE, fit=fit_of(without), uses_patients=True)] if alone else []),
            *(logistic(name, table) for name, table in plain.items()),
        ],
        patients=[str(p) for p in data.patients],
        centres=centres,
        classes=data.task.codes,
        feature_names=[COLUMN],
        plan=plan,
        findings=findings,
    )


def plain_tables(data: TrainingSet, subjects: Sequence[Subject], label_names: tuple[str, ...]) -> dict[str, FloatArray]:
    """Return what plain models read of subjects, ``(n, d)`` by the name of the model.

    Parameters
    ----------
    data
        Training subjects, which decide the models.
    label_names
        Labels that are counted.
    """
    bag = data.subjects[0].bag
    if is_of_sections(data.task):
        return _section_tables(data, subjects)
    if all(s.labelled for s in data.subjects):
        read = Labels(labels=label_names)
        shares = np.stack([read.read(s, s.views[0], np.ones((1, len(s.bag))))[0] for s in subjects])
        found = {"label shares, logistic": shares}
    else:
        found = {"class shares, logistic": np.stack([s.views[-1].classes.mean(axis=0) for s in subjects])}
    groups = groups_of(bag.taxonomy, bag.classes)
    states = set() if data.task.positive is None else set(data.task.get(data.task.positive).states)
    group, word = (PROMYELOCYTES, "promyelocytes") if states == {"apl"} else (BLASTS, "blasts")
    if group in groups:
        mask = member(bag.classes, groups[group])
        found[f"percent {word}"] = np.stack([[_share(s, mask)] for s in subjects])
    return found


def _section_tables(data: TrainingSet, subjects: Sequence[Subject]) -> dict[str, FloatArray]:
    """Return the routine counts, where the training subjects have some, and the number of megakaryocytes per mm2."""
    found: dict[str, FloatArray] = {}
    if (read := routine_input(data)) is not None and all(read.applies(s) for s in data.subjects):
        counts = [read.read(s, s.views[0], np.ones((1, len(s.bag))))[0] for s in subjects]
        found[ROUTINE_ALONE] = np.stack(counts)
    density = np.array([[s.bag.sample.get("arrangement.per_mm2", (0.0, 0))[0]] for s in subjects])
    found["megakaryocytes per mm2"] = np.log1p(density)
    return found


def plain_answers(data: TrainingSet, subjects: Sequence[Subject]) -> dict[str, FloatArray]:
    """Return the probabilities ``(n, classes)`` of the plain models, fitted to ``data``, of other subjects.

    Those that count labels answer only where all of these subjects have some.
    """
    own = plain_tables(data, data.subjects, data.label_names)
    other = plain_tables(data, subjects, data.label_names)
    numbers = np.arange(len(subjects))
    found = {}
    for name, table in own.items():
        if name.startswith("label ") and not all(Labels(labels=data.label_names).applies(s) for s in subjects):
            continue
        coefficients, intercept = _logistic(table, data.labels, data.n_classes)
        plain = _Logistic(coefficients, intercept, other[name], numbers)
        found[name] = plain.predict_proba(numbers[:, None].astype(np.float64))
    return found


def _share(subject: Subject, mask: FloatArray) -> float:
    view = subject.views[0]
    return float((view.classes @ mask).sum() / max(float(view.countable.sum()), 1.0))


def _logistic(x: FloatArray, labels: IntArray, n_classes: int) -> tuple[FloatArray, FloatArray]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    mean, spread = x.mean(axis=0), x.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = LogisticRegression(C=1.0, max_iter=1000).fit((x - mean) / spread, labels)
    coefficients, intercept = found.coef_.T, found.intercept_
    if n_classes == 2:
        coefficients = np.concatenate([np.zeros_like(coefficients), coefficients], axis=1)
        intercept = np.r_[0.0, intercept]
    coefficients = coefficients / spread[:, None]
    return coefficients, intercept - mean @ coefficients


@dataclass(frozen=True, kw_only=True)
class CellLevel:
    """AUC of single cells, each with its patient's class, by models that did not see the patient.

    Parameters
    ----------
    of
        ``all cells`` or ``immature cells``.
    n_cells
        Cells scored.
    auc
        Of each class against the rest; intervals over patients.
    """

    of: str
    n_cells: int
    auc: dict[str, Estimate]


def cell_level(fitted: FittedModel, data: TrainingSet, *, seed: int) -> tuple[CellLevel, ...]:
    """Return the image-level figures of a fitted model; none where no member looks at cells."""
    if not any(len(own) for own in fitted.cells):
        return ()
    found = []
    for of in ("all cells", "immature cells"):
        kept = [np.ones(len(s.bag), bool) if of == "all cells" else s.views[0].immature > 0.5 for s in data.subjects]
        sizes = np.array([int(k.sum()) for k in kept])
        if not sizes.any():
            continue
        p = np.concatenate([own[k] for own, k in zip(fitted.cells, kept, strict=True)])
        labels, units, strata = (np.repeat(v, sizes) for v in (data.labels, data.patients, fitted.fold))
        units = np.unique(units, return_inverse=True)[1]
        auc = {
            code: bootstrap_auc(
                p[:, c], labels == c, units=units, strata=strata, replicates=_CELL_REPLICATES, seed=seed
            )
            for c, code in enumerate(data.task.codes)
        }
        found.append(CellLevel(of=of, n_cells=int(sizes.sum()), auc=auc))
    return tuple(found)
