"""The plan of a simulated core: tissue, bone, megakaryocytes and fat of the whole slide, made before a pixel is drawn.

What the plan places is known exactly, so it is also the truth about areas. Nuclei are laid out later, square by square,
where the plan leaves marrow (:mod:`wsi_pipeline.simulation.layout`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt
import shapely
from skimage import measure

from wsi_pipeline.simulation.bone import RASTER_UM, Distances, bone_depth, core_depth
from wsi_pipeline.simulation.core_places import cluster_numbers, place_fat, place_megakaryocytes
from wsi_pipeline.simulation.core_profile import CoreProfile
from wsi_pipeline.simulation.fat_shape import FAT_SHARE
from wsi_pipeline.simulation.megakaryocytes import MegakaryocyteShape
from wsi_pipeline.simulation.noise import keyed_generator
from wsi_pipeline.units import FloatArray

_PURPOSE_MEGAKARYOCYTES, _PURPOSE_FAT, _PURPOSE_OSTEOCYTES = 421, 422, 423
_OSTEOCYTES_PER_MM2 = 230.0
_OSTEOCYTE_DEPTH_UM = 9.0
_SIMPLIFY_UM = 0.5
_NUCLEUS_UM = 3.0
"""Nuclei of the marrow keep their centres this far from bone and glass."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class PlannedMegakaryocyte:
    """A megakaryocyte of the plan; place in um from the slide's origin, ``cluster`` -1 when it lies alone."""

    kind: str
    shape: MegakaryocyteShape
    x_um: float
    y_um: float
    cluster: int
    angle: float
    flip: bool

    @property
    def radius_um(self) -> float:
        return self.shape.diameter_um / 2


@dataclass(frozen=True, kw_only=True, eq=False)
class CorePlan:
    """What lies in a core.

    Attributes
    ----------
    depth, bone
        Depth below the edge of the tissue and below the surface of bone (:mod:`wsi_pipeline.simulation.bone`).
    megakaryocytes
        In the order of their clusters.
    fat
        ``(n, 4)``: x, y, radius, um, and angle.
    osteocytes
        ``(n, 3)``: x, y, um, and angle.
    areas_mm2
        ``tissue``, ``bone``, ``marrow`` (tissue less bone), ``fat``.
    """

    depth: Distances
    bone: Distances
    megakaryocytes: tuple[PlannedMegakaryocyte, ...]
    fat: Floats
    osteocytes: Floats
    areas_mm2: Mapping[str, float]
    _marrow: npt.NDArray[np.float32] = field(repr=False)

    @property
    def cellularity(self) -> float | None:
        """Return the share of the marrow that is no fat; None without marrow."""
        marrow = self.areas_mm2["marrow"]
        return 1 - self.areas_mm2["fat"] / marrow if marrow > 0 else None

    def marrow_at(self, x_um: FloatArray, y_um: FloatArray) -> FloatArray:
        """Return where nuclei may lie, 0 to 1, on the grid of ``x_um`` (columns) and ``y_um`` (rows); outside is 0."""
        return on_grid(self._marrow, x_um, y_um).astype(np.float64)

    def truth(self, mpp: float) -> dict[str, object]:
        """Return the content of a slide's ``.truth.json``; ``marrow`` and ``bone`` are WKT in pixels of level 0."""
        cells = self.megakaryocytes
        areas = {name: round(value, 6) for name, value in self.areas_mm2.items()}
        return {
            "areas_mm2": areas,
            "cellularity": None if self.cellularity is None else round(self.cellularity, 6),
            "megakaryocytes": len(cells),
            "kinds": dict(sorted(Counter(one.kind for one in cells).items())),
            "in_clusters": sum(one.cluster >= 0 for one in cells),
            "mean_lobes": float(np.mean([one.shape.lobes for one in cells])) if cells else None,
            "mean_lobulation": float(np.mean([one.shape.lobulation for one in cells])) if cells else None,
            "marrow": _wkt(np.minimum(self.depth, -self.bone), mpp),
            "bone": _wkt(np.minimum(self.depth, self.bone), mpp),
        }


def plan_core(core: CoreProfile, width_um: float, height_um: float, seed: int) -> CorePlan:
    """Plan the core of a slide of a size; the plan depends on these arguments alone."""
    depth = core_depth(width_um, height_um, core.margin_um, seed)
    bone = bone_depth(depth, core.bone, seed)
    pixel_mm2 = RASTER_UM**2 * 1e-6
    marrow = (depth > 0) & (bone <= 0)
    areas = {"tissue": float((depth > 0).sum()) * pixel_mm2, "marrow": float(marrow.sum()) * pixel_mm2}
    areas["bone"] = areas["tissue"] - areas["marrow"]
    cells = _megakaryocytes(core, depth, bone, areas["marrow"], seed)
    rng = keyed_generator(seed, _PURPOSE_FAT, 0, 0)
    taken = np.array([(one.x_um, one.y_um, one.radius_um * 1.1) for one in cells]).reshape(-1, 3)
    wanted_um2 = (1 - core.cellularity) * areas["marrow"] * 1e6
    fat = place_fat(rng, wanted_um2, core.fat_radius_um, FAT_SHARE, depth, bone, taken)
    areas["fat"] = float(math.pi * FAT_SHARE * (fat[:, 2] ** 2).sum()) * 1e-6
    return CorePlan(
        depth=depth,
        bone=bone,
        megakaryocytes=cells,
        fat=np.column_stack([fat, rng.random(len(fat)) * 2 * math.pi]),
        osteocytes=_osteocytes(depth, bone, seed),
        areas_mm2=areas,
        _marrow=((depth > _NUCLEUS_UM) & (bone < -_NUCLEUS_UM)).astype(np.float32),
    )


