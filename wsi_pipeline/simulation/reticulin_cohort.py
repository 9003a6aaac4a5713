"""Reticulin slides of many densities of fibre, with a manifest that says *simulated* and what was planted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from wsi_pipeline.atomic import write_text
from wsi_pipeline.csv_rows import csv_text
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.simulation.reticulin import MPP, ReticulinShape, grade_of, make_reticulin_slide

DENSITIES = (4.0, 260.0)
"""Range of planted densities, mm per mm2; they are evenly spaced in their logarithm."""

_MANIFEST = ("slide", "slide_id", "patient", "label", "specimen", "mpp", "simulated")
_TRUTH = (
    "slide_id", "simulated", "grade", "density_mm_per_mm2", "thickness_um", "crossing", "unevenness", "fat_share",
    "silver", "counterstain", "nuclear_silver", "grains_per_mm2", "marrow_mm2",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ReticulinCohort:
    """What was made: the slides' folder, ``manifest.csv`` (label is the simulated grade), and ``truth.csv``."""

    slides: Path
    manifest: Path
    truth: Path
    n: int


def draw_shape(number: int, of: int, seed: int, *, uneven_stain: bool = False) -> ReticulinShape:
    """Return slide ``number`` of a cohort: densities rise evenly in their logarithm, all else is drawn apart from it.

    Thickness, direction, fat, and the darkness of silver, nuclei and ground do not depend on the density, so a measure
    that follows them instead of the fibres is found out. With ``uneven_stain`` the same fibres are stained less well:
    silver from faint to black (0.35 to 1.3 instead of 0.6 to 1.2), every second slide with silver in its nuclei, every
    second with precipitate.
    """
    rng = np.random.default_rng([seed, number])
    low, high = np.log(DENSITIES)
    place = (number + rng.random()) / of
    drawn = ReticulinShape(
        density=float(np.exp(low + place * (high - low))),
        thickness_um=float(rng.uniform(0.6, 1.5)),
        crossing=float(rng.uniform(0.3, 1.0)),
        unevenness=float(rng.uniform(0.1, 0.9)),
        fat_share=float(rng.uniform(0.1, 0.5)),
        silver=float(rng.uniform(0.6, 1.2)),
        counterstain=float(rng.uniform(0.3, 1.6)),
        ground=float(rng.uniform(0.6, 1.5)),
        blur_um=float(rng.uniform(0.1, 0.5)),
    )
    if not uneven_stain:
        return drawn
    nuclei, grains = rng.random(2) < 0.5
    return replace(
        drawn,
        silver=float(rng.uniform(0.35, 1.3)),
        nuclear_silver=float(nuclei * rng.uniform(0.2, 0.8)),
        grains_per_mm2=float(grains * rng.uniform(200, 2000)),
    )


def make_reticulin_cohort(
    out: Path,
    *,
    slides: int,
    seed: int,
    area_mm2: float = 2.0,
    uneven_stain: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> ReticulinCohort:
    """Make reticulin slides of one patient each, in an order of their names that says nothing of the density.

    Parameters
    ----------
    slides
        How many, 4 to 999.
    area_mm2
        Of a slide, which is a square, 0.5 to 30.
    uneven_stain
        As of :func:`draw_shape`.
    report
        Told of each slide.

    Raises
    ------
    ConfigError
        A parameter is out of range.
    """
    if not 4 <= slides <= 999:
        raise ConfigError(f"{slides} slides: 4 to 999 can be made")
    if not 0.5 <= area_mm2 <= 30:
        raise ConfigError(f"area {area_mm2:g} mm2: a reticulin slide has 0.5 to 30 mm2")
    if seed < 0:
        raise ConfigError(f"seed {seed}: must not be negative")
    side = round(math.sqrt(area_mm2) * 1000 / MPP)
    order = np.random.default_rng([seed, 1]).permutation(slides)
    manifest, truth = [], []
    for place, number in enumerate(order.tolist()):
        name = f"reticulin{place + 1:03d}"
        shape = draw_shape(number, slides, seed, uneven_stain=uneven_stain)
        drawn = make_reticulin_slide(
            out / "slides" / f"{name}.tiff", shape, size_px=(side, side), seed=seed * 1000 + number
        )
        grade = grade_of(drawn.density)
        manifest.append((f"slides/{name}.tiff", name, name, grade, "trephine", f"{MPP:g}", "true"))
        planted = (
            drawn.density, shape.thickness_um, shape.crossing, shape.unevenness, shape.fat_share, shape.silver,
            shape.counterstain, shape.nuclear_silver, shape.grains_per_mm2, drawn.marrow.sum() * MPP**2 * 1e-6,
        )  # fmt: skip
        truth.append((name, "true", grade, *(f"{value:.4f}" for value in planted)))
        report(f"[{place + 1}/{slides}] {name}")
    for name, header, rows in (("manifest.csv", _MANIFEST, manifest), ("truth.csv", _TRUTH, truth)):
        write_text(out / name, csv_text(header, rows))
    return ReticulinCohort(slides=out / "slides", manifest=out / "manifest.csv", truth=out / "truth.csv", n=slides)
