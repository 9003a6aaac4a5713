"""Megakaryocytes drawn from what is asked of them: size, nucleus, lobes, darkness; texture and colour are real.

Shape is drawn, since there are too few real ones to choose from. Nucleus and cell are level sets whose level is chosen
so that their areas are those asked for: the nucleus of a smooth field with a hill for each lobe, the cell of distances
from the nucleus and from the cell's middle. What fills them is woven of real chromatin and cytoplasm
(:mod:`wsi_pipeline.simulation.megakaryocyte_textures`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage import measure

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.simulation.megakaryocyte_textures import Patch, Textures, load_textures, weave
from wsi_pipeline.simulation.sprites import ASSET_MPP, Sprite, make_sprite

CLASS_NAME = "megakaryocyte"
"""Class and kind of the sprites."""
DRAWN = "drawn"
"""Variant of the sprites."""

_DIAMETER_UM = (6.0, 90.0)
_FEATHER_UM = 0.3
_LEAST_PART_UM2 = 3.0
_RIM_UM = 0.6
_PAD_PX = 6
_NO_HOLES_BELOW = 0.35
_CYTOPLASM_GREEN = (0.24, 0.75)
_MEMBRANE = 0.35
_FloatImage = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class MegakaryocyteShape:
    """What a megakaryocyte is to look like.

    Attributes
    ----------
    diameter_um
        Of the disc of the cell's area.
    nc_ratio
        Area of the nucleus over that of the cell, 0.05 to 0.9. Not used for a bare nucleus.
    lobes
        Lobes of the nucleus, 1 to 12.
    lobulation
        How deeply lobes are cut: 0 is one round or oval body whatever ``lobes`` says, at 1 they hardly touch.
    darkness
        Optical density of the chromatin over that of the slide's other nuclei.
    bare
        No cytoplasm: the cell is its nucleus, of ``diameter_um``.
    """

    diameter_um: float
    nc_ratio: float = 0.35
    lobes: int = 1
    lobulation: float = 0.0
    darkness: float = 1.0
    bare: bool = False

    def __post_init__(self) -> None:
        if not (
            _DIAMETER_UM[0] <= self.diameter_um <= _DIAMETER_UM[1]
            and 0.05 <= self.nc_ratio <= 0.9
            and 1 <= self.lobes <= 12
            and 0 <= self.lobulation <= 1
            and 0.1 <= self.darkness <= 4
        ):
            raise ConfigError(
                f"{self}: diameter_um is 6 to 90, nc_ratio 0.05 to 0.9, lobes 1 to 12, lobulation 0 to 1, "
                "darkness 0.1 to 4"
            )


def draw_megakaryocyte(
    shape: MegakaryocyteShape, rng: np.random.Generator, *, textures: Textures | None = None, source: str = ""
) -> Sprite:
    """Draw one megakaryocyte.

    Parameters
    ----------
    shape
        What is asked for; areas of cell and nucleus are met within a few per cent.
    rng
        The only source of chance: the same state draws the same cell.
    textures
        Cut-outs to weave; None takes the half ``test``, which no network was trained on.
    source
        Kept in the sprite; empty names the fields the texture is of.

    Returns
    -------
    Sprite
        Of class and kind ``megakaryocyte``, variant ``drawn``: ``outline_um`` is the cell's, ``nucleus_um`` the
        nucleus's. The rendering of sections lays no cytoplasm of its own under it.

    Raises
    ------
    DataError
        The shipped cut-outs are damaged.
    """
    textures = load_textures("test") if textures is None else textures
    cell_area = math.pi * shape.diameter_um**2 / 4
    side = 2 * math.ceil((0.85 * shape.diameter_um + 4.0) / ASSET_MPP)
    middle = (np.arange(side) + 0.5 - side / 2) * ASSET_MPP
    x, y = np.broadcast_arrays(middle[None, :], middle[:, None])
    nucleus = _nucleus(shape, cell_area if shape.bare else cell_area * shape.nc_ratio, x, y, rng)
    cell = nucleus if shape.bare else _cell(shape, nucleus, cell_area, x, y, rng)
    sigma = _FEATHER_UM / ASSET_MPP
    in_cell = ndimage.gaussian_filter(cell.astype(np.float32), sigma)
    in_nucleus = ndimage.gaussian_filter(nucleus.astype(np.float32), sigma)
    density = in_nucleus[..., None] * _woven(
        textures.chromatin, nucleus, shape.darkness * textures.nucleus_density, rng
    )
    if not shape.bare:
        density = density + (in_cell * (1 - in_nucleus))[..., None] * _cytoplasm(cell, nucleus, in_cell, textures, rng)
    sprite = make_sprite(
        np.exp(-density).astype(np.float32), in_cell, class_name=CLASS_NAME, kind=CLASS_NAME,
        source=source or "drawn", variant=DRAWN,
    )  # fmt: skip
    rings = [
        (np.asarray(cv2.approxPolyDP(ring[:-1, None, ::-1].astype(np.float32), 0.25, True)[:, 0]) + 0.5)
        for ring in measure.find_contours(np.pad(in_nucleus, 1), 0.5)
        if len(ring) > 8
    ]
    centre = np.asarray(sprite.centre_px, np.float32) + 1.0
    return replace(
        sprite,
        absorbed=np.ascontiguousarray(1.0 - np.exp(-density), dtype=np.float32),
        nucleus_um=tuple(((ring - centre) * np.float32(ASSET_MPP)).astype(np.float32) for ring in rings),
    )


def _level(field: npt.NDArray[np.floating], area_um2: float) -> npt.NDArray[np.bool_]:
    """Return where a field is highest, over the area asked for."""
    n = min(max(round(area_um2 / ASSET_MPP**2), 1), field.size)
    return np.asarray(field >= np.partition(field.ravel(), -n)[-n])


def _wobble(angle: npt.NDArray[np.floating], strength: float, rng: np.random.Generator) -> npt.NDArray[np.floating]:
    """Return a smooth function of the angle about 0: waves 2 to 6 times around, weaker the shorter."""
    total = np.zeros(angle.shape)
    for k in range(2, 7):
        total += strength * rng.normal() / k * np.cos(k * angle + rng.uniform(0, 2 * math.pi))
    return total


def _roughness(side: int, wavelength_um: float, rng: np.random.Generator) -> _FloatImage:
    noise = ndimage.gaussian_filter(rng.standard_normal((side, side)).astype(np.float32), wavelength_um / ASSET_MPP)
    return np.asarray(noise / noise.std(), dtype=np.float32)


def _nucleus(
    shape: MegakaryocyteShape,
    area: float,
    x: npt.NDArray[np.floating],
    y: npt.NDArray[np.floating],
    rng: np.random.Generator,
) -> npt.NDArray[np.bool_]:
    """Return the nucleus: the level set of a sum of hills, one for each lobe, that has the area asked for."""
    cut = shape.lobulation if shape.lobes > 1 else 0.0
    radius = math.sqrt(area / math.pi)
    lobe_radius = radius / math.sqrt(shape.lobes) if cut else radius
    turn = rng.uniform(0, 2 * math.pi)
    if cut:
        centres = _lobe_centres(shape.lobes, lobe_radius * (0.7 + 1.15 * cut), rng)
        sizes = lobe_radius * np.exp(0.15 * rng.standard_normal(shape.lobes))
    else:
        centres, sizes = np.zeros((1, 2)), np.array([radius])
    stretch = math.sqrt(rng.uniform(1.0, 1.35 if cut == 0 else 1.12))
    u = (x * math.cos(turn) + y * math.sin(turn)) * stretch
    v = (-x * math.sin(turn) + y * math.cos(turn)) / stretch
    field = np.zeros(x.shape)
    for (cx, cy), size in zip(centres, sizes, strict=True):
        # Hills of a deeply cut nucleus are steep, so that the dales between them stay below the level.
        field += np.exp(-(((u - cx) ** 2 + (v - cy) ** 2) / size**2) * (1.0 + 0.8 * cut))
    bend = 0.05 + 0.05 * (cut == 0) * rng.random()
    field *= np.exp(_wobble(np.arctan2(v, u), bend, rng) + 0.06 * _roughness(len(x), 0.9, rng))
    mask = _level(field, area)
    if shape.bare or cut < _NO_HOLES_BELOW:
        filled = float(ndimage.binary_fill_holes(mask).sum()) * ASSET_MPP**2
        mask = ndimage.binary_fill_holes(_level(field, area**2 / filled))
    parts, n = ndimage.label(mask)
    small = np.flatnonzero(np.bincount(parts.ravel())[1:] < _LEAST_PART_UM2 / ASSET_MPP**2) + 1
    return np.asarray(mask & ~np.isin(parts, small)) if n > len(small) else np.asarray(mask)


def _lobe_centres(n: int, step: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return places ``(n, 2)`` about ``step`` apart around 0: a ring, an open bow or a heap, by chance."""
    how = rng.choice(["ring", "bow", "heap"])
    if n == 2:
        places = np.array([[-0.5, 0.0], [0.5, 0.0]]) * step
    elif how == "heap" or n > 8:
        # The sunflower's spiral fills a disc evenly (Vogel, Math Biosci 44:179, 1979).
        k = np.arange(n)
        r, t = 0.56 * step * np.sqrt(k + 0.5), k * math.pi * (3 - math.sqrt(5))
        places = np.stack([r * np.cos(t), r * np.sin(t)], axis=1)
    else:
        around = n if how == "ring" else n * rng.uniform(1.3, 1.9)
        t = 2 * math.pi * np.arange(n) / around
        r = step / (2 * math.sin(math.pi / around))
        places = np.stack([r * np.cos(t), r * np.sin(t)], axis=1)
    places = places + 0.12 * step * rng.standard_normal((n, 2))
    return np.asarray(places - places.mean(axis=0))


