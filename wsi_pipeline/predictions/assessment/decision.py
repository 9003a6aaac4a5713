"""Decision curves: is acting on the model better than acting on everybody, or on nobody?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.predictions.assessment.bootstrap import Estimate, FloatArray, bootstrap_units
from wsi_pipeline.predictions.assessment.thresholds import BoolArray, IntArray

THRESHOLDS = (0.01, 0.02, *(i / 20 for i in range(1, 20)))
"""Threshold probabilities at which curves are drawn."""


@dataclass(frozen=True, kw_only=True)
class DecisionPoint:
    """Net benefit at one threshold probability, in true positives a subject; that of treating nobody is 0."""

    threshold: float
    net_benefit: Estimate
    treat_all: float


def decision_curve(
    probabilities: FloatArray,
    positive: BoolArray,
    *,
    units: IntArray | None = None,
    thresholds: tuple[float, ...] = THRESHOLDS,
    replicates: int = 2000,
    seed: int = 0,
) -> tuple[DecisionPoint, ...]:
    """Return ``TP / n - FP / n * t / (1 - t)`` at each threshold ``t``, with bootstrap intervals over patients.

    Parameters
    ----------
    probabilities, positive, units
        ``(n,)`` probability of the class, whether the subject has it, and its patient.
    thresholds
        Probability from which one would act: at 0.1, missing one patient is as bad as acting on nine in vain.

    Raises
    ------
    ConfigError
        A threshold is not between 0 and 1.

    References
    ----------
    Vickers, Elkin. Med Decis Making 2006;26:565-574.
    """
    t = np.asarray(thresholds, np.float64)
    if ((t <= 0) | (t >= 1)).any():
        raise ConfigError(f"threshold probabilities lie between 0 and 1: {thresholds}")
    acted = probabilities[:, None] >= t
    odds = t / (1 - t)
    gain = np.where(acted, np.where(positive[:, None], 1.0, -odds), 0.0)
    unit = np.arange(len(probabilities)) if units is None else units
    _, index = np.unique(unit, return_inverse=True)
    per_patient = np.zeros((int(index.max()) + 1, len(t) + 1))
    np.add.at(per_patient, index, np.concatenate([gain, np.ones((len(gain), 1))], axis=1))

    def figures(sums: FloatArray) -> dict[str, FloatArray]:
        return {str(i): sums[:, i] / sums[:, -1] for i in range(len(t))}

    found = bootstrap_units(per_patient, figures, replicates=replicates, seed=seed)
    prevalence = float(positive.mean())
    return tuple(
        DecisionPoint(
            threshold=float(t[i]),
            net_benefit=found[str(i)],
            treat_all=prevalence - (1 - prevalence) * float(odds[i]),
        )
        for i in range(len(t))
    )
