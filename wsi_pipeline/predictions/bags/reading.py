"""Bags from finished runs: the cells of each patient, or of each slide."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from wsi_pipeline.errors import DataError, some
from wsi_pipeline.predictions.bags.bag import CellBag, FloatArray
from wsi_pipeline.predictions.bags.cells import MORPHOLOGY, SlideCells, read_cells
from wsi_pipeline.predictions.bags.manifest import same_name
from wsi_pipeline.predictions.bags.red import pool_red_cells
from wsi_pipeline.predictions.bags.runs import SECTIONS, SMEARS, FinishedSlide, SkippedSlide, list_runs
from wsi_pipeline.predictions.bags.sections import section_bag
from wsi_pipeline.predictions.trephines.phenotypes import PhenotypeModel

Level = Literal["slide", "patient"]


def read_runs(
    runs: Sequence[Path],
    *,
    level: Level = "patient",
    embedding: bool = True,
    patients: Mapping[str, str] | None = None,
    specimens: Collection[str] | None = None,
    phenotypes: PhenotypeModel | None = None,
) -> tuple[list[CellBag], tuple[SkippedSlide, ...]]:
    """Return the bags of one run or many, in order of their subjects, and the slides that have none.

    Failed and empty slides have no bag, nor have those of specimens that are not wanted.

    Parameters
    ----------
    runs
        Folders that ``run`` wrote; slides and galleries alike. Their order changes nothing.
    level
        ``patient`` pools the slides of a patient, by specimen; a slide without a patient is a subject of its own.
    embedding
        Whether embeddings are read.
    patients
        Patient by ``slide_id``, of slides whose run was not told it
        (:func:`~wsi_pipeline.predictions.bags.manifest.patients_of`).
    specimens
        Those that are wanted: None takes smears, or trephines where there is no smear. Where trephines are wanted,
        smears beside them are refused.
    phenotypes
        Of trephines: the model that tells them anew; None takes what their runs told.

    Raises
    ------
    DataError
        As :func:`~wsi_pipeline.predictions.bags.list_runs` and :func:`bags_of`; or no slide has cells.
    """
    slides, skipped = list_runs(runs, specimens=SMEARS if specimens is None else specimens)
    if specimens is None and not slides and any(s.status == "section" for s in skipped):
        slides, skipped = list_runs(runs, specimens=SECTIONS)
    smears = [s.slide_id for s in skipped if s.status == "smear"]
    if smears and specimens is not None and set(specimens) <= set(SECTIONS):
        raise DataError(
            f"trephines are asked about, and {some(smears)} of these runs are smears; give runs of trephines alone"
        )
    if not slides:
        why = f": {some(map(str, skipped))}" if skipped else ""
        raise DataError(f"{some(map(str, runs))} has no slide with cells to read{why}")
    known = patients or {}
    named = [s if s.subject_id else replace(s, subject_id=known.get(same_name(s.slide_id), "")) for s in slides]
    return bags_of(named, level=level, embedding=embedding, phenotypes=phenotypes), skipped


def read_bags(
    runs: Sequence[Path],
    *,
    level: Level = "patient",
    embedding: bool = True,
    patients: Mapping[str, str] | None = None,
) -> list[CellBag]:
    """Return the bags of :func:`read_runs`, which has the parameters and errors."""
    return read_runs(runs, level=level, embedding=embedding, patients=patients)[0]


def bags_of(
    slides: Sequence[FinishedSlide],
    *,
    level: Level = "patient",
    embedding: bool = True,
    phenotypes: PhenotypeModel | None = None,
) -> list[CellBag]:
    """Return the bags of some slides, in order of their subjects; parameters as of :func:`read_bags`.

    Raises
    ------
    DataError
        Slides of several taxonomies or classifiers, a table that cannot be used, no embeddings although they are
        wanted, or a slide without a patient that has the name of a patient.
    """
    _one("taxonomies", {s.slide_id: s.taxonomy for s in slides})
    if phenotypes is None:
        _one("classifiers", {s.slide_id: s.classifier_sha256[:12] for s in slides})
    groups: dict[tuple[str, str], list[FinishedSlide]] = {}
    for slide in sorted(slides, key=lambda s: s.slide_id):
        subject = slide.subject_id if level == "patient" and slide.subject_id else slide.slide_id
        groups.setdefault((subject, slide.specimen), []).append(slide)
    for (subject, _), members in groups.items():
        if level == "patient" and len({bool(s.subject_id) for s in members}) > 1:
            raise DataError(
                f"{subject} is the name of a patient and of a slide without a patient; name the slide's patient in "
                "the manifest"
            )
    return [_bag(subject, members, embedding, phenotypes) for (subject, _), members in sorted(groups.items())]


def _one(what: str, found: dict[str, str]) -> None:
    values = Counter(found.values())
    if len(values) > 1:
        named = "; ".join(
            f"{value} ({some(slide for slide, own in found.items() if own == value)})" for value in sorted(values)
        )
        raise DataError(f"the slides were typed with {len(values)} {what}: {named}; run them with one classifier")


def _bag(subject: str, slides: list[FinishedSlide], embedding: bool, phenotypes: PhenotypeModel | None) -> CellBag:
    if slides[0].specimen in SECTIONS:
        return section_bag(subject, slides, phenotypes)
    parts = [read_cells(slide, embedding=embedding) for slide in slides]
    ids = np.concatenate([part.cell_ids for part in parts])
    slide = np.repeat(np.arange(len(parts)), [len(part.cell_ids) for part in parts])
    order = np.lexsort((slide, ids))
    # One slide or image under two names: its cells are counted once.
    again = np.zeros(len(order), bool)
    again[1:] = (ids[order][1:] == ids[order][:-1]) & (slide[order][1:] != slide[order][:-1])
    order = order[~again]
    names = tuple(dict.fromkeys(name for part in parts for name in part.attributes))
    galleries = all(s.images is not None for s in slides)
    labels = np.concatenate([part.given_labels for part in parts])[order]
    kinds: Counter[str] = Counter()
    for own in slides:
        kinds.update({kind: n for kind, n in own.kinds.items() if kind != "white"})
    vectors = [part.embedding for part in parts if part.embedding is not None]
    paths = [path for part in parts for path in part.images or ()]
    first = slides[0]
    return CellBag(
        subject_id=subject,
        slide_ids=tuple(s.slide_id for s in slides),
        specimen=first.specimen,
        taxonomy=first.taxonomy,
        classes=parts[0].classes,
        classifier_sha256=first.classifier_sha256,
        cell_ids=ids[order],
        slide=slide[order].astype(np.int64),
        probabilities=np.concatenate([part.probabilities for part in parts])[order],
        given=np.concatenate([part.given for part in parts])[order],
        embedding=np.concatenate(vectors)[order] if embedding else None,
        morphology=np.concatenate([part.morphology for part in parts])[order],
        morphology_names=MORPHOLOGY,
        attributes=np.concatenate([_attributes(part, names) for part in parts])[order],
        attribute_names=names,
        outlier=_outliers(parts)[order] if any(part.outlier is not None for part in parts) else None,
        images=tuple(paths[i] for i in order.tolist()) if galleries else None,
        sources=tuple(s.folder for s in slides),
        digests=ids[order] if galleries else None,
        red=pool_red_cells(s.red_cells for s in slides),
        other_counts=dict(sorted(kinds.items())),
        patient=first.subject_id,
        given_labels=labels if (labels != "").any() else None,
        simulated=any(s.simulated for s in slides),
    )


def _attributes(part: SlideCells, names: tuple[str, ...]) -> FloatArray:
    table = np.full((len(part.cell_ids), len(names)), np.nan, np.float32)
    for i, name in enumerate(names):
        if name in part.attributes:
            table[:, i] = part.attributes[name]
    return table


def _outliers(parts: list[SlideCells]) -> FloatArray:
    return np.concatenate(
        [np.full(len(p.cell_ids), np.nan, np.float32) if p.outlier is None else p.outlier for p in parts]
    )
