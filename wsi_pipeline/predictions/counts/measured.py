"""What trust has meant: how answers to patients that the model never saw turned out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_pipeline.predictions.counts.features import CLASSES
from wsi_pipeline.predictions.counts.model import CountsPredictions
from wsi_pipeline.predictions.intervals import wilson

IntArray = npt.NDArray[np.int64]


def summarise_trust(answers: Sequence[tuple[CountsPredictions, IntArray]]) -> dict[str, Any]:
    """Return counts with Wilson intervals: right answers by trust, coverage, abstentions, and the APL alert."""
    trust = np.concatenate([found.trust for found, _ in answers])
    predicted = np.concatenate([found.predicted for found, _ in answers])
    alert = np.concatenate([found.apl_alert for found, _ in answers])
    reason = np.concatenate([found.reason for found, _ in answers])
    truth = np.concatenate([labels for _, labels in answers])
    answered, apl = predicted >= 0, truth == CLASSES.index("APL")
    levels = {
        level: _share(predicted[rows] == truth[rows], "right")
        for level in ("green", "orange", "red")
        for rows in [answered & (trust == level)]
    }
    return {
        "n": len(truth),
        **levels,
        "green_coverage": _share(answered & (trust == "green"), "green"),
        "all_answers": _share((predicted == truth)[answered], "right"),
        "apl_alert_sensitivity": _share(alert[apl & answered], "alerted"),
        "apl_alert_specificity": _share(~alert[~apl & answered], "silent"),
        "reasons": {str(word): int(n) for word, n in zip(*np.unique(reason, return_counts=True), strict=True) if word},
    }


def _share(hits: np.ndarray, name: str) -> dict[str, Any]:
    k, n = int(hits.sum()), len(hits)
    lower, upper = wilson(k, n)
    return {name: k, "n": n, "value": k / n if n else None, "lower": lower, "upper": upper}
