"""A finished run as exports read it: its slides, where their files are, and what was left out."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from wsi_pipeline.config import SlidesConfig
from wsi_pipeline.errors import ConfigError, DataError, SlideError, WsiPipelineError, some
from wsi_pipeline.slides import RemotePath, SlidePath, SlideSpec, slide_fingerprint, slide_path
from wsi_pipeline.taxonomies import Taxonomy, load_taxonomy
from wsi_pipeline.units import FrameTransform

_RED_CELLS = "red-cells"
_OF_THE_RUN = ("failed", "empty")


@dataclass(frozen=True, kw_only=True)
class RunSlide:
    """A slide of a run that has cells.

    Attributes
    ----------
    slide_id, subject_id, label, specimen
        As the run's manifest said.
    folder
        ``slides/<slide_id>`` of the run.
    path
        Where the slide was when it was run.
    fingerprint
        SHA-256 (hex) of the slide.
    size_px0
        Width and height, level-0 pixels.
    mpp
        Microns per level-0 pixel, x and y.
    mpp_source
        Who said so: ``slide``, ``manifest``, ``option`` or ``forced``.
    working_mpp
        Microns per working pixel.
    taxonomy
        Name of the taxonomy of its classes.
    reading
        How the run read the slide: scene, focal plane.
    """

    slide_id: str
    subject_id: str
    label: str
    specimen: str
    folder: Path
    path: SlidePath
    fingerprint: str
    size_px0: tuple[int, int]
    mpp: tuple[float, float]
    mpp_source: str
    working_mpp: float
    taxonomy: str
    reading: SlidesConfig

    @property
    def cells(self) -> Path:
        """Its table of cells."""
        return self.folder / "cells.parquet"

    @property
    def frame(self) -> FrameTransform:
        """Its working frame."""
        return FrameTransform(scale_x=self.working_mpp / self.mpp[0], scale_y=self.working_mpp / self.mpp[1])

    def taxonomies(self) -> tuple[Taxonomy, ...]:
        """Return where names and colours of its classes are: its taxonomy, then that of the shapes of red cells."""
        return load_taxonomy(self.taxonomy), load_taxonomy(_RED_CELLS)

    def spec(self, path: SlidePath) -> SlideSpec:
        """Return how to open the slide at ``path`` as the run did; another slide there is refused when it opens."""
        own = self.mpp_source == "slide"
        return SlideSpec(
            path=path,
            mpp=None if own else self.mpp[0],
            force_mpp=not own,
            config=self.reading,
            fingerprint=self.fingerprint,
        )


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A run's slides that have cells.

    Attributes
    ----------
    folder
        The run's.
    slides
        In the run's order.
    without_cells
        Slides that the run itself found failed or empty: id to reason.
    damaged
        Slides whose results are not whole: id to what is wrong. The run must be given again.
    versions
        Of the packages that made the run.
    """

    folder: Path
    slides: tuple[RunSlide, ...]
    without_cells: Mapping[str, str]
    damaged: Mapping[str, str]
    versions: Mapping[str, str]


def read_finished_run(folder: Path) -> FinishedRun:
    """Read what a run wrote, and check that it is whole.

    Raises
    ------
    DataError
        Not a run's folder, a run that is not finished, a gallery, or no slide with whole results.

    Examples
    --------
    >>> import pandas as pd
    >>> from wsi_pipeline import make_virtual_slide, run_slide
    >>> made = make_virtual_slide(Path("smear.tiff"), profile="normal", size_px=320, seed=7)
    >>> summary = run_slide(made.path, "results", overrides={"runtime.workers": 1})
    >>> run = read_finished_run(Path("results"))
    >>> [slide.slide_id for slide in run.slides]
    ['smear']
    >>> len(pd.read_parquet(run.slides[0].cells)) == summary["n_cells"]
    True
    """
    run = read_run_json(folder)
    configurations = run.get("configurations")
    slides, without, damaged = [], {}, {}
    for row in slide_rows(folder):
        slide_id, status = row["slide_id"], row["status"]
        if status in _OF_THE_RUN:
            without[slide_id] = f"{status}, {row.get('reason') or 'no reason given'}"
            continue
        try:
            slides.append(run_slide(folder / "slides" / slide_id, row, configurations))
        except DataError as error:
            damaged[slide_id] = str(error)
    if not slides:
        reasons = some([*damaged.values(), *(f"{slide_id} ({why})" for slide_id, why in without.items())])
        raise DataError(f"{folder}: no slide has cells to export: {reasons or 'the run had no slides'}")
    return FinishedRun(
        folder=folder,
        slides=tuple(slides),
        without_cells=without,
        damaged=damaged,
        versions=dict(run.get("versions") or {}),
    )


def read_run_json(folder: Path) -> dict[str, Any]:
    """Return ``run.json`` of a finished run.

    Raises
    ------
    DataError
        The folder is none, or its run is not finished.
    """
    return _read_json(folder / "run.json", folder)


