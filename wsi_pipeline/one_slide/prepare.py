"""The first stage of a slide, as a task on a worker: where to look, its normalisation, the blocks it is cut into."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.base import BaseGeometry

from wsi_pipeline.atomic import write_bytes
from wsi_pipeline.cells.windows import estimate_background
from wsi_pipeline.one_slide.job import SlideJob, ledger_of, results_key
from wsi_pipeline.regions import (
    FieldChoice,
    FieldSet,
    Regions,
    choose_fields,
    find_regions,
    narrow,
    regions_from_record,
    regions_record,
    write_regions,
)
from wsi_pipeline.runtime.batch import network_batch
from wsi_pipeline.runtime.devices import resolve_device
from wsi_pipeline.runtime.ledger import Ledger
from wsi_pipeline.runtime.worker import (
    classifier_model,
    evidence_of,
    exclusive,
    megakaryocyte_model,
    on_device,
    segmentation_model,
    slide_of,
    use_threads,
)
from wsi_pipeline.segmentation.engines import engine_for
from wsi_pipeline.segmentation.normalise import Normalisation, colour_histogram, normalisation_from_histogram
from wsi_pipeline.segmentation.precision import Precision
from wsi_pipeline.sentences import Sentence
from wsi_pipeline.slides import Slide, is_virtual
from wsi_pipeline.tiling import Block, TileLattice, halo_px, plan_blocks
from wsi_pipeline.units import Box
from wsi_pipeline.weights import find_weights


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The fields that a white-cell target took.

    Attributes
    ----------
    fields
        In the order in which they were visited.
    n_waves
        Waves of fields that were computed; each has a typed table in the ledger.
    """

    fields: FieldSet
    n_waves: int


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What the first stage decides for the whole slide.

    Attributes
    ----------
    key
        Hash of everything the results depend on.
    blocks
        The work, in raster order.
    about
        JSON facts for the summary.
    seconds
        Time of the stage.
    cut
        Where a white-cell target stopped the count; None without a target.
    """

    key: str
    blocks: tuple[Block, ...]
    about: dict[str, Any]
    seconds: float
    cut: Cut | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A prepared slide as a worker needs it; geometries in working pixels unless named ``_px0``."""

    region_px0: BaseGeometry
    dilated: BaseGeometry
    # A prepared geometry serves one thread at a time: this copy is for the threads that read ahead, one by one.
    dilated_while_reading: BaseGeometry
    reading: AbstractContextManager[Any]
    size: tuple[int, int]
    normalisation: Normalisation
    background: npt.NDArray[np.uint8]
    precision: Precision
    batch_size: int


