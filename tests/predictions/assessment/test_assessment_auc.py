"""AUROC with its interval."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from wsi_pipeline.predictions.assessment.auc import auroc


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
