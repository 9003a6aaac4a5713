"""One reticulin slide, from pixels to an index of fibrosis: regions, tiles of marrow, their rank, map and index.

As for cells, a chunk of tiles is the unit of scheduling and resuming, and nothing depends on how the slide was cut.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from shapely.geometry import MultiPolygon
from shapely.geometry.base import BaseGeometry

from wsi_pipeline.atomic import atomic_path, write_bytes, write_json, write_text
from wsi_pipeline.cells.schema import table_schema
from wsi_pipeline.config import PipelineConfig
from wsi_pipeline.errors import ModelError
from wsi_pipeline.exports.fibrosis_map import write_fibrosis_map, write_tile_objects
from wsi_pipeline.exports.report import write_slide_report
from wsi_pipeline.one_slide.asked import attempt_key
from wsi_pipeline.one_slide.job import SlideJob, ledger_of
from wsi_pipeline.one_slide.summary import identity_of
from wsi_pipeline.predictions.adequacy import fibrosis_adequacy
from wsi_pipeline.predictions.fibrosis import (
    FibrosisModel,
    TileGrid,
    fibrosis_index,
    fibrosis_prediction,
    patient_index,
    see_tile,
)
from wsi_pipeline.predictions.fibrosis.index import FibrosisIndex, fibrosis_csv
from wsi_pipeline.predictions.fibrosis.tiles import pixels_inside
from wsi_pipeline.predictions.prediction import Prediction
from wsi_pipeline.regions import (
    Regions,
    area_mm2,
    find_regions,
    regions_from_record,
    regions_record,
    without,
    write_regions,
)
from wsi_pipeline.regions.masks import glass_colour
from wsi_pipeline.regions.overview import read_overview
from wsi_pipeline.runtime.executor import Executor, SerialExecutor
from wsi_pipeline.runtime.ledger import Ledger, key_of
from wsi_pipeline.runtime.progress import Progress
from wsi_pipeline.runtime.provenance import commit, versions
from wsi_pipeline.runtime.worker import exclusive, fibrosis_model, slide_of, use_threads
from wsi_pipeline.sentences import made_of, say
from wsi_pipeline.slides import Slide, is_virtual
from wsi_pipeline.taxonomies import load_taxonomy
from wsi_pipeline.units import Box
from wsi_pipeline.weights import file_sha256, find_weights

CHUNK_TILES = 128
"""Tiles of a task, in raster order over the slide."""
_TILES = pa.schema(
    [
        ("column", pa.int32()),
        ("row", pa.int32()),
        ("geometry", pa.binary()),
        ("x_um", pa.float64()),
        ("y_um", pa.float64()),
        ("marrow_share", pa.float32()),
        ("fibre_share", pa.float32()),
        ("score", pa.float32()),
    ],
    metadata={
        b"geo": b'{"version":"1.1.0","primary_column":"geometry","columns":{"geometry":'
        b'{"encoding":"WKB","geometry_types":["Polygon"],"crs":null}}}'
    },
)
_MASKED = "masked"


@dataclass(frozen=True, kw_only=True)
class PreparedFibres:
    """What the first task decides for the slide: its key, how many chunks there are, and facts for the summary."""

    key: str
    n_chunks: int
    about: dict[str, Any]
    seconds: float


def read_fibres(job: SlideJob, executor: Executor | SerialExecutor, progress: Progress) -> dict[str, Any]:
    """Run one reticulin slide to the end, or from where it stopped, and return its summary.

    Raises
    ------
    SlideError, ModelError
        The slide or the model cannot be used.
    """
    progress.stage(job.slide_id, "regions", 1)
    prepared = executor.call(prepare_fibres, job, timeout_s=job.slide_timeout_s)

    started = time.monotonic()
    progress.stage(job.slide_id, "fibres", prepared.n_chunks)
    chunks = ((job, prepared.key, chunk) for chunk in range(prepared.n_chunks))
    for _ in executor.map(rank_tiles, chunks, timeout_s=job.task_timeout_s):
        progress.advance(job.slide_id)
    timings = {"regions": prepared.seconds, "fibres": time.monotonic() - started}

    progress.stage(job.slide_id, "answers and exports", 1)
    return executor.call(finish_fibres, job, prepared, timings, timeout_s=job.slide_timeout_s)


def check_fibrosis_model(config: PipelineConfig, allow_simulated: bool) -> None:
    """Refuse, before anything starts, a model that is missing, does not fit, or needs ``--allow-simulated``.

    Raises
    ------
    ModelError
        It is one of these.
    """
    if config.fibrosis.model is None:
        return
    card = find_weights(config.fibrosis.model, "fibrosis").card
    if card.get("simulated") and not allow_simulated:
        raise ModelError(f"model {card['name']} was trained on simulated data; it runs only with --allow-simulated")
    if card.get("mpp") != config.segmentation.mpp:
        raise ModelError(
            f"model {card['name']} ranks tiles at {card.get('mpp')} um/px; segmentation.mpp is "
            f"{config.segmentation.mpp:g}"
        )


def expected_files(job: SlideJob) -> list[Path]:
    """Return the artefacts a finished reticulin slide has."""
    names = ["cells.parquet", "fibrosis.parquet", "fibrosis.csv", "fibrosis.png", "regions.geojson", "summary.json"]
    exports = job.config.exports
    names += [*(["qupath.geojson.gz"] if exports.qupath else []), *(["report.html"] if exports.report else [])]
    return [job.folder / name for name in names]


@exclusive
def prepare_fibres(job: SlideJob) -> PreparedFibres:
    """Open the slide, find its marrow, and list the tiles."""
    started = time.monotonic()
    config = job.config
    use_threads(config.runtime.threads)
    slide = slide_of(job.spec)
    model = None if config.fibrosis.model is None else fibrosis_model(config.fibrosis.model)
    key = key_of(
        version=versions()["wsi-pipeline"],
        fingerprint=slide.fingerprint,
        mpp=[slide.mpp.x, slide.mpp.y],
        backend=slide.backend,
        regions_file=file_sha256(job.regions_file) if job.regions_file else None,
        config=config.digest("specimen", "stain", "slides", "regions", "segmentation", "fibrosis"),
        model=None if model is None else model.sha256,
        threads=config.runtime.threads,
    )
    ledger = ledger_of(job, key)
    about = ledger.read("plan", "slide")
    regions_file = job.folder / "regions.geojson"
    if about is None or not ledger.is_done("plan", "region", ".wkb") or not regions_file.is_file():
        slide.forget_masked()
        regions = find_regions(
            slide, specimen=config.specimen, config=config.regions, regions_file=job.regions_file, stain=config.stain
        )
        write_regions(regions, regions_file, slide)
        ledger.write("plan", "regions", regions_record(regions))
        write_bytes(ledger.part("plan", "region", ".wkb"), shapely.to_wkb(regions.included))
        grid = _grid(slide, config)
        tiles = grid.tiles(_region(ledger, slide, config), config.fibrosis.min_marrow_share)
        overview = read_overview(slide, config.regions.overview_mpp)
        about = {
            "tiles": [list(tile) for tile in tiles],
            "glass": list(glass_colour(overview.pixels)),
            "simulated": is_virtual(job.spec.path),
            "masked_px0": [[box.x0, box.y0, box.x1, box.y1] for box in slide.masked()],
        }
        ledger.write("plan", "slide", about)
    chunks = -(-len(about["tiles"]) // CHUNK_TILES)
    return PreparedFibres(key=key, n_chunks=chunks, about=about, seconds=time.monotonic() - started)


def _grid(slide: Slide, config: PipelineConfig) -> TileGrid:
    width, height = slide.size_at(config.segmentation.mpp)
    return TileGrid(mpp=config.segmentation.mpp, width=width, height=height)


def _region(ledger: Ledger, slide: Slide, config: PipelineConfig) -> BaseGeometry:
    """Return the marrow in working pixels."""
    region = shapely.from_wkb(ledger.part("plan", "region", ".wkb").read_bytes())
    return shapely.transform(region, slide.frame(config.segmentation.mpp).from_px0)


def _chunk_part(ledger: Ledger, chunk: int) -> Path:
    return ledger.part("fibres", f"{chunk:05d}")


def rank_tiles(job: SlideJob, key: str, chunk: int) -> int:
    """Read and rank a chunk of tiles; return how many of them are marrow."""
    ledger = ledger_of(job, key)
    part = _chunk_part(ledger, chunk)
    if part.is_file():
        return int(pq.read_metadata(part).num_rows)
    return _rank(job, ledger, chunk, part)


@exclusive
def _rank(job: SlideJob, ledger: Ledger, chunk: int, part: Path) -> int:
    config = job.config
    use_threads(config.runtime.threads)
    about = ledger.read("plan", "slide")
    if about is None:
        raise RuntimeError(f"{ledger.folder}: the plan vanished during the run")
    slide = slide_of(job.spec)
    mpp, grid, frame = config.segmentation.mpp, _grid(slide, config), slide.frame(config.segmentation.mpp)
    region = _region(ledger, slide, config)
    glass = (int(about["glass"][0]), int(about["glass"][1]), int(about["glass"][2]))
    seen, rows, lost = [], [], []
    for column, row in about["tiles"][chunk * CHUNK_TILES : (chunk + 1) * CHUNK_TILES]:
        box, margin = grid.box(column, row), grid.margin
        wide = Box(x0=box.x0 - margin, y0=box.y0 - margin, x1=box.x1 + margin, y1=box.y1 + margin)
        pixels = slide.read(wide, mpp, overlap=2 * margin)
        inside = pixels_inside(region, box)
        for gone in slide.masked(frame.box_to_px0(wide), mpp):
            lost.append([gone.x0, gone.y0, gone.x1, gone.y1])
            corners = frame.from_px0([(gone.x0, gone.y0), (gone.x1, gone.y1)])
            inside &= ~pixels_inside(shapely.box(*corners.ravel()), box)
        tile = see_tile(pixels, inside, glass=glass, mpp=mpp, margin=margin)
        if tile.marrow_share < config.fibrosis.min_marrow_share:
            continue
        seen.append(tile)
        (x0, y0), (x1, y1) = frame.to_px0([(box.x0, box.y0), (box.x1, box.y1)])
        rows.append(
            {
                "column": column,
                "row": row,
                "geometry": shapely.to_wkb(shapely.box(x0, y0, x1, y1)),
                "x_um": (box.x0 + box.x1) / 2 * mpp,
                "y_um": (box.y0 + box.y1) / 2 * mpp,
                "marrow_share": tile.marrow_share,
                "fibre_share": tile.fibre_share,
                "score": None,
            }
        )
    if rows and config.fibrosis.model is not None:
        model = fibrosis_model(config.fibrosis.model)
        for entry, score in zip(rows, model.scaled(model.raw(seen)).tolist(), strict=True):
            entry["score"] = score
    if lost:
        ledger.write(_MASKED, f"{chunk:05d}", {"boxes_px0": lost})
    with atomic_path(part) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=_TILES), temporary, compression="zstd")
    return len(rows)


@exclusive
def finish_fibres(job: SlideJob, prepared: PreparedFibres, timings: dict[str, float]) -> dict[str, Any]:
    """Write every artefact of the slide and return its summary."""
    started = time.monotonic()
    config, about = job.config, prepared.about
    slide = slide_of(job.spec)
    ledger = ledger_of(job, prepared.key)
    parts = [pq.read_table(_chunk_part(ledger, chunk)) for chunk in range(prepared.n_chunks)]
    tiles = pa.concat_tables(parts) if parts else _TILES.empty_table()
    regions = regions_from_record(dict(ledger.read("plan", "regions") or {}))
    lost = _lost(ledger, prepared)
    if lost is not None:
        regions = without(regions, lost, "corrupt-tile", slide)
        write_regions(regions, job.folder / "regions.geojson", slide)
    with atomic_path(job.folder / "fibrosis.parquet") as temporary:
        pq.write_table(tiles, temporary, compression="zstd")
    with atomic_path(job.folder / "cells.parquet") as temporary:
        pq.write_table(table_schema((), None).empty_table(), temporary)
    model = None if config.fibrosis.model is None else fibrosis_model(config.fibrosis.model)
    share = _index(tiles, "fibre_share", config)
    index = None if model is None else _index(tiles, "score", config)
    simulated_model = model is not None and model.simulated
    prediction = fibrosis_prediction(
        index,
        slide_id=job.slide_id,
        subject_id=job.subject_id,
        model="none" if model is None else model.name,
        trained_on="none" if model is None else model.trained_on,
        simulated=simulated_model,
        confidence=config.predictions.confidence,
    )
    fibrosis: dict[str, Any] = {
        "index": None if index is None else index.to_dict(),
        "fibre_share": share.to_dict(),
        "tile_um": _grid(slide, config).side * config.segmentation.mpp,
        "model": None if model is None else model.name,
        "simulated": simulated_model,
    }
    empty = not tiles.num_rows
    why = regions.empty_reason or ("no-tissue" if regions.is_empty else "no-marrow")
    value = "fibre_share" if model is None else "score"
    write_fibrosis_map(tiles, job.folder / "fibrosis.png", slide=slide, value=value)
    if config.exports.qupath:
        offset = (slide.bounds.x0, slide.bounds.y0)
        write_tile_objects(
            tiles, job.folder / "qupath.geojson.gz", offset_px0=offset, fingerprint=slide.fingerprint, value=value
        )
    write_text(job.folder / "fibrosis.csv", fibrosis_csv(prediction, index, share, simulated=simulated_model))
    lost_mm2 = 0.0 if lost is None else area_mm2(lost, slide)
    summary: dict[str, Any] = {
        **identity_of(job, "empty" if empty else "ok", why if empty else None),
        "stain": config.stain,
        "simulated": job.simulated or about["simulated"],
        "key": prepared.key,
        "attempt": attempt_key(job),
        "mpp": {"x": slide.mpp.x, "y": slide.mpp.y, "source": slide.mpp.source},
        "area_mm2": regions.area_mm2,
        "n_cells": 0,
        "taxonomy": "section",
        "counts": {"kind": {}, "class": {}},
        "fibrosis": fibrosis,
        "predictions": [prediction.to_dict()],
        "adequacy": fibrosis_adequacy(
            share, config=config.fibrosis, searched_mm2=regions.area_mm2, lost_mm2=lost_mm2
        ).to_dict(),
        "quality": _quality(prepared, tiles.num_rows, regions.area_mm2, lost_mm2),
        "regions": dict(regions.facts),
        "provenance": _provenance(job, prepared, slide, regions, model),
        "timings": {**timings, "answers": time.monotonic() - started},
        "warnings": _warnings(slide, regions.note if empty else "", lost is not None),
    }
    summary["sentences"] = made_of(summary)
    write_json(job.folder / "summary.json", summary)
    if config.exports.report:
        write_slide_report(
            job.folder,
            slide=slide,
            taxonomy=load_taxonomy("section"),
            specimen=config.specimen,
            language=config.exports.language,
        )
    return summary


def patient_fibrosis(jobs: Sequence[SlideJob], summaries: Sequence[dict[str, Any]]) -> list[Prediction]:
    """Return the index of each patient of a run's finished reticulin slides, in the order of their first slides."""
    pooled: dict[str, list[tuple[SlideJob, dict[str, Any]]]] = {}
    for job, summary in zip(jobs, summaries, strict=True):
        if job.subject_id and summary["status"] == "ok" and "fibrosis" in summary:
            pooled.setdefault(job.subject_id, []).append((job, summary))
    found = []
    for subject, members in pooled.items():
        first, config = members[0][1], members[0][0].config
        index = patient_index(
            [own.folder / "fibrosis.parquet" for own, _ in members],
            tile_um=first["fibrosis"]["tile_um"],
            min_tiles=config.fibrosis.min_tiles,
            confidence=config.predictions.confidence,
        )
        asked = first["predictions"][0]
        found.append(
            fibrosis_prediction(
                index,
                slide_id="",
                subject_id=subject,
                model=asked["model"],
                trained_on=asked["trained_on"],
                simulated=first["fibrosis"]["simulated"],
                confidence=config.predictions.confidence,
                level="patient",
            )
        )
    return found


