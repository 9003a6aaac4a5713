"""Instances against instances.

``ap50`` is TP / (TP + FP + FN) at IoU 0.5, pooled over the set (Cellpose's definition: Stringer et al., Nat
Methods 2021;18:100-106), with objects cut by the image border ignored:

1. A true object with a pixel on the first or last row or column is ignored: it is neither found nor missed.
2. The other true objects are matched one to one with all predicted objects, the largest number of pairs of at
   least the threshold first, then the largest sum of IoU. Each pair is a TP, each true object left a FN.
3. A predicted object left over is ignored if it touches the border, if its IoU with an ignored true object
   reaches the threshold, or if more than half of its own pixels lie on ignored true objects. Otherwise it is
   a FP.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import DataError
from wsi_pipeline.predictions.assessment.bootstrap import Estimate, FloatArray, bootstrap_units, divide

IntArray = npt.NDArray[np.integer]
THRESHOLDS = (0.5, 0.75)


@dataclass(frozen=True, kw_only=True)
class Overlaps:
    """All overlapping pairs of two label images of one shape.

    Parameters
    ----------
    true_ids, pred_ids
        Labels, ascending, without background.
    true_area, pred_area
        Pixels of each label.
    true_on_border, pred_on_border
        Whether the label touches the image border.
    true_index, pred_index, intersection
        One entry a pair: positions in the lists above, and common pixels.
    """

    true_ids: IntArray
    pred_ids: IntArray
    true_area: IntArray
    pred_area: IntArray
    true_on_border: npt.NDArray[np.bool_]
    pred_on_border: npt.NDArray[np.bool_]
    true_index: IntArray
    pred_index: IntArray
    intersection: IntArray

    @property
    def iou(self) -> FloatArray:
        union = self.true_area[self.true_index] + self.pred_area[self.pred_index] - self.intersection
        return self.intersection / union


@dataclass(frozen=True, kw_only=True)
class InstanceMatch:
    """One-to-one matches at a threshold; all entries are labels of the two images."""

    pairs: tuple[tuple[int, int, float], ...]
    """True label, predicted label, IoU."""
    missed: tuple[int, ...]
    false: tuple[int, ...]
    ignored_true: tuple[int, ...]
    ignored_pred: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ImageScore:
    """Counts of one image; ``tp``, ``fp`` and ``fn`` by threshold, in the order of ``THRESHOLDS``."""

    name: str
    n_true: int
    n_pred: int
    tp: tuple[int, ...]
    fp: tuple[int, ...]
    fn: tuple[int, ...]

    @property
    def ap50(self) -> float | None:
        total = self.tp[0] + self.fp[0] + self.fn[0]
        return self.tp[0] / total if total else None


@dataclass(frozen=True, kw_only=True)
class SegmentationMetrics:
    """Figures over a set of images, intervals by bootstrap over images.

    ``precision``, ``recall`` and ``f1`` are at IoU 0.5; ``n_true`` and ``n_pred`` leave ignored objects out.
    """

    n_images: int
    n_true: int
    n_pred: int
    tp: int
    fp: int
    fn: int
    ap50: Estimate
    ap75: Estimate
    precision: Estimate
    recall: Estimate
    f1: Estimate
    per_image: tuple[ImageScore, ...]


def instance_overlaps(true: IntArray, pred: IntArray) -> Overlaps:
    """Return the sparse overlap table of two label images.

    Parameters
    ----------
    true, pred
        ``(h, w)`` integers, 0 for background; labels need not be consecutive.

    Raises
    ------
    DataError
        The shapes differ, or the images are not integers in two dimensions.
    """
    if true.shape != pred.shape or true.ndim != 2:
        raise DataError(f"label images must have one 2-D shape: truth {true.shape}, prediction {pred.shape}")
    if true.dtype.kind not in "iub" or pred.dtype.kind not in "iub":
        raise DataError(f"label images must hold integers: truth {true.dtype}, prediction {pred.dtype}")
    true_ids, true_area = np.unique(true[true != 0], return_counts=True)
    pred_ids, pred_area = np.unique(pred[pred != 0], return_counts=True)
    both = (true != 0) & (pred != 0)
    t = np.searchsorted(true_ids, true[both])
    p = np.searchsorted(pred_ids, pred[both])
    keys, intersection = np.unique(t * max(len(pred_ids), 1) + p, return_counts=True)
    return Overlaps(
        true_ids=true_ids,
        pred_ids=pred_ids,
        true_area=true_area,
        pred_area=pred_area,
        true_on_border=np.isin(true_ids, _edge(true)),
        pred_on_border=np.isin(pred_ids, _edge(pred)),
        true_index=keys // max(len(pred_ids), 1),
        pred_index=keys % max(len(pred_ids), 1),
        intersection=intersection,
    )


def match_instances(overlaps: Overlaps, threshold: float = 0.5, *, ignore_border: bool = True) -> InstanceMatch:
    """Match true and predicted objects one to one at an IoU threshold, by the rules of this module.

    Parameters
    ----------
    overlaps
        From :func:`instance_overlaps`.
    threshold
        Smallest IoU of a pair, inclusive.
    ignore_border
        False counts objects at the border like any other (Cellpose's own ``average_precision``).
    """
    iou = overlaps.iou
    ignored = overlaps.true_on_border & ignore_border
    good = iou >= threshold
    kept = good & ~ignored[overlaps.true_index]
    true_match, pred_match, value = _assign(overlaps.true_index[kept], overlaps.pred_index[kept], iou[kept])

    matched_pred = np.zeros(len(overlaps.pred_ids), bool)
    matched_pred[pred_match] = True
    missed = ~ignored
    missed[true_match] = False

    excused = overlaps.pred_on_border & ignore_border
    on_ignored = ignored[overlaps.true_index]
    excused[overlaps.pred_index[good & on_ignored]] = True
    covered = np.bincount(
        overlaps.pred_index[on_ignored],
        weights=overlaps.intersection[on_ignored],
        minlength=len(overlaps.pred_ids),
    )
    excused |= 2 * covered > overlaps.pred_area
    return InstanceMatch(
        pairs=tuple(
            (int(overlaps.true_ids[t]), int(overlaps.pred_ids[p]), float(v))
            for t, p, v in zip(true_match, pred_match, value, strict=True)
        ),
        missed=_labels(overlaps.true_ids, missed),
        false=_labels(overlaps.pred_ids, ~matched_pred & ~excused),
        ignored_true=_labels(overlaps.true_ids, ignored),
        ignored_pred=_labels(overlaps.pred_ids, ~matched_pred & excused),
    )


def score_image(name: str, true: IntArray, pred: IntArray, *, ignore_border: bool = True) -> ImageScore:
    """Count TP, FP and FN of one image at every threshold of ``THRESHOLDS``."""
    overlaps = instance_overlaps(true, pred)
    matches = [match_instances(overlaps, t, ignore_border=ignore_border) for t in THRESHOLDS]
    return ImageScore(
        name=name,
        n_true=len(matches[0].pairs) + len(matches[0].missed),
        n_pred=len(matches[0].pairs) + len(matches[0].false),
        tp=tuple(len(m.pairs) for m in matches),
        fp=tuple(len(m.false) for m in matches),
        fn=tuple(len(m.missed) for m in matches),
    )


def evaluate_segmentation(
    scores: Iterable[ImageScore], *, replicates: int = 2000, seed: int = 0
) -> SegmentationMetrics:
    """Pool the counts of all images and estimate each figure with its interval over images.

    Raises
    ------
    DataError
        There is no image.
    """
    images: Sequence[ImageScore] = tuple(scores)
    if not images:
        raise DataError("nothing to evaluate: there is no image")
    counts = np.array([(s.tp[i], s.fp[i], s.fn[i]) for s in images for i in (0, 1)]).reshape(len(images), 6)

    figures = bootstrap_units(counts, _figures, replicates=replicates, seed=seed)
    tp, fp, fn = (int(v) for v in counts[:, :3].sum(axis=0))
    return SegmentationMetrics(
        n_images=len(images), n_true=tp + fn, n_pred=tp + fp, tp=tp, fp=fp, fn=fn, per_image=tuple(images), **figures
    )


def _figures(c: FloatArray) -> dict[str, FloatArray]:
    tp75, fp75, fn75 = c.T[3:]
    return {**detection_figures(c[:, :3]), "ap75": divide(tp75, tp75 + fp75 + fn75)}


def detection_figures(counts: FloatArray) -> dict[str, FloatArray]:
    """Return the figures at IoU 0.5 of pooled counts ``(samples, 3)``: TP, FP and FN."""
    tp, fp, fn = counts.T
    return {
        "ap50": divide(tp, tp + fp + fn),
        "precision": divide(tp, tp + fp),
        "recall": divide(tp, tp + fn),
        "f1": divide(2 * tp, 2 * tp + fp + fn),
    }


def _assign(true: IntArray, pred: IntArray, iou: FloatArray) -> tuple[IntArray, IntArray, FloatArray]:
    """Return the one-to-one subset of candidate pairs with the most pairs, then the largest sum of IoU."""
    if len(np.unique(true)) == len(true) and len(np.unique(pred)) == len(pred):
        return true, pred, iou
    from scipy.optimize import linear_sum_assignment

    rows, r = np.unique(true, return_inverse=True)
    columns, c = np.unique(pred, return_inverse=True)
    value = np.zeros((len(rows), len(columns)))
    value[r, c] = iou
    # One more pair outweighs any sum of IoU.
    gain = np.where(value > 0, min(value.shape) + value, 0.0)
    i, j = linear_sum_assignment(gain, maximize=True)
    real = gain[i, j] > 0
    i, j = i[real], j[real]
    return rows[i], columns[j], value[i, j]


def _edge(labels: IntArray) -> IntArray:
    return np.concatenate([labels[:1].ravel(), labels[-1:].ravel(), labels[:, :1].ravel(), labels[:, -1:].ravel()])


def _labels(ids: IntArray, chosen: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(i) for i in ids[chosen])