def _cell(
    shape: MegakaryocyteShape,
    nucleus: npt.NDArray[np.bool_],
    area: float,
    x: npt.NDArray[np.floating],
    y: npt.NDArray[np.floating],
    rng: np.random.Generator,
) -> npt.NDArray[np.bool_]:
    """Return the cell: around its nucleus, of the area asked for, bulging to one side by chance."""
    radius = shape.diameter_um / 2
    away = ndimage.distance_transform_edt(~nucleus) * ASSET_MPP
    cx, cy = x[nucleus].mean(), y[nucleus].mean()
    turn, shift = rng.uniform(0, 2 * math.pi), radius * rng.uniform(0, 0.45) * (1 - shape.nc_ratio)
    dx, dy = x - cx - shift * math.cos(turn), y - cy - shift * math.sin(turn)
    from_middle = np.hypot(dx, dy) * (1 + _wobble(np.arctan2(dy, dx), 0.14, rng))
    follows = rng.uniform(0.25, 0.7)
    field = follows * away + (1 - follows) * from_middle + 0.25 * _roughness(len(x), 1.5, rng)
    field = np.where(nucleus | (away < _RIM_UM), away - 1e3, field)
    mask = ndimage.binary_fill_holes(_level(-field, area))
    parts, n = ndimage.label(mask)
    if n > 1:
        mask = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    return np.asarray(mask | nucleus)


