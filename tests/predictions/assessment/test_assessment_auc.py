"""AUC, DeLong and the bootstrap against scikit-learn and the definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from wsi_pipeline.errors import DataError
from wsi_pipeline.predictions.assessment.auc import area_estimate, auc, auroc, bootstrap_auc, compare_areas, delong
from wsi_pipeline.predictions.assessment.bootstrap import unit_weights


def test_it_is_scikit_learns_with_ties() -> None:
    rng = np.random.default_rng(0)
    low, high = rng.integers(0, 8, 90), rng.integers(2, 11, 40)
    found = auroc(low, high)
    assert found.value == pytest.approx(roc_auc_score([0] * 90 + [1] * 40, [*low, *high]))


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    truth = 0.7602  # of two normal distributions one standard deviation apart
    hits = 0
    for _ in range(400):
        found = auroc(rng.normal(size=60), rng.normal(1, 1, 50))
        assert found.lower is not None
        assert found.upper is not None
        hits += found.lower <= truth <= found.upper
    assert 0.92 <= hits / 400 <= 0.98


def test_what_has_no_interval() -> None:
    assert auroc([], [1.0]).value is None
    complete = auroc([0.0, 1.0], [2.0, 3.0])
    assert complete.value == 1
    assert complete.lower is None


def naive_delong(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The definition, pair by pair (DeLong et al. 1988, equations 4 to 6)."""
    high, low = scores[:, positive], scores[:, ~positive]
    psi = (high[:, :, None] > low[:, None, :]) + 0.5 * (high[:, :, None] == low[:, None, :])
    v10, v01 = psi.mean(axis=2), psi.mean(axis=1)
    return psi.mean(axis=(1, 2)), np.atleast_2d(np.cov(v10)) / v10.shape[1] + np.atleast_2d(np.cov(v01)) / v01.shape[1]


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(2, 30), st.integers(2, 30), st.integers(2, 6))
def test_fast_delong_is_the_definition(seed: int, n_high: int, n_low: int, values: int) -> None:
    rng = np.random.default_rng(seed)
    positive = rng.permutation(np.arange(n_high + n_low) < n_high)
    scores = rng.integers(0, values, (3, n_high + n_low)).astype(float)
    areas, covariance = naive_delong(scores, positive)
    found = delong(scores, positive)
    assert found.areas == pytest.approx(areas)
    assert found.covariance == pytest.approx(covariance, abs=1e-12)
    assert auc(scores[0], positive) == pytest.approx(roc_auc_score(positive, scores[0]))


def test_delongs_test_by_hand() -> None:
    rng = np.random.default_rng(3)
    positive = rng.random(200) < 0.4
    one = rng.normal(size=200) + positive
    two = one + rng.normal(size=200)
    areas, covariance = naive_delong(np.stack([one, two]), positive)
    error = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    found = compare_areas(delong([one, two], positive))
    assert found.p == pytest.approx(2 * norm.sf(abs(areas[0] - areas[1]) / error))
    assert found.difference.lower == pytest.approx(areas[0] - areas[1] - norm.ppf(0.975) * error)
    same = compare_areas(delong([one, 2 * one], positive))
    assert (same.difference.value, same.p) == (0, 1)


def test_test_level_holds_when_two_models_are_equally_good() -> None:
    rng = np.random.default_rng(4)
    rejected = 0
    for _ in range(400):
        positive = np.arange(120) < 50
        scores = rng.normal(size=(2, 120)) + 0.5 * rng.normal(size=120) + positive
        p = compare_areas(delong(scores, positive)).p
        assert p is not None
        rejected += p < 0.05
    assert 0.02 <= rejected / 400 <= 0.09


def test_strata_are_compared_within_themselves() -> None:
    """Two folds whose models are shifted against each other: pooled, the shift would hide what each fold knows."""
    scores = np.array([0.0, 1.0, 2.0, 10.0, 11.0, 12.0])
    positive = np.array([False, False, True, False, True, True])
    folds = [0, 0, 0, 1, 1, 1]
    assert auc(scores, positive, strata=folds) == 1
    assert auc(scores, positive) == pytest.approx(8 / 9)
    constant = np.where(np.array(folds) == 0, 0.2, 0.7)
    assert auc(constant, positive, strata=folds) == 0.5


