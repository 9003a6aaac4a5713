"""Look at a slide before it is run: what would be looked at, in how many blocks, for how long."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import shapely

from wsi_pipeline.config import PipelineConfig
from wsi_pipeline.errors import ConfigError, DeviceError, ModelError, OutputError
from wsi_pipeline.exports.region_map import OverviewFrame, parse_regions, write_region_map
from wsi_pipeline.exports.report.text import SPECIMENS, reason
from wsi_pipeline.manifest import safe_name
from wsi_pipeline.one_slide.estimate import Estimate, estimate_run
from wsi_pipeline.one_slide.job import SlideJob
from wsi_pipeline.regions import Regions, choose_fields, find_regions, narrow
from wsi_pipeline.regions.regions import area_mm2
from wsi_pipeline.slides import Slide, SlidePath, SlideSpec, describe_slide
from wsi_pipeline.tiling import halo_px, plan_blocks

_BUSY_BELOW = 0.75


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What was found.

    Attributes
    ----------
    slide
        As :func:`wsi_pipeline.slides.describe_slide` gives it.
    regions
        Specimen, mode, areas by reason, facts, note: JSON-ready.
    expected_blocks
        Blocks that a run would cut, by the same rules.
    estimate
        How long a run would take; None when there is none.
    no_estimate
        Why there is none; empty when there is one.
    thumbnail
        The picture that was written, if any.
    """

    slide: dict[str, Any]
    regions: dict[str, Any]
    expected_blocks: int
    estimate: Estimate | None
    no_estimate: str
    thumbnail: Path | None


def inspect_slide(
    spec: SlideSpec,
    config: PipelineConfig,
    *,
    regions_file: Path | None = None,
    thumbnail: Path | None = None,
    calibrate: bool = True,
    before_calibration: Callable[[], None] = lambda: None,
) -> Inspection:
    """Describe a slide, its regions and what a run of it would cost; label and macro images are never read.

    Parameters
    ----------
    spec
        How to open it.
    config
        The configuration of the run.
    regions_file
        Areas drawn in QuPath, as in the manifest's ``regions`` column.
    thumbnail
        A ``.png`` to write, or an existing folder for ``<slide>-regions.png``.
    calibrate
        Whether to time a few windows of the slide with the run's own models.
    before_calibration
        Called when that begins; it takes seconds.

    Raises
    ------
    ConfigError
        The thumbnail is not a PNG, or would replace the slide.
    OutputError
        It cannot be written.
    SlideError
        The slide or the regions file cannot be used.
    """
    target = None if thumbnail is None else _target(thumbnail, spec.path)
    with spec.open() as slide:
        started = time.perf_counter()
        regions = find_regions(
            slide, specimen=config.specimen, config=config.regions, regions_file=regions_file, stain=config.stain
        )
        if config.regions.chooses_fields:
            regions = narrow(regions, choose_fields(slide, regions.included, config.regions), slide, config.regions)
        found_s = time.perf_counter() - started
        where = OverviewFrame.of(slide)
        estimating = calibrate and not regions.is_empty and config.stain == "routine"
        pixels = slide.read(where.box, where.mpp) if target is not None or estimating else None
        if target is not None and pixels is not None:
            title = f"{spec.path.name}   {SPECIMENS[config.specimen]}"
            shown = parse_regions(regions.to_features(), regions.bounds_offset_px0)
            try:
                write_region_map(
                    target, where, pixels, shown, slide.mpp.x * slide.mpp.y, title=title, words=reason
                )  # fmt: skip
            except OSError as error:
                raise OutputError(f"{target} cannot be written: {error.strerror or error}") from None
        estimate, why = None, "" if estimating else "not asked for" if regions.area_mm2 else "nothing to look at"
        if config.stain == "reticulin" and not estimating:
            why = "a reticulin slide has no cells to find; about a minute for 40 mm2 of marrow"
        if estimating and pixels is not None:
            job = SlideJob(slide_id="slide", spec=spec, config=config, out=Path(), regions_file=regions_file)
            before_calibration()
            try:
                estimate = estimate_run(job, regions, where, pixels, found_s=found_s)
            except (ModelError, DeviceError) as error:
                why = str(error)
        return Inspection(
            slide=describe_slide(slide, mpp=config.segmentation.mpp),
            regions=_about_regions(regions, slide, config),
            expected_blocks=_count_blocks(regions, slide, config),
            estimate=estimate,
            no_estimate=why,
            thumbnail=target,
        )


def _target(thumbnail: Path, slide: SlidePath) -> Path:
    target = thumbnail / f"{safe_name(slide.stem)}-regions.png" if thumbnail.is_dir() else thumbnail
    if target.suffix.lower() != ".png":
        raise ConfigError(f"--thumbnail {thumbnail}: give a name that ends in .png, or a folder that exists")
    if target.is_dir():
        raise ConfigError(f"--thumbnail {target} is a folder")
    if isinstance(slide, Path) and target.exists() and slide.exists() and os.path.samefile(target, slide):
        raise ConfigError(f"--thumbnail {target} is the slide itself; give another name")
    return target


