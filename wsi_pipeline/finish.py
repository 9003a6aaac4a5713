"""The last stage of a slide: the typed table, the counts and answers, the exports, the report."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wsi_pipeline.atomic import write_json, write_text
from wsi_pipeline.cells.combine import combine_cells
from wsi_pipeline.cells.dysplasia import MEASURES, DysplasiaPass
from wsi_pipeline.cells.evidence import columns_of
from wsi_pipeline.cells.red_cells import RedCellPass
from wsi_pipeline.cells.seams import SeamStatistic, seam_statistic
from wsi_pipeline.cells.table import Keep, MergedTable, TableSummary, kept_rows, typed_white, write_cells
from wsi_pipeline.config import PipelineConfig
from wsi_pipeline.errors import WsiPipelineError
from wsi_pipeline.exports.labels import write_labels
from wsi_pipeline.exports.qupath import write_qupath
from wsi_pipeline.exports.qupath_megakaryocytes import megakaryocyte_extras, phenotype_names
from wsi_pipeline.exports.report import write_slide_report
from wsi_pipeline.job import SlideJob, attempt_key, ledger_of
from wsi_pipeline.neutrophils import dysplasia_answer, dysplasia_pass, tells_dysplasia
from wsi_pipeline.predictions import corrected_differential, criteria_predictions, differential
from wsi_pipeline.predictions.adequacy import slide_adequacy
from wsi_pipeline.predictions.attributes import attribute_counts, attribute_rates, attributes_csv
from wsi_pipeline.red_shapes import red_pass, red_shapes, red_sizes, red_taxonomy, without_shapes
from wsi_pipeline.regions import area_mm2, write_regions
from wsi_pipeline.regions.stain import stain_warning
from wsi_pipeline.runtime.provenance import commit, versions
from wsi_pipeline.runtime.worker import evidence_of, exclusive, slide_of, use_threads
from wsi_pipeline.sentences import made_of, said_again, say
from wsi_pipeline.slide_answers import answer_slide, map_slide, provenance_of
from wsi_pipeline.stages import (
    Prepared,
    chunk_name,
    embedded,
    final_regions,
    halved_blocks,
    searched_region,
    wave_stage,
)
from wsi_pipeline.taxonomies import Taxonomy, load_taxonomy
from wsi_pipeline.trephine_answer import FILES as TREPHINE_FILES
from wsi_pipeline.trephine_answer import trephine_answer
from wsi_pipeline.weights import find_weights

_log = logging.getLogger(__name__)

_NOTHING_FOUND = {"trephine": "no-tissue", "blood_smear": "no-stained-area", "marrow_smear": "no-stained-area"}


def taxonomy_of(config: PipelineConfig) -> Taxonomy:
    """Return the taxonomy whose classes the slide's cells are named in."""
    if config.specimen == "trephine":
        return load_taxonomy("section")
    if config.cells.classifier is None:
        return load_taxonomy("pbc-blast")
    return load_taxonomy(find_weights(config.cells.classifier, "cells").card["taxonomy"])


