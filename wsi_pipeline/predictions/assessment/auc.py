"""How well a score separates two sets: the area under the ROC curve with its interval."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from wsi_pipeline.predictions.assessment.bootstrap import Estimate


def auroc(inside: npt.ArrayLike, outside: npt.ArrayLike) -> Estimate:
    """Return the chance that an outside item scores higher than an inside one, ties counting half.

    Parameters
    ----------
    inside, outside
        Scores ``(m,)`` and ``(n,)``.

    Returns
    -------
    Estimate
        With the 95 % interval of DeLong et al., Biometrics 44:837, 1988, on the logit scale. Items are taken as
        independent. Undefined without items on both sides; without an interval with fewer than two on either, or
        where the separation is complete.
    """
    from scipy.stats import rankdata

    low, high = np.asarray(inside, np.float64), np.asarray(outside, np.float64)
    m, n = len(low), len(high)
    if not m or not n:
        return Estimate(value=None, lower=None, upper=None)
    ranks = rankdata(np.concatenate([low, high]))
    # Of each item, the share of the other set that lies on its right side.
    of_low = 1 - (ranks[:m] - rankdata(low)) / n
    of_high = (ranks[m:] - rankdata(high)) / m
    value = float(of_high.mean())
    if m < 2 or n < 2 or not 0 < value < 1:
        return Estimate(value=value, lower=None, upper=None)
    error = math.sqrt(of_low.var(ddof=1) / m + of_high.var(ddof=1) / n)
    logit, half = math.log(value / (1 - value)), 1.959964 * error / (value * (1 - value))
    lower, upper = (1 / (1 + math.exp(-(logit + side * half))) for side in (-1, 1))
    return Estimate(value=value, lower=lower, upper=upper)
