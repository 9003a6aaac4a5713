"""Finished runs without a pipeline: tables of cells, summaries and ``slides.csv`` as ``run`` writes them."""

from __future__ import annotations

import csv
import json
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wsi_pipeline.cells.features import FEATURES
from wsi_pipeline.cells.schema import table_schema
from wsi_pipeline.galleries.table import gallery_schema
from wsi_pipeline.taxonomies import load_taxonomy

TAXONOMY = "pbc-blast"
CLASSES = load_taxonomy(TAXONOMY).classifier_classes
DIM = 8
SHA256 = "ab" * 32


@dataclass(frozen=True, kw_only=True)
class MadeSlide:
    """A slide, or a gallery's patient, of cells drawn at random.

    Parameters
    ----------
    mix
        Nucleated cells of each class; each gets a probability of about 0.8 of its class.
    red, platelets
        Cells of these kinds; a gallery has none.
    labels
        ``(taxonomy, class)`` of the folder of each cell of a gallery, in the order of ``mix``.
    images
        Digest of each image of a gallery; equal ones are the same image.
    """

    slide_id: str
    mix: Mapping[str, int]
    subject: str = ""
    seed: int = 0
    status: str = "ok"
    specimen: str = "blood_smear"
    gallery: bool = False
    red: int = 0
    platelets: int = 0
    labels: Sequence[tuple[str, str] | None] | None = None
    images: Sequence[str] | None = None
    embedding: bool = True
    summary: Mapping[str, Any] = field(default_factory=dict)


def make_run(out: Path, slides: Sequence[MadeSlide], *, shuffle: int | None = None, row_group: int = 64) -> Path:
    """Write a run; ``shuffle`` is the seed of another order of the rows."""
    for slide in slides:
        make_slide(out / "slides" / slide.slide_id, slide, shuffle=shuffle, row_group=row_group)
    with (out / "slides.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["slide_id", "status", "reason"])
        writer.writerows([s.slide_id, s.status, "" if s.status == "ok" else "no-cells"] for s in slides)
    return out


def make_slide(folder: Path, slide: MadeSlide, *, shuffle: int | None, row_group: int) -> None:
    """Write ``cells.parquet`` and ``summary.json`` of one slide."""
    folder.mkdir(parents=True)
    table = cells_of(slide)
    if shuffle is not None:
        table = table.take(np.random.default_rng(shuffle).permutation(len(table)))
    pq.write_table(table, folder / "cells.parquet", row_group_size=row_group)
    summary = {
        "slide_id": slide.slide_id,
        "subject_id": slide.subject,
        "status": slide.status,
        "reason": None,
        "specimen": slide.specimen,
        "taxonomy": TAXONOMY,
        "path": str(folder / "images"),
        "n_cells": len(table),
        "counts": {"kind": dict(Counter(table.column("kind").to_pylist()))},
        "provenance": {"cell classifier SHA-256": SHA256},
        "red_cells": None,
        **({"gallery": {"positions": False}} if slide.gallery else {}),
        **slide.summary,
    }
    (folder / "summary.json").write_text(json.dumps(summary))


def cells_of(slide: MadeSlide) -> pa.Table:
    """Return the table of a slide's cells."""
    rng = np.random.default_rng(slide.seed)
    names = [name for name, n in slide.mix.items() for _ in range(n)]
    kinds = ["white"] * len(names) + ["red"] * slide.red + ["platelet"] * slide.platelets
    n, white = len(kinds), len(names)
    schema = table_schema(CLASSES, DIM if slide.embedding else None, ("out_of_distribution",))
    if slide.gallery:
        schema = gallery_schema(CLASSES, DIM if slide.embedding else None, ("out_of_distribution",), ())
    p = 0.2 * rng.dirichlet(np.ones(len(CLASSES)), n)
    p[np.arange(white), [CLASSES.index(name) for name in names]] += 0.8
    absent = np.arange(n) >= white
    values: dict[str, Any] = {f"p_{c}": pa.array(p[:, i].astype(np.float32), mask=absent)
                              for i, c in enumerate(CLASSES)}  # fmt: skip
    seeds = slide.images or [f"{slide.slide_id}:{slide.seed}:{i}" for i in range(n)]
    values["cell_id"] = [str(uuid.uuid5(uuid.NAMESPACE_OID, text)) for text in seeds]
    values["kind"] = kinds
    values["class_name"] = [*names, *(f"{kind}_cell" for kind in kinds[white:])]
    values["truncated"] = [False] * n
    for feature in FEATURES:
        values[feature.name] = pa.array(rng.uniform(1, 2, n).astype(np.float32))
    values["out_of_distribution"] = pa.array(rng.uniform(0, 1, n).astype(np.float32), mask=absent)
    if slide.embedding:
        vectors = np.zeros((n, DIM))
        for i, text in enumerate(seeds[:n]):
            vectors[i] = np.random.default_rng(list(text.encode())).normal(size=DIM)
        flat = pa.array(vectors.astype(np.float16).ravel())
        index = pa.array(np.arange(n), mask=absent)
        values["embedding"] = pa.FixedSizeListArray.from_arrays(flat, DIM).take(index)
    if slide.gallery:
        labels = slide.labels or [None] * n
        values["image"] = [f"{i}.png" for i in range(n)]
        values["label_taxonomy"] = [None if label is None else label[0] for label in labels]
        values["label_class"] = [None if label is None else label[1] for label in labels]
    columns = []
    for own in schema:
        value = values.get(own.name)
        columns.append(pa.nulls(n, own.type) if value is None else pa.array(value, own.type))
    return pa.table(columns, schema=schema)
