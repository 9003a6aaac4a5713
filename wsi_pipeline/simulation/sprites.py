"""The shipped cutouts as sprites: load, turn, scale, draw."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import cv2
import numba
import numpy as np
import numpy.typing as npt
from PIL import Image

from wsi_pipeline.errors import DataError
from wsi_pipeline.simulation.cutouts import outline

ASSET_MPP = 0.25
"""Micrometres per pixel of the shipped cutouts."""

TRANSMITTANCE_ONE = 240
"""Grey level in an atlas that stands for empty glass; a little above it is kept."""

_ABSORBED_RANGE = (-0.06, 0.985)
"""Light a cell may take away: a little may be added, by refraction, and never all is taken."""

ASSETS_FOLDER = Path(__file__).resolve().parent / "assets"


@dataclass(frozen=True, kw_only=True, eq=False)
class Sprite:
    """One real cell.

    Attributes
    ----------
    absorbed
        ``(h, w, 3)`` float32: ``alpha * (1 - transmittance)``; 0 where nothing lies.
    outline_um
        ``(n, 2)`` float32: x, y of the closed outline, micrometres from the outline's centroid.
    centre_px
        x, y of that centroid in the array.
    radius_um
        Radius of the circle of the same area.
    reach_um
        Largest distance from the centroid to the outline.
    source
        Image the cell was cut from, as a path below the data root.
    variant
        What is special about it within its class (``abnormal`` red cells, ``smudge``); usually empty.
    nucleus_um
        Rings ``(n, 2)`` of its nucleus, x, y from the outline's centroid, micrometres; a place is inside where an odd
        number of rings go round it. Empty where the outline is the nucleus's, or nothing is known of it.
    """

    absorbed: npt.NDArray[np.float32]
    outline_um: npt.NDArray[np.float32]
    centre_px: tuple[float, float]
    radius_um: float
    reach_um: float
    class_name: str
    kind: str
    source: str
    variant: str = ""
    nucleus_um: tuple[npt.NDArray[np.float32], ...] = ()


@lru_cache(maxsize=2)
def load_sprites(folder: Path = ASSETS_FOLDER) -> tuple[Sprite, ...]:
    """Load the cutouts of an assets folder, in the order of its ``ASSETS.json``.

    Raises
    ------
    DataError
        The folder holds no usable ``ASSETS.json`` or an atlas is missing or too small.
    """
    index = folder / "ASSETS.json"
    try:
        entries = json.loads(index.read_text(encoding="utf-8"))["cutouts"]
        atlases = {
            name: np.asarray(Image.open(folder / name).convert("RGBA"))
            for name in sorted({str(entry["atlas"]) for entry in entries})
        }
        return one_haemoglobin([_sprite(entry, atlases[entry["atlas"]]) for entry in entries])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{index}: the cell cutouts cannot be loaded ({error}); reinstall the package") from error


def one_haemoglobin(sprites: Sequence[Sprite]) -> tuple[Sprite, ...]:
    """Give the red cells of all laboratories one hue, that of the median red cell; paler ones stay paler.

    On one slide all red cells are stained alike; how slides differ is the slide's stain.
    """
    reds = [i for i, sprite in enumerate(sprites) if sprite.kind == "red"]
    if not reds:
        return tuple(sprites)
    means = {i: _mean_density(sprites[i]) for i in reds}
    target = np.median(list(means.values()), axis=0)
    changed = list(sprites)
    for i in reds:
        strength = float(np.clip((means[i].sum() / target.sum()) ** 0.5, 0.75, 1.3))
        density = -np.log(np.clip(1.0 - sprites[i].absorbed, 0.02, 1.05)) * (strength * target / means[i])
        absorbed = np.ascontiguousarray(1.0 - np.exp(-density), dtype=np.float32)
        changed[i] = replace(sprites[i], absorbed=absorbed)
    return tuple(changed)


def _mean_density(sprite: Sprite) -> npt.NDArray[np.float64]:
    """Return the mean optical density of the stained part of a sprite, one value a channel."""
    stained = sprite.absorbed.sum(axis=2) > 0.15
    density = -np.log(np.clip(1.0 - sprite.absorbed[stained], 0.02, 1.05))
    return np.maximum(density.mean(axis=0), 0.01).astype(np.float64)


def _sprite(entry: dict[str, object], atlas: npt.NDArray[np.uint8]) -> Sprite:
    x, y, width, height = (int(v) for v in entry["box"])  # type: ignore[attr-defined]
    if x < 0 or y < 0 or x + width > atlas.shape[1] or y + height > atlas.shape[0]:
        raise ValueError(f"box {entry['box']} is outside {entry['atlas']} {atlas.shape[1]}x{atlas.shape[0]}")
    part = atlas[y : y + height, x : x + width].astype(np.float32)
    return make_sprite(
        part[..., :3] / np.float32(TRANSMITTANCE_ONE),
        part[..., 3] / np.float32(255),
        class_name=str(entry["class"]),
        kind=str(entry["kind"]),
        source=str(entry["source"]),
        variant=str(entry.get("variant", "")),
    )


def make_sprite(
    transmittance: npt.NDArray[np.float32],
    alpha: npt.NDArray[np.float32],
    *,
    class_name: str,
    kind: str,
    source: str,
    variant: str = "",
) -> Sprite:
    """Return a sprite of a cutout at ``ASSET_MPP``.

    Parameters
    ----------
    transmittance
        ``(h, w, 3)``, 1 for glass.
    alpha
        ``(h, w)`` in [0, 1]; the cell is where it exceeds 0.5.

    Raises
    ------
    ValueError
        ``alpha`` nowhere exceeds 0.5.
    """
    contour = outline(alpha)
    area, centre = polygon_area_centroid(contour)
    local = (contour - centre) * np.float32(ASSET_MPP)
    return Sprite(
        absorbed=np.ascontiguousarray(alpha[..., None] * (1.0 - transmittance), dtype=np.float32),
        outline_um=local,
        centre_px=(float(centre[0]), float(centre[1])),
        radius_um=math.sqrt(area / math.pi) * ASSET_MPP,
        reach_um=float(np.hypot(local[:, 0], local[:, 1]).max()),
        class_name=class_name,
        kind=kind,
        source=source,
        variant=variant,
    )


def polygon_area_centroid(ring: npt.NDArray[np.float32]) -> tuple[float, npt.NDArray[np.float32]]:
    """Return area and centroid of a ring ``(n, 2)`` by the shoelace formula."""
    x, y = ring[:, 0].astype(np.float64), ring[:, 1].astype(np.float64)
    xn, yn = np.roll(x, -1), np.roll(y, -1)
    cross = x * yn - xn * y
    twice = cross.sum()
    centre = np.array([((x + xn) * cross).sum(), ((y + yn) * cross).sum()]) / (3.0 * twice)
    return abs(float(twice)) / 2.0, centre.astype(np.float32)


def turn(*, angle: float, flip: bool) -> npt.NDArray[np.float64]:
    """Return the ``(2, 2)`` matrix that a placed sprite's outline and pixels are turned by."""
    c, s = round(math.cos(angle), 12), round(math.sin(angle), 12)
    mirror = -1.0 if flip else 1.0
    return np.array([[c * mirror, -s], [s * mirror, c]])


