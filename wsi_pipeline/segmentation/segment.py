"""One block from pixels to instances."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from shapely.geometry.base import BaseGeometry

from wsi_pipeline.config import SegmentationConfig, Specimen
from wsi_pipeline.segmentation.batching import CPU_BATCH, Batch, run_halving
from wsi_pipeline.segmentation.dynamics import flows_to_labels
from wsi_pipeline.segmentation.instances import Instances, extract_instances
from wsi_pipeline.segmentation.kinds import decide_kinds, kind_probabilities, nuclear_pixels
from wsi_pipeline.segmentation.models import FlowModel
from wsi_pipeline.segmentation.networks import FLOW_SCALE
from wsi_pipeline.segmentation.normalise import Normalisation
from wsi_pipeline.segmentation.predict import Reader, predict_window
from wsi_pipeline.tiling import Block, TileLattice
from wsi_pipeline.units import Box

_MAX_STEP = np.float32(4.0)
_LAYERS = ("cell", "red", "green", "blue", "nuclear")


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
    cell_probability
        ``(n,)`` mean over the cell, 0..1.
    mean_rgb
        ``(n, 3)`` mean grey levels.
    nuclear
        ``(h, w)`` bool nuclear pixels of the window.
    """

    block: Block
    instances: Instances
    kind: npt.NDArray[np.object_]
    kind_support: npt.NDArray[np.float64]
    cell_probability: npt.NDArray[np.float64]
    mean_rgb: npt.NDArray[np.float64]
    nuclear: npt.NDArray[np.bool_]


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
    """
    window = block.window
    fields = run_halving(
        lambda tiles: predict_window(
            read,
            window,
            lattice=lattice,
            dilated_region=dilated_region,
            normalisation=normalisation,
            model=model,
            batch_size=tiles,
        ),
        batch or Batch.of(CPU_BATCH if config.batch_size == "auto" else config.batch_size),
        f"block {block.name}",
    )
    logit = fields.output[2]
    foreground = logit > config.cellprob_threshold
    # A unit flow; a network gone astray must not send a pixel off without end.
    flow = np.clip(np.nan_to_num(fields.output[:2]) / np.float32(FLOW_SCALE), -_MAX_STEP, _MAX_STEP)
    diameter_px = math.ceil(config.max_cell_diameter_um / config.mpp)
    labels, seeds = flows_to_labels(flow * foreground, foreground, niter=config.niter, max_cell_diameter_px=diameter_px)
    kind_logits = fields.output[3:] if model.kinds else None
    nuclear = nuclear_pixels(fields.rgb, normalisation, kind_logits, model.kinds)
    layers = np.empty((len(_LAYERS) + len(model.kinds), window.height, window.width), np.uint8)
    layers[0] = np.rint(255 / (1 + np.exp(-np.clip(logit, -50, 50))))
    layers[1:4] = fields.rgb.transpose(2, 0, 1)
    layers[4] = nuclear
    if kind_logits is not None:
        layers[5:] = kind_probabilities(kind_logits)
    core = Box(
        x0=block.core.x0 - window.x0, y0=block.core.y0 - window.y0,
        x1=block.core.x1 - window.x0, y1=block.core.y1 - window.y0,
    )  # fmt: skip
    um2_per_px = config.mpp**2
    instances = extract_instances(
        labels,
        seeds,
        core=core,
        flow=flow,
        foreground=foreground,
        layers=layers,
        flow_threshold=config.flow_threshold,
        min_area_px=max(1, math.ceil(config.min_area_um2 / um2_per_px)),
        max_cell_diameter_px=diameter_px,
    )
    area = np.maximum(instances.area_px, 1)
    kind, support = decide_kinds(
        instances.sums[:, len(_LAYERS) :],
        model.kinds,
        area_px=instances.area_px,
        nuclear_px=instances.sums[:, 4],
        um2_per_px=um2_per_px,
        specimen=specimen,
    )
    return SegmentedBlock(
        block=block,
        instances=instances,
        kind=kind,
        kind_support=support,
        cell_probability=instances.sums[:, 0] / (255 * area),
        mean_rgb=instances.sums[:, 1:4] / area[:, None],
        nuclear=nuclear,
    )
