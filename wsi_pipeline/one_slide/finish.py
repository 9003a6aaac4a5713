"""The last stage of a slide: the typed table, the counts and answers, the exports, the report."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from wsi_pipeline.atomic import write_json, write_text
from wsi_pipeline.cells.merge import MergedTable
from wsi_pipeline.cells.seams import seam_statistic
from wsi_pipeline.config import PipelineConfig
from wsi_pipeline.exports.labels import write_labels
from wsi_pipeline.exports.qupath import write_qupath
from wsi_pipeline.exports.qupath_megakaryocytes import megakaryocyte_extras, phenotype_names
from wsi_pipeline.exports.report import write_slide_report
from wsi_pipeline.one_slide.answers import answer_slide, map_slide
from wsi_pipeline.one_slide.asked import attempt_key
from wsi_pipeline.one_slide.job import SlideJob
from wsi_pipeline.one_slide.neutrophils import dysplasia_answer, tells_dysplasia
from wsi_pipeline.one_slide.prepare import Prepared, searched_region
from wsi_pipeline.one_slide.red_shapes import red_shapes, red_sizes, red_taxonomy, without_shapes
from wsi_pipeline.one_slide.stages import final_regions, halved_blocks
from wsi_pipeline.one_slide.summary import identity_of, slide_provenance, slide_quality, slide_status, slide_warnings
from wsi_pipeline.one_slide.trephine_answer import FILES as TREPHINE_FILES
from wsi_pipeline.one_slide.trephine_answer import trephine_answer
from wsi_pipeline.one_slide.typed_table import attribute_pairs, write_typed_table
from wsi_pipeline.predictions.adequacy import slide_adequacy
from wsi_pipeline.predictions.attributes import attribute_counts, attribute_rates, attributes_csv
from wsi_pipeline.predictions.counted import count_cells
from wsi_pipeline.regions import area_mm2, write_regions
from wsi_pipeline.runtime.worker import evidence_of, exclusive, slide_of, use_threads
from wsi_pipeline.sentences import made_of
from wsi_pipeline.taxonomies import Taxonomy, load_taxonomy
from wsi_pipeline.weights import find_weights


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
    table, red, neutrophils = write_typed_table(job, prepared, merged, taxonomy)
    shapes = red_shapes(red, config)
    dysplastic = dysplasia_answer(neutrophils, config)
    cells = job.folder / "cells.parquet"
    regions = final_regions(job, prepared)
    lost_mm2 = sum(area_mm2(part.geometry, slide) for part in regions.excluded if part.reason == "corrupt-tile")
    if lost_mm2 > 0:
        write_regions(regions, job.folder / "regions.geojson", slide)
    by_class = without_shapes(table.classes, red)
    name = config.cells.classifier
    counted = count_cells(
        by_class,
        answered=table.answered,
        card=None if name is None else find_weights(name, "cells").card,
        slide_id=job.slide_id,
        subject_id=job.subject_id,
        specimen=config.specimen,
        taxonomy=taxonomy,
        config=config.predictions,
        area_mm2=regions.area_mm2 or None,
    )
    pairs = attribute_pairs(config)
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
    status, reason = slide_status(job, prepared, merged)
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
        **counted.differential.to_dict(),
        "differential_corrected": counted.corrected.to_dict(),
        "red_cells": None if shapes is None or red is None else {**shapes.to_dict(), "size": red_sizes(red)},
        "dysplasia": None if dysplastic is None else dysplastic.to_dict(),
        "attributes": None if rates is None else [rate.to_dict() for rate in rates],
        "trephine": trephine,
        "predictions": [prediction.to_dict() for prediction in counted.predictions],
        "adequacy": slide_adequacy(
            n=None if config.specimen == "trephine" else counted.differential.n,
            config=config.predictions,
            n_cells=merged.n_cells,
            truncated=table.truncated,
            searched_mm2=regions.area_mm2,
            lost_mm2=lost_mm2,
            facts=prepared.about["regions_facts"],
            trephine=trephine,
        ).to_dict(),
        "quality": slide_quality(table, merged, prepared, halved, seams, regions.area_mm2, lost_mm2),
        "regions": prepared.about["regions_facts"],
        "provenance": slide_provenance(job, prepared),
        "timings": {**timings, "answers": exporting - started, "exports": ended - exporting},
        "warnings": [*slide_warnings(job, prepared, merged, dropped, halved, lost_mm2), *counted.differential.notes],
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
        write_slide_report(
            job.folder,
            slide=slide,
            taxonomy=taxonomy,
            specimen=config.specimen,
            also=red_taxonomy(red),
            evidence=None if name is None else evidence_of(name, prepared.about["device"]),
            background=np.array(prepared.about["background"], np.uint8),
            language=config.exports.language,
        )
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
        "attributes.csv": bool(attribute_pairs(job.config)),
        "dysplasia.csv": tells_dysplasia(job.config),
        **dict.fromkeys(TREPHINE_FILES, job.config.specimen == "trephine"),
        "summary.json": True,
        "report.html": exports.report,
    }
    return [job.folder / name for name, asked in wanted.items() if asked]
