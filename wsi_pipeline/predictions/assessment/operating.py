"""Operating points: a threshold by a stated rule, and what it finds and misses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.predictions.assessment.bootstrap import Estimate, FloatArray
from wsi_pipeline.predictions.assessment.thresholds import BoolArray, IntArray, accepted, share


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How a threshold is chosen.

    Parameters
    ----------
    kind
        ``specificity``: the lowest threshold that reaches ``target`` (the most sensitive one). ``sensitivity``: the
        highest that reaches it. ``youden``: the largest sum of the two (Youden. Cancer 1950;3:32-35).
    target
        0 to 1; None for ``youden``.

    Raises
    ------
    ConfigError
        The target is missing, not wanted, or not between 0 and 1.
    """

    kind: Literal["specificity", "sensitivity", "youden"]
    target: float | None = None

    def __post_init__(self) -> None:
        if (self.target is None) != (self.kind == "youden") or not 0 < (self.target or 0.5) <= 1:
            raise ConfigError(f"a rule is youden, or specificity or sensitivity with a target to 1: {self}")

    @property
    def name(self) -> str:
        """Return the rule in words."""
        return "largest Youden index" if self.target is None else f"{self.kind} of at least {self.target:g}"

    def threshold(self, scores: FloatArray, positive: BoolArray) -> float:
        """Return the threshold; infinite where only calling nobody positive meets the rule or a class is absent."""
        high, low = np.sort(scores[positive]), np.sort(scores[~positive])
        if not len(high) or not len(low):
            return math.inf
        at = np.append(np.unique(scores), math.inf)
        sensitivity = 1 - np.searchsorted(high, at, side="left") / len(high)
        specificity = np.searchsorted(low, at, side="left") / len(low)
        if self.target is None:
            return float(at[int(np.argmax(np.round(sensitivity + specificity, 12)))])
        if self.kind == "specificity":
            return float(at[int(np.argmax(specificity >= self.target - 1e-12))])
        return float(at[np.flatnonzero(sensitivity >= self.target - 1e-12)[-1]])


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """What a threshold does.

    Parameters
    ----------
    threshold
        A subject is called positive from it on; None where nobody would be.
    n_positive, n_negative
        Subjects with and without the class.
    ppv, npv
        At the share of positives in these subjects; they change with it.
    """

    rule: str
    threshold: float | None
    n_positive: int
    n_negative: int
    sensitivity: Estimate
    specificity: Estimate
    ppv: Estimate
    npv: Estimate


def operating_point(
    scores: FloatArray,
    positive: BoolArray,
    rule: Rule,
    *,
    units: IntArray | None = None,
    strata: IntArray | None = None,
    repeats: IntArray | None = None,
    reference: tuple[FloatArray, BoolArray] | None = None,
) -> OperatingPoint:
    """Return what a rule does on subjects that did not choose its threshold.

    Parameters
    ----------
    scores, positive
        ``(n,)``.
    units, strata, repeats
        ``(n,)`` patient, fold and repeat; without ``strata`` and ``reference`` the threshold is chosen on the subjects
        themselves, which flatters it.
    reference
        Scores and truth to choose the threshold on; see :func:`thresholds.accepted`.
    """
    n = len(scores)
    unit = np.arange(n) if units is None else units
    repeat = np.zeros(n, np.int64) if repeats is None else repeats
    if strata is None:
        called, threshold = accepted(
            scores, positive, rule.threshold, strata=unit, repeats=repeat, reference=reference or (scores, positive)
        )
    else:
        called, threshold = accepted(
            scores, positive, rule.threshold, strata=strata, repeats=repeat, reference=reference
        )
    times = int(np.unique(repeat).size)
    return OperatingPoint(
        rule=rule.name,
        threshold=threshold if math.isfinite(threshold) else None,
        n_positive=int(positive.sum()) // times,
        n_negative=int((~positive).sum()) // times,
        sensitivity=share(called[positive], unit[positive]),
        specificity=share(~called[~positive], unit[~positive]),
        ppv=share(positive[called], unit[called]),
        npv=share(~positive[~called], unit[~called]),
    )