def _quality(prepared: PreparedFibres, n_tiles: int, searched_mm2: float, lost_mm2: float) -> dict[str, Any]:
    return {
        "tiles of the region": len(prepared.about["tiles"]),
        "tiles of marrow": n_tiles,
        "area searched, mm2": searched_mm2,
        "area that could not be decoded, mm2": lost_mm2,
        "byte-comparable": True,
    }


def _provenance(
    job: SlideJob, prepared: PreparedFibres, slide: Slide, regions: Regions, model: FibrosisModel | None
) -> dict[str, Any]:
    config = job.config
    width, height = slide.dimensions
    return {
        "slide fingerprint": slide.fingerprint,
        "format": slide.slide_format,
        "size, level-0 px": f"{width} x {height}",
        "backend asked": slide.backend_requested,
        "backend used": slide.backend,
        "plane read": slide.plane or "the only one",
        "mpp source": slide.mpp.source,
        "regions asked": regions.mode_requested,
        "regions used": regions.mode,
        "regions note": regions.note,
        "cell classifier": None,
        "cell classifier SHA-256": None,
        "fibrosis model": None if model is None else model.name,
        "fibrosis model SHA-256": None if model is None else model.sha256,
        "working resolution, um/px": config.segmentation.mpp,
        "empty glass, RGB": ", ".join(str(v) for v in prepared.about["glass"]),
        "device used": "cpu",
        "threads": config.runtime.threads,
        "configuration digest": config.digest(),
        "commit": commit(),
        "version": versions()["wsi-pipeline"],
    }


