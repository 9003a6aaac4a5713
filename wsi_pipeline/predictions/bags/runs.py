"""Which slides of finished runs have cells to read, and which do not, with the reason."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi_pipeline.errors import DataError, some

_AGAIN = "give the command of the run again, which finishes it"
SMEARS = ("blood_smear", "marrow_smear")
SECTIONS = ("trephine",)


@dataclass(frozen=True, kw_only=True)
class FinishedSlide:
    """A slide, or a patient of a gallery, whose cells can be read.

    Parameters
    ----------
    folder
        ``OUT/slides/<slide_id>``.
    subject_id
        The patient; empty when unknown.
    classifier_sha256
        Weights that typed its cells; of a trephine the model of phenotypes, empty without one.
    images
        Folder of the images of a gallery's patient; None for a slide.
    n_cells
        Rows of ``cells.parquet``.
    kinds
        Cells by kind.
    red_cells
        Entry of ``summary.json``; None where shapes of red cells were not told.
    simulated
        Whether the slide is said to be simulated.
    trephine
        Entry of ``summary.json`` of a trephine.
    label
        As the manifest of the run has it; empty without one.
    stain
        ``routine``, or ``reticulin``: then it has no cells.
    """

    folder: Path
    slide_id: str
    subject_id: str
    specimen: str
    taxonomy: str
    classifier_sha256: str
    images: Path | None
    n_cells: int
    kinds: Mapping[str, int]
    red_cells: Mapping[str, Any] | None
    simulated: bool
    trephine: Mapping[str, Any] | None = None
    label: str = ""
    stain: str = "routine"

    @property
    def cells(self) -> Path:
        """Return the table of its cells."""
        return self.folder / "cells.parquet"


UNREADABLE = "unreadable"
"""Status of a slide that the run finished and that cannot be read now; why it is not answered."""


@dataclass(frozen=True, kw_only=True)
class SkippedSlide:
    """A slide that is not read: ``failed`` or ``empty`` with a reason, or a ``section``, ``smear``, ``reticulin``.

    One that is :data:`UNREADABLE` has a sentence for a reason.
    """

    folder: Path
    slide_id: str
    status: str
    reason: str

    def __str__(self) -> str:
        return f"{self.slide_id} ({self.status}{f', {self.reason}' if self.reason else ''})"


def list_runs(
    runs: Sequence[Path], *, specimens: Collection[str] = SMEARS, keep_going: bool = False
) -> tuple[tuple[FinishedSlide, ...], tuple[SkippedSlide, ...]]:
    """Return the slides of finished runs whose cells can be read, and those without, both in order of their ids.

    Parameters
    ----------
    runs
        Folders that ``run`` wrote (``OUT``).
    specimens
        Those that are wanted; slides of others are among those without cells.
    keep_going
        Let a slide that is damaged or half-written be among those without cells, as :data:`UNREADABLE`, instead of
        refusing all.

    Raises
    ------
    DataError
        No run was given, a folder is none or is half-written, a run was made without a classifier, or two runs have
        a slide of one id.
    """
    if not runs:
        raise DataError("no run was given; give the folders that `run` wrote")
    ready: list[FinishedSlide] = []
    skipped: list[SkippedSlide] = []
    seen: dict[str, Path] = {}
    for run in runs:
        for slide_id, status, reason in _rows(run):
            if slide_id in seen:
                raise DataError(
                    f"{seen[slide_id]} and {run} both have a slide {slide_id}: give a run once, and slides of "
                    "different patients different ids (slide_id of a manifest, folders of a gallery)"
                )
            seen[slide_id] = run
            folder = run / "slides" / slide_id
            if status != "ok":
                skipped.append(SkippedSlide(folder=folder, slide_id=slide_id, status=status, reason=reason))
                continue
            try:
                slide = finished_slide(folder)
                if slide.slide_id != slide_id:
                    raise DataError(f"{folder}: its summary.json is of slide {slide.slide_id!r}; {_AGAIN}")
            except DataError as error:
                if not keep_going:
                    raise
                skipped.append(SkippedSlide(folder=folder, slide_id=slide_id, status=UNREADABLE, reason=str(error)))
                continue
            if slide.stain == "reticulin":
                skipped.append(SkippedSlide(folder=folder, slide_id=slide_id, status="reticulin", reason="no-cells"))
            elif slide.specimen in specimens:
                ready.append(slide)
            else:
                kind = "smear" if slide.specimen in SMEARS else "section"
                skipped.append(SkippedSlide(folder=folder, slide_id=slide_id, status=kind, reason=slide.specimen))
    return tuple(sorted(ready, key=lambda s: s.slide_id)), tuple(sorted(skipped, key=lambda s: s.slide_id))


def _rows(run: Path) -> list[tuple[str, str, str]]:
    """Return id, status and reason of each slide of a run."""
    table = run / "slides.csv"
    if not run.is_dir():
        raise DataError(f"{run} is no folder; give the folder that `run` wrote (its --out)")
    if not table.is_file():
        if (run / "slides").is_dir() or (run / "work").is_dir():
            raise DataError(f"{run} is half-written: it has no slides.csv; {_AGAIN}")
        raise DataError(f"{run} is no run: it has no slides.csv; give the folder that `run` wrote (its --out)")
    try:
        with table.open(encoding="utf-8", newline="") as file:
            rows = [(r["slide_id"], r["status"], r["reason"]) for r in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError, csv.Error, KeyError) as error:
        raise DataError(f"{table} is not the table of a run: {error}") from None
    strange = [name for name, _, _ in rows if name in ("", "..") or "\0" in name or Path(name).name != name]
    if strange:
        raise DataError(f"{table}: {some(map(repr, strange))} is no slide_id")
    return rows


def finished_slide(folder: Path) -> FinishedSlide:
    """Return what a slide's folder says of it.

    Raises
    ------
    DataError
        Its ``summary.json`` is missing, damaged or not of a finished slide, or no classifier typed its cells.
    """
    path = folder / "summary.json"
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        status = summary["status"]
        if status != "ok":
            raise DataError(f"{folder} is half-written: the status of its summary.json is {status!r}; {_AGAIN}")
        if not (folder / "cells.parquet").is_file():
            raise DataError(f"{folder} is half-written: it has no cells.parquet; {_AGAIN}")
        trephine = summary.get("trephine")
        phenotypes = None if trephine is None else trephine["phenotypes"]["model"]
        sha256 = summary["provenance"]["cell classifier SHA-256"] if phenotypes is None else phenotypes["sha256"]
        slide = FinishedSlide(
            folder=folder,
            slide_id=str(summary["slide_id"]),
            subject_id=str(summary["subject_id"] or ""),
            specimen=str(summary["specimen"]),
            taxonomy=str(summary["taxonomy"]),
            classifier_sha256=str(sha256 or ""),
            images=Path(summary["path"]) if summary.get("gallery") else None,
            n_cells=int(summary["n_cells"]),
            kinds={str(kind): int(n) for kind, n in summary["counts"]["kind"].items()},
            red_cells=summary.get("red_cells"),
            simulated=bool(summary.get("simulated", False)),
            trephine=trephine,
            label=str(summary.get("label") or ""),
            stain=str(summary.get("stain") or "routine"),
        )
    except FileNotFoundError:
        raise DataError(f"{folder} is half-written: it has no summary.json; {_AGAIN}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is not the summary of a slide ({type(error).__name__}: {error})") from None
    if not slide.classifier_sha256 and slide.specimen in SMEARS:
        raise DataError(f"{folder}: no classifier typed its cells; run it with cells.classifier")
    return slide
