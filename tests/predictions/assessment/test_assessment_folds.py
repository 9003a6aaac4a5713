"""Folds, centres, nested subsets, and the signs of leakage."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.errors import DataError
from wsi_pipeline.predictions.assessment.folds import (
    centre_splits,
    fold_splits,
    grouped_folds,
    nested_subsets,
    rows_of_centres,
)
from wsi_pipeline.predictions.assessment.leakage import leakage
from wsi_pipeline.predictions.assessment.subjects import Subjects


@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(2, 4))
def test_folds_keep_patients_whole(seed: int, folds: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    patients = rng.integers(0, 40, 150)
    labels = (patients % classes).astype(np.int64)
    fold = grouped_folds(labels, patients, folds, seed=seed)
    assert set(fold) == set(range(folds))
    for patient in np.unique(patients):
        assert len(set(fold[patients == patient])) == 1
    for number in range(folds):
        assert set(labels[fold == number]) == set(range(classes))


@given(st.integers(0, 10_000), st.integers(2, 10))
def test_single_subjects_are_dealt_evenly(seed: int, folds: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 3, 120)
    labels[:30] = np.repeat([0, 1, 2], 10)
    fold = grouped_folds(labels, np.arange(120), folds, seed=seed)
    counts = np.zeros((folds, 3), int)
    np.add.at(counts, (fold, labels), 1)
    assert (np.ptp(counts, axis=0) <= 1).all()
    assert np.array_equal(fold, grouped_folds(labels, np.arange(120), folds, seed=seed))
    assert not np.array_equal(fold, grouped_folds(labels, np.arange(120), folds, seed=seed + 1))


def test_too_few_patients_for_the_folds() -> None:
    labels = np.array([0] * 20 + [1] * 6)
    patients = np.array([*range(20), 20, 20, 21, 21, 22, 22])
    with pytest.raises(DataError, match="the rarest class has 3"):
        grouped_folds(labels, patients, 4, seed=0)
    with pytest.raises(DataError, match="at least 2 folds"):
        grouped_folds(labels, patients, 1, seed=0)


def test_each_subject_is_tested_once() -> None:
    fold = grouped_folds(np.arange(30) % 2, np.arange(30), 5, seed=0)
    splits = list(fold_splits(fold))
    assert sorted(np.concatenate([s.test for s in splits])) == list(range(30))
    assert all(not set(s.train) & set(s.test) for s in splits)


def _subjects(centres: list[str], patients: list[str] | None = None) -> Subjects:
    n = len(centres)
    rng = np.random.default_rng(0)
    return Subjects.of(rng.normal(size=(n, 2)), ["a", "b"] * (n // 2), patients=patients, centres=centres)


def test_centres_to_train_and_test_on() -> None:
    two = list(centre_splits(_subjects(["x", "y"] * 5)))
    assert two == [((0,), (1,)), ((1,), (0,))]
    three = list(centre_splits(_subjects(["x", "y", "z", "z"] * 4)))
    assert three[:3] == [((0,), (1, 2)), ((1,), (0, 2)), ((2,), (0, 1))]
    assert three[3:] == [((1, 2), (0,)), ((0, 2), (1,)), ((0, 1), (2,))]
    assert list(centre_splits(_subjects(["x"] * 4))) == []


def test_a_patient_of_both_centres_is_not_trained_on() -> None:
    subjects = _subjects(["x", "x", "y", "y"], patients=["p", "q", "q", "r"])
    train, test = rows_of_centres(subjects, (0,), 1)
    assert train.tolist() == [0]
    assert test.tolist() == [2, 3]


@given(st.integers(0, 10_000))
def test_subsets_grow_within_one_another(seed: int) -> None:
    rng = np.random.default_rng(seed)
    patients = rng.integers(0, 60, 200)
    labels = (patients % 3 == 0).astype(np.int64)
    subsets = nested_subsets(labels, patients, (0.05, 0.3, 1.0), seed=seed)
    for small, large in pairwise(subsets):
        assert set(small) < set(large)
    assert len(subsets[-1]) == 200
    for rows in subsets:
        assert set(labels[rows]) == {0, 1}
        assert not set(patients[rows]) & set(patients[np.setdiff1d(np.arange(200), rows)])
    kept = np.unique(patients[subsets[1]])
    assert np.mean(kept % 3 == 0) == pytest.approx(1 / 3, abs=0.12)
    with pytest.raises(DataError, match="must rise"):
        nested_subsets(labels, patients, (0.5, 0.2), seed=0)


def _clean(n: int = 60, **given: object) -> Subjects:
    rng = np.random.default_rng(1)
    return Subjects.of(rng.normal(size=(n, 3)), ["a", "b"] * (n // 2), feature_names=["f", "g", "h"], **given)  # type: ignore[arg-type]


def _kinds(subjects: Subjects, fold: np.ndarray | None = None) -> list[str]:
    return [f.kind for f in leakage(subjects, np.arange(len(subjects)) % 3 if fold is None else fold)]


def test_a_clean_table_has_no_findings() -> None:
    assert _kinds(_clean()) == []


def test_a_patient_in_two_folds_is_found() -> None:
    subjects = _clean(patients=[f"p{i // 2}" for i in range(60)])
    (found,) = leakage(subjects, np.arange(60) % 3)
    assert (found.kind, found.count) == ("patient-in-two-folds", 30)
    assert "p0" in found.message
    assert _kinds(subjects, grouped_folds(subjects.labels, subjects.patients, 3, seed=0)) == []


def test_copies_across_folds_are_found_and_within_a_fold_are_not() -> None:
    subjects = _clean()
    features = subjects.features.copy()
    features[5, 1] = np.nan
    features[1] = features[5]
    copied = Subjects.of(features, ["a", "b"] * 30)
    found = leakage(copied, np.arange(60) % 3)
    assert [(f.kind, f.count) for f in found] == [("identical-rows", 2)]
    features[1] += 1e-3
    found = leakage(Subjects.of(features, ["a", "b"] * 30), np.arange(60) % 3)
    assert [(f.kind, f.count) for f in found] == [("near-identical-rows", 1)]
    together = np.arange(60) % 3
    together[1] = together[5]
    assert _kinds(copied, together) == []
    features[1] += 0.1
    assert _kinds(Subjects.of(features, ["a", "b"] * 30)) == []


def test_a_feature_that_knows_the_label_is_found() -> None:
    subjects = _clean()
    rng = np.random.default_rng(2)
    for column, kind in (
        (subjects.labels * 7.0, "label-in-features"),
        (-subjects.labels * 5.0 + rng.normal(size=60) * 0.5, "feature-alone"),
        (np.where(subjects.labels == 1, np.nan, rng.normal(size=60)), "missing-alone"),
    ):
        features = subjects.features.copy()
        features[:, 1] = column
        found = leakage(Subjects.of(features, ["a", "b"] * 30, feature_names=["f", "g", "h"]), np.arange(60) % 3)
        assert [f.kind for f in found] == [kind]
        assert found[0].message.startswith("g ")


@pytest.mark.parametrize(
    ("features", "labels", "given", "message"),
    [
        ([[1.0], [2.0]], ["a"], {}, "2 subjects, 1 labels"),
        ([[1.0], [2.0]], ["a", "a"], {}, "two or more classes"),
        ([[1.0], [np.inf]], ["a", "b"], {}, "infinite"),
        ([1.0, 2.0], ["a", "b"], {}, "shape"),
        ([[1.0], [2.0]], ["a", "z"], {"classes": ["a", "b"]}, "z are not among"),
        ([[1.0], [2.0]], ["a", "b"], {"classes": ["a", "b", "c"]}, "none of c"),
        ([[1.0], [2.0]], ["a", "b"], {"feature_names": ["x", "y"]}, "1 features, 2 names"),
        ([[1.0], [2.0]], ["a", "b"], {"patients": ["p"]}, "1 patients"),
    ],
)
def test_unusable_tables(features: list, labels: list[str], given: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Subjects.of(features, labels, **given)