@on_device
@exclusive
def prepare(job: SlideJob, regions: Regions | None = None) -> Prepared:
    """Open the slide, find where to look (unless that is known), fix its normalisation, and cut it into blocks."""
    started = time.monotonic()
    config = job.config
    use_threads(config.runtime.threads)
    device = resolve_device(job.asked_device)
    slide = slide_of(job.spec)
    model = segmentation_model(config, device)
    megakaryocytes = megakaryocyte_model(config, device)
    classifier = classifier_model(config.cells.classifier, device) if config.cells.classifier else None
    evidence = evidence_of(config.cells.classifier, device) if config.cells.classifier else None
    red_name = config.cells.red_classifier
    red_weights = find_weights(red_name, "red_cells") if red_name else None
    key = results_key(
        job,
        slide,
        model_sha256=model.sha256,
        precision=model.precision,
        classifier_sha256=classifier.sha256 if classifier else None,
        red_classifier_sha256=red_weights.sha256 if red_weights else None,
        evidence_sha256=evidence.sha256 if evidence else None,
        device=device,
        megakaryocytes_sha256=megakaryocytes.sha256 if megakaryocytes else None,
    )
    ledger = ledger_of(job, key)
    regions_file = job.folder / "regions.geojson"
    about = ledger.read("plan", "slide")
    if about is None or not ledger.is_done("plan", "region", ".wkb") or not regions_file.is_file():
        # The worker may have read the slide for another run, at other levels.
        slide.forget_masked()
        if regions is None:
            regions = find_regions(
                slide,
                specimen=config.specimen,
                config=config.regions,
                regions_file=job.regions_file,
                stain=config.stain,
            )
            if config.regions.chooses_fields:
                choice = choose_fields(slide, regions.included, config.regions)
                ledger.write("plan", "fields", {"regions": regions_record(regions), "choice": choice.to_record()})
                regions = narrow(regions, choice, slide, config.regions)
        write_regions(regions, regions_file, slide)
        ledger.write("plan", "regions", regions_record(regions))
        write_bytes(ledger.part("plan", "region", ".wkb"), shapely.to_wkb(regions.included))
        normalisation, background = _colours(job, slide, regions, model.tile_px, model.overlap_px)
        about = {
            **_about(job, slide, regions),
            "normalisation": {"low": list(normalisation.low), "high": list(normalisation.high)},
            "background": [int(v) for v in background],
            "device": device,
            "segmentation_model": model.name,
            "segmentation_sha256": model.sha256,
            "segmentation_kinds": list(model.kinds),
            "megakaryocyte_model": megakaryocytes.name if megakaryocytes else None,
            "megakaryocyte_sha256": megakaryocytes.sha256 if megakaryocytes else None,
            "precision": model.precision,
            "batch_size": network_batch(job.out / "work", model, config, device),
            "segmentation_engine": engine_for(device),
            "classifier": classifier.name if classifier else None,
            "classifier_sha256": classifier.sha256 if classifier else None,
            "evidence_sha256": evidence.sha256 if evidence else None,
            "red_classifier": red_weights.name if red_weights else None,
            "red_classifier_sha256": red_weights.sha256 if red_weights else None,
            "masked_px0": corners_of(slide.masked()),
        }
        ledger.write("plan", "slide", about)
    # With a target the fields decide, wave by wave, which blocks are needed.
    blocks = () if config.regions.has_target else blocks_for(job, slide, searched_region(job, key))
    return Prepared(key=key, blocks=blocks, about=about, seconds=time.monotonic() - started)


def blocks_for(job: SlideJob, slide: Slide, region: BaseGeometry) -> tuple[Block, ...]:
    """Return the blocks whose core meets a region (working pixels), in raster order."""
    config, mpp = job.config, job.config.segmentation.mpp
    halo = halo_px(config.segmentation.max_cell_diameter_um, mpp, config.tiling.halo_um)
    return tuple(plan_blocks(slide.size_at(mpp), region, core_px=config.tiling.core_px, halo=halo))


def _about(job: SlideJob, slide: Slide, regions: Regions) -> dict[str, Any]:
    return {
        "fingerprint": slide.fingerprint,
        "simulated": is_virtual(job.spec.path),
        "format": slide.slide_format,
        "scanner": slide.scanner,
        "backend_requested": slide.backend_requested,
        "backend": slide.backend,
        "plane": slide.plane,
        "dimensions_px0": list(slide.dimensions),
        "bounds_px0": [slide.bounds.x0, slide.bounds.y0, slide.bounds.x1, slide.bounds.y1],
        "mpp": {"x": slide.mpp.x, "y": slide.mpp.y, "source": slide.mpp.source},
        "regions_mode_requested": regions.mode_requested,
        "regions_mode": regions.mode,
        "regions_note": regions.note.to_dict() if isinstance(regions.note, Sentence) else regions.note,
        "regions_facts": dict(regions.facts),
        "regions_empty_reason": regions.empty_reason,
        "regions_warning": "",
        "area_mm2": regions.area_mm2,
    }


def chosen_fields(job: SlideJob, key: str) -> tuple[Regions, FieldChoice]:
    """Return the regions as they were found, and the fields that were chosen in them."""
    record = ledger_of(job, key).read("plan", "fields")
    if record is None:
        raise RuntimeError(f"{job.work}: the choice of fields vanished during the run")
    return regions_from_record(record["regions"]), FieldChoice.from_record(record["choice"])


