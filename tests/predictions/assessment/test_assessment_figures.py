"""Operating points, calibration, decision curves, risk-coverage: by hand and against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, roc_curve

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.predictions.assessment.calibration import brier_score, calibration, calibration_error
from wsi_pipeline.predictions.assessment.decision import decision_curve
from wsi_pipeline.predictions.assessment.operating import Rule, operating_point
from wsi_pipeline.predictions.assessment.risk import risk_area, risk_coverage
from wsi_pipeline.predictions.assessment.thresholds import accepted, share
from wsi_pipeline.predictions.intervals import wilson


@given(st.integers(0, 10_000), st.floats(0.05, 1.0))
def test_thresholds_are_the_best_that_meet_the_rule(seed: int, target: float) -> None:
    rng = np.random.default_rng(seed)
    scores = np.round(rng.normal(size=60), 1)
    positive = np.arange(60) < 25
    false_rate, true_rate, _ = roc_curve(positive, scores, drop_intermediate=False)

    def at(rule: Rule) -> tuple[float, float]:
        called = scores >= rule.threshold(scores, positive)
        return float(called[positive].mean()), float(1 - called[~positive].mean())

    sensitivity, specificity = at(Rule(kind="specificity", target=target))
    assert specificity >= target - 1e-12
    assert sensitivity == pytest.approx(true_rate[1 - false_rate >= target - 1e-12].max())
    sensitivity, specificity = at(Rule(kind="sensitivity", target=target))
    assert sensitivity >= target - 1e-12
    assert specificity == pytest.approx((1 - false_rate)[true_rate >= target - 1e-12].max())
    assert sum(at(Rule(kind="youden"))) - 1 == pytest.approx((true_rate - false_rate).max())


def test_operating_point_by_hand() -> None:
    scores = np.array([0.9, 0.8, 0.4, 0.7, 0.3, 0.2, 0.1, 0.05])
    positive = np.array([1, 1, 1, 0, 0, 0, 0, 0], bool)
    point = operating_point(scores, positive, Rule(kind="specificity", target=0.8))
    # One of five negatives may be called: from 0.4 on, which finds all three and calls 0.7 in vain.
    assert point.threshold == 0.4
    assert (point.n_positive, point.n_negative) == (3, 5)
    for found, (k, n) in (
        (point.sensitivity, (3, 3)),
        (point.specificity, (4, 5)),
        (point.ppv, (3, 4)),
        (point.npv, (4, 4)),
    ):
        assert found.value == pytest.approx(k / n)
        assert (found.lower, found.upper) == pytest.approx(wilson(k, n))


def test_nobody_called() -> None:
    point = operating_point(np.array([0.1, 0.9]), np.array([True, False]), Rule(kind="specificity", target=1.0))
    assert point.threshold is None
    assert point.sensitivity.value == 0
    assert point.ppv.value is None
    assert Rule(kind="youden").threshold(np.array([0.1]), np.array([True])) == math.inf


@pytest.mark.parametrize("bad", [("youden", 0.5), ("specificity", None), ("sensitivity", 1.5), ("specificity", 0.0)])
def test_impossible_rules(bad: tuple[str, float | None]) -> None:
    with pytest.raises(ConfigError, match="youden"):
        Rule(kind=bad[0], target=bad[1])  # type: ignore[arg-type]


def test_a_fold_has_no_part_in_its_own_threshold() -> None:
    """Fold 1 scores lie ten higher; its own subjects would have set its threshold there."""
    scores = np.array([0.0, 1.0, 2.0, 3.0, 10.0, 11.0, 12.0, 13.0])
    truth = np.array([0, 0, 1, 1, 0, 0, 1, 1], bool)
    called, threshold = accepted(
        scores,
        truth,
        Rule(kind="youden").threshold,
        strata=np.repeat([0, 1], 4),
        repeats=np.zeros(8, np.int64),
    )
    assert called.tolist() == [False] * 4 + [True] * 4
    assert threshold in (2.0, 12.0)
    called, threshold = accepted(
        scores, truth, Rule(kind="youden").threshold, strata=np.zeros(8), repeats=np.zeros(8),
        reference=(np.array([10.5, 12.5]), np.array([False, True])),
    )  # fmt: skip
    assert threshold == 12.5
    assert called.sum() == 1


def test_shares_count_patients_not_rows() -> None:
    hits = np.array([True, False] * 5)
    rows, repeated = share(hits, np.arange(10)), share(np.tile(hits, 3), np.tile(np.arange(10), 3))
    assert rows == repeated
    assert (rows.lower, rows.upper) == pytest.approx(wilson(5, 10))
    assert share(hits[:0], np.arange(0)).value is None


def test_brier_and_calibration_error() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(500)
    truth = rng.random(500) < p
    units = np.arange(500)
    found = brier_score(p, truth.astype(np.int64), units=units)
    assert found.value == pytest.approx(brier_score_loss(truth, p))
    assert found.lower < found.value < found.upper  # type: ignore[operator]
    both = brier_score(np.stack([1 - p, p], axis=1), truth.astype(np.int64), units=units, replicates=10)
    assert both.value == pytest.approx(2 * found.value)  # type: ignore[operator]
    error = calibration_error(p, truth, units=units, bins=10)
    assert error.value == pytest.approx(calibration(p, truth, bins=10).ece)
    wrong = calibration_error(p**3, truth, units=units, bins=10)
    assert wrong.lower > error.value  # type: ignore[operator]


def test_net_benefit_by_hand() -> None:
    p = np.array([0.9, 0.6, 0.4, 0.2])
    positive = np.array([True, False, True, False])
    low, high = decision_curve(p, positive, thresholds=(0.25, 0.5), replicates=50)
    # At 0.25: three called, two rightly: 2/4 - 1/4 * 1/3. At 0.5: 1/4 - 1/4 * 1.
    assert low.net_benefit.value == pytest.approx(0.5 - 0.25 / 3)
    assert high.net_benefit.value == pytest.approx(0.0)
    assert low.treat_all == pytest.approx(0.5 - 0.5 / 3)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        decision_curve(p, positive, thresholds=(1.0,))


def test_a_perfect_model_gains_the_prevalence_and_calling_all_is_treat_all() -> None:
    positive = np.arange(50) < 15
    for point in decision_curve(positive.astype(float), positive, replicates=10):
        assert point.net_benefit.value == pytest.approx(0.3)
    for point in decision_curve(np.ones(50), positive, replicates=10):
        assert point.net_benefit.value == pytest.approx(point.treat_all)


def test_risk_area_by_hand() -> None:
    sure, right = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, True, False, True])
    # Risks at coverages 1/4 to 1: 0, 0, 1/3, 1/4.
    assert risk_area(sure, right, units=np.arange(4)).value == pytest.approx((1 / 3 + 1 / 4) / 4)
    equal = risk_area(np.full(4, 0.5), right, units=np.arange(4))
    assert equal.value == pytest.approx(0.25)
    better = risk_area(np.array([0.9, 0.8, 0.1, 0.6]), right, units=np.arange(4))
    assert better.value == pytest.approx(0.25 / 4)


def test_coverage_at_accuracy_is_measured_on_other_subjects() -> None:
    rng = np.random.default_rng(1)
    n = 4000
    sure = rng.uniform(0.5, 1, n)
    right = rng.random(n) < sure
    found = risk_coverage(
        sure, right, units=np.arange(n), strata=np.arange(n) % 5, repeats=np.zeros(n, np.int64), targets=(0.9, 0.9999),
        replicates=50,
    )  # fmt: skip
    reached, impossible = found.at_accuracy
    # Above a confidence of t the mean accuracy is (1 + t) / 2: 0.9 from 0.8 on, which is 40 % of the subjects.
    assert reached.threshold == pytest.approx(0.8, abs=0.04)
    assert reached.coverage.value == pytest.approx(0.4, abs=0.08)
    assert reached.accuracy.value == pytest.approx(0.9, abs=0.02)
    assert reached.n == pytest.approx(reached.coverage.value * n)  # type: ignore[operator]
    assert impossible.coverage.value < 0.05  # type: ignore[operator]
    accuracies = [p.accuracy.value for p in found.points]
    assert accuracies[0] > accuracies[-1]  # type: ignore[operator]
    assert found.points[-1].n == n
