"""The megakaryocytes of trephines as a bag: each cell from ``megakaryocytes.csv``, the sample from ``summary.json``.

Figures of the sample (density, neighbours, clusters, bone, cellularity, MekaNet's features) are of a slide. Of several
slides of a patient each counts by its megakaryocytes, cellularity by its area, densities by the area searched.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wsi_pipeline.errors import DataError
from wsi_pipeline.predictions.bags.bag import CellBag
from wsi_pipeline.predictions.bags.runs import FinishedSlide
from wsi_pipeline.predictions.trephines.megakaryocytes import MEASURES, read_megakaryocytes
from wsi_pipeline.predictions.trephines.mekanet import UNITS as MEKANET
from wsi_pipeline.predictions.trephines.phenotypes import PhenotypeModel

TABLE = "megakaryocytes.csv"
CLASS = "megakaryocyte"
PHENOTYPE = "phenotype."
"""Begins the names of attributes that are phenotypes."""


def section_bag(subject: str, slides: Sequence[FinishedSlide], model: PhenotypeModel | None = None) -> CellBag:
    """Return the megakaryocytes of a subject's trephines.

    Parameters
    ----------
    model
        Tells the phenotypes anew, from the tables of cells; None takes those that the run told.

    Raises
    ------
    DataError
        A table is missing or damaged, or does not fit the summary.
    ModelError
        The model reads what the cells lack.
    """
    tables = [_rows(slide) for slide in slides]
    if model is not None:
        for own, read in zip(slides, tables, strict=True):
            _tell_anew(own, read, model)
    names = _phenotypes(slides) if model is None else list(model.codes)
    ids = np.array([row["cell_id"] for rows in tables for row in rows], np.str_)
    slide = np.repeat(np.arange(len(tables)), [len(rows) for rows in tables])
    order = np.lexsort((slide, ids))
    again = np.zeros(len(order), bool)
    again[1:] = ids[order][1:] == ids[order][:-1]
    order = order[~again]
    every = [row for part in tables for row in part]
    rows = [every[i] for i in order.tolist()]
    told = [row["phenotype"] for row in rows]
    kinds: Counter[str] = Counter()
    for own in slides:
        kinds.update({kind: n for kind, n in own.kinds.items() if kind != CLASS})
    n, first = len(rows), slides[0]
    return CellBag(
        subject_id=subject,
        slide_ids=tuple(s.slide_id for s in slides),
        specimen=first.specimen,
        taxonomy=first.taxonomy,
        classes=(CLASS,),
        classifier_sha256=first.classifier_sha256 if model is None else model.sha256,
        cell_ids=ids[order],
        slide=slide[order].astype(np.int64),
        probabilities=np.ones((n, 1), np.float32),
        given=np.full(n, -1, np.int64),
        embedding=None,
        morphology=np.array([[_number(row[m]) for m in MEASURES] for row in rows], np.float32).reshape(n, -1),
        morphology_names=MEASURES,
        attributes=np.array(
            [[np.nan if code == "" else float(code == name) for name in names] for code in told], np.float32
        ).reshape(n, len(names)),
        attribute_names=tuple(f"{PHENOTYPE}{name}" for name in names),
        outlier=None,
        images=None,
        sources=tuple(s.folder for s in slides),
        digests=None,
        red={},
        other_counts=dict(sorted(kinds.items())),
        patient=first.subject_id,
        simulated=any(s.simulated for s in slides) or (model is not None and model.simulated),
        sample=pooled_sample([s.trephine or {} for s in slides]),
    )


def _rows(slide: FinishedSlide) -> list[dict[str, str]]:
    path = slide.folder / TABLE
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows[:1]:
            missing = {"cell_id", "phenotype", *MEASURES} - set(row)
            if missing:
                raise DataError(f"{path} lacks the columns {', '.join(sorted(missing))}; run the slide again")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; give the command of the run again, which makes it") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table of megakaryocytes: {error}") from None
    said = slide.kinds.get(CLASS, 0)
    if len(rows) != said:
        raise DataError(f"{path} has {len(rows)} rows, summary.json says {said} megakaryocytes; run the slide again")
    return rows


def _tell_anew(slide: FinishedSlide, rows: list[dict[str, str]], model: PhenotypeModel) -> None:
    cells = read_megakaryocytes(slide.cells)
    told = dict(zip(cells.cell_ids.tolist(), model.of(cells), strict=True))
    for row in rows:
        if row["cell_id"] not in told:
            raise DataError(f"{slide.cells} and {TABLE} beside it have other megakaryocytes; run the slide again")
        row["phenotype"] = told[row["cell_id"]]


def _phenotypes(slides: Sequence[FinishedSlide]) -> list[str]:
    """Return the codes of the phenotypes that were told; slides of one model have the same."""
    found: dict[str, None] = {}
    for slide in slides:
        rows = ((slide.trephine or {}).get("phenotypes") or {}).get("rows") or []
        found |= dict.fromkeys(str(row["code"]) for row in rows)
    return list(found)


def _number(text: str) -> float:
    try:
        return float(text) if text else np.nan
    except ValueError:
        raise DataError(f"a measure of a megakaryocyte is {text[:40]!r}, which is no number; run it again") from None


def pooled_sample(entries: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, int]]:
    """Return the figures of a sample, with the cells behind each, of the entries ``trephine`` of its slides.

    Names as of :mod:`wsi_pipeline.predictions.slide_features.trephine`; what no slide tells is not there.
    """
    sums: dict[str, tuple[float, float, int]] = {}
    for entry in entries:
        for name, value, weight, n in _figures(entry):
            if value is not None and np.isfinite(value) and weight > 0:
                total, whole, cells = sums.get(name, (0.0, 0.0, 0))
                sums[name] = (total + weight * value, whole + weight, cells + n)
    return {name: (total / whole, cells) for name, (total, whole, cells) in sums.items()}


def _figures(entry: Mapping[str, Any]) -> list[tuple[str, float | None, float, int]]:
    """Return name, value, weight in pooling, and cells of each figure of a slide."""
    found: list[tuple[str, float | None, float, int]] = []
    own = entry.get("megakaryocytes") or {}
    n = int(own.get("n") or 0)
    found.append(("arrangement.per_mm2", own.get("per_mm2"), float(entry.get("marrow_mm2") or 0.0), n))
    cellularity = entry.get("cellularity") or {}
    spaces = int(cellularity.get("n_spaces") or 0)
    found.append(("cellularity.percent", cellularity.get("percent"), float(cellularity.get("area_mm2") or 0.0), spaces))
    lies = entry.get("arrangement")
    if lies:
        near, pairs, clusters, bone = (
            lies.get(k) or {} for k in ("nearest_um", "pair_correlation", "clusters", "bone")
        )
        figures = {
            "arrangement.nearest_um": near.get("mean"),
            "arrangement.nearest_cv": _over(near.get("sd"), near.get("mean")),
            "arrangement.clark_evans": (lies.get("clark_evans") or {}).get("ratio"),
            "arrangement.pairs_within_radius": pairs.get("within_radius"),
            "arrangement.clustered": clusters.get("share"),
            "arrangement.clustered_excess": _less(clusters.get("share"), clusters.get("random_share")),
            "arrangement.cluster_size": clusters.get("mean_size"),
            "arrangement.beside_bone": bone.get("share"),
            "arrangement.beside_bone_excess": _less(bone.get("share"), bone.get("random_share")),
            "arrangement.bone_distance_relative": _over(bone.get("mean_um"), bone.get("random_mean_um")),
        }
        found += [(name, value, float(n), n) for name, value in figures.items()]
    mekanet = entry.get("mekanet") or {}
    found += [(f"mekanet.{name}", mekanet.get(name), float(n), n) for name in MEKANET]
    return found


def _over(a: float | None, b: float | None) -> float | None:
    return None if a is None or not b else a / b


def _less(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
