"""One patient of a gallery, from images to an answer: the story of ``pipeline.py`` without regions and positions."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from wsi_pipeline.atomic import write_json, write_text
from wsi_pipeline.cells.classifier import CellClassifier, Probabilities
from wsi_pipeline.cells.crop_features import MPP, SEGMENTED_BY
from wsi_pipeline.cells.evidence import Evidence
from wsi_pipeline.cells.windows import resample
from wsi_pipeline.errors import PatientFolderError, UnreadableSlideError
from wsi_pipeline.exports.report import write_gallery_report
from wsi_pipeline.galleries.comparison import Comparison
from wsi_pipeline.galleries.job import GalleryJob
from wsi_pipeline.galleries.measure import MAX_SIDE_UM, ImageMeasurer
from wsi_pipeline.galleries.survey import MAX_PIXELS, Surveyed, duplicates, images_csv, problem_of, survey
from wsi_pipeline.galleries.table import cells_table, write_table
from wsi_pipeline.one_slide.answers import answer_slide, provenance_of
from wsi_pipeline.one_slide.asked import attempt_key
from wsi_pipeline.one_slide.finish import taxonomy_of
from wsi_pipeline.one_slide.neutrophils import dysplasia_answer, dysplasia_pass, tells_dysplasia
from wsi_pipeline.predictions.adequacy import gallery_adequacy
from wsi_pipeline.predictions.counted import count_cells
from wsi_pipeline.predictions.dysplasia import Dysplasia
from wsi_pipeline.runtime.devices import resolve_device
from wsi_pipeline.runtime.provenance import commit, versions
from wsi_pipeline.runtime.worker import classifier_model, computing, crop_features, evidence_of, on_device, use_threads
from wsi_pipeline.sentences import made_of, say
from wsi_pipeline.slides.picture import read_image
from wsi_pipeline.taxonomies import Taxonomy

NOTE = say(
    "A gallery has no positions: no regions, no area, no cells per field, no red cells and no file for QuPath. "
    "Percentages are of the images in the folder; they are a differential only where the images are all cells that "
    "were met, none chosen."
)


def expected_files(job: GalleryJob) -> list[Path]:
    """Return the artefacts a finished patient has."""
    optional = {"dysplasia.csv": tells_dysplasia(job.config), "report.html": job.config.exports.report}
    wanted = ["cells.parquet", "images.csv", "summary.json", *(name for name, asked in optional.items() if asked)]
    return [job.folder / name for name in wanted]


@on_device
def run_patient(job: GalleryJob, beside_others: bool = False) -> dict[str, Any]:
    """Run one patient, as a task on a worker; write its artefacts and return its summary.

    Parameters
    ----------
    job
        The patient.
    beside_others
        Whether patients of other threads compute at the same time; otherwise one at a time does in a process.

    Raises
    ------
    PatientFolderError
        No image, a folder of mixed form, or images too small for the declared resolution.
    UnreadableSlideError
        Images that cannot be decoded; with ``skip_unreadable`` only when none is left.
    """
    started = time.monotonic()
    config = job.config
    use_threads(config.runtime.threads)
    if job.problem:
        raise PatientFolderError(job.problem, reason=job.problem_reason)

    # Look at every image once: all that cannot be used is known before anything is computed.
    found = survey(job)
    write_text(job.folder / "images.csv", images_csv(found))
    problem = problem_of(job, found)
    used = [s for s in found if s.status == "ok"]
    if problem is not None and not (job.skip_unreadable and used):
        what, reason = problem
        advice = "no image is left" if job.skip_unreadable else "repair or remove them, or --skip-unreadable"
        error = UnreadableSlideError if reason == "unreadable" else PatientFolderError
        raise error(f"{what}. All are listed in {job.folder / 'images.csv'}; {advice}", reason=reason)
    surveyed = time.monotonic()

    # Type and measure the cell in the middle of each.
    device = resolve_device(job.asked_device)
    classifier = classifier_model(str(config.cells.classifier), device)
    evidence = evidence_of(str(config.cells.classifier), device)
    measurer = ImageMeasurer(crop_features(device))
    glass = np.median([s.background for s in used], axis=0).astype(np.uint8)
    answers, measured, spent = _type_and_measure(job, used, classifier, measurer, glass, beside_others)

    # Count, answer, compare, report.
    answering = time.monotonic()
    taxonomy = taxonomy_of(config)
    table = cells_table(
        used,
        measured,
        answers,
        evidence={} if evidence is None else evidence.columns(answers),
        attributes=classifier.told_attributes(answers),
        classes=classifier.classes,
        taxonomy=taxonomy,
        labels={g.label: g for g in job.labels},
        embedding=config.cells.embedding,
    )
    table, dysplastic = _with_dysplasia(job, table, taxonomy, classifier.classes)
    write_table(table, job.folder / "cells.parquet")
    names = table.column("class_name").to_pylist()
    by_class = dict(sorted(Counter(names).items()))
    counted = count_cells(
        by_class,
        answered=by_class,
        card=classifier.card,
        slide_id=job.slide_id,
        subject_id=job.subject_id,
        specimen=config.specimen,
        taxonomy=taxonomy,
        config=config.predictions,
    )
    labels = [s.image.label for s in used]
    comparison = Comparison.of(labels, names, job.labels, config.predictions.confidence)
    without_cell = table.column("area_um2").null_count
    truncated = int(np.count_nonzero(table.column("truncated").fill_null(False).to_numpy()))
    summary: dict[str, Any] = {
        "slide_id": job.slide_id,
        "path": str(job.spec.path),
        "path_name": job.spec.path.name,
        "subject_id": job.subject_id,
        "label": job.label,
        "batch": job.batch,
        "specimen": config.specimen,
        "working_mpp": MPP,
        "confidence": config.predictions.confidence,
        "status": "ok",
        "reason": None,
        "attempt": attempt_key(job),
        "mpp": {"x": job.mpp, "y": job.mpp, "source": "option"},
        "n_cells": len(used),
        "taxonomy": taxonomy.name,
        "gallery": {
            "folder": str(job.gallery),
            "positions": False,
            "images": len(found),
            "used": len(used),
            "skipped": {s.image.name: f"{s.status}: {s.detail}" for s in found if s.status != "ok"},
        },
        "counts": {"kind": {"white": len(used)}, "class": by_class},
        **counted.differential.to_dict(),
        "differential_corrected": counted.corrected.to_dict(),
        "agreement": comparison.to_dict() if comparison.classes else None,
        "red_cells": None,
        "dysplasia": None if dysplastic is None else dysplastic.to_dict(),
        "predictions": [prediction.to_dict() for prediction in counted.predictions],
        "adequacy": gallery_adequacy(
            n=counted.differential.n, config=config.predictions, images=len(found), used=len(used)
        ).to_dict(),
        "quality": {
            "images": len(found),
            "images used": len(used),
            "images left out": len(found) - len(used),
            "images without a measured cell": without_cell,
            "truncated": truncated,
            "other files": job.n_other,
        },
        "provenance": _provenance(job, classifier, evidence, measurer, device, glass),
        "timings": {"reading": surveyed - started, **spent, "answers": time.monotonic() - answering},
        "warnings": [*_warnings(job, found, problem, without_cell), *counted.differential.notes],
    }
    if dysplastic is not None:
        write_text(job.folder / "dysplasia.csv", dysplastic.to_csv(job.slide_id))
    summary["sentences"] = made_of(summary)
    write_json(job.folder / "summary.json", summary)
    if config.predictions.slide_models:
        summary["predictions"] += [prediction.to_dict() for prediction in answer_slide(job, "ok")]
        summary["sentences"] = made_of(summary)
        write_json(job.folder / "summary.json", summary)
    if config.exports.report:
        write_gallery_report(
            job.folder,
            taxonomy=taxonomy,
            specimen=config.specimen,
            read=lambda name: read_image(job.patient_folder / name, max_pixels=MAX_PIXELS),
            evidence=evidence,
            language=config.exports.language,
        )
    return summary


def _with_dysplasia(
    job: GalleryJob, table: pa.Table, taxonomy: Taxonomy, classes: tuple[str, ...]
) -> tuple[pa.Table, Dysplasia | None]:
    """Return the table with scores and flags of its neutrophils, and the patient's dysplastic fraction."""
    # A cell that was not found is not known to be whole; it has no measures, so it is not judged either.
    place = table.schema.get_field_index("truncated")
    known = table.set_column(place, "truncated", table.column("truncated").fill_null(False))
    # Images coarser than the measures show no more granules for being enlarged.
    found = dysplasia_pass(job.config, taxonomy, classes, [known], mpp=max(job.mpp, MPP))
    if found is None:
        return table, None
    judged = found(known)
    for field in found.fields:
        table = table.append_column(field, judged.column(field.name))
    return table, dysplasia_answer(found, job.config)


