"""What a model can say of a subject: probabilities, the set of classes, and why there may be no answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wsi_pipeline.predictions.slide_features.feature import FloatArray
from wsi_pipeline.predictions.slide_models.ensemble import SlideEnsemble
from wsi_pipeline.predictions.slide_models.subject import Subject
from wsi_pipeline.predictions.slide_models.unusual import TWICE


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A model's decision on one subject.

    Parameters
    ----------
    probabilities
        ``(classes,)``; None where there are too few cells.
    kept
        Classes of the conformal set, the likeliest first.
    beyond
        Parts in which the subject is unlike the training patients, with the distance in limits.
    reason
        Why there is no answer; empty where there is one.
    n_cells
        Cells of the denominator.
    """

    probabilities: FloatArray | None
    kept: tuple[str, ...]
    beyond: Mapping[str, float]
    reason: str
    n_cells: int


def decide(model: SlideEnsemble, subject: Subject) -> Decision:
    """Return the decision.

    Raises
    ------
    DataError, ModelError
        The model cannot read these cells.
    """
    n_cells, codes = subject.n_cells, model.task.codes
    if n_cells < model.task.minimum_cells:
        return Decision(probabilities=None, kept=(), beyond={}, reason="too-few-cells", n_cells=n_cells)
    model.check(subject.bag)
    p = model.resampled(subject, np.ones((1, len(subject.bag))))[0]
    kept = model.combination_for(subject).sets.classes_of(p)
    beyond = {name: d for name, d in model.unusual.distances(subject).items() if d > 1}
    reason = ""
    if any(d > TWICE for d in beyond.values()):
        reason = "out-of-distribution"
    elif len(kept) == len(codes):
        reason = "uncertain"
    ranked = tuple(codes[i] for i in sorted(kept, key=lambda i: (-p[i], i)))
    return Decision(probabilities=p, kept=ranked, beyond=beyond, reason=reason, n_cells=n_cells)
