"""Count a smear until enough white cells are typed: waves of fields, then the shortest prefix that reaches the target.

The region, and with it normalisation, network tiles and what counts as cut by an edge, is that of all candidate
fields from the start, so a cell is the same in whichever wave it is found. Only two things are looked at in the order
of the fields: the dye of the red cells, which is that of the first wave, and where to stop. The blocks that a wave's
fields meet are computed whole; their cells outside the fields wait in the ledger for a later wave or are thrown away.
On a smear of 20 x 10 mm with cores of 2048 px at 0.25 um/px the
blocks have 1.1 (200 fields) to 2.8 times (20 fields) the area of the fields that count; of that the last wave takes
1.05 to 2.0, the rest is what blocks hold beside the battlement's strip of three fields.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import shapely

from wsi_pipeline.atomic import write_bytes
from wsi_pipeline.cells.merge import MergedTable, dye_of, merge_blocks, n_too_large
from wsi_pipeline.one_slide.finish import taxonomy_of
from wsi_pipeline.one_slide.job import SlideJob, ledger_of
from wsi_pipeline.one_slide.prepare import Cut, Prepared, blocks_for, chosen_fields, plan_of, searched_region
from wsi_pipeline.one_slide.stages import classify, find_cells, wave_stage
from wsi_pipeline.one_slide.typed_table import write_wave
from wsi_pipeline.regions import FieldSet, narrow, regions_record, shortest_prefix, waves, write_regions
from wsi_pipeline.runtime.executor import Executor, SerialExecutor
from wsi_pipeline.runtime.ledger import Ledger
from wsi_pipeline.runtime.progress import Progress
from wsi_pipeline.runtime.worker import slide_of
from wsi_pipeline.segmentation.dye import RedDye
from wsi_pipeline.sentences import say
from wsi_pipeline.tiling import Block

_log = logging.getLogger(__name__)

_SEED_MARGIN_PX = 0.25
"""Fields are shrunk by it before blocks are looked for: pixel centres lie deeper inside, and fields that only touch a
block's edge need nothing of it."""


def reach_target(
    job: SlideJob,
    prepared: Prepared,
    executor: Executor | SerialExecutor,
    progress: Progress,
    timings: dict[str, float],
) -> tuple[Prepared, MergedTable]:
    """Compute waves of fields until the target is reached, and cut the cells to the shortest prefix that reaches it.

    Parameters
    ----------
    timings
        Seconds of the stages; added to.

    Returns
    -------
    What was prepared, with the blocks that were computed, the cut, and the facts of the fields that count; and the
    cells of those fields.
    """
    key = prepared.key
    target = int(job.config.regions.target_white_cells)
    fields = executor.call(fields_in_order, job, key, timeout_s=job.task_timeout_s)
    counts: list[int] = []
    blocks: set[Block] = set()
    timings |= {"segmentation": 0.0, "merge": 0.0, "classification": 0.0}
    cuts = waves(len(fields.fields))
    n_waves = 0
    for number, cut in enumerate(cuts):
        wave = dataclasses.replace(fields, fields=fields.fields[cut.start : cut.stop])
        # Find the cells of the blocks that the wave's fields meet.
        started = time.monotonic()
        needed = executor.call(blocks_of_wave, job, key, wave, timeout_s=job.task_timeout_s)
        progress.stage(job.slide_id, f"cells, fields {cut.start + 1} to {cut.stop}", len(needed))
        mm2 = len(wave.fields) * wave.side_um**2 * 1e-6 / max(1, len(needed))
        tasks = ((job, key, block) for block in needed)
        for record in executor.map(find_cells, tasks, timeout_s=job.task_timeout_s):
            progress.advance(job.slide_id, cells=record.n_cells, mm2=mm2)
        timings["segmentation"] += time.monotonic() - started

        # Put those that the fields own into order.
        started = time.monotonic()
        merged = executor.call(merge_wave, job, key, number, wave, needed, timeout_s=job.slide_timeout_s)
        timings["merge"] += time.monotonic() - started

        # Type the white cells, and count those that belong to the differential.
        started = time.monotonic()
        progress.stage(job.slide_id, f"classes, fields {cut.start + 1} to {cut.stop}", merged.n_chunks)
        chunks = ((job, key, chunk, wave_stage(number)) for chunk in range(merged.n_chunks))
        for _ in executor.map(classify, chunks, timeout_s=job.task_timeout_s):
            progress.advance(job.slide_id)
        counts += executor.call(count_wave, job, key, number, wave, merged, timeout_s=job.slide_timeout_s)
        timings["classification"] += time.monotonic() - started
        blocks.update(needed)
        n_waves = number + 1
        if shortest_prefix(counts, target) is not None:
            break
    ordered = tuple(sorted(blocks, key=lambda block: (block.row, block.col)))
    return executor.call(cut_to_target, job, prepared, n_waves, counts, ordered, timeout_s=job.slide_timeout_s)


def fields_in_order(job: SlideJob, key: str) -> FieldSet:
    """Return the candidate fields in the order in which they are visited."""
    _, choice = chosen_fields(job, key)
    return FieldSet(fields=choice.fields, side_um=job.config.regions.field_um, mpp=job.config.segmentation.mpp)