def _about_regions(regions: Regions, slide: Slide, config: PipelineConfig) -> dict[str, Any]:
    excluded: dict[str, dict[str, Any]] = {}
    for part in regions.excluded:
        row = excluded.setdefault(part.reason, {"pieces": 0, "area_mm2": 0.0})
        row["pieces"] += len(shapely.get_parts(part.geometry))
        row["area_mm2"] += area_mm2(part.geometry, slide)
    return {
        "specimen": config.specimen,
        "regions_mode_requested": regions.mode_requested,
        "regions_mode": regions.mode,
        "regions_pieces": len(regions.included.geoms),
        "regions_area_mm2": round(regions.area_mm2, 4),
        "regions_excluded": {
            code: {"pieces": row["pieces"], "area_mm2": round(row["area_mm2"], 4)}
            for code, row in sorted(excluded.items())
        },
        "regions_note": regions.note,
        "regions_facts": dict(regions.facts),
        "regions_empty_reason": regions.empty_reason,
    }


def _count_blocks(regions: Regions, slide: Slide, config: PipelineConfig) -> int:
    mpp = config.segmentation.mpp
    region = shapely.transform(regions.included, slide.frame(mpp).from_px0)
    halo = halo_px(config.segmentation.max_cell_diameter_um, mpp, config.tiling.halo_um)
    return len(plan_blocks(slide.size_at(mpp), region, core_px=config.tiling.core_px, halo=halo))


def as_json(found: Inspection) -> dict[str, Any]:
    """Return everything that was found as JSON values; seconds to two digits."""
    estimate = None if found.estimate is None else {key: _rounded(v) for key, v in vars(found.estimate).items()}
    return {
        **found.slide,
        **found.regions,
        "expected_blocks": found.expected_blocks,
        "estimate": estimate,
        "no_estimate": found.no_estimate,
        "thumbnail": None if found.thumbnail is None else str(found.thumbnail),
    }


def _rounded(value: Any) -> Any:
    return float(f"{value:.3g}") if isinstance(value, float) else value


def as_rows(found: Inspection) -> list[tuple[str, str]]:
    """Return everything that was found as names and values for people."""
    rows: list[tuple[str, str]] = []
    for key, value in {**found.slide, **found.regions}.items():
        if key == "levels":
            for number, level in enumerate(value):
                size = f"{level['width_px']} x {level['height_px']}"
                rows.append((f"level {number}", f"{size}, downsample {level['downsample']}"))
        elif key == "regions_excluded":
            for code, row in value.items():
                rows.append(
                    (f"not looked at, {reason(code)}", f"{row['area_mm2']} mm2 in {_count(row['pieces'], 'piece')}")
                )
        elif key == "regions_facts":
            rows += _flat("regions_facts", value)
        elif key != "properties":
            rows.append((key, "" if value is None else str(value)))
    rows.append(("expected_blocks", str(found.expected_blocks)))
    if found.estimate is None:
        rows.append(("estimated_time", f"none: {found.no_estimate}"))
    else:
        rows += _estimate_rows(found.estimate)
    if found.thumbnail is not None:
        rows.append(("thumbnail", str(found.thumbnail)))
    return [(_plain(key), _plain(value)) for key, value in rows]


def _estimate_rows(estimate: Estimate) -> list[tuple[str, str]]:
    per = f"{estimate.s_per_mm2:.2g} s per mm2"
    if estimate.s_per_white is not None:
        per += f", {1000 * estimate.s_per_white:.2g} ms per white cell, {estimate.white_per_mm2:.0f} of them per mm2"
    share = estimate.cpu_share
    busy = ""
    if estimate.device == "cpu" and share < _BUSY_BELOW:
        idle = span(estimate.low_s * share, estimate.high_s * share)
        busy = f"; the machine is busy (the windows got {share:.0%} of a core), idle it would take {idle}"
    return [
        (
            "estimated_time",
            f"about {span(estimate.low_s, estimate.high_s)} with {_count(estimate.workers, 'worker')} "
            f"on {estimate.device}{busy}",
        ),
        (
            "measured_on",
            f"{_count(estimate.n_windows, 'window')} of {estimate.window_px} x {estimate.window_px} px of this slide, "
            f"one worker, in {estimate.calibration_s:.0f} s: {per}",
        ),
    ]


def span(low_s: float, high_s: float) -> str:
    """Return a range of seconds in the unit a person would choose, rounded outwards."""
    for unit, seconds in (("hours", 3600), ("minutes", 60), ("seconds", 1)):
        if high_s >= 2 * seconds or seconds == 1:
            low, high = low_s / seconds, high_s / seconds
            step = 1 if high >= 10 or seconds == 1 else 0.5
            low, high = math.floor(low / step) * step, math.ceil(high / step) * step
            return f"{low:g} to {high:g} {unit}"
    raise AssertionError


def _flat(name: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, Mapping):
        return [row for key, below in value.items() for row in _flat(f"{name}.{key}", below)]
    return [(name, f"{value:.4g}" if isinstance(value, float) else str(value))]


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _plain(text: str) -> str:
    """Return text without control characters; a slide's name and properties may hold a terminal's escapes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
