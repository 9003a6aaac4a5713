"""The score of the CytologIA challenge: boxes and classes of leukocytes.

``0.2 * mean((GIoU + 1) / 2) + 0.8 * macro-F1`` (CytologIA consortium, "Multicentric data challenge for AI-based
classification of leukocytes", 2026; as computed in the winners' published code). Each true box is compared with the
box of its image that has the highest generalised intersection over union (Rezatofighi et al., CVPR 2019, arXiv
1902.09630), and that box's class is the answer.

Where the description is silent: one answer may serve several true boxes; boxes too many are not punished; of equally
good boxes the one of the higher score counts, then the earlier row; a true box in an image without any answer has GIoU
-1 and a wrong class; macro-F1 is over the classes that have true boxes. Boxes are taken as they are, also beyond the
image.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_pipeline.csv_rows import number, read_rows
from wsi_pipeline.errors import DataError
from wsi_pipeline.evaluation.tables import classification_metrics, classification_table
from wsi_pipeline.predictions.assessment.confusion import ClassificationMetrics, evaluate_classification

COLUMNS = ("name", "x1", "y1", "x2", "y2", "class")
_BOX_SHARE, _CLASS_SHARE = 0.2, 0.8
_REPLICATES = 1000


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """Boxes of a CSV file ``NAME,x1,y1,x2,y2,class[,score]``, in its order.

    Attributes
    ----------
    image, label
        Name of the image and class of each box.
    corners
        float64 ``(n, 4)``: x1, y1, x2, y2, pixels.
    score
        float64 ``(n,)``; 0 where the file has none.
    """

    image: tuple[str, ...]
    label: tuple[str, ...]
    corners: npt.NDArray[np.float64]
    score: npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class CytologiaScore:
    """What a file of predictions reached.

    Attributes
    ----------
    score, box_part
        The challenge's score, and the mean of (GIoU + 1) / 2 in it.
    score_interval
        95 % interval of the score; whole images are drawn.
    metrics
        Precision, recall and F1 by class.
    n_images, without_answer, ignored
        True images, true boxes in images without an answer, and predicted boxes of images that have no truth.
    """

    score: float
    score_interval: tuple[float, float]
    box_part: float
    metrics: ClassificationMetrics
    n_images: int
    without_answer: int
    ignored: int

    def table(self) -> str:
        """Return the table by class and the score."""
        low, high = self.score_interval
        return (
            f"{classification_table(self.metrics, confusion=False)}\n\n"
            f"mean (GIoU + 1) / 2: {self.box_part:.4f}\n"
            f"score: {self.score:.4f} ({low:.4f}-{high:.4f}), {self.metrics.n} boxes in {self.n_images} images; "
            f"{self.without_answer} boxes in images without an answer; "
            f"{self.ignored} answers in images without truth were left out"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``metrics.json``."""
        return {
            "score": self.score,
            "score_interval": list(self.score_interval),
            "box_part": self.box_part,
            "n_images": self.n_images,
            "without_answer": self.without_answer,
            "ignored": self.ignored,
            **classification_metrics(self.metrics),
        }


def read_boxes(path: Path) -> Boxes:
    """Read a CSV file of boxes, of the truth or of predictions.

    Raises
    ------
    DataError
        A column is missing, a value is no number, or a box has no area; with the line.
    """
    header, rows = read_rows(path)
    missing = [c for c in COLUMNS if c not in header]
    if missing:
        raise DataError(f"{path} has the columns {', '.join(header)}; {', '.join(missing)} missing")
    corners, scores = [], []
    for line, row in rows:
        where = f"{path} line {line}"
        x1, y1, x2, y2 = (number(row[c], where, c) for c in COLUMNS[1:5])
        if x2 <= x1 or y2 <= y1:
            raise DataError(f"{where}: the box {x1:g},{y1:g} to {x2:g},{y2:g} has no area")
        if not row["name"] or not row["class"]:
            raise DataError(f"{where}: name and class are needed")
        corners.append((x1, y1, x2, y2))
        scores.append(number(row["score"], where, "score") if "score" in header else 0.0)
    return Boxes(
        image=tuple(row["name"] for _, row in rows),
        label=tuple(row["class"] for _, row in rows),
        corners=np.array(corners),
        score=np.array(scores),
    )


def giou(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the generalised intersection over union of all pairs, ``(len(a), len(b))``, -1 to 1.

    Parameters
    ----------
    a, b
        Boxes ``(n, 4)``: x1, y1, x2, y2, with an area.
    """
    p, q = a[:, None], b[None]
    inner = np.clip(np.minimum(p[..., 2:], q[..., 2:]) - np.maximum(p[..., :2], q[..., :2]), 0, None).prod(axis=-1)
    outer = (np.maximum(p[..., 2:], q[..., 2:]) - np.minimum(p[..., :2], q[..., :2])).prod(axis=-1)
    union = (p[..., 2:] - p[..., :2]).prod(axis=-1) + (q[..., 2:] - q[..., :2]).prod(axis=-1) - inner
    return inner / union - (outer - union) / outer


def cytologia_score(truth: Boxes, predictions: Boxes, *, seed: int = 0) -> CytologiaScore:
    """Score predictions against the truth."""
    answers: dict[str, list[int]] = defaultdict(list)
    for i, name in enumerate(predictions.image):
        answers[name].append(i)
    n = len(truth.image)
    overlap = np.full(n, -1.0)
    found: list[str | None] = [None] * n
    for i, name in enumerate(truth.image):
        if name not in answers:
            continue
        rows = np.array(answers[name])
        values = giou(truth.corners[i : i + 1], predictions.corners[rows])[0]
        best = np.lexsort((rows, -predictions.score[rows], -values))[0]
        overlap[i], found[i] = values[best], predictions.label[rows[best]]
    classes = sorted(set(truth.label))
    metrics = evaluate_classification(truth.label, found, classes=classes, groups=truth.image)
    box_part = float((overlap + 1).mean() / 2)
    macro = metrics.macro_f1.value
    assert macro is not None  # there are true boxes of every class
    present = set(truth.image)
    return CytologiaScore(
        score=_BOX_SHARE * box_part + _CLASS_SHARE * macro,
        score_interval=_interval(truth, found, classes, overlap, seed),
        box_part=box_part,
        metrics=metrics,
        n_images=len(present),
        without_answer=sum(name not in answers for name in truth.image),
        ignored=sum(name not in present for name in predictions.image),
    )


def _interval(
    truth: Boxes, found: list[str | None], classes: list[str], overlap: npt.NDArray[np.float64], seed: int
) -> tuple[float, float]:
    """Return the 2.5 and 97.5 percentiles of the score over images drawn with replacement."""
    rank = {name: i for i, name in enumerate(classes)}
    k = len(classes)
    t = np.array([rank[c] for c in truth.label])
    p = np.array([k if c is None else rank.get(c, k) for c in found])
    _, image = np.unique(truth.image, return_inverse=True)
    n_images = int(image.max()) + 1
    rng = np.random.default_rng(seed)
    scores = []
    for _ in range(_REPLICATES):
        times = np.bincount(rng.integers(0, n_images, n_images), minlength=n_images)[image]
        true, answered = (np.bincount(x, weights=times, minlength=k + 1)[:k] for x in (t, p))
        hit = np.bincount(t[t == p], weights=times[t == p], minlength=k)
        f1 = 2 * hit[true > 0] / (true + answered)[true > 0]
        scores.append(_BOX_SHARE * (times * (overlap + 1)).sum() / (2 * times.sum()) + _CLASS_SHARE * f1.mean())
    low, high = np.percentile(scores, [2.5, 97.5])
    return float(low), float(high)
