"""Draw what of a core is no cell: where tissue ends, ground substance, bone with lamellae and osteocytes.

Bone has the colours of demineralised bone in H&E (eosin, hardly any haematoxylin). Lamellae follow its surface.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from wsi_pipeline.simulation.core_plan import CorePlan, on_grid
from wsi_pipeline.simulation.noise import smooth_noise
from wsi_pipeline.units import FloatArray

_PURPOSE_LAMELLA, _PURPOSE_PATCH, _PURPOSE_GRAIN = 431, 432, 433
_EDGE_UM = 0.6
_BONE_OD = np.array([0.017, 0.215, 0.135], dtype=np.float32)
_CEMENT_OD = np.array([0.05, 0.05, 0.01], dtype=np.float32)
_LAMELLA_UM = 5.5
_GROUND = 1.9
"""Ground substance of marrow over that of a plain section: plasma, fibres and cytoplasm between the nuclei stain."""
_LACUNA_UM, _NUCLEUS_UM = (6.5, 3.4), (4.4, 1.9)
_OSTEOCYTE_OD = np.array([0.42, 0.52, 0.22], dtype=np.float32)


def shape_ground(ground: npt.NDArray[np.float32], plan: CorePlan, x_um: FloatArray, y_um: FloatArray) -> None:
    """Take ground substance ``(h, w)`` away where glass or bone is, and strengthen the rest."""
    tissue = _inside(on_grid(plan.depth, x_um, y_um))
    ground *= _GROUND * tissue * (1 - _inside(on_grid(plan.bone, x_um, y_um)))


def bone_light(plan: CorePlan, seed: int, x_um: FloatArray, y_um: FloatArray) -> npt.NDArray[np.float32] | None:
    """Return the share of light that bone lets through, ``(h, w, 3)``; None where the grid holds no bone."""
    depth = on_grid(plan.bone, x_um, y_um)
    amount = _inside(depth) * _inside(on_grid(plan.depth, x_um, y_um))
    if amount.max() < 1e-3:
        return None
    bend = smooth_noise(seed, _PURPOSE_LAMELLA, x_um, y_um, 55.0)
    lamella = np.sin(2 * math.pi * (depth / _LAMELLA_UM + 0.9 * bend))
    patch = smooth_noise(seed, _PURPOSE_PATCH, x_um, y_um, 130.0)
    grain = smooth_noise(seed, _PURPOSE_GRAIN, x_um, y_um, 2.5)
    density = (1.0 + 0.05 * lamella + 0.08 * patch + 0.025 * grain).astype(np.float32)
    # A lining a little bluer than the rest, as endosteal cells and cement lines show.
    lining = np.exp(-(((depth - 1.0) / 1.2) ** 2)).astype(np.float32)
    layer = (amount * density)[..., None] * _BONE_OD + (amount * lining)[..., None] * _CEMENT_OD
    _add_osteocytes(layer, plan, x_um, y_um)
    return np.asarray(np.power(10.0, -layer), dtype=np.float32)


def _inside(depth: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.asarray(1.0 / (1.0 + np.exp(np.clip(-depth / _EDGE_UM, -40, 40))), dtype=np.float32)


def _add_osteocytes(layer: npt.NDArray[np.float32], plan: CorePlan, x_um: FloatArray, y_um: FloatArray) -> None:
    """Empty a lacuna for each osteocyte and lay its nucleus inside."""
    reach = _LACUNA_UM[0] + 2.0
    x, y = plan.osteocytes[:, 0], plan.osteocytes[:, 1]
    near = (x > x_um[0] - reach) & (x < x_um[-1] + reach) & (y > y_um[0] - reach) & (y < y_um[-1] + reach)
    for cx, cy, angle in plan.osteocytes[near]:
        columns = np.flatnonzero(np.abs(x_um - cx) < reach)
        rows = np.flatnonzero(np.abs(y_um - cy) < reach)
        if not len(columns) or not len(rows):
            continue
        part = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        dx, dy = x_um[columns][None, :] - cx, y_um[rows][:, None] - cy
        along, across = dx * math.cos(angle) + dy * math.sin(angle), dy * math.cos(angle) - dx * math.sin(angle)
        lacuna, nucleus = (
            1.0 / (1.0 + np.exp(np.clip((np.hypot(along / a, across / b) - 1) * b / 0.35, -40, 40)))
            for a, b in (_LACUNA_UM, _NUCLEUS_UM)
        )
        layer[part] = layer[part] * (1 - 0.8 * lacuna[..., None]) + nucleus[..., None] * _OSTEOCYTE_OD
