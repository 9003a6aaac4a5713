"""Write a virtual slide: a tiled pyramid that any reader opens, and the table of what lies on it."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TextIO

import numpy as np
import numpy.typing as npt

from wsi_pipeline.atomic import atomic_path, write_json
from wsi_pipeline.config import Specimen
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.simulation.profile import Profile, load_profile
from wsi_pipeline.simulation.render import check_variation
from wsi_pipeline.simulation.scene import Scene, draw_tiles, scene_core
from wsi_pipeline.simulation.tiff_pyramid import SIMULATED, write_pyramid

TRUTH_COLUMNS = ("class", "kind", "x_px0", "y_px0", "truncated", "outline", "source", "variant", "nucleus")
"""Columns of the truth table; ``outline`` is a WKT polygon in level-0 pixels, ``nucleus`` that of a drawn
megakaryocyte's nucleus, of several parts perhaps, and empty for other cells."""

VIRTUAL = f"{SIMULATED} from real cells)"
"""How the description of a virtual slide's TIFF begins."""

_MAX_SIDE_PX = 400_000


@dataclass(frozen=True, kw_only=True)
class VirtualSlide:
    """A slide that was made.

    Attributes
    ----------
    path, truth
        The TIFF and the CSV beside it (columns ``TRUTH_COLUMNS``).
    counts
        Number of cells by class whose centre is on the slide.
    """

    path: Path
    truth: Path
    profile: str
    specimen: Specimen
    width: int
    height: int
    mpp: float
    seed: int
    counts: Mapping[str, int]


def make_virtual_slide(
    out: Path,
    *,
    profile: Profile | str | Path,
    size_px: int | tuple[int, int],
    seed: int,
    mpp: float = 0.25,
    tile_px: int = 512,
    jpeg_quality: int = 90,
    film: bool = False,
    stain_variation: float = 1.0,
    blur_variation: float = 1.0,
    workers: int = 1,
) -> VirtualSlide:
    """Make a virtual slide of real cells, with its truth.

    Pixels and cells depend on these parameters alone, but not on ``workers``; without a film or a core a larger slide
    of the same seed holds the smaller one's cells. Memory grows with the width of the slide, not with its area; the
    plan of a core takes some 4 bytes a square micrometre.

    Parameters
    ----------
    out
        The TIFF to write; the truth goes to ``<stem>.truth.csv`` beside it, and that of a core's areas to
        ``<stem>.truth.json``.
    profile
        A profile, the name of a shipped one, or a YAML file.
    size_px
        Side, or (width, height), of level 0.
    seed
        Non-negative; another seed is another slide, with its own stain.
    mpp
        Micrometres per pixel of level 0. The cutouts were made at 0.25: finer slides hold no finer detail.
    tile_px
        Side of the TIFF's tiles, 256 or 512.
    jpeg_quality
        50 to 100.
    film
        Lay the cells out as the film of a smear (:mod:`wsi_pipeline.simulation.film`) instead of one layer
        everywhere. Sections have none.
    stain_variation, blur_variation
        How much slides of different seeds differ in stain, and how much they are out of focus: 0 not at all, 1 as
        usual, at most 2.
    workers
        Processes that draw, each a band of the slide.

    Raises
    ------
    ConfigError
        A parameter is out of range or the profile cannot be used.
    DataError
        The shipped cutouts are damaged.

    Examples
    --------
    >>> made = make_virtual_slide(Path("smear.tiff"), profile="normal", size_px=256, seed=7)
    >>> made.specimen, made.width, made.truth.name
    ('blood_smear', 256, 'smear.truth.csv')
    """
    width, height = (size_px, size_px) if isinstance(size_px, int) else size_px
    _check(width, height, seed=seed, mpp=mpp, tile_px=tile_px, jpeg_quality=jpeg_quality)
    check_variation(stain_variation, blur_variation)
    if not 1 <= workers <= 256:
        raise ConfigError(f"workers {workers}: use 1 to 256")
    chosen = profile if isinstance(profile, Profile) else load_profile(profile)
    if film and chosen.background == "tissue":
        raise ConfigError(f"profile {chosen.name} is of a section, which has no film")
    scene = Scene(
        profile=chosen, width=width, height=height, seed=seed, mpp=mpp, tile_px=tile_px, film=film,
        stain_variation=stain_variation, blur_variation=blur_variation,
    )  # fmt: skip
    writer = _SlideWriter(scene, jpeg_quality=jpeg_quality, workers=workers)
    truth = out.with_name(f"{out.stem}.truth.csv")
    core = scene_core(scene)
    if core is not None:
        write_json(out.with_name(f"{out.stem}.truth.json"), core.truth(mpp))
    with (
        atomic_path(truth) as truth_part,
        atomic_path(out) as slide_part,
        truth_part.open("w", encoding="utf-8", newline="") as table,
    ):
        writer.write(slide_part, table)
    return VirtualSlide(
        path=out,
        truth=truth,
        profile=chosen.name,
        specimen=chosen.specimen,
        width=width,
        height=height,
        mpp=mpp,
        seed=seed,
        counts=dict(sorted(writer.counts.items())),
    )


def _check(width: int, height: int, *, seed: int, mpp: float, tile_px: int, jpeg_quality: int) -> None:
    if not (256 <= width <= _MAX_SIDE_PX and 256 <= height <= _MAX_SIDE_PX):
        raise ConfigError(f"size {width} x {height}: each side must be 256 to {_MAX_SIDE_PX} pixels")
    if seed < 0:
        raise ConfigError(f"seed {seed}: must not be negative")
    if not 0.1 <= mpp <= 1.0:
        raise ConfigError(f"mpp {mpp}: virtual slides are made at 0.1 to 1.0 um per pixel")
    if tile_px not in (256, 512):
        raise ConfigError(f"tile_px {tile_px}: use 256 or 512")
    if not 50 <= jpeg_quality <= 100:
        raise ConfigError(f"jpeg_quality {jpeg_quality}: use 50 to 100")


class _SlideWriter:
    """Streams tiles of level 0 into the file, and their truth as it passes."""

    def __init__(self, scene: Scene, *, jpeg_quality: int, workers: int) -> None:
        self._scene = scene
        self._quality, self._workers = jpeg_quality, workers
        self.counts: Counter[str] = Counter()

    def write(self, path: Path, table: TextIO) -> None:
        scene = self._scene
        truth = csv.writer(table, lineterminator="\n")
        truth.writerow(TRUTH_COLUMNS)
        write_pyramid(
            path, self._level0_tiles(truth), width=scene.width, height=scene.height, mpp=scene.mpp,
            tile_px=scene.tile_px, jpeg_quality=self._quality, description=self._description(),
        )  # fmt: skip

    def _description(self) -> str:
        scene = self._scene
        return f"{VIRTUAL}; profile {scene.profile.name}; seed {scene.seed}"

    def _level0_tiles(self, truth: _Rows) -> Iterator[npt.NDArray[np.uint8]]:
        for tile in draw_tiles(self._scene, self._workers):
            for row in tile.truth:
                self.counts[row[0]] += 1
                truth.writerow(row)
            yield tile.pixels


class _Rows(Protocol):
    """What a csv writer offers; the standard library does not export its type."""

    def writerow(self, row: Iterable[str], /) -> object: ...