def on_grid(raster: npt.NDArray[np.float32], x_um: FloatArray, y_um: FloatArray) -> npt.NDArray[np.float32]:
    """Return a raster's values on a grid, bilinearly; beyond the raster it repeats its edge."""
    columns = (np.asarray(x_um) / RASTER_UM - 0.5).astype(np.float32)
    rows = (np.asarray(y_um) / RASTER_UM - 0.5).astype(np.float32)
    # The part that is needed, since remap takes no picture of more than 32767 pixels.
    x0, x1 = _part(columns, raster.shape[1])
    y0, y1 = _part(rows, raster.shape[0])
    grid_x, grid_y = np.meshgrid(columns - x0, rows - y0)
    part = np.ascontiguousarray(raster[y0:y1, x0:x1])
    return np.asarray(cv2.remap(part, grid_x, grid_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


def _part(places: npt.NDArray[np.float32], length: int) -> tuple[int, int]:
    first = min(max(math.floor(float(places.min())) - 1, 0), length - 1)
    last = min(max(math.ceil(float(places.max())) + 2, first + 1), length)
    return first, last


def _wkt(inside: Distances, mpp: float) -> str:
    """Return where a raster is positive as a WKT multipolygon in pixels."""
    shape = shapely.MultiPolygon()
    for ring in measure.find_contours(np.pad(inside, 1, constant_values=-1.0), 0.0):
        if len(ring) > 3:
            polygon = shapely.Polygon((ring[:, ::-1] - 0.5) * (RASTER_UM / mpp)).simplify(_SIMPLIFY_UM / mpp)
            shape = shape.symmetric_difference(polygon.buffer(0))
    return str(shapely.to_wkt(shape, rounding_precision=1))


def _megakaryocytes(
    core: CoreProfile, depth: Distances, bone: Distances, marrow_mm2: float, seed: int
) -> tuple[PlannedMegakaryocyte, ...]:
    wanted = core.megakaryocytes
    if wanted is None:
        return ()
    rng = keyed_generator(seed, _PURPOSE_MEGAKARYOCYTES, 0, 0)
    n = int(rng.poisson(wanted.per_mm2 * marrow_mm2))
    names = list(wanted.shares)
    weights = np.array([wanted.shares[name] for name in names])
    chosen = rng.choice(len(names), n, p=weights / weights.sum())
    shapes = [_shape(core, names[i], rng) for i in chosen]
    clusters = cluster_numbers(rng, n, wanted)
    radius = np.array([shape.diameter_um / 2 for shape in shapes])
    places, clusters = place_megakaryocytes(rng, radius, clusters, depth, bone, wanted)
    angles, flips = rng.random(n) * 2 * math.pi, rng.random(n) < 0.5
    return tuple(
        PlannedMegakaryocyte(
            kind=names[chosen[i]],
            shape=shapes[i],
            x_um=float(places[i, 0]),
            y_um=float(places[i, 1]),
            cluster=int(clusters[i]),
            angle=float(angles[i]),
            flip=bool(flips[i]),
        )
        for i in range(n)
        if np.isfinite(places[i, 0])
    )


def _shape(core: CoreProfile, name: str, rng: np.random.Generator) -> MegakaryocyteShape:
    kind = core.kinds[name]
    one = {
        key: float(getattr(kind, key).draw(rng)[0])
        for key in ("diameter_um", "nc_ratio", "lobes", "lobulation", "darkness")
    }
    return MegakaryocyteShape(
        diameter_um=one["diameter_um"], nc_ratio=one["nc_ratio"], lobes=max(1, round(one["lobes"])),
        lobulation=one["lobulation"], darkness=one["darkness"], bare=kind.bare,
    )  # fmt: skip


def _osteocytes(depth: Distances, bone: Distances, seed: int) -> Floats:
    rng = keyed_generator(seed, _PURPOSE_OSTEOCYTES, 0, 0)
    height, width = bone.shape
    n = int(rng.poisson(_OSTEOCYTES_PER_MM2 * height * width * RASTER_UM**2 * 1e-6))
    at = rng.random((n, 3)) * (width * RASTER_UM, height * RASTER_UM, 0.9)
    column, row = (at[:, :2] / RASTER_UM).astype(int).T
    # Lacunae lie along the lamellae, which run along the surface: the angle follows the gradient of the depth.
    row, column = np.minimum(row, height - 2), np.minimum(column, width - 2)
    inside = np.minimum(bone[row, column], depth[row, column]) > _OSTEOCYTE_DEPTH_UM
    at, row, column = at[inside], row[inside], column[inside]
    below, beside = bone[row + 1, column] - bone[row, column], bone[row, column + 1] - bone[row, column]
    at[:, 2] += np.arctan2(below, beside) + math.pi / 2 - 0.45
    return at
