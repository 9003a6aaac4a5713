"""Matching instances to the truth: our evaluation against cellpose.metrics.average_precision.

Both score the same two label images of dense cells at IoU 0.5 and 0.75 with border cells counted like any other
(Cellpose has no rule for them). The prediction is the truth with cells moved, eroded, merged and dropped. Printed
as well: whether TP, FP and FN agree. Ours pairs the most objects first and then the largest IoU, Cellpose the
largest sum of both, so counts may differ by single objects where cells overlap many ways.

Not measured: the bootstrap over images, reading label images from files.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from _harness import Contender, compare, parser, report, start
from _inputs import dense_labels

THRESHOLDS = (0.5, 0.75)


def perturb(labels: npt.NDArray[np.int32], seed: int) -> npt.NDArray[np.int32]:
    """Return a plausible prediction: everything moved by two pixels, 4 % dropped, 4 % joined, 8 % relabelled anew."""
    rng = np.random.default_rng(seed)
    moved = np.roll(labels, (2, -2), axis=(0, 1))
    n = int(labels.max())
    target = np.arange(n + 1)
    fate = rng.random(n + 1)
    target[fate < 0.04] = 0
    joined = np.flatnonzero((fate >= 0.04) & (fate < 0.08))
    target[joined] = np.maximum(joined - 1, 0)
    predicted = target[moved]
    shrunk = (predicted != np.roll(predicted, 1, axis=0)) | (predicted != np.roll(predicted, 1, axis=1))
    predicted[shrunk & (rng.random(n + 1) < 0.5)[moved]] = 0
    _, compact = np.unique(predicted, return_inverse=True)
    return compact.reshape(labels.shape).astype(np.int32)


def ours(path: Path) -> Callable[[], Any]:
    from wsi_pipeline.evaluation import score_image

    pair = np.load(path)

    def work() -> list[list[int]]:
        score = score_image("field", pair[0], pair[1], ignore_border=False)
        return [list(score.tp), list(score.fp), list(score.fn)]

    return work


def cellpose_metrics(path: Path) -> Callable[[], Any]:
    from cellpose import metrics

    pair = np.load(path)

    def work() -> list[list[int]]:
        _, tp, fp, fn = metrics.average_precision([pair[0]], [pair[1]], threshold=list(THRESHOLDS))
        return [[int(v) for v in counts[0]] for counts in (tp, fp, fn)]

    return work


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--size", type=int, default=2048, help="side of the label images, pixels (default 2048)")
    options.add_argument("--spacing", type=int, default=28, help="distance of the cells, pixels (default 28)")
    chosen = start(options.parse_args())
    truth = dense_labels(chosen.size, spacing_px=chosen.spacing, seed=1)
    predicted = perturb(truth, seed=2)
    path = chosen.scratch / "matching.npy"
    np.save(path, np.stack([truth, predicted]))
    timings = compare(
        [
            Contender(name="ours", prepare=ours, arguments=(path,)),
            Contender(name="cellpose", prepare=cellpose_metrics, arguments=(path,)),
        ],
        repeats=chosen.repeats,
    )
    extra: dict[str, Any] = {f"TP, FP, FN at {THRESHOLDS}, {t.name}": t.value for t in timings}
    if len(timings) > 1:
        extra["counts agree"] = timings[0].value == timings[1].value
    work = {"size": chosen.size, "true": int(truth.max()), "predicted": int(predicted.max())}
    amount = int(truth.max()) / 1000
    report(chosen, "matching", "dense", timings, work=work, amount=amount, unit="thousand cells", extra=extra)


if __name__ == "__main__":
    main()
