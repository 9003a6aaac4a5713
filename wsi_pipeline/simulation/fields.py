"""Small fields with an instance map: training pictures made of whatever cells the caller may train on.

The shipped cutouts are reserved (:mod:`wsi_pipeline.simulation.split`): a network that is trained on fields made of
them must never be tested on virtual slides. Training cuts its own sprites with :func:`sprites_from_image`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from skimage.draw import polygon

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.simulation.cutouts import cut, estimate_glass, find_cells, surest_central_cell
from wsi_pipeline.simulation.layout import Layout, Placed
from wsi_pipeline.simulation.profile import Profile, load_profile
from wsi_pipeline.simulation.render import GRAIN_PX, check_variation, draw_focus, draw_stain, render_things, restain
from wsi_pipeline.simulation.sprites import ASSET_MPP, Sprite, make_sprite
from wsi_pipeline.units import Box

KINDS = ("white", "red", "platelet")
_MIDDLE_UM = 2.4


class LabelledField(NamedTuple):
    """A picture and what is on it.

    Attributes
    ----------
    rgb
        ``(h, w, 3)`` uint8.
    labels
        ``(h, w)`` int32: 0 for glass, else the number of the cell; a pixel of several cells belongs to the one
        placed last. Numbers run from 1 without gaps.
    kinds, class_names, sources
        Kind, class and source image of the cells; cell ``i`` is at index ``i - 1``.
    overlap
        ``(h, w)`` bool: pixels inside the outlines of two or more cells.
    """

    rgb: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int32]
    kinds: list[str]
    class_names: list[str]
    sources: list[str]
    overlap: npt.NDArray[np.bool_]


def render_labelled_field(
    profile: Profile | str,
    sprites: Sequence[Sprite],
    seed: int,
    *,
    size_px: tuple[int, int] = (512, 512),
    origin_px: tuple[int, int] = (0, 0),
    mpp: float = 0.25,
    thickness: float = 1.0,
    stain_variation: float = 1.0,
    blur_variation: float = 1.0,
) -> LabelledField:
    """Draw a field of any sprites and rasterise the outlines of its cells.

    Parameters
    ----------
    profile
        What is placed; its mixes name classes of ``sprites``.
    sprites
        Cutouts to choose from, in a fixed order (the field depends on it).
    seed
        Non-negative; another seed is another field with another stain.
    size_px
        (width, height).
    origin_px
        (x, y) of the field on the plane of this seed; neighbouring fields fit together.
    mpp
        Micrometres per pixel.
    thickness
        1 is the monolayer; up to 3, red cells lie denser and over one another.
    stain_variation, blur_variation
        0 none, 1 as on virtual slides, at most 2.

    Raises
    ------
    ConfigError
        A parameter is out of range, or the profile names a class without sprites.
    """
    width, height = size_px
    if width < 1 or height < 1 or seed < 0 or not 0.05 <= mpp <= 2 or not 0.2 <= thickness <= 3:
        raise ConfigError(
            f"a field of {width} x {height} px, seed {seed}, mpp {mpp}, thickness {thickness}; sides must be positive, "
            "the seed not negative, mpp 0.05 to 2, thickness 0.2 to 3"
        )
    check_variation(stain_variation, blur_variation)
    chosen = _thicken(load_profile(profile) if isinstance(profile, str) else profile, thickness)
    stain = draw_stain(seed, chosen.background, stain_variation)
    layout = Layout(chosen, restain(sprites, stain), seed)
    box = Box(x0=origin_px[0], y0=origin_px[1], x1=origin_px[0] + width, y1=origin_px[1] + height)
    around = Box(
        x0=box.x0 // GRAIN_PX * GRAIN_PX,
        y0=box.y0 // GRAIN_PX * GRAIN_PX,
        x1=-(-box.x1 // GRAIN_PX) * GRAIN_PX,
        y1=-(-box.y1 // GRAIN_PX) * GRAIN_PX,
    )
    things = list(layout.within(around.x0 * mpp, around.y0 * mpp, around.x1 * mpp, around.y1 * mpp))
    rgb = render_things(
        things, around, seed=seed, mpp=mpp, background=chosen.background, stain=stain,
        focus=draw_focus(seed, blur_variation),
    )  # fmt: skip
    dy, dx = box.y0 - around.y0, box.x0 - around.x0
    return _rasterise(np.ascontiguousarray(rgb[dy : dy + height, dx : dx + width]), things, box, mpp)


def _thicken(profile: Profile, thickness: float) -> Profile:
    if thickness == 1.0 or "red" not in profile.layers:
        return profile
    red = profile.layers["red"]
    more = red.model_copy(
        update={
            "per_mm2": red.per_mm2 * thickness,
            "overlapping": min(1.0, red.overlapping + max(0.0, 0.7 * (thickness - 1.0))),
        }
    )
    return profile.model_copy(update={"layers": {**profile.layers, "red": more}})


def _rasterise(rgb: npt.NDArray[np.uint8], things: Iterable[Placed], box: Box, mpp: float) -> LabelledField:
    shape = rgb.shape[:2]
    labels = np.zeros(shape, dtype=np.int32)
    times = np.zeros(shape, dtype=np.uint8)
    placed: list[Sprite] = []
    for thing in things:
        if thing.sprite is None:
            continue
        ring = thing.outline_px(mpp) - (box.x0, box.y0)
        # A pixel is inside when its centre is.
        rows, columns = polygon(ring[:, 1] - 0.5, ring[:, 0] - 0.5, shape)
        if len(rows):
            placed.append(thing.sprite)
            labels[rows, columns] = len(placed)
            times[rows, columns] += 1
    # A cell wholly under later ones has no pixel left and no number.
    seen = np.bincount(labels.ravel(), minlength=len(placed) + 1)[1:] > 0
    renumber = np.concatenate([[0], np.where(seen, np.cumsum(seen), 0)]).astype(np.int32)
    kept = [sprite for sprite, is_seen in zip(placed, seen, strict=True) if is_seen]
    return LabelledField(
        rgb=rgb,
        labels=renumber[labels],
        kinds=[sprite.kind for sprite in kept],
        class_names=[sprite.class_name for sprite in kept],
        sources=[sprite.source for sprite in kept],
        overlap=times > 1,
    )


def sprites_from_image(
    rgb: npt.NDArray[np.uint8],
    mpp: float,
    *,
    class_name: str,
    source: str,
    kinds: Sequence[str] = KINDS,
    only_middle: bool = True,
) -> list[Sprite]:
    """Cut the cells that lie alone out of an image, in memory.

    Parameters
    ----------
    rgb
        ``(h, w, 3)`` uint8.
    mpp
        Micrometres per pixel of the image.
    class_name
        Class of its white cells. Red cells become ``red_cell``; platelets, and the middle cell of an image whose
        class is ``platelet``, become ``platelet``.
    source
        Path below the data root, kept in the sprites. Nothing here checks whether it is reserved.
    kinds
        Which kinds to cut.
    only_middle
        The class is that of the cell in the middle, as in sets of single cells, and other white cells are left
        out; when none lies alone there, touching ones are split. False: all white cells have the class.
    """
    found = find_cells(rgb, mpp)
    middle = _is_in_middle(rgb.shape[:2], mpp)
    if class_name == "platelet":
        found = [("platelet" if kind == "white" and (mask & middle).any() else kind, mask) for kind, mask in found]
    if only_middle:
        found = [(kind, mask) for kind, mask in found if kind != "white" or (mask & middle).any()]
        if "white" in kinds and class_name != "platelet" and not any(kind == "white" for kind, _ in found):
            touching = surest_central_cell(rgb, mpp)
            found += [] if touching is None else [("white", touching)]
    glass = estimate_glass(rgb)
    names = {"white": class_name, "red": "red_cell", "platelet": "platelet"}
    sprites = []
    for kind, mask in found:
        if kind in kinds:
            piece = cut(rgb, mask, kind=kind, mpp=mpp, target_mpp=ASSET_MPP, glass=glass)
            sprites.append(
                make_sprite(piece.transmittance, piece.alpha, class_name=names[kind], kind=kind, source=source)
            )
    return sprites


def _is_in_middle(shape: tuple[int, ...], mpp: float) -> npt.NDArray[np.bool_]:
    yy, xx = np.ogrid[: shape[0], : shape[1]]
    reach = _MIDDLE_UM / mpp
    return np.asarray((abs(yy - shape[0] / 2) < reach) & (abs(xx - shape[1] / 2) < reach))
