"""How good given slide-level models are on subjects that they have not seen: figures, sets, and who got no answer."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from wsi_pipeline.atomic import write_json, writing
from wsi_pipeline.errors import ConfigError, DataError, ModelError, some
from wsi_pipeline.exports.report.assessment import write_assessment
from wsi_pipeline.predictions.assessment import BASELINE, Estimate, Plan, Study
from wsi_pipeline.predictions.assessment.document import document
from wsi_pipeline.predictions.assessment.leakage import Finding
from wsi_pipeline.predictions.assessment.study import study_answers
from wsi_pipeline.predictions.bags import Cohort, cell_leakage
from wsi_pipeline.predictions.intervals import wilson
from wsi_pipeline.predictions.slide_features.feature import FloatArray
from wsi_pipeline.predictions.slide_models.criteria import NAME as CRITERIA
from wsi_pipeline.predictions.slide_models.criteria import CriteriaModel
from wsi_pipeline.predictions.slide_models.decision import Decision, decide
from wsi_pipeline.predictions.slide_models.ensemble import SlideEnsemble
from wsi_pipeline.predictions.slide_models.known import WORDS, Why
from wsi_pipeline.predictions.slide_models.storage import load_slide_model
from wsi_pipeline.predictions.slide_models.subject import subjects_of
from wsi_pipeline.training.slides.data import CohortRequest, read_request
from wsi_pipeline.training.slides.study import ROUTINE_ALONE, SECTION_ALONE


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Figures of a model on a cohort.

    Parameters
    ----------
    study
        Of all subjects, whether they got an answer or not.
    reasons
        Subjects without an answer, by reason.
    answered, right
        Subjects whose set leaves a class out, and share of them whose class is in it.
    covered
        Share of the subjects with a probability whose class the set holds, whether it says anything or not.
    left_out
        Classes of the model that the cohort lacks; probabilities are of the others.
    trained_on
        Subjects that the model was trained on, by what they were known; they were set apart unless ``kept_known``.
    """

    study: Study
    reasons: dict[str, int]
    answered: Estimate
    right: Estimate
    covered: Estimate
    coverage: float
    left_out: tuple[str, ...]
    trained_on: Mapping[str, int] = field(default_factory=dict)
    kept_known: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        shares = {name: document(getattr(self, name)) for name in ("answered", "right", "covered")}
        return {
            "n": self.study.n, "stated_coverage": self.coverage, **shares, "no_answer": self.reasons,
            "classes_left_out": list(self.left_out),
            "trained_on": {
                "subjects": dict(self.trained_on), "set_apart": bool(self.trained_on) and not self.kept_known,
            },
            "study": self.study.document(),
        }  # fmt: skip


