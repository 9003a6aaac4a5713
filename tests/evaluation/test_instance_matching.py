"""Matching and AP: parity with Cellpose, the border rule, and an exhaustive reference on small images."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsi_pipeline.errors import DataError
from wsi_pipeline.evaluation import evaluate_segmentation, instance_overlaps, match_instances, score_image

LABELS = hnp.arrays(np.int32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 4))


def squares(*boxes: tuple[int, int, int, int], size: int = 40) -> np.ndarray:
    image = np.zeros((size, size), np.int32)
    for label, (y0, y1, x0, x1) in enumerate(boxes, 1):
        image[y0:y1, x0:x1] = label
    return image


def crowded(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Discs, and the same discs moved, dropped, merged and added to; labels with gaps."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:160, :200]
    true, pred = np.zeros((160, 200), np.uint16), np.zeros((160, 200), np.uint16)
    for i in range(60):
        cy, cx, r = rng.integers(0, 160), rng.integers(0, 200), rng.integers(4, 12)
        true[(y - cy) ** 2 + (x - cx) ** 2 < r * r] = 3 * i + 5
        if rng.random() < 0.85:
            dy, dx = rng.integers(-2, 3, 2)
            label = 60 - (i if rng.random() < 0.9 else i // 2)
            pred[(y - cy - dy) ** 2 + (x - cx - dx) ** 2 < (r + rng.integers(-1, 2)) ** 2] = label
    return true, pred


@pytest.mark.parametrize("seed", range(6))
def test_parity_with_cellpose(seed: int) -> None:
    """Same TP, FP and FN as ``cellpose.metrics`` when the border is not ignored."""
    from cellpose.metrics import average_precision

    true, pred = crowded(seed)
    _, tp, fp, fn = average_precision(true.astype(np.int32), pred.astype(np.int32), threshold=[0.5, 0.75])
    score = score_image("a", true, pred, ignore_border=False)
    assert score.tp == tuple(tp)
    assert score.fp == tuple(fp)
    assert score.fn == tuple(fn)
    assert score.tp[0] > 5


def test_the_iou_of_a_pair_at_the_threshold_is_not_below_it() -> None:
    true = np.array([[3, 4, 2, 2, 2, 2], [2, 2, 2, 2, 2, 2], [2, 2, 1, 2, 2, 2], [2, 2, 2, 2, 2, 2]], np.int32)
    pred = np.array([[1, 4, 0, 0, 2, 0], [2, 2, 0, 0, 0, 0], [0, 0, 3, 3, 3, 3], [3, 3, 3, 3, 3, 3]], np.int32)
    match = match_instances(instance_overlaps(true, pred), 0.1, ignore_border=False)
    assert (1, 3, 0.1) in match.pairs


@settings(max_examples=150, deadline=None)
@given(LABELS, st.sampled_from([0.1, 0.3, 0.5, 0.75]), st.data())
def test_most_pairs_are_found(true: np.ndarray, threshold: float, data: st.DataObject) -> None:
    """As many pairs as the best of all one-to-one assignments, each label once."""
    pred = data.draw(hnp.arrays(np.int32, true.shape, elements=st.integers(0, 4)))
    match = match_instances(instance_overlaps(true, pred), threshold, ignore_border=False)
    t_ids, p_ids = [i for i in np.unique(true) if i], [i for i in np.unique(pred) if i]
    iou = {(t, p): ((true == t) & (pred == p)).sum() / ((true == t) | (pred == p)).sum() for t in t_ids for p in p_ids}
    short, long = sorted([t_ids, p_ids], key=len)
    best = max(
        (
            sum(iou[(a, b) if short is t_ids else (b, a)] >= threshold for a, b in zip(short, chosen, strict=False))
            for chosen in permutations(long, len(short))
        ),
        default=0,
    )
    assert len(match.pairs) == best
    assert all(v == pytest.approx(iou[t, p]) and v >= threshold for t, p, v in match.pairs)
    assert sorted([t for t, _, _ in match.pairs] + list(match.missed)) == t_ids
    assert sorted([p for _, p, _ in match.pairs] + list(match.false)) == p_ids


@settings(max_examples=150, deadline=None)
@given(LABELS, st.data())
def test_every_object_has_one_fate(true: np.ndarray, data: st.DataObject) -> None:
    pred = data.draw(hnp.arrays(np.int32, true.shape, elements=st.integers(0, 4)))
    match = match_instances(instance_overlaps(true, pred), 0.5)
    t = [a for a, _, _ in match.pairs] + list(match.missed) + list(match.ignored_true)
    p = [b for _, b, _ in match.pairs] + list(match.false) + list(match.ignored_pred)
    assert sorted(t) == [i for i in np.unique(true) if i]
    assert sorted(p) == [i for i in np.unique(pred) if i]


def test_true_objects_at_the_border_are_ignored() -> None:
    true = squares((0, 10, 10, 20), (20, 30, 20, 30))
    score = score_image("a", true, squares((20, 30, 20, 30)))
    assert (score.tp, score.fp, score.fn) == ((1, 1), (0, 0), (0, 0))
    assert score_image("a", true, squares((20, 30, 20, 30)), ignore_border=False).fn == (1, 1)


def test_predictions_at_the_border_or_on_ignored_cells_are_not_false() -> None:
    true = squares((0, 12, 10, 22))
    at_border = squares((30, 40, 30, 40))
    matching = squares((1, 12, 10, 22))
    fragment = squares((3, 6, 12, 15))
    elsewhere = squares((20, 30, 20, 30))
    # Four of its ten rows lie on the ignored cell.
    mostly_beside = squares((8, 18, 12, 15))
    for pred, false in ((at_border, 0), (matching, 0), (fragment, 0), (elsewhere, 1), (mostly_beside, 1)):
        assert score_image("a", true, pred).fp == (false, false)


def test_a_prediction_at_the_border_may_find_a_whole_cell() -> None:
    score = score_image("a", squares((1, 21, 5, 25)), squares((0, 21, 5, 25)))
    assert score.tp == (1, 1)


def test_split_and_merged_cells() -> None:
    whole, halves = squares((5, 25, 5, 25)), squares((5, 25, 5, 15), (5, 25, 15, 25))
    # Each half has an IoU of exactly 0.5; only one may take the cell.
    split = score_image("a", whole, halves)
    assert (split.tp[0], split.fp[0], split.fn[0]) == (1, 1, 0)
    merged = score_image("a", halves, whole)
    assert (merged.tp[0], merged.fp[0], merged.fn[0]) == (1, 0, 1)
    assert split.tp[1] == merged.tp[1] == 0


def test_pooled_over_the_set_not_averaged_over_images() -> None:
    empty = np.zeros((40, 40), np.int32)
    good = squares((5, 10, 5, 10), (15, 20, 5, 10), (25, 30, 5, 10))
    metrics = evaluate_segmentation([score_image("a", good, good), score_image("b", squares((5, 10, 5, 10)), empty)])
    assert metrics.ap50.value == pytest.approx(0.75)
    assert (metrics.recall.value, metrics.precision.value) == (0.75, 1.0)
    assert metrics.f1.value == pytest.approx(6 / 7)
    assert [s.ap50 for s in metrics.per_image] == [1.0, 0.0]
    assert metrics.n_true == 4


def test_nothing_to_find_is_undefined_not_zero() -> None:
    empty = np.zeros((8, 8), np.int32)
    metrics = evaluate_segmentation([score_image("a", empty, empty)] * 2)
    assert metrics.ap50.value is None
    assert metrics.per_image[0].ap50 is None


def test_intervals_are_repeatable_and_widen_with_spread() -> None:
    a, b = squares((5, 10, 5, 10)), np.zeros((40, 40), np.int32)
    mixed = [score_image(str(i), a, a if i % 2 else b) for i in range(40)]
    one, two = evaluate_segmentation(mixed, seed=3), evaluate_segmentation(mixed, seed=3)
    assert one == two
    assert one.ap50.lower is not None
    assert one.ap50.upper is not None
    # 20 of 40 images: the binomial 95 % interval is about 0.35 to 0.65.
    assert (one.ap50.lower, one.ap50.upper) == pytest.approx((0.35, 0.65), abs=0.03)
    same = evaluate_segmentation([score_image(str(i), a, a) for i in range(40)])
    assert (same.ap50.lower, same.ap50.upper) == (1.0, 1.0)


def test_one_image_has_no_interval() -> None:
    a = squares((5, 10, 5, 10))
    metrics = evaluate_segmentation([score_image("a", a, a)])
    assert (metrics.ap50.value, metrics.ap50.lower) == (1.0, None)


@pytest.mark.parametrize(
    ("true", "pred"),
    [
        (np.zeros((3, 4), int), np.zeros((4, 3), int)),
        (np.zeros((3, 4)), np.zeros((3, 4), int)),
        (np.zeros((3, 4, 1), int), np.zeros((3, 4, 1), int)),
    ],
)
def test_images_that_do_not_fit(true: np.ndarray, pred: np.ndarray) -> None:
    with pytest.raises(DataError, match="label images"):
        instance_overlaps(true, pred)


def test_an_empty_set_is_an_error() -> None:
    with pytest.raises(DataError, match="no image"):
        evaluate_segmentation([])