def test_a_row_repeated_for_a_patient_is_no_further_patient() -> None:
    rng = np.random.default_rng(5)
    positive = rng.random(150) < 0.3
    scores = rng.normal(size=150) + positive
    single = delong(scores, positive)
    patients, repeats = np.tile(np.arange(150), 4), np.repeat(np.arange(4), 150)
    repeated = delong(np.tile(scores, 4), np.tile(positive, 4), strata=repeats, units=patients)
    assert repeated.areas == pytest.approx(single.areas)
    assert repeated.covariance == pytest.approx(single.covariance)
    one = bootstrap_auc(scores, positive, replicates=1500)
    four = bootstrap_auc(np.tile(scores, 4), np.tile(positive, 4), units=patients, strata=repeats, replicates=1500)
    assert (four.lower, four.upper) == pytest.approx((one.lower, one.upper), abs=0.012)


def test_bootstrap_interval_agrees_with_resampling_by_hand_and_with_delong() -> None:
    rng = np.random.default_rng(6)
    positive = rng.random(160) < 0.4
    scores = np.round(rng.normal(size=160) + positive, 1)
    areas = []
    for _ in range(1500):
        rows = rng.integers(0, 160, 160)
        areas.append(naive_delong(scores[None, rows], positive[rows])[0][0])
    found = bootstrap_auc(scores, positive, replicates=1500, seed=1)
    assert found.value == pytest.approx(roc_auc_score(positive, scores))
    assert (found.lower, found.upper) == pytest.approx(tuple(np.quantile(areas, [0.025, 0.975])), abs=0.012)
    exact = delong(scores, positive)
    by_formula = area_estimate(exact.areas[0], exact.covariance[0, 0])
    assert (found.lower, found.upper) == pytest.approx((by_formula.lower, by_formula.upper), abs=0.02)
    assert found == bootstrap_auc(scores, positive, replicates=1500, seed=1)


def test_whole_patients_are_resampled() -> None:
    """Ten slides a patient, all alike: the interval must be that of the patients."""
    rng = np.random.default_rng(7)
    positive = np.arange(40) < 20
    scores = rng.normal(size=40) + positive
    patients = bootstrap_auc(scores, positive, replicates=1000)
    slides = bootstrap_auc(
        np.repeat(scores, 10), np.repeat(positive, 10), units=np.repeat(np.arange(40), 10), replicates=1000
    )
    assert (slides.lower, slides.upper) == pytest.approx((patients.lower, patients.upper), abs=0.03)
    naive = bootstrap_auc(np.repeat(scores, 10), np.repeat(positive, 10), replicates=1000)
    assert naive.upper - naive.lower < 0.6 * (slides.upper - slides.lower)  # type: ignore[operator]


def test_resampling_draws_whole_units_in_parts_of_bounded_size() -> None:
    units = np.repeat(np.arange(50), 2)
    whole = list(unit_weights(units, replicates=100))
    assert [w.shape for w in whole] == [(100, 100)]
    assert (whole[0].sum(axis=1) == 100).all()
    assert (whole[0][:, ::2] == whole[0][:, 1::2]).all()
    parts = list(unit_weights(units, replicates=100, values_at_once=1000))
    assert [len(w) for w in parts] == [10] * 10


def test_what_cannot_be_compared() -> None:
    for scores, positive in (([0.1, np.nan], [True, False]), ([0.1], [True, False]), ([], [])):
        with pytest.raises(DataError):
            auc(scores, positive)
    assert np.isnan(auc([0.1, 0.2], [True, True]))
    assert bootstrap_auc([0.1, 0.2], [True, True]).value is None
    assert bootstrap_auc([0.1, 0.2], [False, True]).lower is None
