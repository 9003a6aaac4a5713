"""Thresholds fixed on other subjects than those they are judged on, and shares with Wilson's interval."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from wsi_pipeline.predictions.assessment.bootstrap import Estimate, FloatArray
from wsi_pipeline.predictions.intervals import wilson

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

Choose = Callable[[FloatArray, BoolArray], float]
"""From scores and truth to the threshold: a score is accepted when it is not below it."""


def accepted(
    scores: FloatArray,
    truth: BoolArray,
    choose: Choose,
    *,
    strata: IntArray,
    repeats: IntArray,
    reference: tuple[FloatArray, BoolArray] | None = None,
) -> tuple[BoolArray, float]:
    """Say which scores reach a threshold that their own fold had no part in.

    Parameters
    ----------
    strata, repeats
        ``(n,)`` fold and repeat of each score. The threshold of a fold comes from the other folds of its repeat.
    reference
        Scores and truth of the training subjects, when the scores are of a test set apart: the threshold comes from
        these.

    Returns
    -------
    accepted, threshold
        ``(n,)``, and the threshold to use from now on: chosen on all scores, or on the reference.
    """
    if reference is not None:
        threshold = choose(*reference)
        return scores >= threshold, threshold
    result = np.zeros(len(scores), bool)
    for stratum in np.unique(strata):
        inside = strata == stratum
        others = ~inside & (repeats == repeats[inside][0])
        result[inside] = scores[inside] >= choose(scores[others], truth[others])
    return result, choose(scores, truth)


def share(hits: BoolArray, units: IntArray) -> Estimate:
    """Return the share of hits with Wilson's interval for as many trials as there are patients.

    Rows of one patient (several slides, several repeats) count as one trial, which keeps the interval from being
    narrower than the patients allow; where each patient is one row it is Wilson's interval itself.
    """
    if not len(hits):
        return Estimate(value=None, lower=None, upper=None)
    n = int(np.unique(units).size)
    value = float(hits.mean())
    lower, upper = wilson(min(value * n, n), n)
    return Estimate(value=value, lower=lower, upper=upper)