def snap(sprite: Sprite, x_px: float, y_px: float, *, angle: float, flip: bool, mpp: float) -> tuple[float, float]:
    """Return the nearest position that draws alike on every canvas: an eighth of a pixel, whole pixels for white
    cells, whose quarter turns then copy pixels instead of interpolating them.
    """
    if sprite.kind != "white":
        return round(x_px * 8) / 8, round(y_px * 8) / 8
    scale = ASSET_MPP / mpp
    offset = turn(angle=angle, flip=flip) @ (np.array(sprite.centre_px) - 0.5) * scale + 0.5
    x, y = np.rint(np.array([x_px, y_px]) - offset) + offset
    return float(x), float(y)


def placed_outline(
    sprite: Sprite, x_px: float, y_px: float, *, angle: float, flip: bool, mpp: float
) -> npt.NDArray[np.float64]:
    """Return the outline ``(n, 2)`` in slide pixels of a sprite whose centroid lies at ``x_px, y_px``."""
    return sprite.outline_um.astype(np.float64) @ turn(angle=angle, flip=flip).T / mpp + (x_px, y_px)


def placed_nucleus(
    sprite: Sprite, x_px: float, y_px: float, *, angle: float, flip: bool, mpp: float
) -> list[npt.NDArray[np.float64]]:
    """Return the rings of a placed sprite's nucleus as :func:`placed_outline` does its outline."""
    matrix = turn(angle=angle, flip=flip).T / mpp
    return [ring.astype(np.float64) @ matrix + (x_px, y_px) for ring in sprite.nucleus_um]