def blocks_of_wave(job: SlideJob, key: str, wave: FieldSet) -> tuple[Block, ...]:
    """Return the blocks that may own seeds in the fields, in raster order."""
    side = wave.side_um / wave.mpp
    low = np.array([(field.column, field.row) for field in wave.fields], np.float64) * side + _SEED_MARGIN_PX
    high = low + side - 2 * _SEED_MARGIN_PX
    squares = shapely.multipolygons(shapely.box(low[:, 0], low[:, 1], high[:, 0], high[:, 1]))
    return blocks_for(job, slide_of(job.spec), shapely.intersection(squares, searched_region(job, key)))


def merge_wave(job: SlideJob, key: str, number: int, wave: FieldSet, blocks: tuple[Block, ...]) -> MergedTable:
    """Put the cells that the wave's fields own into order."""
    ledger = ledger_of(job, key)
    stage = f"{wave_stage(number)}merged"
    if (record := ledger.read(stage, "record")) is not None:
        return MergedTable(**record)
    parts = [(block, ledger.part("blocks", block.name)) for block in blocks]
    background = plan_of(job, key).background
    if number == 0:
        dye = dye_of(parts, background, wave.owns)
        ledger.write("waves", "dye", {"density": dye.density.tolist(), "n_cells": dye.n_cells})
    merged = merge_blocks(
        parts,
        ledger.part(stage, "table"),
        ledger.part(stage, "targets"),
        chunk_cells=job.config.cells.chunk_cells,
        background=background,
        keep=wave.owns,
        dye=_dye(ledger),
    )
    ledger.write(stage, "record", vars(merged))
    return merged


def _dye(ledger: Ledger) -> RedDye:
    record = ledger.read("waves", "dye")
    if record is None:
        raise RuntimeError(f"{ledger.folder}: the dye of the first wave vanished during the run")
    return RedDye(density=np.array(record["density"], np.float64), n_cells=record["n_cells"])


def count_wave(job: SlideJob, key: str, number: int, wave: FieldSet, merged: MergedTable) -> list[int]:
    """Write the wave's typed cells and return how many of the denominator each field owns."""
    ledger = ledger_of(job, key)
    if (record := ledger.read("waves", f"{number:03d}")) is not None:
        return list(record["counts"])
    path = write_wave(job, key, number, merged)
    countable = taxonomy_of(job.config).countable(job.config.specimen)
    table = pq.read_table(path, columns=["class_name", "seed_x", "seed_y"])
    counted = table.filter(pc.is_in(table.column("class_name"), value_set=pa.array(countable, pa.string())))
    owner = wave.owner(counted.column("seed_x").to_numpy(), counted.column("seed_y").to_numpy())
    counts = np.bincount(owner, minlength=len(wave.fields)).tolist()
    ledger.write("waves", f"{number:03d}", {"counts": counts})
    return list(counts)


def cut_to_target(
    job: SlideJob, prepared: Prepared, n_waves: int, counts: list[int], blocks: tuple[Block, ...]
) -> tuple[Prepared, MergedTable]:
    """Cut what was computed to the shortest prefix that reaches the target, and say so in ``regions.geojson``.

    Parameters
    ----------
    counts
        Countable cells of each field that was computed.
    blocks
        All that were computed.
    """
    key, config = prepared.key, job.config.regions
    ledger, slide = ledger_of(job, key), slide_of(job.spec)
    target = int(config.target_white_cells)
    prefix = shortest_prefix(counts, target)
    taken = len(counts) if prefix is None else prefix
    found = sum(counts[:taken])
    regions, choice = chosen_fields(job, key)
    regions = narrow(regions, choice, slide, config, taken=taken)
    facts: dict[str, Any] = {
        **regions.facts,
        "target": {"white_cells": target, "found": found, "reached": prefix is not None, "computed": len(counts)},
    }
    warning = ""
    if prefix is None:
        warning = say(
            "regions.target_white_cells asks for {target} white cells; all {taken} fields that can be counted hold "
            "{found}, and the answers rest on those.",
            target=target,
            taken=taken,
            found=found,
        )
        _log.warning("%s: %s", job.slide_id, warning)
    write_regions(regions, job.folder / "regions.geojson", slide)
    ledger.write("cut", "regions", regions_record(regions))
    write_bytes(ledger.part("cut", "region", ".wkb"), shapely.to_wkb(regions.included))
    fields = dataclasses.replace(fields_in_order(job, key), fields=choice.fields[:taken])
    about = {
        **prepared.about,
        "regions_facts": facts,
        "regions_empty_reason": regions.empty_reason,
        "regions_warning": warning,
        "area_mm2": regions.area_mm2,
    }
    cut = Cut(fields=fields, n_waves=n_waves)
    n_large = sum(n_too_large(ledger.part("blocks", block.name), fields.owns) for block in blocks)
    merged = _merged(ledger, cut, n_large)
    return dataclasses.replace(prepared, blocks=blocks, about=about, cut=cut), merged


def _merged(ledger: Ledger, cut: Cut, n_large: int) -> MergedTable:
    n_cells = n_targets = 0
    for number in range(cut.n_waves):
        seeds = pq.read_table(ledger.part(f"{wave_stage(number)}merged", "table"), columns=["kind", "seed_x", "seed_y"])
        kept = cut.fields.owns(seeds.column("seed_x").to_numpy(), seeds.column("seed_y").to_numpy())
        n_cells += int(kept.sum())
        n_targets += int((kept & pc.equal(seeds.column("kind"), "white").to_numpy()).sum())
    return MergedTable(n_cells=n_cells, n_targets=n_targets, n_chunks=0, n_too_large=n_large)