def searched_region(job: SlideJob, key: str, stage: str = "plan") -> BaseGeometry:
    """Return where cells were looked for, working pixels; stage ``cut`` is what a target took of it."""
    return _to_working(_region_px0(ledger_of(job, key), stage), slide_of(job.spec), job.config.segmentation.mpp)


@lru_cache(maxsize=8)
def plan_of(job: SlideJob, key: str) -> Plan:
    """Load what :func:`prepare` decided; kept by the worker for the slides in work."""
    ledger = ledger_of(job, key)
    about = ledger.read("plan", "slide")
    if about is None:
        raise RuntimeError(f"{ledger.folder}: the plan vanished during the run")
    slide = slide_of(job.spec)
    config = job.config
    mpp = config.segmentation.mpp
    region_px0 = _region_px0(ledger)
    halo = halo_px(config.segmentation.max_cell_diameter_um, mpp)
    dilated = _to_working(region_px0, slide, mpp).buffer(halo, join_style="mitre")
    if about["masked_px0"]:
        # No area is counted there (final_regions), so no cells are, whichever worker has met it.
        region_px0 = region_px0.difference(union_of(about["masked_px0"]))
    shapely.prepare(region_px0)
    copy = shapely.from_wkb(shapely.to_wkb(dilated))
    for geometry in (dilated, copy):
        shapely.prepare(geometry)
    colours = about["normalisation"]
    return Plan(
        region_px0=region_px0,
        dilated=dilated,
        dilated_while_reading=copy,
        reading=threading.Lock(),
        size=slide.size_at(mpp),
        normalisation=Normalisation(low=tuple(colours["low"]), high=tuple(colours["high"])),
        background=np.array(about["background"], np.uint8),
        precision=about["precision"],
        batch_size=about["batch_size"],
    )


def _to_working(geometry: BaseGeometry, slide: Slide, mpp: float) -> BaseGeometry:
    return shapely.transform(geometry, slide.frame(mpp).from_px0)


def _region_px0(ledger: Ledger, stage: str = "plan") -> BaseGeometry:
    return shapely.from_wkb(ledger.part(stage, "region", ".wkb").read_bytes())


def lattice_at(slide: Slide, mpp: float, tile_px: int, overlap_px: int) -> TileLattice:
    """Return the lattice of network tiles over a slide."""
    width, height = slide.size_at(mpp)
    return TileLattice(tile_px=tile_px, overlap_px=overlap_px, width=width, height=height)


def _colours(
    job: SlideJob, slide: Slide, regions: Regions, tile_px: int, overlap_px: int
) -> tuple[Normalisation, npt.NDArray[np.uint8]]:
    """Return normalisation and background colour from a fixed sample of lattice tiles inside the regions."""
    config = job.config.segmentation
    histogram = np.zeros((3, 256), np.int64)
    backgrounds = []
    if not regions.is_empty:
        lattice = lattice_at(slide, config.mpp, tile_px, overlap_px)
        tiles = lattice.sample(_to_working(regions.included, slide, config.mpp), config.normalise_tiles)
        whole = Box(x0=0, y0=0, x1=lattice.width, y1=lattice.height)
        for tile in tiles:
            box = lattice.tile(*tile).clip(whole)
            pixels = slide.read(box, config.mpp)
            if slide.masked(slide.frame(config.mpp).box_to_px0(box), config.mpp):
                continue  # white that is not there would shift the colours
            histogram += colour_histogram(pixels)
            backgrounds.append(estimate_background(pixels))
    if not backgrounds:
        return Normalisation(low=(0.0, 0.0, 0.0), high=(255.0, 255.0, 255.0)), np.full(3, 255, np.uint8)
    return normalisation_from_histogram(histogram), np.median(backgrounds, axis=0).astype(np.uint8)


def corners_of(boxes: Iterable[Box]) -> list[list[int]]:
    """Return boxes as JSON."""
    return [[box.x0, box.y0, box.x1, box.y1] for box in boxes]


def union_of(corners: Iterable[Sequence[int]]) -> BaseGeometry:
    """Return the union of boxes that :func:`corners_of` gave."""
    return shapely.unary_union([shapely.box(*four) for four in corners])
