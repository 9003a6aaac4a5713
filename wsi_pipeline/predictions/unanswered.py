"""Subjects that models were asked about and that could not be read: who, why, and the rows that say so."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi_pipeline.predictions.bags import SkippedSlide
from wsi_pipeline.predictions.bags.runs import UNREADABLE
from wsi_pipeline.predictions.model_answers import without_cells
from wsi_pipeline.predictions.prediction import PredictionLevel
from wsi_pipeline.predictions.slide_models import SlideEnsemble
from wsi_pipeline.sentences import say

SUBJECT_COLUMNS = ("subject_id", "level", "slide_ids", "status", "reason", "message")
"""Of ``subjects.csv``: a row for each slide and patient, whether it has an answer or not."""


@dataclass(frozen=True, kw_only=True)
class Unanswered:
    """A slide or patient without an answer.

    Parameters
    ----------
    name, level, slide_ids
        As of an answered subject.
    patient
        Whose it is, as far as that is known.
    status, reason
        ``failed`` with a code (``unreadable``, or that of the run), or ``empty``.
    message
        What was found, for a person.
    answers
        Entries as of ``predictions`` of a summary, a model each; all abstain.
    """

    name: str
    level: PredictionLevel
    slide_ids: tuple[str, ...]
    patient: str
    status: str
    reason: str
    message: str
    answers: tuple[Mapping[str, Any], ...]

    @property
    def failed(self) -> bool:
        """Tell whether it should have had an answer."""
        return self.status == "failed"


def unreadable(
    models: Iterable[SlideEnsemble],
    *,
    name: str,
    level: PredictionLevel,
    slide_ids: Sequence[str],
    patient: str,
    message: str,
) -> Unanswered:
    """Return a subject whose cells, or what else a model reads of it, cannot be read."""
    return _unanswered(
        models, name=name, level=level, slide_ids=slide_ids, patient=patient, status="failed", reason=UNREADABLE,
        message=message,
    )  # fmt: skip


def of_skipped(models: Iterable[SlideEnsemble], slide: SkippedSlide) -> Unanswered | None:
    """Return a slide of a run without cells as a subject; None of one that is of no specimen asked about."""
    if slide.status not in ("failed", "empty", UNREADABLE):
        return None
    broken = slide.status == UNREADABLE
    return _unanswered(
        models,
        name=slide.slide_id,
        level="slide",
        slide_ids=(slide.slide_id,),
        patient=_patient(slide.folder),
        status="failed" if broken else slide.status,
        reason=UNREADABLE if broken else slide.reason,
        message=slide.reason if broken else f"{slide.status} in the run",
    )


def _unanswered(
    models: Iterable[SlideEnsemble],
    *,
    name: str,
    level: PredictionLevel,
    slide_ids: Sequence[str],
    patient: str,
    status: str,
    reason: str,
    message: str,
) -> Unanswered:
    slide_id = name if level == "slide" else ""
    rows = (without_cells(model, slide_id=slide_id, subject_id=patient).to_dict() for model in models)
    told = {"reason": reason or "failed", "wording": say("No answer: {why}", why=message)} if status == "failed" else {}
    return Unanswered(
        name=name,
        level=level,
        slide_ids=tuple(slide_ids),
        patient=patient,
        status=status,
        reason=reason,
        message=message,
        answers=tuple({**row, "level": level, **told} for row in rows),
    )


def _patient(folder: Path) -> str:
    """Return the patient of a slide as far as its summary can still be read."""
    try:
        found = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        return str(found.get("subject_id") or "")
    except (OSError, ValueError, AttributeError):
        return ""