def _type_and_measure(
    job: GalleryJob,
    used: list[Surveyed],
    classifier: CellClassifier,
    measurer: ImageMeasurer,
    glass: npt.NDArray[np.uint8],
    beside_others: bool,
) -> tuple[Probabilities, pa.Table, dict[str, float]]:
    """Return answers and measures of all images, batch by batch, so memory does not grow with the folder."""
    batch, side = job.config.cells.batch_size, classifier.window_px
    p, embeddings, attributes, rows = [], [], [], []
    spent = {"classification": 0.0, "morphology": 0.0}
    for start in range(0, len(used), batch):
        part = used[start : start + batch]
        images = [read_image(job.patient_folder / s.image.name, max_pixels=MAX_PIXELS) for s in part]
        windows = np.stack(
            [resample(i, i.shape[1] / 2, i.shape[0] / 2, side=side, scale=classifier.mpp / job.mpp) for i in images]
        )
        with nullcontext() if beside_others else computing():
            begun = time.monotonic()
            light = np.stack([s.background for s in part if s.background is not None])
            answer = classifier.predict(windows, light, batch_size=batch)
            typed = time.monotonic()
            rows += [measurer.measure(image, job.mpp, glass) for image in images]
            spent["classification"] += typed - begun
            spent["morphology"] += time.monotonic() - typed
        p.append(answer.p)
        embeddings.append(answer.embedding)
        attributes += [] if answer.attributes is None else [answer.attributes]
    answers = Probabilities(
        p=np.concatenate(p),
        embedding=np.concatenate(embeddings),
        attributes=np.concatenate(attributes) if attributes else None,
    )
    return answers, pa.concat_tables(rows), spent


