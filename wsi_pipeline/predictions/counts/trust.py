"""How far an answer can be trusted: thresholds per class, chosen on held-out patients of the training data alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import ModelError
from wsi_pipeline.predictions.counts.features import CLASSES, FloatArray

IntArray = npt.NDArray[np.int64]

GREEN_ACCURACY = 0.97
"""Accuracy that green answers must reach."""

_SEEN_AT = 0.99
"""Accuracy that green must show where it is chosen: patients of centres that nobody trained on are harder."""

ORANGE_ACCURACY = 0.80
"""Accuracy that orange answers, with the green ones among them, must reach; what does not is red."""

APL_SENSITIVITY = 0.97
"""Share of the patients with APL that the alert must reach."""

NEVER = 2.0
"""A threshold that no probability reaches."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Probabilities ``(n, 3)`` of patients that the answering model never saw, and their classes ``(n,)``."""

    probabilities: FloatArray
    truth: IntArray


@dataclass(frozen=True, kw_only=True)
class TrustRules:
    """Thresholds on the probability of the likeliest class, by class, and on that of APL for the alert."""

    green: tuple[float, ...]
    orange: tuple[float, ...]
    apl_alert: float

    def to_json(self) -> dict[str, Any]:
        """Return what a model's file holds."""
        return {"green": list(self.green), "orange": list(self.orange), "apl_alert": self.apl_alert}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> TrustRules:
        """Read what :meth:`to_json` wrote.

        Raises
        ------
        ModelError
            It is something else.
        """
        try:
            green, orange = (tuple(float(t) for t in entry[key]) for key in ("green", "orange"))
            rules = cls(green=green, orange=orange, apl_alert=float(entry["apl_alert"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"the thresholds of a model of blood counts are damaged ({error})") from None
        if len(green) != len(CLASSES) or len(orange) != len(CLASSES):
            raise ModelError(f"a model of blood counts needs a threshold for each of {', '.join(CLASSES)}")
        if not np.isfinite([*green, *orange]).all() or not 0 <= rules.apl_alert <= 1:
            raise ModelError("a threshold of a model of blood counts is no probability")
        return rules


def choose_rules(schemes: Sequence[HeldOut]) -> TrustRules:
    """Choose thresholds on all held-out answers together (folds; one centre answered by the others).

    Notes
    -----
    A threshold is the lowest at which the answers above it reach the accuracy with one further error supposed,
    ``(errors + 1) / (n + 2)``; for green they also show 0.99. So green takes at least 32 answers without an error. A
    class without such a threshold is never green.
    """
    apl = CLASSES.index("APL")
    together = HeldOut(
        probabilities=np.concatenate([s.probabilities for s in schemes]),
        truth=np.concatenate([s.truth for s in schemes]),
    )
    return TrustRules(
        green=tuple(_threshold(together, c, GREEN_ACCURACY, seen=_SEEN_AT) for c in range(len(CLASSES))),
        orange=tuple(_threshold(together, c, ORANGE_ACCURACY) for c in range(len(CLASSES))),
        apl_alert=min(_reaching(s, apl, APL_SENSITIVITY) for s in schemes),
    )


def _threshold(held_out: HeldOut, answered: int, accuracy: float, *, seen: float = 0.0) -> float:
    likeliest = held_out.probabilities.argmax(axis=1)
    rows = likeliest == answered
    sure = held_out.probabilities[rows, answered]
    order = np.argsort(-sure, kind="stable")
    wrong = np.cumsum(held_out.truth[rows][order] != answered)
    n = np.arange(1, len(order) + 1)
    good = np.flatnonzero(((wrong + 1) / (n + 2) <= 1 - accuracy) & (wrong / n <= 1 - seen))
    return float(sure[order][good[-1]]) if len(good) else NEVER


def _reaching(held_out: HeldOut, wanted: int, sensitivity: float) -> float:
    """Return the highest threshold at which the probability of a class still finds the share ``sensitivity`` of it."""
    scores = np.sort(held_out.probabilities[held_out.truth == wanted, wanted])
    if len(scores) == 0:
        return 0.0
    return float(scores[int(np.floor((1 - sensitivity) * len(scores) + 1e-9))])


def fit_temperature(margins: FloatArray, truth: IntArray) -> float:
    """Return the temperature, 0.4 to 7, that makes held-out margins ``(n, 3)`` likeliest.

    Bounded, since of classes without an overlap it would go to 0 and every answer be certain.

    References
    ----------
    Guo C et al. On calibration of modern neural networks. ICML 2017.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    rows = np.arange(len(truth))

    def loss(log_t: float) -> float:
        return float(-log_softmax(margins / np.exp(log_t), axis=1)[rows, truth].mean())

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.4), np.log(7.0)), method="bounded").x))
