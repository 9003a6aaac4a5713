"""The stages of one slide, as tasks that run on a worker.

Each takes a :class:`SlideJob`, writes its part atomically below the work folder, and returns a small record. A
stage whose part is already there does nothing, so a killed run resumes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import shapely
from shapely.geometry.base import BaseGeometry

from wsi_pipeline.atomic import atomic_path, write_bytes
from wsi_pipeline.cells.measure import measure_block
from wsi_pipeline.cells.megakaryocytes import Swallowed, join
from wsi_pipeline.cells.table import CELLS_FILE, MergedTable, merge_blocks, read_targets, write_classes
from wsi_pipeline.cells.windows import estimate_background
from wsi_pipeline.config import PipelineConfig
from wsi_pipeline.job import SlideJob, ledger_of, results_key
from wsi_pipeline.regions import (
    FieldChoice,
    FieldSet,
    Regions,
    choose_fields,
    find_regions,
    narrow,
    regions_from_record,
    regions_record,
    without,
    write_regions,
)
from wsi_pipeline.runtime.batch import network_batch
from wsi_pipeline.runtime.devices import resolve_device
from wsi_pipeline.runtime.ledger import Ledger
from wsi_pipeline.runtime.worker import (
    batch_of,
    classifier_model,
    computing,
    evidence_of,
    exclusive,
    megakaryocyte_model,
    on_device,
    segmentation_model,
    slide_of,
    use_threads,
)
from wsi_pipeline.segmentation.engines import engine_for
from wsi_pipeline.segmentation.megakaryocytes import embed_cells, embedding_dim, megakaryocyte_config, nuclei_only
from wsi_pipeline.segmentation.normalise import Normalisation, colour_histogram, normalisation_from_histogram
from wsi_pipeline.segmentation.precision import Precision
from wsi_pipeline.segmentation.predict import pixels_needed
from wsi_pipeline.segmentation.segment import segment_block
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
class BlockRecord:
    """What a block found."""

    name: str
    n_cells: int
    seconds: float


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


HALVED = "halved"
"""Stage of the ledger that lists the blocks computed with a halved batch."""

MASKED = "masked"
"""Stage of the ledger that lists what could not be decoded, by block (``slides.on_corrupt: mask``)."""


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
            "masked_px0": _corners(slide.masked()),
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


def _to_working(geometry: BaseGeometry, slide: Slide, mpp: float) -> BaseGeometry:
    return shapely.transform(geometry, slide.frame(mpp).from_px0)


def _region_px0(ledger: Ledger, stage: str = "plan") -> BaseGeometry:
    return shapely.from_wkb(ledger.part(stage, "region", ".wkb").read_bytes())


def searched_region(job: SlideJob, key: str, stage: str = "plan") -> BaseGeometry:
    """Return where cells were looked for, working pixels; stage ``cut`` is what a target took of it."""
    return _to_working(_region_px0(ledger_of(job, key), stage), slide_of(job.spec), job.config.segmentation.mpp)


def _lattice(slide: Slide, mpp: float, tile_px: int, overlap_px: int) -> TileLattice:
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
        lattice = _lattice(slide, config.mpp, tile_px, overlap_px)
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
        region_px0 = region_px0.difference(_boxes_union(about["masked_px0"]))
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


@on_device
def find_cells(job: SlideJob, key: str, block: Block) -> BlockRecord:
    """Segment and measure one block."""
    started = time.monotonic()
    ledger = ledger_of(job, key)
    part = ledger.part("blocks", block.name)
    if part.is_file():
        return BlockRecord(name=block.name, n_cells=pq.read_metadata(part).num_rows, seconds=0.0)
    config = job.config
    use_threads(config.runtime.threads)
    slide = slide_of(job.spec)
    plan = plan_of(job, key)
    mpp = config.segmentation.mpp
    model = segmentation_model(config, resolve_device(job.asked_device), plan.precision)
    batch = batch_of(model, plan.batch_size)
    lattice = _lattice(slide, mpp, model.tile_px, model.overlap_px)
    with plan.reading:
        needed = pixels_needed(block.window, lattice, plan.dilated_while_reading)
    margin = block.core.x0 - needed.x0
    pixels = slide.read(needed, mpp, overlap=2 * max(0, margin))
    # Of this level alone: others are read by some workers and not by others.
    if masked := _corners(slide.masked(slide.frame(mpp).box_to_px0(needed), mpp)):
        ledger.write(MASKED, block.name, {"boxes_px0": masked})
    with computing():
        region_px0 = plan.region_px0.difference(_boxes_union(masked)) if masked else plan.region_px0
        segmenting: dict[str, Any] = {
            "dilated_region": plan.dilated, "normalisation": plan.normalisation, "specimen": config.specimen,
        }  # fmt: skip
        measuring: dict[str, Any] = {
            "frame": slide.frame(mpp), "mpp": mpp, "slide_size": plan.size, "region_px0": region_px0,
            "fingerprint": slide.fingerprint, "background": plan.background,
        }  # fmt: skip

        def read(box: Box) -> npt.NDArray[np.uint8]:
            return pixels if box == needed else slide.read(box, mpp)

        segmented = segment_block(
            read, block, lattice=lattice, model=model, config=config.segmentation, batch=batch, **segmenting
        )
        megakaryocytes = megakaryocyte_model(config, model.device, plan.precision)
        if megakaryocytes is None:
            table = measure_block(segmented, **measuring)
        else:
            second = batch_of(megakaryocytes, plan.batch_size)
            large = segment_block(
                read, block, lattice=_lattice(slide, mpp, megakaryocytes.tile_px, megakaryocytes.overlap_px),
                model=megakaryocytes, config=megakaryocyte_config(config.segmentation), batch=second, **segmenting,
            )  # fmt: skip
            batch = batch if batch.halved else second
            embed = partial(embed_cells, large, model=megakaryocytes, normalisation=plan.normalisation)
            table = join(
                measure_block(nuclei_only(segmented), **measuring),
                measure_block(large, **measuring, embed=embed if config.cells.embedding else None),
            )
        if batch.halved:
            ledger.write(HALVED, block.name, {"planned": batch.planned, "used": batch.used})
    with atomic_path(part) as temporary:
        pq.write_table(table, temporary, **CELLS_FILE)
    return BlockRecord(name=block.name, n_cells=len(table), seconds=time.monotonic() - started)


def halved_blocks(job: SlideJob, key: str, blocks: tuple[Block, ...]) -> int:
    """Return how many blocks were computed with a halved batch, in this run or before it was resumed."""
    ledger = ledger_of(job, key)
    return sum(ledger.is_done(HALVED, block.name, ".json") for block in blocks)


def unreadable(job: SlideJob, prepared: Prepared) -> BaseGeometry:
    """Return what could not be decoded where the slide was looked at, level-0 pixels; empty when nothing failed."""
    ledger = ledger_of(job, prepared.key)
    records = [ledger.read(MASKED, block.name) for block in prepared.blocks]
    corners = [corner for record in records if record for corner in record["boxes_px0"]]
    return _boxes_union(corners + prepared.about["masked_px0"])


def final_regions(job: SlideJob, prepared: Prepared) -> Regions:
    """Return where cells were counted: what was found, less what a target left out and what could not be decoded."""
    record = ledger_of(job, prepared.key).read("plan" if prepared.cut is None else "cut", "regions")
    if record is None:
        raise RuntimeError(f"{job.work}: the regions vanished during the run")
    return without(regions_from_record(record), unreadable(job, prepared), "corrupt-tile", slide_of(job.spec))


def _corners(boxes: Iterable[Box]) -> list[list[int]]:
    return [[box.x0, box.y0, box.x1, box.y1] for box in boxes]


def _boxes_union(corners: Iterable[Sequence[int]]) -> BaseGeometry:
    return shapely.unary_union([shapely.box(*four) for four in corners])


@exclusive
def merge(job: SlideJob, key: str, blocks: tuple[Block, ...]) -> MergedTable:
    """Put the cells of all blocks into their one order."""
    ledger = ledger_of(job, key)
    if (record := ledger.read("merged", "record")) is not None:
        return MergedTable(**record)
    merged = merge_blocks(
        [(block, ledger.part("blocks", block.name)) for block in blocks],
        ledger.part("merged", "table"),
        ledger.part("merged", "targets"),
        chunk_cells=job.config.cells.chunk_cells,
        background=plan_of(job, key).background,
        embedding_dim=embedded(job.config),
        swallowed=Swallowed([ledger.part("blocks", block.name) for block in blocks])
        if job.config.segmentation.megakaryocyte_model
        else None,
    )
    ledger.write("merged", "record", vars(merged))
    return merged


def embedded(config: PipelineConfig) -> int | None:
    """Return the length of the megakaryocytes' embeddings; None where they have none."""
    name = config.segmentation.megakaryocyte_model
    return embedding_dim(name) if name is not None and config.cells.embedding else None


