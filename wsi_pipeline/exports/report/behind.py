"""What stands behind the answers of models: the cells that weighed most, and where they differ from the criteria."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wsi_pipeline.exports.report.pictures import Picture
from wsi_pipeline.exports.report.summary import Answer
from wsi_pipeline.exports.report.text import TASKS, answer_class, title

SHOWN = 12
"""Cells shown for an answer."""

# Ranges of the criteria, and the diagnoses of models that fit them.
_FITS = {
    "aml_range": {"aml", "apl", "aml_other"},
    "apl_alert": {"apl"},
    "below_range": {"normal", "mds_like", "other_abnormal", "reactive"},
}


@dataclass(frozen=True, kw_only=True)
class CellPicture:
    """A cell of a gallery with its caption."""

    picture: Picture
    caption: str
    where: str
    truncated: bool


@dataclass(frozen=True, kw_only=True)
class WeighedPicture:
    """A cell behind an answer; ``weight`` is its share of the whole, percent."""

    cell: CellPicture
    weight: float


@dataclass(frozen=True, kw_only=True)
class Behind:
    """The cells behind one answer, the weightiest first, and how many of the wanted ones could not be shown."""

    task: str
    model: str
    level: str
    cells: tuple[WeighedPicture, ...]
    missing: int


def cells_asked(answers: Sequence[Answer]) -> frozenset[str]:
    """Return the ids of the cells that are to be shown."""
    return frozenset(cell.cell_id for answer in answers for cell in answer.evidence[:SHOWN])


def behind_answers(answers: Sequence[Answer], pictures: Mapping[str, CellPicture]) -> list[Behind]:
    """Return the cells behind each answer of a model that weighs cells."""
    return [
        Behind(
            task=answer.task,
            model=answer.model or "",
            level=answer.level,
            cells=tuple(
                WeighedPicture(cell=pictures[cell.cell_id], weight=100 * cell.weight)
                for cell in answer.evidence[:SHOWN]
                if cell.cell_id in pictures
            ),
            missing=sum(cell.cell_id not in pictures for cell in answer.evidence[:SHOWN]),
        )
        for answer in answers
        if answer.evidence
    ]


def told_apart(answers: Sequence[Answer]) -> list[str]:
    """Return sentences on the tasks that a model answers otherwise than the criteria do; they are made apart."""
    by_criteria = {(a.level, a.task): a for a in answers if a.model == "criteria" and not a.abstained}
    sentences = []
    for answer in answers:
        other = by_criteria.get((answer.level, answer.task))
        if other is None or answer.abstained or answer.model == "criteria":
            continue
        if not _fitting(other.class_name) & _fitting(answer.class_name):
            sentences.append(
                f"{TASKS.get(answer.task, title(answer.task))}: the criteria say "
                f"{answer_class(other.class_name)!r}, the model {answer.model} says "
                f"{answer_class(answer.class_name)!r}. Neither corrects the other: look at the cells."
            )
    return sentences


def _fitting(class_name: str | None) -> set[str]:
    parts = (class_name or "").split("|")
    return {fit for part in parts for fit in _FITS.get(part, {part})}
