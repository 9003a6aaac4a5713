"""Classes that were corrected in QuPath, as labels of the cells of a run.

Objects are matched to cells by id, else by an intersection over union of at least 0.5. What stays in a file with a
class counts as read.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from wsi_pipeline.atomic import write_json, write_text
from wsi_pipeline.csv_rows import csv_text
from wsi_pipeline.errors import ConfigError, DataError, some
from wsi_pipeline.exports.finished_run import FinishedRun, RunSlide
from wsi_pipeline.predictions.plain_csv import safe_cell
from wsi_pipeline.taxonomies import Taxonomy
from wsi_pipeline.training.qupath.matching import Locate, list_files, match_objects, read_objects, slide_of

COLUMNS = ("cell_id", "label", "slide_id", "was", "match")
"""Columns of the labels: the cell, its class now (code), its slide, its class in the run, and ``id`` or ``overlap``."""


@dataclass(frozen=True, kw_only=True)
class Label:
    """One cell with the class that it has in QuPath; see :data:`COLUMNS`."""

    cell_id: str
    label: str
    slide_id: str
    was: str
    match: str


@dataclass(kw_only=True)
class SlideSummary:
    """What became of the cells of a slide.

    Attributes
    ----------
    files
        Names of the files that were taken for the slide.
    kept, changed
        Cells whose class a reader left, or changed; both are labels.
    not_typed
        Cells of a class that no classifier answers with (red cells, platelets): no labels.
    without_class
        Objects whose class was taken away: no labels.
    deleted
        Cells of the run without an object.
    unmatched
        Objects that lie on no cell of the run.
    by_overlap
        Labels that were matched by overlap, not by id.
    changes
        How often ``was -> label`` occurs.
    """

    slide_id: str
    files: list[str] = field(default_factory=list)
    kept: int = 0
    changed: int = 0
    not_typed: int = 0
    without_class: int = 0
    deleted: int = 0
    unmatched: int = 0
    by_overlap: int = 0
    changes: dict[str, int] = field(default_factory=dict)


def import_corrections(
    run: FinishedRun,
    sources: Sequence[Path],
    *,
    locate: Locate,
    rename: Mapping[str, str] | None = None,
    changed_only: bool = False,
) -> tuple[list[Label], list[SlideSummary]]:
    """Match the objects of GeoJSON files to the cells of a run.

    Parameters
    ----------
    run
        A finished run.
    sources
        GeoJSON files, or folders of such.
    locate
        Tells where a slide's file is; asked only where objects have to be matched by overlap.
    rename
        Class in QuPath to class of the taxonomy, or to an empty text, which takes the objects for unread.
    changed_only
        Only cells whose class differs from the run's become labels.

    Returns
    -------
    labels, summaries
        In the order of the run's slides and tables. Slides without a file are not listed.

    Raises
    ------
    DataError
        A file cannot be read, or is of another slide; a class is not known; objects of one cell contradict.
    ConfigError
        A name of ``rename`` is not used, or leads to no class.
    """
    rename = dict(rename or {})
    tables = {slide.slide_id: pq.read_table(slide.cells, columns=["cell_id", "class_name"]) for slide in run.slides}
    home = {cell: slide_id for slide_id, table in tables.items() for cell in table.column("cell_id").to_pylist()}
    found: dict[str, dict[str, tuple[str, str]]] = {}
    summaries: dict[str, SlideSummary] = {}
    names: Counter[tuple[str, str]] = Counter()
    for path in list_files(sources):
        objects = read_objects(path, home)
        slide = slide_of(path, objects, run.slides, home)
        summary = summaries.setdefault(slide.slide_id, SlideSummary(slide_id=slide.slide_id))
        summary.files.append(path.name)
        of_slide = found.setdefault(slide.slide_id, {})
        for cell, name, match in match_objects(path, objects, slide, locate):
            if cell is None:
                summary.unmatched += 1
            elif of_slide.setdefault(cell, (name, match))[0] != name:
                raise DataError(f"{path}: cell {cell} has the classes {of_slide[cell][0]!r} and {name!r}")
    for slide_id, cells in found.items():
        names.update((slide_id, name) for name, _ in cells.values())
    codes = _codes(run.slides, names, rename)
    labels: list[Label] = []
    done = []
    for slide in run.slides:
        if slide.slide_id in summaries:
            summary = summaries[slide.slide_id]
            labels += _labels(tables[slide.slide_id], found[slide.slide_id], codes, slide, summary, changed_only)
            done.append(summary)
    return labels, done


def _codes(
    slides: Sequence[RunSlide], names: Mapping[tuple[str, str], int], rename: Mapping[str, str]
) -> dict[str, dict[str, str]]:
    """Return for each taxonomy the code of each class in QuPath: empty where it is not to be learnt from."""
    used = {name for _, name in names}
    idle = [name for name in rename if name not in used]
    if idle:
        raise ConfigError(
            f"--rename {idle[0]}=...: no object has the class {idle[0]!r}; the files have {some(sorted(used - {''}))}"
        )
    codes: dict[str, dict[str, str]] = {}
    unknown: Counter[str] = Counter()
    nearest: dict[str, str] = {}
    for slide in slides:
        own, red = slide.taxonomies()
        found = codes.setdefault(own.name, {"": ""})
        for (slide_id, name), n in names.items():
            if slide_id != slide.slide_id or not name:
                continue
            wanted = rename.get(name, name)
            # A derived class, such as a phenotype of megakaryocytes, counts as the class it is derived from.
            plain = wanted if name in rename else wanted.partition(":")[0].strip()
            code = own.find(wanted) or red.find(wanted) or own.find(plain) if wanted else ""
            if code is None and name in rename:
                raise ConfigError(f"--rename {name}={wanted}: {wanted!r} is no class{_nearest(wanted, own)}")
            if code is None:
                unknown[name] += n
                nearest[name] = _nearest(name, own)
            else:
                found[name] = code
    if unknown:
        listed = "; ".join(f"{name!r}, {n} cells{nearest[name]}" for name, n in sorted(unknown.items()))
        raise DataError(
            f"classes that are not known: {listed}. Say what each is with --rename 'OLD=NEW', or --rename 'OLD=' to "
            "leave its cells out"
        )
    return codes


def _nearest(name: str, taxonomy: Taxonomy) -> str:
    by_name = {known.casefold(): cell.name_en for cell in taxonomy.classes for known in (cell.code, cell.name_en)}
    close = difflib.get_close_matches(name.casefold(), by_name, n=1, cutoff=0.5)
    return f" (nearest: {by_name[close[0]]})" if close else f" (there are {some(c.name_en for c in taxonomy.classes)})"


def _labels(
    table: pa.Table,
    cells: Mapping[str, tuple[str, str]],
    codes: Mapping[str, Mapping[str, str]],
    slide: RunSlide,
    summary: SlideSummary,
    changed_only: bool,
) -> list[Label]:
    """Return the labels of a slide in the order of its table, and fill its summary."""
    labels = []
    changes: Counter[str] = Counter()
    taxonomy = slide.taxonomies()[0]
    for cell, was in zip(table.column("cell_id").to_pylist(), table.column("class_name").to_pylist(), strict=True):
        if cell not in cells:
            summary.deleted += 1
            continue
        name, match = cells[cell]
        code = codes[taxonomy.name][name]
        if not code:
            summary.without_class += 1
        elif code not in taxonomy.classifier_classes:
            summary.not_typed += 1
        else:
            changed = code != was
            summary.changed += changed
            summary.kept += not changed
            if changed:
                changes[f"{was} -> {code}"] += 1
            if changed or not changed_only:
                summary.by_overlap += match == "overlap"
                labels.append(Label(cell_id=cell, label=code, slide_id=summary.slide_id, was=was or "", match=match))
    summary.changes = dict(sorted(changes.items()))
    return labels


def write_labels(out: Path, labels: Sequence[Label], summaries: Sequence[SlideSummary]) -> Path:
    """Write the labels as CSV, and the summary as JSON beside it; return where the summary is."""
    beside = out.with_name(f"{out.stem}.summary.json")
    write_text(out, csv_text(COLUMNS, ([safe_cell(getattr(label, column)) for column in COLUMNS] for label in labels)))
    write_json(beside, {"labels": len(labels), "slides": [asdict(summary) for summary in summaries]})
    return beside
