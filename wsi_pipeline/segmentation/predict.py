"""Run a network over a window: tiles of the lattice in fixed batches, blended in raster order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from shapely.geometry.base import BaseGeometry

from wsi_pipeline.errors import ModelError
from wsi_pipeline.segmentation.models import FlowModel
from wsi_pipeline.segmentation.normalise import Normalisation
from wsi_pipeline.tiling import TileLattice, taper
from wsi_pipeline.units import Box

if TYPE_CHECKING:
    from torch import Tensor

Reader = Callable[[Box], npt.NDArray[np.uint8]]


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Network output over a window.

    Attributes
    ----------
    output
        ``(3 + k, h, w)`` float32: 5 x flow y, 5 x flow x, cell logit, kind logits; blended over tiles. Where no
        tile was computed the cell logit is -inf and the rest 0; all else is finite.
    rgb
        ``(h, w, 3)`` uint8 pixels of the window.
    """

    output: npt.NDArray[np.float32]
    rgb: npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class DeviceFields:
    """Network output over a window, still on the model's device.

    Attributes
    ----------
    output
        As that of :class:`Fields`.
    rgb
        ``(h, w, 3)`` uint8 pixels of the window, on the host.
    """

    output: Tensor
    rgb: npt.NDArray[np.uint8]


def predict_window(
    read: Reader,
    window: Box,
    *,
    lattice: TileLattice,
    dilated_region: BaseGeometry,
    normalisation: Normalisation,
    model: FlowModel,
    batch_size: int,
) -> Fields:
    """Predict all lattice tiles that meet the window and the dilated region, and blend them over the window.

    Parameters
    ----------
    read
        Returns ``(h, w, 3)`` uint8 of a box in working pixels, white outside the slide.
    window
        Where the output is wanted, working pixels.
    batch_size
        Tiles per batch; the last is padded with zeros, so every batch has one shape.

    Raises
    ------
    ModelError
        The network gave numbers that are not finite.
    """
    work = _Work.of(read, window, lattice, dilated_region)
    total = np.zeros((3 + len(model.kinds), window.height, window.width), np.float32)
    weight = np.zeros((window.height, window.width), np.float32)
    ramp = taper(lattice.tile_px)
    for boxes, batch in work.batches(normalisation, batch_size):
        for tile, box in zip(model.predict(batch), boxes, strict=False):
            _blend(total, weight, tile, ramp, box, window)
    if not np.isfinite(total).all():
        raise _not_finite(model, window, tuple(np.argwhere(~np.isfinite(total))[0, 1:].tolist()))
    covered = weight > 0
    np.divide(total, weight, out=total, where=covered)
    total[2][~covered] = -np.inf
    return Fields(output=total, rgb=work.crop(window))


def predict_window_on_device(
    read: Reader,
    window: Box,
    *,
    lattice: TileLattice,
    dilated_region: BaseGeometry,
    normalisation: Normalisation,
    model: FlowModel,
    batch_size: int,
) -> DeviceFields:
    """As :func:`predict_window`, blending on the model's device; nothing the network says comes to the host."""
    import torch

    work = _Work.of(read, window, lattice, dilated_region)
    device = model.device
    total = torch.zeros((3 + len(model.kinds), window.height, window.width), device=device)
    weight = torch.zeros((window.height, window.width), device=device)
    ramp = torch.from_numpy(taper(lattice.tile_px)).to(device)
    for boxes, batch in work.batches(normalisation, batch_size):
        for tile, box in zip(model.predict_on_device(batch), boxes, strict=False):
            _blend(total, weight, tile, ramp, box, window)
    if not bool(total.isfinite().all()):
        raise _not_finite(model, window, tuple((~total.isfinite()).nonzero()[0, 1:].tolist()))
    covered = weight > 0
    total = torch.where(covered, total / weight, total)
    total[2][~covered] = -torch.inf
    return DeviceFields(output=total, rgb=work.crop(window))


def pixels_needed(window: Box, lattice: TileLattice, dilated_region: BaseGeometry) -> Box:
    """Return the working pixels that predicting a window reads: the window and the tiles computed for it."""
    boxes = tuple(lattice.tile(*tile) for tile in lattice.computed(window, dilated_region))
    return _around(window, boxes)


def _around(window: Box, boxes: tuple[Box, ...]) -> Box:
    return Box(
        x0=min(window.x0, *(b.x0 for b in boxes)), y0=min(window.y0, *(b.y0 for b in boxes)),
        x1=max(window.x1, *(b.x1 for b in boxes)), y1=max(window.y1, *(b.y1 for b in boxes)),
    ) if boxes else window  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Work:
    """The tiles a window needs, in raster order, and the pixels under all of them."""

    boxes: tuple[Box, ...]
    around: Box
    pixels: npt.NDArray[np.uint8]

    @classmethod
    def of(cls, read: Reader, window: Box, lattice: TileLattice, dilated_region: BaseGeometry) -> _Work:
        boxes = tuple(lattice.tile(*tile) for tile in lattice.computed(window, dilated_region))
        around = _around(window, boxes)
        return cls(boxes=boxes, around=around, pixels=read(around))

    def crop(self, box: Box) -> npt.NDArray[np.uint8]:
        x, y = self.around.x0, self.around.y0
        return self.pixels[box.y0 - y : box.y1 - y, box.x0 - x : box.x1 - x].copy()

    def batches(
        self, normalisation: Normalisation, batch_size: int
    ) -> Iterator[tuple[tuple[Box, ...], npt.NDArray[np.float32]]]:
        """Yield boxes and their ``(batch_size, 3, t, t)`` normalised tiles, the last batch padded with zeros."""
        for start in range(0, len(self.boxes), batch_size):
            part = self.boxes[start : start + batch_size]
            batch = np.zeros((batch_size, 3, part[0].height, part[0].width), np.float32)
            for slot, box in enumerate(part):
                batch[slot] = normalisation.apply(self.crop(box)).transpose(2, 0, 1)
            yield part, batch


def _blend(total: Any, weight: Any, tile: Any, ramp: Any, box: Box, window: Box) -> None:
    """Add a tile's weighted output to the part of the window it covers; all are arrays, or tensors of one device."""
    shared = box.clip(window)
    inside = np.s_[shared.y0 - window.y0 : shared.y1 - window.y0, shared.x0 - window.x0 : shared.x1 - window.x0]
    source = np.s_[shared.y0 - box.y0 : shared.y1 - box.y0, shared.x0 - box.x0 : shared.x1 - box.x0]
    total[:, inside[0], inside[1]] += tile[:, source[0], source[1]] * ramp[source]
    weight[inside] += ramp[source]


def _not_finite(model: FlowModel, window: Box, place: tuple[int, ...]) -> ModelError:
    return ModelError(
        f"model {model.name} gave numbers that are not finite at working pixel x {window.x0 + place[1]}, "
        f"y {window.y0 + place[0]}; its weights are damaged or do not suit this device: check them "
        "(wsi-pipeline models verify) or choose another segmentation.model"
    )