@exclusive
def finish(job: SlideJob, prepared: Prepared, merged: MergedTable, timings: dict[str, float]) -> dict[str, Any]:
    """Write every artefact of the slide and return its summary.

    Parameters
    ----------
    timings
        Seconds of the stages before this one.
    """
    started = time.monotonic()
    config = job.config
    use_threads(config.runtime.threads)
    slide = slide_of(job.spec)
    taxonomy = taxonomy_of(config)
    table, red, neutrophils = _write_table(job, prepared, merged, taxonomy)
    shapes = red_shapes(red, config)
    dysplastic = dysplasia_answer(neutrophils, config)
    cells = job.folder / "cells.parquet"
    regions = final_regions(job, prepared)
    lost_mm2 = sum(area_mm2(part.geometry, slide) for part in regions.excluded if part.reason == "corrupt-tile")
    if lost_mm2 > 0:
        write_regions(regions, job.folder / "regions.geojson", slide)
    by_class = without_shapes(table.classes, red)
    counts = differential(
        by_class,
        specimen=config.specimen,
        taxonomy=taxonomy,
        confidence=config.predictions.confidence,
        area_mm2=regions.area_mm2 or None,
    )
    predictions = criteria_predictions(
        counts,
        slide_id=job.slide_id,
        subject_id=job.subject_id,
        specimen=config.specimen,
        taxonomy=taxonomy,
        config=config.predictions,
    )
    corrected = corrected_differential(
        table.answered,
        counts,
        card=None if config.cells.classifier is None else find_weights(config.cells.classifier, "cells").card,
        specimen=config.specimen,
        taxonomy=taxonomy,
        config=config.predictions,
    )
    pairs = _attribute_pairs(config)
    rates = attribute_rates(attribute_counts(cells, pairs), config.predictions.confidence) if pairs else None
    trephine = trephine_answer(
        job,
        regions,
        mpp=(slide.mpp.x, slide.mpp.y),
        cellularity=prepared.about["regions_facts"].get("cellularity"),
    )
    mpp = config.segmentation.mpp
    seams = seam_statistic(
        cells,
        prepared.blocks,
        core_px=config.tiling.core_px,
        mpp=mpp,
        frame=slide.frame(mpp),
        region=searched_region(job, prepared.key, "plan" if prepared.cut is None else "cut"),
    )
    exporting = time.monotonic()
    bounds = slide.bounds
    dropped = 0
    if config.exports.qupath:
        dropped = merged.n_cells - write_qupath(
            cells,
            job.folder / "qupath.geojson.gz",
            offset_px0=(bounds.x0, bounds.y0),
            taxonomy=taxonomy,
            also=red_taxonomy(red),
            specimen=config.specimen,
            extras=megakaryocyte_extras(job.folder / "megakaryocytes.csv", phenotype_names(trephine)),
        )
    if config.exports.labels:
        write_labels(
            cells,
            job.folder / "labels.ome.zarr",
            slide_size_px0=slide.dimensions,
            frame=slide.frame(mpp),
            mpp=mpp,
            name=job.slide_id,
        )
    ended = time.monotonic()
    halved = halved_blocks(job, prepared.key, prepared.blocks)
    status, reason = _status(job, prepared, merged)
    summary: dict[str, Any] = {
        **identity_of(job, status, reason),
        "simulated": job.simulated or prepared.about.get("simulated", False),
        "key": prepared.key,
        "attempt": attempt_key(job),
        "mpp": prepared.about["mpp"],
        "area_mm2": regions.area_mm2,
        "n_cells": merged.n_cells,
        "taxonomy": taxonomy.name,
        "counts": {"kind": table.kinds, "class": by_class},
        **counts.to_dict(),
        "differential_corrected": corrected.to_dict(),
        "red_cells": None if shapes is None or red is None else {**shapes.to_dict(), "size": red_sizes(red)},
        "dysplasia": None if dysplastic is None else dysplastic.to_dict(),
        "attributes": None if rates is None else [rate.to_dict() for rate in rates],
        "trephine": trephine,
        "predictions": [prediction.to_dict() for prediction in predictions],
        "adequacy": slide_adequacy(
            n=None if config.specimen == "trephine" else counts.n,
            config=config.predictions,
            n_cells=merged.n_cells,
            truncated=table.truncated,
            searched_mm2=regions.area_mm2,
            lost_mm2=lost_mm2,
            facts=prepared.about["regions_facts"],
            trephine=trephine,
        ).to_dict(),
        "quality": _quality(table, merged, prepared, halved, seams, regions.area_mm2, lost_mm2),
        "regions": prepared.about["regions_facts"],
        "provenance": _provenance(job, prepared),
        "timings": {**timings, "answers": exporting - started, "exports": ended - exporting},
        "warnings": [*_warnings(job, prepared, merged, dropped, halved, lost_mm2), *counts.notes],
    }
    if shapes is not None:
        write_text(job.folder / "red_cells.csv", shapes.to_csv(job.slide_id))
    if rates is not None:
        write_text(job.folder / "attributes.csv", attributes_csv(rates, job.slide_id))
    if dysplastic is not None:
        write_text(job.folder / "dysplasia.csv", dysplastic.to_csv(job.slide_id))
    summary["sentences"] = made_of(summary)
    write_json(job.folder / "summary.json", summary)
    if config.predictions.slide_models:
        summary["predictions"] += [prediction.to_dict() for prediction in answer_slide(job, status)]
        if trephine is not None and status == "ok":
            trephine["map"] = map_slide(job)
        summary["sentences"] = made_of(summary)
        write_json(job.folder / "summary.json", summary)
    if config.exports.report:
        also = red_taxonomy(red)
        name = config.cells.classifier
        write_slide_report(
            job.folder,
            slide=slide,
            taxonomy=taxonomy,
            specimen=config.specimen,
            also=also,
            evidence=None if name is None else evidence_of(name, prepared.about["device"]),
            background=np.array(prepared.about["background"], np.uint8),
            language=config.exports.language,
        )
    return summary


