"""One block from pixels to instances."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from shapely.geometry.base import BaseGeometry

from wsi_pipeline.config import SegmentationConfig, Specimen
from wsi_pipeline.segmentation.batching import CPU_BATCH, Batch, run_halving
from wsi_pipeline.segmentation.engines import LAYERS, Engine, Rules, engine_for, find_on_device, find_on_host
from wsi_pipeline.segmentation.instances import Instances
from wsi_pipeline.segmentation.kinds import decide_kinds, has_nucleus
from wsi_pipeline.segmentation.models import FlowModel
from wsi_pipeline.segmentation.normalise import Normalisation
from wsi_pipeline.segmentation.predict import Reader, predict_window, predict_window_on_device
from wsi_pipeline.segmentation.sharpen import sharpen_nuclei
from wsi_pipeline.tiling import Block, TileLattice
from wsi_pipeline.units import Box

_FieldsT = TypeVar("_FieldsT")


@dataclass(frozen=True, kw_only=True)
class SegmentedBlock:
    """The cells a block owns, with what is needed to measure them.

    Attributes
    ----------
    block
        Where.
    instances
        Masks, seeds and integer sums.
    kind, kind_support
        ``(n,)`` kind of each cell and the share of evidence for it.
    nucleated
        ``(n,)`` bool: the outline is the cell's, in which ``nuclear`` shows the nucleus; not that of a nucleus alone.
    cell_probability
        ``(n,)`` mean over the cell, 0..1.
    mean_rgb
        ``(n, 3)`` mean grey levels.
    nuclear
        ``(h, w)`` bool nuclear pixels of the window.
    rgb
        ``(h, w, 3)`` uint8 pixels of the window.
    """

    block: Block
    instances: Instances
    kind: npt.NDArray[np.object_]
    kind_support: npt.NDArray[np.float64]
    nucleated: npt.NDArray[np.bool_]
    cell_probability: npt.NDArray[np.float64]
    mean_rgb: npt.NDArray[np.float64]
    nuclear: npt.NDArray[np.bool_]
    rgb: npt.NDArray[np.uint8]


def segment_block(
    read: Reader,
    block: Block,
    *,
    lattice: TileLattice,
    dilated_region: BaseGeometry,
    normalisation: Normalisation,
    model: FlowModel,
    config: SegmentationConfig,
    specimen: Specimen,
    batch: Batch | None = None,
    engine: Engine | None = None,
) -> SegmentedBlock:
    """Segment one block; the cells it returns are the same whatever the block's size.

    Parameters
    ----------
    read
        Returns uint8 RGB of a box in working pixels.
    dilated_region
        Region grown by the halo, working pixels; tiles outside it are never computed.
    batch
        Network tiles a batch, halved when a GPU runs out of memory; None takes the configuration's, 8 for ``auto``.
    engine
        ``numba`` or ``torch``; by default what :func:`engine_for` says of the model's device.

    Raises
    ------
    ModelError
        The network gave numbers that are not finite.
    """
    window = block.window
    core = Box(
        x0=block.core.x0 - window.x0, y0=block.core.y0 - window.y0,
        x1=block.core.x1 - window.x0, y1=block.core.y1 - window.y0,
    )  # fmt: skip
    um2_per_px = config.mpp**2
    rules = Rules(
        niter=config.niter,
        cellprob_threshold=config.cellprob_threshold,
        flow_threshold=config.flow_threshold,
        min_area_px=max(1, math.ceil(config.min_area_um2 / um2_per_px)),
        max_cell_diameter_px=math.ceil(config.max_cell_diameter_um / config.mpp),
    )
    batch = batch or Batch.of(CPU_BATCH if config.batch_size == "auto" else config.batch_size)
    finding: dict[str, Any] = {"core": core, "normalisation": normalisation, "kinds": model.kinds, "rules": rules}

    def predicted(predict: Callable[..., _FieldsT]) -> _FieldsT:
        return run_halving(
            lambda tiles: predict(
                read,
                window,
                lattice=lattice,
                dilated_region=dilated_region,
                normalisation=normalisation,
                model=model,
                batch_size=tiles,
            ),
            batch,
            f"block {block.name}",
        )

    if (engine or engine_for(model.device)) == "torch":
        on_device = predicted(predict_window_on_device)
        rgb = on_device.rgb
        instances, nuclear = find_on_device(on_device, **finding)
    else:
        on_host = predicted(predict_window)
        rgb = on_host.rgb
        instances, nuclear = find_on_host(on_host, **finding)
    area = np.maximum(instances.area_px, 1)
    kind, support = decide_kinds(
        instances.sums[:, len(LAYERS) :],
        model.kinds,
        area_px=instances.area_px,
        nuclear_px=instances.sums[:, 4],
        um2_per_px=um2_per_px,
        specimen=specimen,
    )
    nucleated = has_nucleus(kind, model.kinds)
    large = nucleated & (kind == "megakaryocyte")
    if large.any():
        nuclear = sharpen_nuclei(instances.labels, instances.boxes, rgb, nuclear, large, mpp=config.mpp)
    return SegmentedBlock(
        block=block,
        instances=instances,
        kind=kind,
        kind_support=support,
        nucleated=nucleated,
        cell_probability=instances.sums[:, 0] / (255 * area),
        mean_rgb=instances.sums[:, 1:4] / area[:, None],
        nuclear=nuclear,
        rgb=rgb,
    )
