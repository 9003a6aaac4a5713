"""Printed tables and the contract of metrics.json."""

from __future__ import annotations

import json

import numpy as np

from wsi_pipeline.evaluation import (
    calibration,
    classification_metrics,
    classification_table,
    evaluate_classification,
    evaluate_points,
    evaluate_segmentation,
    majority_labels,
    match_points,
    points_metrics,
    points_table,
    score_image,
    segmentation_metrics,
    segmentation_table,
    text_table,
)


def test_columns_are_aligned() -> None:
    assert text_table(["name", "n"], [["a", 1], ["long name", 12]]) == (
        "name        n\n-------------\na           1\nlong name  12"
    )


def image() -> np.ndarray:
    labels = np.zeros((20, 20), np.int32)
    labels[5:10, 5:10] = 1
    return labels


def test_segmentation() -> None:
    found = evaluate_segmentation([score_image(n, image(), image()) for n in "ab"])
    missed = evaluate_segmentation([score_image(n, image(), 0 * image()) for n in "ab"])
    table = segmentation_table({"compact-smear": found, "Otsu": missed})
    assert "1.000 (1.000-1.000)" in table.splitlines()[2]
    data = json.loads(json.dumps(segmentation_metrics(found, baseline=missed), allow_nan=False))
    assert {"n", "ap50", "ap75", "precision", "recall"} <= set(data)
    assert (data["n"], data["ap50"], data["intervals_95"]["ap50"]) == (2, 1.0, [1.0, 1.0])
    assert data["baseline"] == {"ap50": 0.0, "ap75": 0.0}
    # Precision of a method that answers nothing is undefined.
    assert segmentation_metrics(missed)["precision"] is None
    assert " - " in segmentation_table({"Otsu": missed}) + " "


def test_points() -> None:
    metrics = evaluate_points([match_points(n, image(), [(6, 6), (1, 1)]) for n in "ab"])
    data = json.loads(json.dumps(points_metrics(metrics, baseline=metrics), allow_nan=False))
    assert (data["n"], data["recall"], data["ratio"], data["baseline"]["recall"]) == (4, 0.5, 0.5, 0.5)
    assert "0.500" in points_table({"m": metrics})


def test_classification() -> None:
    true, pred = ["a", "a", "b", "b"], ["a", "a", "b", None]
    metrics = evaluate_classification(true, pred, classes=["a", "b", "c"])
    baseline = evaluate_classification(true, majority_labels(true), classes=["a", "b", "c"])
    data = json.loads(
        json.dumps(
            classification_metrics(metrics, baseline=baseline, calibration=calibration([0.9], [True])),
            allow_nan=False,
        )
    )
    assert (data["n"], data["accuracy"], data["baseline"]["accuracy"]) == (4, 0.75, 0.5)
    assert data["macro_f1"] == metrics.macro_f1.value
    assert data["per_class"]["b"]["recall"] == 0.5
    assert data["per_class"]["c"] == {
        "n": 0,
        "precision": None,
        "recall": None,
        "f1": None,
        "intervals_95": {"precision": [None, None], "recall": [None, None], "f1": [None, None]},
    }
    assert data["confusion"]["answers"] == ["a", "b", "c", "(outside)"]
    text = classification_table(metrics, baseline=baseline)
    assert "most frequent class" in text
    assert "(outside)" in text
    assert "(outside)" not in classification_table(metrics, confusion=False)