def _woven(
    patches: tuple[Patch, ...],
    where: npt.NDArray[np.bool_],
    mean: npt.NDArray[np.floating],
    rng: np.random.Generator,
    step_px: int = 18,
) -> _FloatImage:
    """Return optical density ``(h, w, 3)`` of a woven texture whose mean over a mask is the one asked for."""
    rows, columns = np.flatnonzero(where.any(axis=1)), np.flatnonzero(where.any(axis=0))
    y0, y1 = max(0, rows[0] - _PAD_PX), rows[-1] + 1 + _PAD_PX
    x0, x1 = max(0, columns[0] - _PAD_PX), columns[-1] + 1 + _PAD_PX
    part = where[y0:y1, x0:x1]
    texture = np.clip(1.0 + weave(patches, (part.shape[0], part.shape[1]), rng, step_px=step_px), 0.05, None)
    density = np.zeros((*where.shape, 3), np.float32)
    density[y0:y1, x0:x1] = (texture / texture[part].mean())[..., None] * mean
    return density


def _cytoplasm(
    cell: npt.NDArray[np.bool_],
    nucleus: npt.NDArray[np.bool_],
    in_cell: _FloatImage,
    textures: Textures,
    rng: np.random.Generator,
) -> _FloatImage:
    """Return the optical density of the cytoplasm: the hue of a real one, paler or deeper, with a denser border."""
    where = cell & ~nucleus
    if not where.any():
        return np.zeros((*cell.shape, 3), np.float32)
    hue = textures.cytoplasm[int(rng.integers(len(textures.cytoplasm)))].density
    mean = hue / hue[1] * rng.uniform(*_CYTOPLASM_GREEN)
    border = _MEMBRANE * rng.random() * np.clip(4 * in_cell * (1 - in_cell), 0, 1)
    return _woven(textures.cytoplasm, where, mean, rng, step_px=14) * (1 + border[..., None]).astype(np.float32)