def failed_summary(job: SlideJob, error: Exception, key: str) -> dict[str, Any]:
    """Write and return the summary of a slide that failed; ``key`` identifies the attempt."""
    reason = error.reason if isinstance(error, WsiPipelineError) else "internal-error"
    message = str(error) if isinstance(error, WsiPipelineError) else f"{type(error).__name__}: {error}"
    if isinstance(error, MemoryError):
        reason = "out-of-memory"
        message = say(
            "memory ran out ({error}); use fewer runtime.workers or a smaller tiling.core_px", error=str(error)
        )
    summary = {**identity_of(job, "failed", reason), "key": key, "warnings": [message]}
    summary["sentences"] = made_of(summary)
    write_json(job.folder / "summary.json", summary)
    return summary


def expected_files(job: SlideJob) -> list[Path]:
    """Return the artefacts a finished slide has."""
    exports = job.config.exports
    wanted = {
        "cells.parquet": True,
        "regions.geojson": True,
        "qupath.geojson.gz": exports.qupath,
        "labels.ome.zarr": exports.labels,
        "red_cells.csv": job.config.cells.red_classifier is not None,
        "attributes.csv": bool(_attribute_pairs(job.config)),
        "dysplasia.csv": tells_dysplasia(job.config),
        **dict.fromkeys(TREPHINE_FILES, job.config.specimen == "trephine"),
        "summary.json": True,
        "report.html": exports.report,
    }
    return [job.folder / name for name, asked in wanted.items() if asked]


def identity_of(job: SlideJob, status: str, reason: str | None) -> dict[str, Any]:
    """Return what every summary begins with."""
    return {
        "slide_id": job.slide_id,
        "path": str(job.spec.path),
        "path_name": job.spec.path.name,
        "subject_id": job.subject_id,
        "label": job.label,
        "batch": job.batch,
        "specimen": job.config.specimen,
        "working_mpp": job.config.segmentation.mpp,
        "confidence": job.config.predictions.confidence,
        "status": status,
        "reason": reason,
        "simulated": job.simulated,
    }


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
        "attributes": tuple(dict.fromkeys(attribute for _, attribute in _attribute_pairs(job.config))),
    }


def _attribute_pairs(config: PipelineConfig) -> list[tuple[str, str]]:
    """Return each class and attribute its cells can have, as the classifier's card says."""
    if config.cells.classifier is None:
        return []
    card = find_weights(config.cells.classifier, "cells").card
    entries = card.get("attributes") or []
    return [(own, entry["code"]) for entry in entries for own in card["classes"] if own in entry["classes"]]