def _read_json(path: Path, folder: Path) -> dict[str, Any]:
    if not path.is_file() and not folder.is_dir():
        raise DataError(f"{folder} does not exist; give the folder that `run` wrote")
    if not path.is_file() and not any((folder / name).exists() for name in ("work", "slides", "slides.csv")):
        raise DataError(f"{folder} is not a run's folder: it has no run.json and no slides")
    if not path.is_file():
        raise DataError(f"{folder} holds a run that is not finished ({path.name} is missing); run it again, it resumes")
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error}); run the slides again") from None


def slide_rows(folder: Path) -> list[dict[str, str]]:
    """Return the rows of ``slides.csv``, whose ids are names of folders.

    Raises
    ------
    DataError
        The table cannot be read, lacks a column, or an id would lead out of the run.
    """
    table = folder / "slides.csv"
    try:
        with table.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table} cannot be read ({error}); run the slides again, that resumes") from None
    lacking = sorted({"slide_id", "path", "specimen", "status"} - set(rows[0] if rows else ()))
    if rows and lacking:
        raise DataError(f"{table} is not a run's table: it has no column {', '.join(lacking)}")
    unsafe = [row["slide_id"] for row in rows if Path(row["slide_id"]).name != row["slide_id"] or not row["slide_id"]]
    if unsafe:
        raise DataError(f"{table}: slide_id {unsafe[0]!r} is not the name of a folder")
    return rows


def run_slide(folder: Path, row: Mapping[str, str], configurations: Any) -> RunSlide:
    """Return what ``slides/<slide_id>`` of a run holds.

    Parameters
    ----------
    folder
        Of the slide.
    row
        Of ``slides.csv``.
    configurations
        Of ``run.json``.

    Raises
    ------
    DataError
        The results are not whole, of a gallery, or of another version.
    """
    lost = [name for name in ("summary.json", "cells.parquet") if not (folder / name).is_file()]
    if lost:
        raise DataError(f"{folder} has no {', '.join(lost)}; run the slides again, that resumes")
    summary = _read_json(folder / "summary.json", folder)
    try:
        images = "image" in pq.read_schema(folder / "cells.parquet").names
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{folder / 'cells.parquet'} cannot be read ({error}); run the slides again") from None
    if images:
        raise DataError(f"{folder} is of a gallery, whose cells have no place on a slide")
    try:
        if summary["status"] != row["status"] or "seconds" not in summary:
            raise DataError(f"{folder / 'summary.json'} is of a run that was cut off; run the slides again")
        width, _, height = summary["provenance"]["size, level-0 px"].partition(" x ")
        return RunSlide(
            slide_id=row["slide_id"],
            subject_id=str(summary.get("subject_id") or ""),
            label=str(summary.get("label") or ""),
            specimen=row["specimen"],
            folder=folder,
            path=slide_path(row["path"]),
            fingerprint=str(summary["provenance"]["slide fingerprint"]),
            size_px0=(int(width), int(height)),
            mpp=(float(summary["mpp"]["x"]), float(summary["mpp"]["y"])),
            mpp_source=str(summary["mpp"]["source"]),
            working_mpp=float(summary["working_mpp"]),
            taxonomy=str(summary["taxonomy"]),
            reading=SlidesConfig.model_validate(configurations[row["specimen"]]["slides"]),
        )
    except DataError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{folder / 'summary.json'} lacks what an export needs ({error}); it is of another version: run it anew"
        ) from None


def locate_slides(
    slides: Sequence[RunSlide], candidates: Sequence[tuple[str, SlidePath]] | None = None, *, given: str = "--slides"
) -> dict[str, SlidePath]:
    """Return where the file of each slide is; nothing is guessed.

    Parameters
    ----------
    slides
        Of a run.
    candidates
        Id and path of the slides that the user named instead of the places where the run read them; a slide is
        taken by its id or file name if its fingerprint is that of the run. None keeps the run's places.
    given
        How the candidates were named, for messages.

    Raises
    ------
    ConfigError
        A slide is not where it was, is not among the candidates, or is another.
    """
    found: dict[str, SlidePath] = {}
    for slide in slides:
        if candidates is None:
            if not isinstance(slide.path, RemotePath) and not slide.path.exists():
                raise ConfigError(
                    f"slide {slide.slide_id} is not at {slide.path} any more; "
                    "say where the slides are with --slides FOLDER, or --slides FILE.csv with columns slide_id,slide"
                )
            found[slide.slide_id] = slide.path
            continue
        named = [path for slide_id, path in candidates if path.name == slide.path.name or slide_id == slide.slide_id]
        if not named:
            raise ConfigError(f"{given} has no slide {slide.slide_id} (file {slide.path.name})")
        same = [path for path in named if _fingerprint(path) == slide.fingerprint]
        if not same:
            raise ConfigError(
                f"{named[0]} is not the slide {slide.slide_id} of the run: its fingerprint differs; "
                "give the file the run was made from, or run this one"
            )
        found[slide.slide_id] = same[0]
    return found


def _fingerprint(path: SlidePath) -> str:
    try:
        return slide_fingerprint(path)
    except (SlideError, OSError) as error:
        if isinstance(error, WsiPipelineError):
            raise
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