def _provenance(
    job: GalleryJob,
    classifier: CellClassifier,
    evidence: Evidence | None,
    measurer: ImageMeasurer,
    device: str,
    glass: npt.NDArray[np.uint8],
) -> dict[str, Any]:
    return {
        "source": "gallery, without positions",
        "mpp source": "option",
        "cell classifier": classifier.name,
        "cell classifier SHA-256": classifier.sha256,
        "evidence SHA-256": None if evidence is None else evidence.sha256,
        **provenance_of(job.config),
        "segmentation model": SEGMENTED_BY,
        "segmentation SHA-256": measurer.sha256,
        "resolution of measures, um/px": MPP,
        "largest part measured, um": MAX_SIDE_UM,
        "empty glass, RGB": ", ".join(str(v) for v in glass),
        "embedding": job.config.cells.embedding,
        "device asked": job.config.runtime.device,
        "device used": device,
        "threads": job.config.runtime.threads,
        "configuration digest": job.config.digest(),
        "commit": commit(),
        "version": versions()["wsi-pipeline"],
    }


def _warnings(job: GalleryJob, found: list[Surveyed], problem: tuple[str, str] | None, without_cell: int) -> list[str]:
    notes: list[str] = [NOTE]
    if problem is not None:
        notes.append(say("Left out: {what}. All are listed in images.csv.", what=problem[0]))
    notes += duplicates(found)
    alone = [g for g in job.labels if not g.agrees and any(s.image.label == g.label for s in found)]
    if alone:
        named = "; ".join(f"{g.label} ({g.note})" for g in alone)
        notes.append(say("Labels that are kept and not compared: {labels}.", labels=named))
    if without_cell:
        notes.append(
            say("In {n} images no cell was found in the middle: they are typed, not measured.", n=without_cell)
        )
    if job.n_other:
        notes.append(say("{n} files in the folder are no images by their ending and were left out.", n=job.n_other))
    return notes
