"""The stages of one slide after the first, as tasks that run on a worker.

Each takes a :class:`SlideJob`, writes its part atomically below the work folder, and returns a small record. A
stage whose part is already there does nothing, so a killed run resumes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from shapely.geometry.base import BaseGeometry

from wsi_pipeline.atomic import atomic_path
from wsi_pipeline.cells.measure import measure_block
from wsi_pipeline.cells.megakaryocytes import Swallowed, join
from wsi_pipeline.cells.merge import MergedTable, merge_blocks, read_targets
from wsi_pipeline.cells.schema import CELLS_FILE
from wsi_pipeline.cells.table import write_classes
from wsi_pipeline.config import PipelineConfig
from wsi_pipeline.one_slide.job import SlideJob, ledger_of
from wsi_pipeline.one_slide.prepare import Prepared, corners_of, lattice_at, plan_of, union_of
from wsi_pipeline.regions import Regions, regions_from_record, without
from wsi_pipeline.runtime.devices import resolve_device
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
from wsi_pipeline.segmentation.megakaryocytes import embed_cells, embedding_dim, megakaryocyte_config, nuclei_only
from wsi_pipeline.segmentation.predict import pixels_needed
from wsi_pipeline.segmentation.segment import segment_block
from wsi_pipeline.tiling import Block
from wsi_pipeline.units import Box

HALVED = "halved"
"""Stage of the ledger that lists the blocks computed with a halved batch."""

MASKED = "masked"
"""Stage of the ledger that lists what could not be decoded, by block (``slides.on_corrupt: mask``)."""


@dataclass(frozen=True, kw_only=True)
class BlockRecord:
    """What a block found."""

    name: str
    n_cells: int
    seconds: float


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
    lattice = lattice_at(slide, mpp, model.tile_px, model.overlap_px)
    with plan.reading:
        needed = pixels_needed(block.window, lattice, plan.dilated_while_reading)
    margin = block.core.x0 - needed.x0
    pixels = slide.read(needed, mpp, overlap=2 * max(0, margin))
    # Of this level alone: others are read by some workers and not by others.
    if masked := corners_of(slide.masked(slide.frame(mpp).box_to_px0(needed), mpp)):
        ledger.write(MASKED, block.name, {"boxes_px0": masked})
    with computing():
        region_px0 = plan.region_px0.difference(union_of(masked)) if masked else plan.region_px0
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
                read, block, lattice=lattice_at(slide, mpp, megakaryocytes.tile_px, megakaryocytes.overlap_px),
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


def halved_blocks(job: SlideJob, key: str, blocks: tuple[Block, ...]) -> int:
    """Return how many blocks were computed with a halved batch, in this run or before it was resumed."""
    ledger = ledger_of(job, key)
    return sum(ledger.is_done(HALVED, block.name, ".json") for block in blocks)


def unreadable(job: SlideJob, prepared: Prepared) -> BaseGeometry:
    """Return what could not be decoded where the slide was looked at, level-0 pixels; empty when nothing failed."""
    ledger = ledger_of(job, prepared.key)
    records = [ledger.read(MASKED, block.name) for block in prepared.blocks]
    corners = [corner for record in records if record for corner in record["boxes_px0"]]
    return union_of(corners + prepared.about["masked_px0"])


def final_regions(job: SlideJob, prepared: Prepared) -> Regions:
    """Return where cells were counted: what was found, less what a target left out and what could not be decoded."""
    record = ledger_of(job, prepared.key).read("plan" if prepared.cut is None else "cut", "regions")
    if record is None:
        raise RuntimeError(f"{job.work}: the regions vanished during the run")
    return without(regions_from_record(record), unreadable(job, prepared), "corrupt-tile", slide_of(job.spec))


def embedded(config: PipelineConfig) -> int | None:
    """Return the length of the megakaryocytes' embeddings; None where they have none."""
    name = config.segmentation.megakaryocyte_model
    return embedding_dim(name) if name is not None and config.cells.embedding else None


def wave_stage(number: int) -> str:
    """Return where the ledger holds a wave of fields, with a slash after it."""
    return f"wave-{number:03d}/"


def chunk_name(chunk: int) -> str:
    return f"{chunk:06d}"
