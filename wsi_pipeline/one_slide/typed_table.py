"""The cells of a slide with their answers: ``cells.parquet``, of the whole slide or of the waves of fields."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from wsi_pipeline.cells.combine import combine_cells
from wsi_pipeline.cells.dysplasia import MEASURES, DysplasiaPass
from wsi_pipeline.cells.evidence import columns_of
from wsi_pipeline.cells.merge import Keep, MergedTable, kept_rows
from wsi_pipeline.cells.red_cells import RedCellPass
from wsi_pipeline.cells.table import TableSummary, typed_white, write_cells
from wsi_pipeline.config import PipelineConfig
from wsi_pipeline.one_slide.job import SlideJob, ledger_of
from wsi_pipeline.one_slide.neutrophils import dysplasia_pass
from wsi_pipeline.one_slide.prepare import Prepared
from wsi_pipeline.one_slide.red_shapes import red_pass
from wsi_pipeline.one_slide.stages import chunk_name, embedded, wave_stage
from wsi_pipeline.taxonomies import Taxonomy
from wsi_pipeline.weights import find_weights


def write_typed_table(
    job: SlideJob, prepared: Prepared, merged: MergedTable, taxonomy: Taxonomy
) -> tuple[TableSummary, RedCellPass | None, DysplasiaPass | None]:
    """Write ``cells.parquet``; return also what was found of red cells and neutrophils, where that was asked."""
    out = job.folder / "cells.parquet"
    name = job.config.cells.red_classifier
    if prepared.cut is None:
        red = red_pass(name, ledger_of(job, prepared.key).part("merged", "table"))
        neutrophils = _dysplasia(job, taxonomy, _typed_white(job, prepared.key, merged))
        return _type(job, prepared.key, merged, "", out, red, neutrophils), red, neutrophils
    waves = [wave_table(job, prepared.key, number) for number in range(prepared.cut.n_waves)]
    keep = prepared.cut.fields.owns
    # As the dye, the usual red cell is that of the first wave, so no cell depends on where the count stops.
    red = red_pass(name, waves[0] if waves else None)
    neutrophils = _dysplasia(job, taxonomy, _kept_white(waves, keep))
    table = combine_cells(waves, out, keep=keep, name_red=red, add=neutrophils, **_classifier(job))
    return table, red, neutrophils


def wave_table(job: SlideJob, key: str, number: int) -> Path:
    """Return where the typed cells of a wave of fields are."""
    return ledger_of(job, key).part("waves", f"{number:03d}")


def write_wave(job: SlideJob, key: str, number: int, merged: MergedTable) -> Path:
    """Write the typed cells of a wave of fields."""
    path = wave_table(job, key, number)
    _type(job, key, merged, wave_stage(number), path)
    return path


def _type(
    job: SlideJob,
    key: str,
    merged: MergedTable,
    of: str,
    out: Path,
    name_red: RedCellPass | None = None,
    add: DysplasiaPass | None = None,
) -> TableSummary:
    """Write a merged table with the answers of its chunks; ``of`` is its stage in the ledger."""
    ledger = ledger_of(job, key)
    answers = _classifier(job)
    chunks = [ledger.part(f"{of}classes", chunk_name(i)) for i in range(merged.n_chunks)] if answers["classes"] else []
    table = ledger.part(f"{of}merged", "table")
    return write_cells(table, chunks, out, name_red=name_red, add=add, **answers)


def _dysplasia(job: SlideJob, taxonomy: Taxonomy, white: Iterator[pa.Table]) -> DysplasiaPass | None:
    return dysplasia_pass(job.config, taxonomy, _classifier(job)["classes"], white, mpp=job.config.segmentation.mpp)


def _typed_white(job: SlideJob, key: str, merged: MergedTable) -> Iterator[pa.Table]:
    """Yield the white cells of a slide, for its stain."""
    ledger, classes = ledger_of(job, key), _classifier(job)["classes"]
    chunks = [ledger.part("classes", chunk_name(i)) for i in range(merged.n_chunks)]
    columns = ["truncated", *MEASURES]
    yield from typed_white(ledger.part("merged", "table"), chunks, classes=classes, columns=columns)


def _kept_white(waves: list[Path], keep: Keep) -> Iterator[pa.Table]:
    """Yield the counted white cells of waves of fields, for the stain of the slide."""
    for path in waves:
        columns = ["kind", "class_name", "truncated", "seed_x", "seed_y", *MEASURES]
        with pq.ParquetFile(path) as source:
            for group in range(source.num_row_groups):
                band = kept_rows(source.read_row_group(group, columns=columns), keep)
                yield band.filter(pa.compute.equal(band.column("kind"), "white"))


def _classifier(job: SlideJob) -> dict[str, Any]:
    """Return what tables are written with: classes, length of the embedding if asked for, evidence, attributes."""
    config = job.config.cells
    if config.classifier is None:
        return {"classes": (), "embedding_dim": embedded(job.config)}
    weights = find_weights(config.classifier, "cells")
    return {
        "classes": tuple(weights.card["classes"]),
        "embedding_dim": int(weights.card["network"]["embedding_dim"]) if config.embedding else None,
        "evidence": columns_of(weights),
        "attributes": tuple(dict.fromkeys(attribute for _, attribute in attribute_pairs(job.config))),
    }


def attribute_pairs(config: PipelineConfig) -> list[tuple[str, str]]:
    """Return each class and attribute its cells can have, as the classifier's card says."""
    if config.cells.classifier is None:
        return []
    card = find_weights(config.cells.classifier, "cells").card
    entries = card.get("attributes") or []
    return [(own, entry["code"]) for entry in entries for own in card["classes"] if own in entry["classes"]]
