"""What stands behind the answers of models: the cells that weighed most, and where they differ from the criteria."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wsi_pipeline.exports.report.pictures import Picture
from wsi_pipeline.exports.report.summary import Answer
from wsi_pipeline.exports.report.text import class_parts, task_words
from wsi_pipeline.sentences import Sentence, say

SHOWN = 12
"""Cells shown for an answer."""

# Ranges of the criteria, and the diagnoses of models that fit them.
_FITS = {
    "normal": {"normal"},
    "aml_range": {"aml", "apl", "aml_other"},
    "below_range": {"normal", "mds_like", "other_abnormal"},
    "apl_alert": {"apl"},
    "mds_like": {"mds_like"},
    "other_abnormal": {"other_abnormal"},
}
_KNOWN = frozenset.union(*map(frozenset, _FITS.values()))


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

    answer: Answer
    cells: tuple[WeighedPicture, ...]
    missing: int


def cells_asked(answers: Sequence[Answer]) -> frozenset[str]:
    """Return the ids of the cells that are to be shown."""
    return frozenset(cell.cell_id for answer in answers for cell in answer.evidence[:SHOWN])


def behind_answers(answers: Sequence[Answer], pictures: Mapping[str, CellPicture]) -> list[Behind]:
    """Return the cells behind each answer of a model that weighs cells."""
    return [
        Behind(
            answer=answer,
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


def told_apart(answers: Sequence[Answer]) -> list[Sentence]:
    """Return sentences on the tasks that a model answers otherwise than the criteria do; they are made apart."""
    by_criteria = {(a.level, a.task): a for a in answers if a.model == "criteria" and not a.abstained}
    sentences = []
    for answer in answers:
        other = by_criteria.get((answer.level, answer.task))
        if other is None or answer.abstained or answer.model == "criteria":
            continue
        said = _parts(answer)
        if said <= _KNOWN and not said & {fit for part in _parts(other) for fit in _FITS.get(part, {part})}:
            sentences.append(
                say(
                    "{task}: the criteria say “{criteria}”, the model {model} says “{answer}”. Neither corrects the "
                    "other: look at the cells.",
                    task=task_words(answer),
                    criteria=_alternatives(other),
                    model=str(answer.model),
                    answer=_alternatives(answer),
                )
            )
    return sentences


def _alternatives(answer: Answer) -> str:
    parts = class_parts(answer)
    return functools.reduce(lambda first, second: say("{first} or {second}", first=first, second=second), parts)


def _parts(answer: Answer) -> set[str]:
    return set((answer.class_name or "").split("|"))