def _index(tiles: pa.Table, column: str, config: PipelineConfig) -> FibrosisIndex:
    side_mm2 = (TileGrid(mpp=config.segmentation.mpp, width=1, height=1).side * config.segmentation.mpp) ** 2 * 1e-6
    return fibrosis_index(
        tiles.column(column).to_numpy(),
        tiles.column("marrow_share").to_numpy() * side_mm2,
        np.stack([tiles.column("x_um").to_numpy(), tiles.column("y_um").to_numpy()], axis=1),
        min_tiles=config.fibrosis.min_tiles,
        confidence=config.predictions.confidence,
    )


def _lost(ledger: Ledger, prepared: PreparedFibres) -> BaseGeometry | None:
    boxes = list(prepared.about["masked_px0"])
    for chunk in range(prepared.n_chunks):
        boxes += (ledger.read(_MASKED, f"{chunk:05d}") or {"boxes_px0": []})["boxes_px0"]
    if not boxes:
        return None
    union: BaseGeometry = shapely.union_all([shapely.box(*box) for box in boxes])
    return union if not union.is_empty else MultiPolygon()


def _warnings(slide: Slide, note: str, lost: bool) -> list[str]:
    found = [
        say(
            "Bone, fat and marrow of reticulin sections are told by rules that were set on drawn slides: look at the "
            "map."
        ),
        *([note] if note else []),
    ]
    if slide.mpp.source == "forced":
        found.append(say("Microns per pixel were forced; what the slide says was overridden."))
    if lost:
        found.append(say("Parts that could not be decoded were left out (slides.on_corrupt is mask)."))
    return found
