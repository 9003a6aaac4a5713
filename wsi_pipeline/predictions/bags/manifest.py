"""Tables that say of subjects what they are: patient or slide, diagnosis, cohort."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from wsi_pipeline.errors import DataError, some
from wsi_pipeline.predictions.counts.analytes import identity_names, key
from wsi_pipeline.predictions.counts.csv_source import open_csv

_LABEL = ("label", "diagnosis", "diagnostic")
_SLIDE = ("slideid",)
_FILE = ("slide",)
_COHORT = ("cohort", "cohorte")
_CHUNK = 100_000


@dataclass(frozen=True, kw_only=True)
class ManifestRow:
    """One row; empty texts where the table has none.

    Parameters
    ----------
    line
        Of the file, 1 being the header.
    patient, slide_id
        Whom the row is of; the id is the file's stem where only a file is named.
    label, cohort
        As written.
    """

    line: int
    patient: str
    slide_id: str
    label: str
    cohort: str

    @property
    def name(self) -> str:
        """Return the patient, or the slide where no patient is named."""
        return self.patient or self.slide_id


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The rows of a table, and where the table says what.

    Parameters
    ----------
    label_column, cohort_column
        As written; None without one.
    other_columns
        Names that are none of these.
    """

    path: Path
    rows: tuple[ManifestRow, ...]
    label_column: str | None
    cohort_column: str | None
    other_columns: tuple[str, ...]


def read_labels(path: Path, *, label: str | None = None, cohort: str | None = None, labelled: bool = True) -> Manifest:
    """Read a CSV table with a column of patients or slides, and one of labels.

    Known names, blind to case, blanks and underscores: ``patient``, ``subject`` and their synonyms; ``slide_id`` or
    ``slide`` (a file, whose stem is taken); ``label`` or ``diagnosis``; ``cohort`` or ``centre`` and its synonyms. The
    manifest of a run is such a table.

    Parameters
    ----------
    label, cohort
        Names of these columns, where they have others.
    labelled
        Whether a column of labels is needed.

    Raises
    ------
    DataError
        The file cannot be read, a column is missing or there twice, or a row names neither patient nor slide.
    """
    patients, centres = identity_names()
    known = {*patients, *centres, *_LABEL, *_SLIDE, *_FILE, *_COHORT}
    source = open_csv(path, lambda names: sum(key(name) in known for name in names))
    header = [name.strip() for name in source.header]

    def place(names: Sequence[str], asked: str | None = None) -> int | None:
        wanted = names if asked is None else (key(asked),)
        for name in wanted:
            found = [i for i, column in enumerate(header) if key(column) == name]
            if len(found) > 1:
                raise DataError(f"{path} has the column {header[found[0]]!r} more than once")
            if found:
                return found[0]
        if asked is not None:
            raise DataError(f"{path} has no column {asked!r}; found {some(header)}")
        return None

    at_label, at_cohort = place(_LABEL, label), place((*_COHORT, *centres), cohort)
    at_patient, at_slide, at_file = place(patients), place(_SLIDE), place(_FILE)
    if at_label is None and labelled:
        raise DataError(f"{path} has no column of labels; found {some(header)}; needed is label or diagnosis")
    if at_patient is None and at_slide is None and at_file is None:
        raise DataError(f"{path} says of nobody what it is; found {some(header)}; needed is patient or slide_id")
    rows = []
    for chunk in source.chunks(_CHUNK):
        columns = [column.to_pylist() for column in chunk.columns]
        for i, line in enumerate(chunk.lines.tolist()):
            cells = [_plain(column[i]) for column in columns]
            at = {name: "" if where is None else cells[where] for name, where in
                  (("patient", at_patient), ("slide_id", at_slide), ("file", at_file), ("label", at_label),
                   ("cohort", at_cohort))}  # fmt: skip
            slide_id = at["slide_id"] or PurePath(at["file"].replace("\\", "/")).stem
            if not at["patient"] and not slide_id:
                raise DataError(f"{path} line {line}: neither a patient nor a slide is named")
            rows.append(
                ManifestRow(line=line, patient=at["patient"], slide_id=slide_id, label=at["label"], cohort=at["cohort"])
            )
    if not rows:
        raise DataError(f"{path} has no rows")
    used = {at_label, at_cohort, at_patient, at_slide, at_file}
    return Manifest(
        path=path,
        rows=tuple(rows),
        label_column=None if at_label is None else header[at_label],
        cohort_column=None if at_cohort is None else header[at_cohort],
        other_columns=tuple(name for i, name in enumerate(header) if i not in used),
    )


def patients_of(table: Manifest) -> dict[str, str]:
    """Return the patient of each slide that the table names with one."""
    return {row.slide_id: row.patient for row in table.rows if row.slide_id and row.patient}


def same_name(text: str) -> str:
    """Return a name as it is compared: composed characters, since folders of some systems have decomposed ones."""
    return unicodedata.normalize("NFC", text)


def _plain(text: str) -> str:
    return same_name(text.strip())