def evaluate_slides(
    model_file: str,
    request: Callable[[SlideEnsemble], CohortRequest],
    out: Path,
    plan: Plan,
    *,
    allow_simulated: bool,
    keep_known: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Evaluate a model and write ``metrics.json``, ``evaluation.html`` and ``evaluation.json``.

    Subjects that the model was trained on are set apart and told, by the patient's name and by cells
    (:mod:`wsi_pipeline.predictions.slide_models.known`).

    Parameters
    ----------
    request
        Returns which subjects, given the model with its task.
    keep_known
        Measure it on those too, where other people have the same names; the figures say so.

    Raises
    ------
    ModelError
        The model cannot be read, or was trained on simulated cohorts and these are not allowed.
    DataError
        The runs or the table cannot be used, or only subjects of the training are left.
    """
    model = load_slide_model(model_file)
    if model.card.get("simulated") and not allow_simulated:
        raise ModelError(
            f"model {model.card['name']} was trained on simulated cohorts; give --allow-simulated to use it"
        )
    cohort, said = read_request(request(model), embedding=bool(model.card["reads_embedding"]))
    for line in said:
        report(f"note: {line}")
    apart = known_subjects(model, cohort)
    told = [apart.sentence(keep_known)] if apart.why else ["the model knows none of the subjects from its training"]
    if model.known is None:
        told = [f"the file of model {model.card['name']} does not say whom it was trained on; see to it that it was "
                "not these subjects, or train it again"]  # fmt: skip
    for line in told:
        report(f"note: {line}")
    if not keep_known:
        cohort = apart.rest(cohort)
    found = evaluate_model(model, cohort, plan)
    found = replace(found, trained_on=apart.counts, kept_known=keep_known)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        notes = [f"Trained on: {model.card['trained_on']}.", *(f"{line[0].upper()}{line[1:]}." for line in told)]
        notes += ["SIMULATED: the model was trained on simulated cohorts."] if model.card.get("simulated") else []
        write_assessment(
            found.study, out / "evaluation.html", title=f"{model.card['name']}: {model.task.description}", notes=notes
        )
        about = {"model": model.card["name"], "sha256": model.card["sha256"], "task": model.task.name}
        write_json(out / "metrics.json", {**about, **found.to_dict()})
    return found


@dataclass(frozen=True, kw_only=True)
class KnownSubjects:
    """Subjects of a cohort that a model was trained on: row and by what it is known; ``n`` subjects in all."""

    why: Mapping[int, Why]
    names: tuple[str, ...]
    n: int

    @property
    def counts(self) -> dict[str, int]:
        """Return how many are known by what."""
        return dict(sorted(Counter(self.why.values()).items()))

    def sentence(self, kept: bool) -> str:
        """Return what a person is told."""
        by = ", ".join(f"{n} by {WORDS[why]}" for why, n in Counter(self.why.values()).most_common())
        done = "measured all the same, so the figures are too good" if kept else "set apart"
        return (
            f"{len(self.why)} of {self.n} subjects are {done}: the model was trained on them ({by}): {some(self.names)}"
        )

    def rest(self, cohort: Cohort) -> Cohort:
        """Return the others.

        Raises
        ------
        DataError
            There are none.
        """
        if len(self.why) == self.n:
            raise DataError(
                f"the model was trained on all {self.n} subjects ({', '.join(self.counts)}); evaluate it on others, or "
                "give --keep-known where other people have the same names"
            )
        return cohort.take([i for i in range(self.n) if i not in self.why])


def known_subjects(model: SlideEnsemble, cohort: Cohort) -> KnownSubjects:
    """Return the subjects that a model was trained on, as far as its file says it."""
    why: dict[int, Why] = {}
    for i, (bag, patient) in enumerate(zip(cohort.bags, cohort.patients, strict=True)):
        if model.known is not None and (found := model.known.why(bag, patient)):
            why[i] = found
    return KnownSubjects(why=why, names=tuple(cohort.bags[i].subject_id for i in why), n=len(cohort))


def evaluate_model(
    model: SlideEnsemble,
    cohort: Cohort,
    plan: Plan,
    *,
    beside: Mapping[str, FloatArray] | None = None,
    trained_on: Cohort | None = None,
) -> Evaluation:
    """Return the figures of a model on subjects that it has not seen; beside it, where there are any, the criteria.

    Parameters
    ----------
    beside
        Probabilities ``(n, classes)`` of other models, by name.
    trained_on
        Whom the model was trained on, where that is known: cells that both share are looked for.

    Raises
    ------
    DataError
        The cohort has fewer than two of the model's classes, or too few patients of one.
    """
    codes = model.task.codes
    labels = [_within(model, label) for label in cohort.labels]
    present = [c for c, code in enumerate(codes) if code in labels]
    if len(present) < 2:
        raise DataError(f"the cohort has one class of task {model.task.name} only: {', '.join(sorted(set(labels)))}")
    p = model.probabilities(cohort.bags, counts=cohort.counts, count_names=cohort.count_names)
    answers: dict[str, FloatArray] = {str(model.card["name"]): _shared_out(p[:, present])}
    answers |= {name: _shared_out(own[:, present]) for name, own in (beside or {}).items()}
    with contextlib.suppress(ConfigError):  # there is no published limit for every task
        answers[CRITERIA] = CriteriaModel(task=model.task).probabilities(cohort.bags)
    rarest = min(
        len({who for who, own in zip(cohort.patients, labels, strict=True) if own == codes[c]}) for c in present
    )
    if rarest < 2:
        raise DataError("a class has one patient only; two or more of each are needed to measure anything")
    study = study_answers(
        np.array([[float(len(bag))] for bag in cohort.bags]),
        labels,
        answers,
        patients=cohort.patients,
        centres=cohort.centres,
        classes=[codes[c] for c in present],
        feature_names=["nucleated cells"],
        plan=replace(plan, folds=min(plan.folds, rarest)),
        findings=_shared_cells(cohort, trained_on),
    )
    subjects = subjects_of(cohort.bags, counts=cohort.counts, count_names=cohort.count_names)
    decided = [decide(model, subject) for subject in subjects]
    return _evaluation(model, decided, labels, study, tuple(c for c in codes if c not in labels))


def _shared_cells(cohort: Cohort, trained_on: Cohort | None) -> tuple[Finding, ...]:
    if trained_on is None:
        return cell_leakage(cohort.bags, cohort.patients)
    patients = (*trained_on.patients, *cohort.patients)
    return cell_leakage((*trained_on.bags, *cohort.bags), patients, trained_on=trained_on.patients)


def _evaluation(
    model: SlideEnsemble, decided: list[Decision], labels: list[str], study: Study, left_out: tuple[str, ...]
) -> Evaluation:
    told = [(one, label) for one, label in zip(decided, labels, strict=True) if not one.reason]
    sets = [(one, label) for one, label in zip(decided, labels, strict=True) if one.reason in ("", "uncertain")]
    return Evaluation(
        study=study,
        reasons=dict(sorted(Counter(one.reason for one in decided if one.reason).items())),
        answered=_estimate(len(told), len(decided)),
        right=_estimate(sum(label in one.kept for one, label in told), len(told)),
        covered=_estimate(sum(label in one.kept for one, label in sets), len(sets)),
        coverage=model.combinations[""].sets.coverage,
        left_out=left_out,
    )


def class_within(model: SlideEnsemble, label: str) -> str | None:
    """Return the class of the model that a class of the full task belongs to; None where the model knows none."""
    return label if label in model.task.codes else model.task.class_of(label)


def _within(model: SlideEnsemble, label: str) -> str:
    own = class_within(model, label)
    if own is None:
        known = ", ".join(model.task.codes)
        raise DataError(f"model {model.card['name']} does not know the class {label}; it knows {known}")
    return own


def _shared_out(p: FloatArray) -> FloatArray:
    total = p.sum(axis=1, keepdims=True)
    found: FloatArray = np.where(total > 0, p / np.where(total > 0, total, 1.0), 1 / p.shape[1])
    return found


def _estimate(k: int, n: int) -> Estimate:
    if not n:
        return Estimate(value=None, lower=None, upper=None)
    lower, upper = wilson(k, n)
    return Estimate(value=k / n, lower=lower, upper=upper)


def study_table(study: Study) -> str:
    """Return the figures that a person looks at first: AUC of every class by candidate, the baseline last."""
    rows = [("class", "n", "model", "AUC (95 % interval)", "sensitivity at specificity 0.9")]
    classes = study.classes[:1] if len(study.classes) == 2 else study.classes
    for c, name in enumerate(classes):
        for found in study.assessments:
            own = found.per_class[c]
            point = next((p for p in own.operating if p.rule.startswith("specificity")), None)
            trivial = found.candidate == BASELINE
            shown = "-" if point is None or trivial else str(point.sensitivity)
            rows.append((name, f"{own.n} of {study.n}", found.candidate, str(own.auc), shown))
    width = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(text.ljust(w) for text, w in zip(row, width, strict=True)).rstrip() for row in rows)


def added_value(study: Study) -> str:
    """Return what the models of trephines add to each other, with DeLong's test; empty of other studies.

    For each class the model with routine counts less the one without, and less the counts alone.
    """
    others = [a.candidate for a in study.assessments if a.candidate in (SECTION_ALONE, ROUTINE_ALONE)]
    classes = study.classes[:1] if len(study.classes) == 2 else study.classes
    pairs = {(c.class_name, c.first, c.second): c.auc for c in study.comparisons}
    first = study.assessments[0].candidate
    wanted = [(first, other) for other in others] + ([tuple(others)] if len(others) == 2 else [])
    lines = []
    for name in classes if SECTION_ALONE in others or ROUTINE_ALONE in others else ():
        for one, other in wanted:
            if (found := pairs.get((name, one, other))) is not None:
                p = "undefined" if found.p is None else f"{found.p:.3f}"
                lines.append(f"{name}: AUC of {one} less {other}: {found.difference}, p {p} (DeLong)")
    return "\n".join(lines)


def evaluation_table(found: Evaluation) -> str:
    """Return the figures of a given model for a person."""
    silent = ", ".join(f"{reason} {n}" for reason, n in found.reasons.items()) or "none"
    lines = [
        study_table(found.study),
        f"answered: {found.answered} of {found.study.n}; no answer: {silent}",
        f"right among these: {found.right}",
        f"class in the set, of all sets: {found.covered}; stated {found.coverage:g}",
    ]
    if found.left_out:
        lines.append(f"classes without a subject, left out of the figures: {', '.join(found.left_out)}")
    return "\n".join(lines)
