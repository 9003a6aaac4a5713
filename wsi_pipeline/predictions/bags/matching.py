"""Which rows of a table are of which subjects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from wsi_pipeline.errors import DataError, some
from wsi_pipeline.predictions.bags.manifest import Manifest, ManifestRow, same_name


class Subject(Protocol):
    """Whose cells they are, as a :class:`CellBag` says it."""

    @property
    def subject_id(self) -> str:
        """The patient, or the slide."""

    @property
    def slide_ids(self) -> tuple[str, ...]:
        """Slides that are pooled."""

    @property
    def patient(self) -> str:
        """The patient; empty when unknown."""


def matched(table: Manifest, subjects: Sequence[Subject]) -> list[list[ManifestRow]]:
    """Return the rows of each subject: those of its slides, else those of its patient."""
    by_slide: dict[str, list[ManifestRow]] = {}
    by_patient: dict[str, list[ManifestRow]] = {}
    for row in table.rows:
        if row.slide_id:
            by_slide.setdefault(row.slide_id, []).append(row)
        if row.patient:
            by_patient.setdefault(row.patient, []).append(row)
    found = []
    for bag in subjects:
        rows = [row for name in bag.slide_ids for row in by_slide.get(same_name(name), ())]
        patient = same_name(bag.patient)
        said = dict.fromkeys(name for name in (patient, *(row.patient for row in rows)) if name)
        if len(said) > 1:
            raise DataError(
                f"{table.path}: {some(bag.slide_ids)} is of {' and of '.join(said)}, by run and table; a slide is "
                "of one patient"
            )
        # A gallery's patient is its slide too, so its name may stand under either heading.
        names = dict.fromkeys((patient, same_name(bag.subject_id)))
        rows = rows or next((by_patient[name] for name in names if name in by_patient), [])
        found.append(rows or by_slide.get(same_name(bag.subject_id), []))
    return found
