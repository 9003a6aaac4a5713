"""Where megakaryocytes can lie: the marrow of a trephine in microns, its bone, and its pixels for areas and draws."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry import MultiPolygon
from shapely.geometry.base import BaseGeometry

from wsi_pipeline.regions import Regions
from wsi_pipeline.regions.rasterise import rasterise
from wsi_pipeline.regions.regions import only_areas
from wsi_pipeline.units import Box

FloatArray = npt.NDArray[np.float64]

FINEST_UM = 2.0
"""Pixels of a raster are no smaller."""
MOST_PIXELS = 4_000_000
"""Of a raster; larger windows get larger pixels."""
_BONE = "bone"


@dataclass(frozen=True, kw_only=True)
class Raster:
    """A window as pixels.

    Parameters
    ----------
    inside
        ``(h, w)``: whether the middle of a pixel lies in the window; the outermost pixels do not.
    step_um
        Side of a pixel.
    origin_um
        Place of the corner of the first pixel, x and y.
    """

    inside: npt.NDArray[np.bool_]
    step_um: float
    origin_um: tuple[float, float]

    @cached_property
    def centres_um(self) -> FloatArray:
        """Return the middles of the pixels inside, ``(n, 2)``."""
        rows, columns = np.nonzero(self.inside)
        return np.stack([columns + 0.5, rows + 0.5], axis=1) * self.step_um + self.origin_um

    def draw(self, n: int, rng: np.random.Generator) -> FloatArray:
        """Return ``n`` points that are uniform in the window, ``(n, 2)``."""
        chosen = self.centres_um[rng.integers(len(self.centres_um), size=n)]
        found: FloatArray = chosen + rng.uniform(-0.5, 0.5, (n, 2)) * self.step_um
        return found


@dataclass(frozen=True, kw_only=True)
class MarrowWindow:
    """Marrow and bone of a section, in microns from the level-0 origin (the frame of ``x_um`` and ``y_um``).

    Parameters
    ----------
    marrow
        What was searched: marrow with its fat, without bone and artefacts. Points are observed here and nowhere else.
    bone
        Bone that was told; empty without any.
    """

    marrow: BaseGeometry
    bone: BaseGeometry

    @property
    def area_um2(self) -> float:
        return float(self.marrow.area)

    @property
    def area_mm2(self) -> float:
        return float(self.marrow.area) * 1e-6

    @cached_property
    def raster(self) -> Raster:
        """Return the marrow as pixels of 2 um, or larger ones where that would be more than four million."""
        x0, y0, x1, y1 = self.marrow.bounds
        step = max(FINEST_UM, math.sqrt((x1 - x0) * (y1 - y0) / MOST_PIXELS))
        shape = (math.ceil((y1 - y0) / step) + 2, math.ceil((x1 - x0) / step) + 2)
        origin = (x0 - step, y0 - step)
        tile = np.zeros(shape, np.uint8)
        polygons = shapely.get_parts(shapely.transform(self.marrow, lambda xy: (xy - origin) / step))
        box = Box(x0=0, y0=0, x1=shape[1], y1=shape[0])
        rasterise(polygons, np.ones(len(polygons), np.uint8), tile, box)
        return Raster(inside=tile > 0, step_um=step, origin_um=origin)

    def edge_distance_um(self, points_um: FloatArray) -> FloatArray:
        """Return the distance of points ``(n, 2)`` from the edge of the marrow; 0 of points outside."""
        inside = shapely.contains_xy(self.marrow, points_um[:, 0], points_um[:, 1])
        return np.where(inside, distance_to_lines(self.marrow, points_um), 0.0)

    def bone_distance_um(self, points_um: FloatArray) -> FloatArray | None:
        """Return the distance of points ``(n, 2)`` from bone, 0 inside it; None without bone."""
        if self.bone.is_empty:
            return None
        inside = shapely.contains_xy(self.bone, points_um[:, 0], points_um[:, 1])
        return np.where(inside, 0.0, distance_to_lines(self.bone, points_um))


def distance_to_lines(areas: BaseGeometry, points_um: FloatArray) -> FloatArray:
    """Return the distance of points ``(n, 2)`` from the outlines of areas, holes too."""
    rings = shapely.get_rings(shapely.get_parts(areas))
    xy, ring = shapely.get_coordinates(rings, return_index=True)
    joined = ring[1:] == ring[:-1]
    segments = shapely.linestrings(np.stack([xy[:-1][joined], xy[1:][joined]], axis=1))
    tree = shapely.STRtree(segments)
    (rows, _), distances = tree.query_nearest(shapely.points(points_um), return_distance=True, all_matches=False)
    found = np.full(len(points_um), np.inf)
    found[rows] = distances
    return found


def window_of(regions: Regions, mpp: tuple[float, float]) -> MarrowWindow:
    """Return the window of a slide's regions.

    Of images read whole, bone that was told inside is no marrow either, though it was searched. Drawn areas stay as
    they were drawn.

    Parameters
    ----------
    mpp
        Microns per level-0 pixel, x and y.
    """

    def in_um(geometry: BaseGeometry) -> BaseGeometry:
        return only_areas(shapely.transform(geometry, lambda xy: xy * np.asarray(mpp)))

    marrow: BaseGeometry = regions.included
    bone = [part.geometry for part in regions.excluded if part.reason == _BONE]
    if regions.mode == "all":
        within = [part.geometry for part in regions.inside if part.reason == _BONE]
        marrow = marrow.difference(shapely.unary_union(within)) if within else marrow
        bone += within
    return MarrowWindow(
        marrow=MultiPolygon() if marrow.is_empty else in_um(marrow),
        bone=in_um(shapely.unary_union(bone)) if bone else MultiPolygon(),
    )
