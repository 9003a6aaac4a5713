"""What is answered for one patient: probabilities, how far to trust them, and what they rest on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Trust = Literal["green", "orange", "red"]
"""Green: right in at least 97 of 100 such answers of the training folds. Orange: the likelier class, to be weighed.
Red: too uncertain, outside what the model was trained on, or abstained."""

Reason = Literal[
    "",
    "not-applicable",
    "precondition-not-confirmed",
    "too-few-values",
    "outlier",
    "uncertain",
    "apl-not-excluded",
]
"""Why there is no answer, or why it is not green. ``not-applicable``: counts within reference ranges."""


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """What one value adds to the answer.

    Parameters
    ----------
    analyte
        Canonical name (:class:`~wsi_pipeline.predictions.counts.analytes.Analyte`).
    value
        In the canonical unit; None where it is missing.
    effect
        Log-odds that the value adds for each class against the others, averaged over the ensemble; with ``baseline``
        of the answer the effects sum to the class's margin.
    words
        One sentence a clinician reads, by language.
    """

    analyte: str
    value: float | None
    effect: dict[str, float]
    words: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class CountsAnswer:
    """The answer for one patient.

    Parameters
    ----------
    probabilities
        Calibrated, by class, summing to 1; empty when abstained.
    spread
        Lowest and highest probability by class that the missing values leave open: each is filled with values of
        training patients. Equal ends where nothing is missing.
    predicted
        The likeliest class, or empty when abstained.
    trust, reason
        See :data:`Trust` and :data:`Reason`.
    apl_alert
        APL is not excluded at the safety threshold, whatever class is likeliest.
    contributions
        From the strongest to the weakest for the predicted class.
    missing
        Canonical names of absent values, the most useful first.
    notes
        Further sentences by language: conversions, refusals, the meaning of the trust.
    """

    patient: str
    probabilities: dict[str, float]
    spread: dict[str, tuple[float, float]]
    predicted: str
    trust: Trust
    reason: Reason
    apl_alert: bool
    contributions: tuple[Contribution, ...]
    baseline: dict[str, float]
    missing: tuple[str, ...]
    notes: tuple[dict[str, str], ...] = ()

    @property
    def abstained(self) -> bool:
        """Return whether no class is given."""
        return not self.predicted