def _write_table(
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


def _status(job: SlideJob, prepared: Prepared, merged: MergedTable) -> tuple[str, str | None]:
    if not prepared.blocks:
        return "empty", prepared.about["regions_empty_reason"] or _NOTHING_FOUND[job.config.specimen]
    return ("ok", None) if merged.n_cells else ("empty", "no-cells")


def _quality(
    table: TableSummary,
    merged: MergedTable,
    prepared: Prepared,
    halved: int,
    seams: SeamStatistic,
    searched_mm2: float,
    lost_mm2: float,
) -> dict[str, Any]:
    share = table.truncated / merged.n_cells if merged.n_cells else None
    return {
        "cells": merged.n_cells,
        **{f"kind {kind}": n for kind, n in table.kinds.items()},
        "truncated": table.truncated,
        "truncated share": share,
        "too large": merged.n_too_large,
        "mean cell probability": table.mean_cell_probability,
        "mean flow error": table.mean_flow_error,
        "area searched, mm2": searched_mm2,
        "area that could not be decoded, mm2": lost_mm2,
        "blocks": len(prepared.blocks),
        "seams": seams.to_dict(),
        "blocks with a halved batch": halved,
        "byte-comparable": not halved,
    }


def _provenance(job: SlideJob, prepared: Prepared) -> dict[str, Any]:
    about, config = prepared.about, job.config
    width, height = about["dimensions_px0"]
    return {
        "slide fingerprint": about["fingerprint"],
        "format": about["format"],
        "scanner": about["scanner"],
        "size, level-0 px": f"{width} x {height}",
        "backend asked": about["backend_requested"],
        "backend used": about["backend"],
        "plane read": about["plane"] or "the only one",
        "mpp source": about["mpp"]["source"],
        "regions asked": about["regions_mode_requested"],
        "regions used": about["regions_mode"],
        "regions note": _note(about),
        "segmentation model": about["segmentation_model"],
        "segmentation SHA-256": about["segmentation_sha256"],
        "megakaryocyte model": about["megakaryocyte_model"],
        "megakaryocyte SHA-256": about["megakaryocyte_sha256"],
        "segmentation engine": about["segmentation_engine"],
        "precision asked": config.segmentation.precision,
        "precision used": about["precision"],
        "tiles a batch asked": config.segmentation.batch_size,
        "tiles a batch used": about["batch_size"],
        "cell classifier": about["classifier"],
        "cell classifier SHA-256": about["classifier_sha256"],
        "evidence SHA-256": about["evidence_sha256"],
        "red-cell classifier": about["red_classifier"],
        "red-cell classifier SHA-256": about["red_classifier_sha256"],
        **provenance_of(config),
        "working resolution, um/px": config.segmentation.mpp,
        "empty glass, RGB": ", ".join(str(v) for v in about["background"]),
        "device asked": config.runtime.device,
        "device used": about["device"],
        "threads": config.runtime.threads,
        "configuration digest": config.digest(),
        "commit": commit(),
        "version": versions()["wsi-pipeline"],
    }


def _note(about: Mapping[str, Any]) -> str:
    """Return the note of the search for regions; a ledger keeps what it was made of."""
    note = about["regions_note"]
    return said_again(note) if isinstance(note, Mapping) else str(note)


def _warnings(
    job: SlideJob, prepared: Prepared, merged: MergedTable, dropped: int, halved: int, lost_mm2: float
) -> list[str]:
    about = prepared.about
    # Why nothing was found is a limit of the run; what else was decided belongs to the provenance.
    note = _note(about)
    found = [note] if note and not prepared.blocks else []
    found += stain_warning(about["regions_facts"], job.config.stain)
    if about["regions_warning"]:
        found.append(about["regions_warning"])
    if about["mpp"]["source"] == "forced":
        found.append(say("Microns per pixel were forced; what the slide says was overridden."))
    if about["megakaryocyte_model"] is not None:
        found.append(
            say(
                "Megakaryocytes were delineated by a network that was trained on drawn ones and measured on few real "
                "ones: look before you count."
            )
        )
    elif job.config.specimen == "trephine":
        found.append(
            say(
                "Megakaryocytes were told from other nuclei by a network that has seen few of them: look before you "
                "count."
            )
            if "megakaryocyte" in about["segmentation_kinds"]
            else say("Megakaryocytes are not told from other nuclei by this model.")
        )
    if lost_mm2 > 0:
        found.append(
            say(
                "{area:.4g} mm2 could not be decoded and were left out (slides.on_corrupt is mask): "
                "cells there are missing, those at its edge are marked truncated. Copy the slide again from its "
                "source.",
                area=lost_mm2,
            )
        )
    if halved:
        found.append(
            say(
                "{halved} of {blocks} blocks were computed with a halved batch, since the GPU ran out of memory: the "
                "results are not byte-comparable to those of other runs.",
                halved=halved,
                blocks=len(prepared.blocks),
            )
        )
    if merged.n_too_large:
        diameter = job.config.segmentation.max_cell_diameter_um
        warning = say(
            "{n} cells reach segmentation.max_cell_diameter_um ({diameter:g} um): part of them may be missing. They "
            "are kept as truncated; raise the setting if such cells are real.",
            n=merged.n_too_large,
            diameter=diameter,
        )
        _log.warning("%s: %s", job.slide_id, warning)
        found.append(warning)
    if dropped:
        found.append(
            say("{n} cells are too small for QuPath's grid of 0.01 pixels and are not in its file.", n=dropped)
        )
    return found