def wave_stage(number: int) -> str:
    """Return where the ledger holds a wave of fields, with a slash after it."""
    return f"wave-{number:03d}/"


def chunk_name(chunk: int) -> str:
    return f"{chunk:06d}"


@on_device
def classify(job: SlideJob, key: str, chunk: int, of: str = "") -> float:
    """Type one chunk of white cells, in table order; return the seconds.

    ``of`` is the stage of the ledger that holds the merged table, with a slash after it: a wave of fields.
    """
    started = time.monotonic()
    ledger = ledger_of(job, key)
    part = ledger.part(f"{of}classes", chunk_name(chunk))
    if part.is_file():
        return 0.0
    config = job.config
    use_threads(config.runtime.threads)
    slide = slide_of(job.spec)
    plan = plan_of(job, key)
    name, device = str(config.cells.classifier), resolve_device(job.asked_device)
    classifier, evidence = classifier_model(name, device), evidence_of(name, device)
    side = classifier.window_px
    centres = slide.frame(classifier.mpp).from_px0(read_targets(ledger.part(f"{of}merged", "targets"), chunk))
    corners = np.floor(centres - side / 2 + 0.5).astype(int)
    crops = np.empty((len(corners), side, side, 3), np.uint8)
    for i, (x, y) in enumerate(corners):
        crops[i] = slide.read(Box(x0=int(x), y0=int(y), x1=int(x) + side, y1=int(y) + side), classifier.mpp)
    with computing():
        answer = classifier.predict(crops, plan.background, batch_size=config.cells.batch_size)
        columns = evidence.columns(answer) if evidence is not None else {}
    embedding = answer.embedding if config.cells.embedding else None
    write_classes(part, classifier.classes, answer.p, embedding, columns, classifier.told_attributes(answer))
    return time.monotonic() - started
