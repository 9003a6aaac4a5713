"""Virtual reticulin slides: drawn silver fibres of controlled density over a pale ground, with bone, fat and nuclei.

No pixel is of a real slide. The drawing shows whether a measure follows the fibres that were planted, not how it does
on silver-stained marrow. Ranges of density by grade follow the words of the consensus (Thiele et al., Haematologica
90:1128, 2005: scattered fibres; a loose network; a dense one with many crossings; coarse bundles); their numbers are
assumptions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from wsi_pipeline.atomic import atomic_path
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.simulation.noise import keyed_generator, smooth_noise
from wsi_pipeline.simulation.tiff_pyramid import SIMULATED, write_pyramid

MPP = 0.5
GRADE_STARTS = (0.0, 18.0, 55.0, 130.0)
"""Least density of fibres (mm per mm2 of marrow) of the simulated grades 0 to 3."""

_TILE_PX = 512
_MAX_SIDE_PX = 12_000
_STEP_UM = 4.0
_LENGTH_UM = (24.0, 140.0)
_FINER = 2
_SHIFT = 4
_PURPOSE = 700

_Floats = npt.NDArray[np.float32]
_Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class ReticulinShape:
    """What is drawn.

    Attributes
    ----------
    density
        Length of fibres in the marrow, mm per mm2.
    thickness_um
        Median thickness of a fibre.
    crossing
        0 where all fibres of a place run alike, 1 where they run in all directions.
    unevenness
        0 where density is the same everywhere; 1 varies it about threefold over half a millimetre.
    fat_share
        Of the marrow spaces, 0 to 0.6.
    silver, counterstain, ground
        How dark fibres, nuclei and ground are, 1 as usual; laboratories differ in them.
    nuclear_silver
        How dark nuclei are of silver beside their counterstain, over fibres; more than 0 on over-impregnated slides.
    grains_per_mm2
        Grains of precipitated silver, in tissue, 1 to 5 um wide.
    blur_um
        Of the lens, standard deviation.
    """

    density: float
    thickness_um: float = 0.9
    crossing: float = 0.6
    unevenness: float = 0.4
    fat_share: float = 0.35
    silver: float = 1.0
    counterstain: float = 1.0
    ground: float = 1.0
    blur_um: float = 0.25
    nuclear_silver: float = 0.0
    grains_per_mm2: float = 0.0

    def __post_init__(self) -> None:
        limits = {
            "density": (0, 600), "thickness_um": (0.3, 4), "crossing": (0, 1), "unevenness": (0, 1),
            "fat_share": (0, 0.6), "silver": (0.3, 2), "counterstain": (0, 2), "ground": (0, 2), "blur_um": (0, 2),
            "nuclear_silver": (0, 1), "grains_per_mm2": (0, 5000),
        }  # fmt: skip
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name} is {getattr(self, name)}; a reticulin slide has {low} to {high}")


@dataclass(frozen=True, kw_only=True)
class DrawnReticulin:
    """A drawn section.

    Attributes
    ----------
    pixels
        Uint8 RGB of shape (h, w, 3) at :data:`MPP`.
    marrow
        Bool of shape (h, w): tissue less bone and fat.
    density
        Fibres that were drawn, mm per mm2 of marrow.
    """

    pixels: npt.NDArray[np.uint8]
    marrow: _Mask
    density: float


def grade_of(density: float) -> int:
    """Return the simulated grade of a density, 0 to 3."""
    return sum(density >= start for start in GRADE_STARTS[1:])


def draw_reticulin(shape: ReticulinShape, *, width: int, height: int, seed: int) -> DrawnReticulin:
    """Draw a reticulin section; the same arguments give the same pixels.

    Parameters
    ----------
    width, height
        Pixels of :data:`MPP` microns, 512 to 12,000.
    seed
        Non-negative.

    Raises
    ------
    ConfigError
        A size or the seed is out of range.
    """
    if seed < 0 or not all(512 <= side <= _MAX_SIDE_PX for side in (width, height)):
        raise ConfigError(f"{width} x {height} pixels, seed {seed}: sides are 512 to {_MAX_SIDE_PX}, seeds from 0")
    x_um, y_um = (np.arange(n, dtype=np.float64) * MPP for n in (width, height))
    tissue = _tissue(width, height, seed, x_um, y_um)
    bone = _bone(tissue, keyed_generator(seed, _PURPOSE, 0, 0))
    fat, rims = _fat(tissue & ~bone, shape.fat_share, keyed_generator(seed, _PURPOSE, 1, 0))
    marrow = tissue & ~bone & ~fat
    silver, length_um = _fibres(shape, marrow, seed)
    density = length_um * 1e-3 / max(float(marrow.sum()) * MPP**2 * 1e-6, 1e-9)
    nuclei = _nuclei(marrow, keyed_generator(seed, _PURPOSE, 2, 0))
    silver = np.maximum(silver, shape.nuclear_silver * nuclei)
    silver = np.maximum(silver, _grains(tissue, shape.grains_per_mm2, keyed_generator(seed, _PURPOSE, 5, 0)))
    cloud = smooth_noise(seed, _PURPOSE + 2, x_um, y_um, 45.0) + 0.6 * smooth_noise(seed, _PURPOSE + 3, x_um, y_um, 7.0)
    ground = shape.ground * np.where(marrow, 0.75 + 0.25 * cloud, 0.0).astype(np.float32)
    lamellae = 1.0 + 0.06 * smooth_noise(seed, _PURPOSE + 4, x_um, y_um, 30.0)
    ground += shape.ground * np.where(bone, 1.5 * lamellae, 0.0).astype(np.float32)
    ground += 0.6 * shape.ground * rims
    # Densities in red, green and blue: pale gold ground, greyish violet nuclei, neutral silver.
    density_rgb = ground[..., None] * np.array([0.055, 0.075, 0.115], np.float32)
    density_rgb += shape.counterstain * nuclei[..., None] * np.array([0.15, 0.15, 0.10], np.float32)
    density_rgb += shape.silver * silver[..., None] * np.array([0.95, 1.0, 0.97], np.float32)
    light = np.array([246, 245, 241], np.float32) * np.power(np.float32(10), -density_rgb)
    if shape.blur_um > 0:
        light = cv2.GaussianBlur(light, (0, 0), max(shape.blur_um / MPP, 0.2))
    grain = keyed_generator(seed, _PURPOSE, 3, 0).standard_normal((height, width, 1), dtype=np.float32) * 1.2
    pixels = np.clip(np.rint(light + grain), 0, 255).astype(np.uint8)
    return DrawnReticulin(pixels=pixels, marrow=marrow, density=density)


def make_reticulin_slide(out: Path, shape: ReticulinShape, *, size_px: tuple[int, int], seed: int) -> DrawnReticulin:
    """Draw a section and write it as a tiled TIFF that says it is simulated; return what was drawn.

    Raises
    ------
    ConfigError
        As :func:`draw_reticulin`.
    """
    drawn = draw_reticulin(shape, width=size_px[0], height=size_px[1], seed=seed)
    height, width = drawn.pixels.shape[:2]
    padded = np.pad(drawn.pixels, ((0, -height % _TILE_PX), (0, -width % _TILE_PX), (0, 0)), mode="edge")
    tiles = (
        np.ascontiguousarray(padded[y : y + _TILE_PX, x : x + _TILE_PX])
        for y in range(0, height, _TILE_PX)
        for x in range(0, width, _TILE_PX)
    )
    with atomic_path(out) as part:
        write_pyramid(
            part, tiles, width=width, height=height, mpp=MPP, tile_px=_TILE_PX, jpeg_quality=90,
            description=f"{SIMULATED}, drawn, no real pixels); reticulin of {drawn.density:.1f} mm/mm2; seed {seed}",
        )  # fmt: skip
    return drawn


def _tissue(width: int, height: int, seed: int, x_um: npt.NDArray[np.float64], y_um: npt.NDArray[np.float64]) -> _Mask:
    ragged = 40.0 * smooth_noise(seed, _PURPOSE + 1, x_um, y_um, 180.0)
    x, y = x_um[None, :], y_um[:, None]
    edge = np.minimum(np.minimum(x, width * MPP - x), np.minimum(y, height * MPP - y)) + ragged
    return np.asarray(edge > 90.0)


def _bone(tissue: _Mask, rng: np.random.Generator) -> _Mask:
    """Return trabeculae: a bent band every 700 um or so."""
    height, width = tissue.shape
    mask = np.zeros(tissue.shape, np.uint8)
    for x in np.arange(rng.uniform(250, 500), width * MPP - 200, rng.uniform(600, 800)):
        bends = [(x + rng.uniform(-90, 90), y) for y in np.linspace(0, height * MPP * rng.uniform(0.5, 0.9), 6)]
        cv2.polylines(mask, [(np.array(bends) / MPP).astype(np.int32)], False, 1, round(rng.uniform(70, 130) / MPP))
    return mask.astype(bool) & tissue


def _fat(space: _Mask, share: float, rng: np.random.Generator) -> tuple[_Mask, _Floats]:
    """Return fat cells, which do not overlap, and their rims."""
    fat: npt.NDArray[np.uint8] = np.zeros(space.shape, np.uint8)
    rims = np.zeros_like(fat)
    blocked = (~space).astype(np.uint8)
    wanted, covered = share * float(space.sum()), 0.0
    rows, columns = np.nonzero(space)
    for _ in range(int(20 + wanted * MPP**2 / 60)):
        if covered >= wanted or not len(rows):
            break
        place, radius = int(rng.integers(len(rows))), float(rng.uniform(15, 32)) / MPP
        x, y = int(columns[place]), int(rows[place])
        r = round(radius + 3 / MPP)
        near = blocked[max(0, y - r) : y + r + 1, max(0, x - r) : x + r + 1]
        disc = cv2.circle(np.zeros_like(near), (min(x, r), min(y, r)), r, 1, -1)
        if (near & disc).any():
            continue
        cv2.circle(fat, (x, y), round(radius), 1, -1)
        cv2.circle(rims, (x, y), round(radius), 255, round(1.5 / MPP), cv2.LINE_AA)
        cv2.circle(blocked, (x, y), round(radius), 1, -1)
        covered += np.pi * radius**2
    return np.asarray(fat, dtype=np.bool_), np.asarray(rims / 255, dtype=np.float32)


def _nuclei(marrow: _Mask, rng: np.random.Generator) -> _Floats:
    rows, columns = np.nonzero(marrow)
    canvas = np.zeros(marrow.shape, np.uint8)
    for place in rng.integers(0, max(len(rows), 1), int(len(rows) * MPP**2 * 5.5e-3)):
        axes = (int(rng.uniform(2.2, 4.2) / MPP), int(rng.uniform(2.2, 4.2) / MPP))
        centre = (int(columns[place]), int(rows[place]))
        cv2.ellipse(canvas, centre, axes, rng.uniform(0, 180), 0, 360, int(rng.uniform(120, 255)), -1, cv2.LINE_AA)
    return np.asarray(canvas / 255, dtype=np.float32)


def _grains(tissue: _Mask, per_mm2: float, rng: np.random.Generator) -> _Floats:
    """Return precipitate: black grains that have nothing to do with fibres."""
    canvas = np.zeros(tissue.shape, np.uint8)
    rows, columns = np.nonzero(tissue) if per_mm2 > 0 else (np.zeros(0, int), np.zeros(0, int))
    for place in rng.integers(0, max(len(rows), 1), round(len(rows) * MPP**2 * 1e-6 * per_mm2)):
        # OpenCV draws at fractions of a pixel when told so.
        radius = float(rng.uniform(0.5, 2.5)) / MPP
        centre = (int(columns[place]) << _SHIFT, int(rows[place]) << _SHIFT)
        cv2.circle(canvas, centre, round(radius * 2**_SHIFT), int(rng.uniform(150, 255)), -1, cv2.LINE_AA, _SHIFT)
    return np.asarray(canvas / 255, dtype=np.float32)


def _fibres(shape: ReticulinShape, marrow: _Mask, seed: int) -> tuple[_Floats, float]:
    """Return the amount of silver of each pixel, 0 to 1, and the length of the fibres in the marrow, um."""
    height, width = marrow.shape
    wanted_um = shape.density * float(marrow.sum()) * MPP**2 * 1e-3
    canvas = np.zeros((height * _FINER, width * _FINER), np.uint8)
    rows, columns = np.nonzero(marrow[::4, ::4])
    if not len(rows) or wanted_um <= 0:
        return np.zeros(marrow.shape, np.float32), 0.0
    x_um, y_um = columns * 4 * MPP, rows * 4 * MPP
    axis_x, axis_y = np.arange(0, width, 4) * MPP, np.arange(0, height, 4) * MPP
    uneven = smooth_noise(seed, _PURPOSE + 5, axis_x, axis_y, 450.0)[rows, columns]
    weights = np.exp(1.1 * shape.unevenness * uneven)
    weights /= weights.sum()
    along = np.pi * smooth_noise(seed, _PURPOSE + 6, axis_x, axis_y, 260.0)
    rng = keyed_generator(seed, _PURPOSE, 4, 0)
    length_um = 0.0
    while length_um < wanted_um:
        first = int(rng.choice(len(rows), p=weights))
        heading = along[rows[first], columns[first]] + shape.crossing * rng.uniform(-np.pi / 2, np.pi / 2)
        steps = round(rng.uniform(*_LENGTH_UM) / _STEP_UM)
        bend = rng.normal(0, 0.05) + rng.normal(0, 0.14, steps)
        headings = heading + np.cumsum(bend)
        path = np.cumsum(np.stack([np.cos(headings), np.sin(headings)], axis=1), axis=0) * _STEP_UM
        path += (x_um[first], y_um[first])
        at = (path / MPP).astype(np.int64)
        inside = (at >= 0).all(axis=1) & (at[:, 0] < width) & (at[:, 1] < height)
        inside[inside] = marrow[at[inside, 1], at[inside, 0]]
        kept = path[: len(path) if inside.all() else int(np.argmin(inside))]
        if len(kept) < 3:
            continue
        kept = kept[: max(3, int((wanted_um - length_um) / _STEP_UM) + 2)]
        length_um += (len(kept) - 1) * _STEP_UM
        thick = max(1, round(shape.thickness_um * float(np.exp(rng.normal(0, 0.3))) * _FINER / MPP))
        points = np.rint(kept / MPP * _FINER * 2**_SHIFT).astype(np.int32)
        cv2.polylines(canvas, [points], False, int(rng.uniform(150, 255)), thick, cv2.LINE_AA, _SHIFT)
    small = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(small / 255, dtype=np.float32), length_um
