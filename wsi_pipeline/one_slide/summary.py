"""What a slide's ``summary.json`` says of the run itself: identity, quality, provenance, warnings; and of a failure."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from wsi_pipeline.atomic import write_json
from wsi_pipeline.cells.merge import MergedTable
from wsi_pipeline.cells.seams import SeamStatistic
from wsi_pipeline.cells.table import TableSummary
from wsi_pipeline.errors import WsiPipelineError
from wsi_pipeline.one_slide.answers import provenance_of
from wsi_pipeline.one_slide.job import SlideJob
from wsi_pipeline.one_slide.prepare import Prepared
from wsi_pipeline.regions.stain import stain_warning
from wsi_pipeline.runtime.provenance import commit, versions
from wsi_pipeline.sentences import made_of, said_again, say

_log = logging.getLogger(__name__)

_NOTHING_FOUND = {"trephine": "no-tissue", "blood_smear": "no-stained-area", "marrow_smear": "no-stained-area"}


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


def slide_status(job: SlideJob, prepared: Prepared, merged: MergedTable) -> tuple[str, str | None]:
    if not prepared.blocks:
        return "empty", prepared.about["regions_empty_reason"] or _NOTHING_FOUND[job.config.specimen]
    return ("ok", None) if merged.n_cells else ("empty", "no-cells")


def slide_quality(
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


def slide_provenance(job: SlideJob, prepared: Prepared) -> dict[str, Any]:
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


def slide_warnings(
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
