"""A whole study: what it holds, that it repeats to the digit, and that it catches a procedure that cheats."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, confusion_matrix, roc_auc_score

from wsi_pipeline.errors import ConfigError, DataError
from wsi_pipeline.predictions.assessment import BASELINE, Candidate, Plan, Rule, Study, Subjects, run_study
from wsi_pipeline.predictions.assessment.candidates import fitted, predicted
from wsi_pipeline.predictions.assessment.cross_validation import (
    CHOSEN,
    cross_validate,
    nested_cross_validate,
    repeated_folds,
)
from wsi_pipeline.predictions.assessment.document import document
from wsi_pipeline.predictions.assessment.leakage import Finding
from wsi_pipeline.predictions.assessment.null import null_check, shuffled_labels

SMALL = Plan(
    folds=4, repeats=2, inner_folds=2, replicates=100, null_repeats=2, rules=(Rule(kind="specificity", target=0.9),),
    accuracies=(0.9,), fractions=(0.2, 1.0),
)  # fmt: skip


class _Logistic:
    def __init__(self, x: np.ndarray, y: np.ndarray, penalty: float) -> None:
        self._model = LogisticRegression(C=penalty).fit(np.nan_to_num(x), y)

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        return self._model.predict_proba(np.nan_to_num(features))


def logistic(name: str = "logistic", penalty: float = 1.0) -> Candidate:
    return Candidate(name=name, fit=lambda x, y, seed: _Logistic(x, y, penalty))


def table(n: int = 180, seed: int = 0) -> dict[str, Any]:
    """Three classes, two slides a patient, three centres, one feature in ten missing, the last one noise."""
    rng = np.random.default_rng(seed)
    patient = np.arange(n) // 2
    label = np.array(["aml", "all", "apl"])[patient % 3]
    features = rng.normal(size=(n, 4))
    features[:, 0] += 1.5 * (label == "aml")
    features[:, 1] += 1.5 * (label == "apl")
    features[rng.random((n, 4)) < 0.1] = np.nan
    return {
        "features": features,
        "labels": list(label),
        "patients": [f"p{i}" for i in patient],
        "centres": [f"centre {i // 3 % 3}" for i in patient],
        "feature_names": ["a", "b", "c", "noise"],
    }


@pytest.fixture(scope="module")
def study() -> Study:
    return run_study(candidates=[logistic(), logistic("timid", 1e-4)], plan=SMALL, **table())


def test_everything_is_there_with_the_baseline_beside_it(study: Study) -> None:
    assert [a.candidate for a in study.assessments] == ["logistic", "timid", CHOSEN, BASELINE]
    assert (study.n, study.n_patients, study.classes) == (180, 90, ("all", "aml", "apl"))
    best, base = study.assessments[0], study.assessments[-1]
    for good, plain in zip(best.per_class, base.per_class, strict=True):
        assert good.auc.lower > 0.6  # type: ignore[operator]
        assert (plain.auc.value, plain.auc.lower, plain.auc.upper) == (0.5, 0.5, 0.5)
        assert good.auc.value == pytest.approx(good.auc_delong.value)
        assert good.auc.lower == pytest.approx(good.auc_delong.lower, abs=0.04)
        assert good.roc[0] <= good.roc[25] <= good.roc[-1] == 1
    assert base.accuracy.value == pytest.approx(1 / 3, abs=0.05)
    assert best.risk.area.value < base.risk.area.value  # type: ignore[operator]
    assert best.brier.value < base.brier.value  # type: ignore[operator]
    assert np.sum(best.confusion) == pytest.approx(180)
    assert [t.centre for t in study.centres] == ["centre 0", "centre 1", "centre 2"]
    assert sum(sum(t.n_by_class) for t in study.centres) == 180
    # 3 candidates, 6 ordered pairs of centres and 3 left out.
    assert len(study.transfers) == 3 * (6 + 3)
    assert all(t.assessment is not None and t.assessment.n == 60 for t in study.transfers)
    assert {t.candidate for t in study.transfers} == {"logistic", "timid", BASELINE}
    assert len(study.comparisons) == 3 * 6
    assert set(study.chosen) <= {"logistic", "timid"}
    assert len(study.chosen) == 8
    assert [p.n_train for p in study.learning[0].points] == pytest.approx([13.5, 67.5], abs=1)
    assert study.features[0].missing == pytest.approx(0.1, abs=0.08)
    assert study.findings == ()
    assert all(check.passed for check in study.null)


def test_figures_are_those_of_the_predictions(study: Study) -> None:
    """The study against scikit-learn, from cross-validated predictions of one repeat at a time."""
    given = table()
    subjects = Subjects.of(
        given["features"], given["labels"], patients=given["patients"], feature_names=given["feature_names"]
    )
    folds = repeated_folds(subjects, SMALL.folds, SMALL.repeats, seed=SMALL.seed)
    found = cross_validate(logistic(), subjects, folds, seed=SMALL.seed)
    labels, answers = subjects.labels[found.rows], found.probabilities.argmax(axis=1)
    got = study.assessments[0]
    assert got.accuracy.value == pytest.approx(accuracy_score(labels, answers))
    assert np.array(got.confusion) == pytest.approx(confusion_matrix(labels, answers) / SMALL.repeats)
    areas, pairs = [], []
    for stratum in np.unique(found.strata):
        rows = found.strata == stratum
        high = labels[rows] == 1
        areas.append(roc_auc_score(high, found.probabilities[rows, 1]))
        pairs.append(high.sum() * (~high).sum())
    assert got.per_class[1].auc.value == pytest.approx(np.average(areas, weights=pairs))


def test_no_patient_is_predicted_by_a_model_that_saw_it() -> None:
    """A candidate that remembers its training subjects would be right on them alone."""
    given = table()
    subjects = Subjects.of(np.arange(180.0)[:, None], given["labels"], patients=given["patients"])

    class Memory:
        def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
            self.seen = {int(v) // 2: int(c) for v, c in zip(x[:, 0], y, strict=True)}

        def predict_proba(self, features: np.ndarray) -> np.ndarray:
            assert not {int(v) // 2 for v in features[:, 0]} & set(self.seen)
            return np.full((len(features), 3), 1 / 3)

    folds = repeated_folds(subjects, 4, 2, seed=0)
    found = cross_validate(Candidate(name="memory", fit=lambda x, y, s: Memory(x, y)), subjects, folds, seed=0)
    assert sorted(found.rows) == sorted([*range(180)] * 2)


def test_it_repeats_to_the_digit() -> None:
    plan = replace(SMALL, repeats=1, inner_folds=0, replicates=100)
    given = {k: v for k, v in table(90).items() if k != "centres"}
    once, again = (run_study(candidates=[logistic()], plan=plan, **given) for _ in range(2))
    assert again.to_json() == once.to_json()
    assert json.loads(once.to_json()) == once.document()
    other = run_study(candidates=[logistic()], plan=replace(plan, seed=1), **given)
    assert other.document()["assessments"][0] != once.document()["assessments"][0]


def test_numbers_in_the_document() -> None:
    found = document({"a": (1 / 3, float("nan"), float("inf"), -1e-12, np.float64(2), np.int64(3), True)})
    assert found == {"a": [0.333333, None, None, 0.0, 2.0, 3, True]}
    assert str(found["a"][3]) == "0.0"


def test_the_null_check_catches_a_cheat(monkeypatch: pytest.MonkeyPatch) -> None:
    """The labels of all subjects, test subjects too, have reached the fit by a side door."""
    subjects = Subjects.of(table()["features"], table()["labels"], patients=table()["patients"])
    honest = null_check(logistic(), subjects, folds=4, shuffles=3, replicates=200)
    assert honest.passed
    assert honest.confidence == pytest.approx(1 - 0.05 / 9)
    key = {tuple(np.nan_to_num(row)): i for i, row in enumerate(subjects.features)}
    shuffled: list[np.ndarray] = []
    plain = Subjects.with_labels

    class Cheat:
        def predict_proba(self, features: np.ndarray) -> np.ndarray:
            rows = [key[tuple(np.nan_to_num(row))] for row in features]
            return 0.8 * np.eye(3)[shuffled[-1][rows]] + np.array([[0.1, 0.05, 0.05]])

    def overheard(self: Subjects, labels: np.ndarray) -> Subjects:
        shuffled.append(labels)
        return plain(self, labels)

    monkeypatch.setattr(Subjects, "with_labels", overheard)
    cheat = Candidate(name="cheat", fit=lambda x, y, seed: Cheat())
    caught = null_check(cheat, subjects, folds=4, shuffles=1, replicates=200)
    assert not caught.passed


def test_shuffling_keeps_patients_whole() -> None:
    subjects = Subjects.of(table()["features"], table()["labels"], patients=table()["patients"])
    labels = shuffled_labels(subjects, seed=0)
    assert not np.array_equal(labels, subjects.labels)
    assert np.array_equal(np.bincount(labels), np.bincount(subjects.labels))
    assert all(len(set(labels[subjects.patients == p])) == 1 for p in range(90))


def test_null_intervals_hold_one_half_as_often_as_they_say() -> None:
    held = 0
    for seed in range(25):
        rng = np.random.default_rng(seed)
        subjects = Subjects.of(rng.normal(size=(90, 3)), ["a", "b", "c"] * 30)
        held += null_check(logistic(), subjects, folds=3, shuffles=1, replicates=200, seed=seed).passed
    assert held >= 21


def test_the_choice_is_made_inside() -> None:
    given = table(seed=3)
    subjects = Subjects.of(given["features"], given["labels"], patients=given["patients"])
    folds = repeated_folds(subjects, 3, 1, seed=0)
    blind = Candidate(name="blind", fit=lambda x, y, seed: _Logistic(np.zeros_like(x), y, 1.0))
    found, chosen = nested_cross_validate([blind, logistic()], subjects, folds, inner_folds=2, seed=0)
    assert chosen == ("logistic",) * 3
    direct = cross_validate(logistic(), subjects, folds, seed=0)
    assert np.array_equal(found.probabilities, direct.probabilities)


def test_two_classes_without_centres_or_patients() -> None:
    rng = np.random.default_rng(0)
    labels = ["sick" if i % 3 else "well" for i in range(90)]
    features = rng.normal(size=(90, 2)) + np.array([[name == "sick", 0] for name in labels])
    known = Finding(kind="identical-cells", count=2, message="Two patients share cells.")
    plan = replace(SMALL, null_repeats=0)
    found = run_study(features, labels, [logistic()], classes=["well", "sick"], plan=plan, findings=[known])
    assert found.findings == (known,)
    assert found.centres == found.transfers == found.null == ()
    well, sick = found.assessments[0].per_class
    assert well.auc.value == pytest.approx(sick.auc.value)
    assert sick.n == 60


def test_a_centre_without_a_class_cannot_be_trained_on_and_says_so() -> None:
    given = table()
    given["centres"] = ["only aml" if name == "aml" and i < 60 else "mixed" for i, name in enumerate(given["labels"])]
    found = run_study(candidates=[logistic()], plan=replace(SMALL, inner_folds=0, null_repeats=0), **given)
    there = {(t.trained_on, t.candidate): t for t in found.transfers}
    assert there[("only aml",), "logistic"].assessment is None
    assert "none of the 20 subjects is all or apl" in there[("only aml",), "logistic"].reason
    back = there[("mixed",), "logistic"].assessment
    assert back is not None
    assert back.per_class[1].auc.value is None
    assert back.accuracy.value is not None


def test_a_fit_that_splits_again_is_given_the_patients() -> None:
    subjects = Subjects.of(table()["features"], table()["labels"], patients=table()["patients"])
    seen: list[np.ndarray] = []

    def fit(x: np.ndarray, y: np.ndarray, seed: int, *, patients: np.ndarray) -> _Logistic:
        seen.append(patients)
        return _Logistic(x, y, 1.0)

    fitted(Candidate(name="own folds", fit=fit, uses_patients=True), subjects, 0)
    assert np.array_equal(seen[0], subjects.patients)


@pytest.mark.parametrize(
    "answer",
    [np.full((4, 2), 0.5), np.full((4, 3), 0.5), np.full((4, 3), np.nan), np.array([[1.5, -0.5, 0.0]] * 4)],
)
def test_answers_that_are_no_probabilities(answer: np.ndarray) -> None:
    class Wrong:
        def predict_proba(self, features: np.ndarray) -> np.ndarray:
            return answer

    subjects = Subjects.of(np.zeros((4, 1)), ["a", "b", "c", "a"])
    with pytest.raises(DataError, match="wrong gave"):
        predicted(Candidate(name="wrong", fit=lambda x, y, s: Wrong()), Wrong(), subjects)


def test_unusable_requests() -> None:
    given = {k: v for k, v in table().items() if k in ("features", "labels")}
    for candidates in ([], [logistic(), logistic()], [logistic(BASELINE)]):
        with pytest.raises(ConfigError, match="candidates"):
            run_study(candidates=candidates, **given)
    for wrong in ({"folds": 1}, {"repeats": 0}, {"inner_folds": 1}, {"accuracies": (1.2,)}):
        with pytest.raises(ConfigError):
            Plan(**wrong)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="10 folds need as many patients"):
        run_study(np.zeros((8, 1)), ["a", "b"] * 4, [logistic()])
