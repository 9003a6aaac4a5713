"""Scaling recovers probabilities; conformal sets cover as often as they say."""

from __future__ import annotations

import numpy as np

from wsi_pipeline.predictions.slide_models.calibration import ConformalSets, fit_scaling


def test_scaling_mends_margins_that_are_too_sure() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(size=4000) * 1.5
    labels = (rng.random(4000) < 1 / (1 + np.exp(-true))).astype(np.int64)
    half = (5 * true + 2) / 2
    scaling = fit_scaling(np.stack([-half, half], axis=1), labels)
    p = scaling.probabilities(np.stack([-half, half], axis=1))[:, 1]
    assert np.abs(p - 1 / (1 + np.exp(-true))).max() < 0.06


def test_margins_that_tell_nothing_give_class_frequencies() -> None:
    rng = np.random.default_rng(1)
    labels = (rng.random(300) < 0.2).astype(np.int64)
    margins = rng.normal(size=(300, 1)) * np.array([[-3.0, 3.0]])
    p = fit_scaling(margins, labels).probabilities(margins)[:, 1]
    assert abs(p.mean() - labels.mean()) < 0.03
    assert p.max() < 0.4


def test_sets_cover_each_class_as_stated() -> None:
    rng = np.random.default_rng(2)

    def drawn(n: int) -> tuple[np.ndarray, np.ndarray]:
        labels = (rng.random(n) < 0.25).astype(np.int64)
        x = rng.normal(size=n) + 1.5 * labels
        p = 1 / (1 + np.exp(-(2 * x - 2)))
        return np.stack([1 - p, p], axis=1), labels

    sets = ConformalSets.fit(*drawn(2000), 0.9)
    p, labels = drawn(4000)
    inside = np.array([label in sets.classes_of(row) for row, label in zip(p, labels, strict=True)])
    for c in (0, 1):
        assert 0.87 < inside[labels == c].mean() < 0.93


def test_a_class_of_few_patients_is_never_left_out() -> None:
    p = np.array([[0.9, 0.1]] * 20 + [[0.1, 0.9]] * 8)
    sets = ConformalSets.fit(p, np.array([0] * 20 + [1] * 8), 0.9)
    assert sets.classes_of(np.array([0.999, 0.001])) == (0, 1)
    assert sets.never_left_out == (1,)
    more = ConformalSets.fit(np.array([[0.9, 0.1]] * 20 + [[0.1, 0.9]] * 9), np.array([0] * 20 + [1] * 9), 0.9)
    assert more.classes_of(np.array([0.999, 0.001])) == (0,)
    assert more.never_left_out == ()


def test_a_subject_between_two_well_told_classes_gets_no_answer() -> None:
    sure = np.array([[0.98, 0.02]] * 20 + [[0.02, 0.98]] * 20)
    sets = ConformalSets.fit(sure, np.repeat([0, 1], 20), 0.9)
    assert sets.classes_of(np.array([0.55, 0.45])) == (0, 1)
    assert sets.classes_of(np.array([0.95, 0.05])) == (0,)


def test_the_likeliest_class_is_never_left_out() -> None:
    one_sided = np.array([[0.98, 0.02]] * 20 + [[0.9, 0.1]] * 10 + [[0.1, 0.9]] * 10)
    sets = ConformalSets.fit(one_sided, np.repeat([0, 1], 20), 0.9)
    assert sets.classes_of(np.array([0.7, 0.3])) == (0, 1)
