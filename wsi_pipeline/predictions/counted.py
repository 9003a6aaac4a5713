"""From the cells of a slide by class to all that its counts say: differential, corrected differential, criteria."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wsi_pipeline.config import PredictionsConfig, Specimen
from wsi_pipeline.predictions.corrected import CorrectedDifferential, corrected_differential
from wsi_pipeline.predictions.criteria import criteria_predictions
from wsi_pipeline.predictions.differential import Differential, differential
from wsi_pipeline.predictions.prediction import Prediction
from wsi_pipeline.taxonomies import Taxonomy


@dataclass(frozen=True, kw_only=True)
class Counted:
    """What the counts of a slide, or of a patient's images, say.

    Attributes
    ----------
    differential
        As the classifier answered.
    corrected
        Corrected by how the classifier errs.
    predictions
        What count criteria say for each task.
    """

    differential: Differential
    corrected: CorrectedDifferential
    predictions: Sequence[Prediction]


def count_cells(
    by_class: Mapping[str, int],
    *,
    answered: Mapping[str, int],
    card: Mapping[str, Any] | None,
    slide_id: str,
    subject_id: str,
    specimen: Specimen,
    taxonomy: Taxonomy,
    config: PredictionsConfig,
    area_mm2: float | None = None,
) -> Counted:
    """Turn the cells of a slide into its differential, raw and corrected, and what count criteria say of it.

    Parameters
    ----------
    by_class
        Cells of each class of ``taxonomy``.
    answered
        Of them, those that the classifier saw, by its answer.
    card
        The classifier's card; None when no classifier ran.
    area_mm2
        What was searched; None without an area.

    Raises
    ------
    ModelError
        The card's confusion cannot be read.
    """
    raw = differential(by_class, specimen=specimen, taxonomy=taxonomy, confidence=config.confidence, area_mm2=area_mm2)
    return Counted(
        differential=raw,
        corrected=corrected_differential(answered, raw, card=card, specimen=specimen, taxonomy=taxonomy, config=config),
        predictions=criteria_predictions(
            raw, slide_id=slide_id, subject_id=subject_id, specimen=specimen, taxonomy=taxonomy, config=config
        ),
    )