def multiply_into(
    canvas: npt.NDArray[np.float32],
    sprite: Sprite,
    x_px: float,
    y_px: float,
    *,
    angle: float,
    flip: bool,
    gain: float,
    mpp: float,
) -> None:
    """Let a cell absorb light of a canvas ``(h, w, 3)``; its centroid lies at canvas pixel ``x_px, y_px``.

    With positions from :func:`snap`, less the canvas's origin in whole pixels, a pixel gets the same value
    whatever canvas it is drawn on.
    """
    scale = ASSET_MPP / mpp
    half = math.ceil(math.hypot(*sprite.absorbed.shape[:2]) * scale / 2) + 2
    base_x, base_y = math.floor(x_px), math.floor(y_px)
    x0, y0 = base_x - half, base_y - half
    height, width = canvas.shape[:2]
    if x0 >= width or y0 >= height or x0 + 2 * half + 1 <= 0 or y0 + 2 * half + 1 <= 0:
        return
    matrix = np.zeros((2, 3))
    matrix[:, :2] = turn(angle=angle, flip=flip) * scale
    # Pixel i covers [i, i + 1); OpenCV counts from pixel centres, hence the halves.
    target = np.array([x_px - base_x + half - 0.5, y_px - base_y + half - 0.5])
    matrix[:, 2] = target - matrix[:, :2] @ (np.array(sprite.centre_px) - 0.5)
    size = (2 * half + 1, 2 * half + 1)
    # Whole pixels of quarter turns are copied, red cells are mixed of four pixels: no need of a wider kernel.
    if sprite.kind == "red" or (sprite.kind == "white" and scale == 1.0 and angle % (math.pi / 2) == 0.0):
        back = matrix[:, :2].T / scale**2  # a turn, perhaps mirrored: its inverse is its transpose
        _absorb(canvas, sprite.absorbed, x0, y0, size[0], back, back @ -matrix[:, 2], np.float32(gain))
        return
    how = cv2.INTER_AREA if scale < 0.7 else cv2.INTER_CUBIC
    absorbed = cv2.warpAffine(sprite.absorbed, matrix, size, flags=how, borderMode=cv2.BORDER_CONSTANT)
    cx0, cy0 = max(0, x0), max(0, y0)
    cx1, cy1 = min(width, x0 + size[0]), min(height, y0 + size[1])
    absorbed = absorbed[cy0 - y0 : cy1 - y0, cx0 - x0 : cx1 - x0]
    canvas[cy0:cy1, cx0:cx1] *= 1.0 - np.clip(absorbed * np.float32(gain), *_ABSORBED_RANGE)


@numba.njit(cache=True, nogil=True)
def _absorb(
    canvas: np.ndarray,
    absorbed: np.ndarray,
    x0: int,
    y0: int,
    side: int,
    back: np.ndarray,
    offset: np.ndarray,
    gain: float,
) -> None:
    """Multiply a square of the canvas from ``x0, y0`` on by what a sprite lets through, bilinearly.

    Pixel ``(i, j)`` of the square shows the sprite at ``back @ (i, j) + offset``. What is reckoned for a pixel depends
    on its place in the square alone, so it is the same on every canvas.
    """
    height, width = absorbed.shape[0], absorbed.shape[1]
    low, high = np.float32(_ABSORBED_RANGE[0]), np.float32(_ABSORBED_RANGE[1])
    for j in range(max(0, -y0), min(side, canvas.shape[0] - y0)):
        for i in range(max(0, -x0), min(side, canvas.shape[1] - x0)):
            x = back[0, 0] * i + back[0, 1] * j + offset[0]
            y = back[1, 0] * i + back[1, 1] * j + offset[1]
            if x <= -1.0 or y <= -1.0 or x >= width or y >= height:
                continue
            sx, sy = math.floor(x), math.floor(y)
            u, v = np.float32(x - sx), np.float32(y - sy)
            for c in range(3):
                value = np.float32(0.0)
                if sy >= 0:
                    if sx >= 0:
                        value += absorbed[sy, sx, c] * (1 - u) * (1 - v)
                    if sx + 1 < width:
                        value += absorbed[sy, sx + 1, c] * u * (1 - v)
                if sy + 1 < height:
                    if sx >= 0:
                        value += absorbed[sy + 1, sx, c] * (1 - u) * v
                    if sx + 1 < width:
                        value += absorbed[sy + 1, sx + 1, c] * u * v
                canvas[y0 + j, x0 + i, c] *= np.float32(1.0) - min(max(value * gain, low), high)
