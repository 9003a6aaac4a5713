"""The tiles of a virtual slide in raster order, drawn here or by other processes, with the truth of each."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import shapely

from wsi_pipeline.errors import DataError
from wsi_pipeline.simulation.core_cells import CoreCells
from wsi_pipeline.simulation.core_plan import CorePlan, plan_core
from wsi_pipeline.simulation.film import Film
from wsi_pipeline.simulation.hypogranular import sprites_of
from wsi_pipeline.simulation.layout import SQUARE_UM, Layout, Placed
from wsi_pipeline.simulation.profile import Profile
from wsi_pipeline.simulation.render import draw_focus, draw_stain, render_things, restain
from wsi_pipeline.simulation.sprites import Sprite
from wsi_pipeline.units import Box

_KEPT_ROWS = 5
_POINT = "%.2f %.2f, "
_ROWS_AHEAD = 2


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything that a virtual slide's pixels and truth depend on; lengths in pixels of level 0."""

    profile: Profile
    width: int
    height: int
    seed: int
    mpp: float
    tile_px: int
    film: bool
    stain_variation: float
    blur_variation: float


def scene_core(scene: Scene) -> CorePlan | None:
    """Return the plan of a scene's core; None where the profile is of none."""
    core = scene.profile.core
    return None if core is None else plan_core(core, scene.width * scene.mpp, scene.height * scene.mpp, scene.seed)


class Tile(NamedTuple):
    """A tile ``(tile_px, tile_px, 3)`` and the truth rows of the cells whose centres lie in it."""

    pixels: npt.NDArray[np.uint8]
    truth: list[tuple[str, ...]]


def draw_tiles(scene: Scene, workers: int) -> Iterator[Tile]:
    """Yield the tiles of level 0 in raster order.

    Parameters
    ----------
    workers
        Processes, each of which draws a band of columns; 1 draws here.

    Raises
    ------
    DataError
        A process was killed, for want of memory most likely.
    """
    across = math.ceil(scene.width / scene.tile_px)
    down = math.ceil(scene.height / scene.tile_px)
    workers = min(workers, across)
    if workers == 1:
        band = _Band(scene, 0, across)
        for row in range(down):
            yield from band.tiles(row)
        return
    cuts = [across * i // workers for i in range(workers + 1)]
    context = get_context("spawn")
    pools = [
        ProcessPoolExecutor(1, context, initializer=_begin, initargs=(scene, cuts[i], cuts[i + 1]))
        for i in range(workers)
    ]
    try:
        ahead: deque[list[Future[list[Tile]]]] = deque()
        for row in range(down):
            ahead.append([pool.submit(_draw_row, row) for pool in pools])
            if len(ahead) > _ROWS_AHEAD:
                yield from _drawn(ahead.popleft())
        while ahead:
            yield from _drawn(ahead.popleft())
    except BrokenProcessPool:
        raise DataError("a drawing process was killed, for want of memory most likely; use fewer --workers") from None
    finally:
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)


def _drawn(bands: list[Future[list[Tile]]]) -> Iterator[Tile]:
    for future in bands:
        yield from future.result()


class _Band:
    """The tile columns ``first`` to ``last - 1`` of a scene, drawn from above to below."""

    def __init__(self, scene: Scene, first: int, last: int) -> None:
        self._scene, self._columns = scene, range(first, last)
        film = None
        if scene.film:
            film = Film(width_um=scene.width * scene.mpp, height_um=scene.height * scene.mpp, seed=scene.seed)
        self._stain = draw_stain(scene.seed, scene.profile.background, scene.stain_variation)
        self._focus = draw_focus(scene.seed, scene.blur_variation)
        self._core = scene_core(scene)
        cells = None
        if self._core is not None:
            cells = CoreCells(self._core, scene.seed, lambda sprite: restain([sprite], self._stain)[0])
        sprites = restain(sprites_of(scene.profile), self._stain)
        self._layout = Layout(scene.profile, sprites, scene.seed, film, cells)

    def tiles(self, row: int) -> Iterator[Tile]:
        scene, tile = self._scene, self._scene.tile_px
        y = row * tile
        for column in self._columns:
            x = column * tile
            box = Box(x0=x, y0=y, x1=x + tile, y1=y + tile)
            mpp = scene.mpp
            things = list(self._layout.within(box.x0 * mpp, box.y0 * mpp, box.x1 * mpp, box.y1 * mpp))
            pixels = render_things(
                things, box, seed=scene.seed, mpp=mpp, background=scene.profile.background,
                stain=self._stain, focus=self._focus, core=self._core,
            )  # fmt: skip
            yield Tile(pixels, self._truth(things, box))
        self._layout.forget_above(math.floor((y + tile) * scene.mpp / SQUARE_UM) - _KEPT_ROWS)

    def _truth(self, things: Sequence[Placed], box: Box) -> list[tuple[str, ...]]:
        scene = self._scene
        rows = []
        for thing in things:
            if thing.sprite is None:
                continue
            x, y = thing.position_px(scene.mpp)
            if box.x0 <= x < min(box.x1, scene.width) and box.y0 <= y < min(box.y1, scene.height):
                rows.append(_truth_row(thing, thing.sprite, (scene.width, scene.height), scene.mpp))
        return rows


_band: _Band | None = None


def _begin(scene: Scene, first: int, last: int) -> None:
    global _band  # noqa: PLW0603  what a process draws with, made once
    _band = _Band(scene, first, last)


def _draw_row(row: int) -> list[Tile]:
    assert _band is not None
    return list(_band.tiles(row))


def _truth_row(thing: Placed, sprite: Sprite, size: tuple[int, int], mpp: float) -> tuple[str, ...]:
    x, y = thing.position_px(mpp)
    ring = thing.outline_px(mpp)
    left, top = ring.min(axis=0)
    right, bottom = ring.max(axis=0)
    truncated = bool(left < 0 or top < 0 or right > size[0] or bottom > size[1])
    # One formatting for the whole outline: a slide has millions of points.
    points = (_POINT * (len(ring) + 1))[: -len(", ")] % (*ring.ravel().tolist(), *ring[0].tolist())
    wkt = f"POLYGON (({points}))"
    place = (f"{x:.2f}", f"{y:.2f}", str(truncated).lower())
    variant = sprite.variant or ("clump" if thing.layer == "clump" else "")
    return (sprite.class_name, sprite.kind, *place, wkt, sprite.source, variant, _nucleus_wkt(thing, mpp))


def _nucleus_wkt(thing: Placed, mpp: float) -> str:
    nucleus = shapely.Polygon()
    for ring in thing.nucleus_px(mpp):
        nucleus = nucleus.symmetric_difference(shapely.Polygon(ring).buffer(0))
    return "" if nucleus.is_empty else str(shapely.to_wkt(nucleus, rounding_precision=2))
