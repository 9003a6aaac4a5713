"""Confusion, F1 and calibration against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support

from wsi_pipeline.errors import DataError
from wsi_pipeline.evaluation import calibration, evaluate_classification, map_labels, merge_roll_ups
from wsi_pipeline.predictions.assessment.confusion import OUTSIDE
from wsi_pipeline.taxonomies import load_taxonomy, map_taxonomy

CLASSES = ["a", "b", "c"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(CLASSES), st.sampled_from(CLASSES)), min_size=1, max_size=60))
def test_parity_with_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    true, pred = [t for t, _ in pairs], [p for _, p in pairs]
    metrics = evaluate_classification(true, pred, classes=CLASSES, replicates=20)
    present = [c for c in CLASSES if c in true]
    assert metrics.accuracy.value == pytest.approx(accuracy_score(true, pred))
    assert metrics.macro_f1.value == pytest.approx(f1_score(true, pred, labels=present, average="macro"))
    assert np.array_equal(metrics.confusion, confusion_matrix(true, pred, labels=CLASSES))
    p, r, f, s = precision_recall_fscore_support(true, pred, labels=CLASSES, zero_division=np.nan)
    for i, score in enumerate(metrics.per_class):
        assert score.support == s[i]
        if s[i]:
            assert score.recall.value == pytest.approx(r[i])
            assert score.f1.value == pytest.approx(f[i])
        else:
            assert score.recall.value is score.f1.value is None
        if score.precision.value is not None:
            assert score.precision.value == pytest.approx(p[i])


def test_answers_outside_the_classes_are_wrong_not_missing() -> None:
    metrics = evaluate_classification(["a", "a", "b"], ["a", None, "zebra"], classes=["a", "b"])
    assert metrics.answers == ("a", "b", OUTSIDE)
    assert metrics.confusion == ((1, 0, 1), (0, 0, 1))
    assert metrics.accuracy.value == pytest.approx(1 / 3)


def test_interval_covers_what_the_binomial_says() -> None:
    true = ["a"] * 400
    pred = ["a"] * 360 + ["b"] * 40
    estimate = evaluate_classification(true, pred, classes=["a", "b"], replicates=4000).accuracy
    assert (estimate.lower, estimate.upper) == pytest.approx((0.87, 0.93), abs=0.005)


def test_groups_widen_the_interval() -> None:
    """Cells of a patient are alike: drawing patients must not be as sure as drawing cells."""
    true = ["a"] * 400
    pred = (["a"] * 40 + ["b"] * 40) * 5
    groups = [str(i // 40) for i in range(400)]
    cells = evaluate_classification(true, pred, classes=["a", "b"]).accuracy
    patients = evaluate_classification(true, pred, classes=["a", "b"], groups=groups)
    assert patients.resampled == "groups"
    assert patients.accuracy.value == cells.value == 0.5
    assert patients.accuracy.upper - patients.accuracy.lower > 4 * (cells.upper - cells.lower)  # type: ignore[operator]


def test_groups_of_one_cell_are_cells() -> None:
    rng = np.random.default_rng(1)
    true = list(rng.choice(CLASSES, 300))
    pred = [t if rng.random() < 0.8 else "a" for t in true]
    single = evaluate_classification(true, pred, classes=CLASSES, groups=[str(i) for i in range(300)], replicates=4000)
    cells = evaluate_classification(true, pred, classes=CLASSES, replicates=4000)
    for one, other in ((single.accuracy, cells.accuracy), (single.macro_f1, cells.macro_f1)):
        assert (one.lower, one.upper) == pytest.approx((other.lower, other.upper), abs=0.012)


def test_seed_repeats() -> None:
    true, pred = ["a", "b"] * 30, ["a", "a"] * 30
    assert evaluate_classification(true, pred, classes=["a", "b"], seed=5) == evaluate_classification(
        true, pred, classes=["a", "b"], seed=5
    )


@pytest.mark.parametrize(
    ("true", "pred", "groups", "message"),
    [
        ([], [], None, "no cells"),
        (["a"], [], None, "one answer"),
        (["a"], ["a"], [], "0 groups"),
        (["z"], ["a"], None, "z are not among"),
    ],
)
def test_unusable_input(true: list[str], pred: list[str], groups: list[str] | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        evaluate_classification(true, pred, classes=["a"], groups=groups)


def test_eleven_classes_become_eight() -> None:
    taxonomy = load_taxonomy("pbc-blast")
    eleven = [c for c in taxonomy.classifier_classes if c not in ("blast", "artefact")]
    merged = merge_roll_ups(eleven, taxonomy, ("granulocyte_precursors", "neutrophils"))
    assert len(eleven) == 11
    assert len(set(merged)) == 8
    with pytest.raises(DataError, match="both hold"):
        merge_roll_ups(eleven, taxonomy, ("neutrophils", "granulocytic"))


def test_map_to_five_parts() -> None:
    table = map_taxonomy("pbc-blast", "five-part").table(load_taxonomy("pbc-blast").classifier_classes)
    assert map_labels(["band_neutrophil", "blast"], table) == ["neutrophil", None]
    with pytest.raises(DataError, match="zebra"):
        map_labels(["zebra"], table)


def test_calibration_by_hand() -> None:
    result = calibration([0.95, 0.95, 0.65, 0.65], [True, True, True, False], bins=10)
    # Bins 0.9-1.0: sure 0.95, right 1.0; bin 0.6-0.7: sure 0.65, right 0.5.
    assert result.ece == pytest.approx(0.5 * 0.05 + 0.5 * 0.15)
    assert sum(b.n for b in result.bins) == 4
    assert result.bins[0].accuracy is None


def test_calibrated_answers_have_a_small_error() -> None:
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.2, 1, 40_000)
    right = rng.random(40_000) < sure
    assert calibration(sure, right).ece < 0.015
    assert calibration(np.sqrt(sure), right).ece > 0.1


def test_calibration_edges_and_errors() -> None:
    assert calibration([0.0, 1.0], [False, True]).ece == 0
    for sure, right in (([1.2], [True]), ([], []), ([0.5], [True, False]), ([float("nan")], [True])):
        with pytest.raises(DataError, match="probabilit"):
            calibration(sure, right)
