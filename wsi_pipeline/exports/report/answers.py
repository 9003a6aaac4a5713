"""The report of models' answers about finished runs: a section a subject, with the cells behind each answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_pipeline.config import Language
from wsi_pipeline.errors import DataError, SlideError
from wsi_pipeline.exports.report.behind import SHOWN, Behind, CellPicture, behind_answers, cells_asked, told_apart
from wsi_pipeline.exports.report.charts import Styles
from wsi_pipeline.exports.report.gallery import images_by_id
from wsi_pipeline.exports.report.render import render, rendered
from wsi_pipeline.exports.report.slide import pictures_by_id
from wsi_pipeline.exports.report.summary import Answer, SlideSummary, read_summary
from wsi_pipeline.exports.report.text import by_model, question_of
from wsi_pipeline.exports.report.words import Words
from wsi_pipeline.predictions.bags import FinishedSlide
from wsi_pipeline.sentences import Sentence, made_of, say
from wsi_pipeline.slides import SlideSpec, slide_path
from wsi_pipeline.taxonomies import load_taxonomy

MOST_BYTES = 5_000_000
"""Of the page: what is mailed and opened without waiting."""
_FIGURE_BYTES, _OUTLINE_BYTES = 600, 120

ReadImage = Callable[[Path], npt.NDArray[np.uint8]]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A slide or patient that models were asked about.

    Parameters
    ----------
    name, level
        Its id, and whether it is a ``slide`` or a ``patient``.
    slides
        Whose cells were pooled.
    answers
        Entries as of ``predictions`` of a summary.
    """

    name: str
    level: str
    slides: tuple[FinishedSlide, ...]
    answers: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class SubjectView:
    """A section of the report."""

    name: str
    level: str
    specimen: str
    slide_ids: tuple[str, ...]
    answers: tuple[Answer, ...]
    behind: tuple[Behind, ...]
    differences: tuple[Sentence, ...]

    @property
    def by_question(self) -> dict[tuple[str, str], Answer]:
        return {question_of(answer): answer for answer in self.answers}


def write_answers_report(
    path: Path,
    subjects: Sequence[Subject],
    *,
    read_image: ReadImage,
    notes: Sequence[str],
    language: Language = "en",
) -> None:
    """Write the report to an HTML file that holds all its pictures.

    Of many subjects fewer cells are shown behind each answer, so that the file stays below :data:`MOST_BYTES` unless
    its words alone pass that.

    Parameters
    ----------
    read_image
        Returns the uint8 ``(h, w, 3)`` pixels of an image of a gallery.
    notes
        Sentences on slides that were left out.
    language
        ``en`` or ``fr``.

    Raises
    ------
    DataError
        A result of a run is damaged.
    """
    problems = list(notes)
    words = Words(language, made_of([list(subject.answers) for subject in subjects]))
    views = [_view(subject, read_image, words, problems) for subject in subjects]
    answers = [answer for view in views for answer in view.answers]
    values = {
        "questions": {question_of(answer): (answer, by_model(answer)) for answer in answers},
        "simulated": any(answer.simulated for answer in answers),
        "limits": {by_model(answer): answer.limits for answer in answers if answer.limits},
        "could_not": problems,
        "most": SHOWN,
    }
    empty = len(rendered("answers.html.j2", words, subjects=_first_cells(views, 0), shown=0, **values).encode())
    shown = next((k for k in range(SHOWN, 0, -1) if empty + _bytes(_first_cells(views, k)) <= MOST_BYTES), 0)
    render("answers.html.j2", path, words, subjects=_first_cells(views, shown), shown=shown, **values)


def _first_cells(views: Sequence[SubjectView], n: int) -> list[SubjectView]:
    """Return the sections with the ``n`` weightiest cells of each answer."""
    return [
        replace(view, behind=tuple(replace(one, cells=one.cells[:n]) for one in view.behind)) if view.behind else view
        for view in views
    ]


def _bytes(views: Sequence[SubjectView]) -> int:
    """Return about how many bytes the pictures take, with what stands around them."""
    pictures = (cell.cell.picture for view in views for one in view.behind for cell in one.cells)
    return sum(len(p.uri) + _FIGURE_BYTES + sum(len(o.path) + _OUTLINE_BYTES for o in p.outlines) for p in pictures)


def _view(subject: Subject, read_image: ReadImage, words: Words, problems: list[str]) -> SubjectView:
    answers = tuple(Answer.model_validate(dict(answer)) for answer in subject.answers)
    asked = cells_asked(answers)
    pictures: dict[str, CellPicture] = {}
    by_criteria: tuple[Answer, ...] = ()
    for slide in subject.slides:
        summary = read_summary(slide.folder / "summary.json")
        if asked:
            try:
                pictures |= _pictures(slide, summary, asked, read_image, words, problems)
            except (DataError, SlideError) as error:
                # Its answer stands; one subject's pictures do not keep the others from a page.
                problems.append(
                    say("{slide_id}: its cells could not be shown: {error}", slide_id=slide.slide_id, error=str(error))
                )
        if len(subject.slides) == 1:
            known = (a for a in summary.predictions if a.model == "criteria")
            by_criteria = tuple(a.model_copy(update={"level": subject.level}) for a in known)
    return SubjectView(
        name=subject.name,
        level=subject.level,
        specimen=subject.slides[0].specimen,
        slide_ids=tuple(slide.slide_id for slide in subject.slides),
        answers=answers,
        behind=tuple(behind_answers(answers, pictures)),
        differences=tuple(told_apart([*by_criteria, *answers])),
    )


def _pictures(
    slide: FinishedSlide,
    summary: SlideSummary,
    asked: frozenset[str],
    read_image: ReadImage,
    words: Words,
    problems: list[str],
) -> dict[str, CellPicture]:
    taxonomy, mpp, images = load_taxonomy(slide.taxonomy), summary.mpp, slide.images
    styles = Styles(taxonomy, language=words.language)
    if mpp is None:
        raise DataError(f"{slide.folder / 'summary.json'} has no microns per pixel; run the slide again")
    if images is not None:
        return images_by_id(slide.cells, asked, styles, lambda name: read_image(images / name), mpp.x, words, problems)
    given = (mpp.x + mpp.y) / 2
    spec = SlideSpec(
        path=slide_path(summary.path),
        mpp=given if mpp.source in ("option", "forced") else None,
        force_mpp=mpp.source == "forced",
        manifest_mpp=given if mpp.source == "manifest" else None,
    )
    with spec.open() as opened:
        return pictures_by_id(slide.cells, asked, opened, styles, taxonomy, words, problems)
