"""From network output to instances by one of two engines that follow the same rules: numba on the CPU, torch on a GPU.

Which engine runs is settled by the device, never by what happens to be fast: a block's cells must not depend on luck.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from wsi_pipeline.segmentation.dynamics import flows_to_labels
from wsi_pipeline.segmentation.instances import Instances, extract_instances
from wsi_pipeline.segmentation.kinds import kind_probabilities, nuclear_pixels, parts_of
from wsi_pipeline.segmentation.networks import FLOW_SCALE
from wsi_pipeline.segmentation.normalise import Normalisation
from wsi_pipeline.segmentation.predict import DeviceFields, Fields
from wsi_pipeline.units import Box

Engine = Literal["numba", "torch"]

LAYERS = ("cell", "red", "green", "blue", "nuclear")
"""Layers summed over each cell: cell probability and colours 0..255, nuclear pixels 0 or 1; kinds come after them."""

_MAX_STEP = 4.0
_MAX_LOGIT = 50.0


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What decides on cells, in working pixels.

    Attributes
    ----------
    niter
        Steps a pixel is followed along the flow.
    cellprob_threshold
        Pixels whose cell logit is above it are foreground.
    flow_threshold
        Largest flow error of a cell; 0 switches the check off.
    min_area_px
        Smaller cells are dropped.
    max_cell_diameter_px
        Pixels are followed at most half of it.
    """

    niter: int
    cellprob_threshold: float
    flow_threshold: float
    min_area_px: int
    max_cell_diameter_px: int


def engine_for(device: str) -> Engine:
    """Return the engine of a device: ``torch`` on ``cuda``, ``numba`` elsewhere."""
    return "torch" if device.startswith("cuda") else "numba"


def find_on_host(
    fields: Fields, *, core: Box, normalisation: Normalisation, kinds: tuple[str, ...], rules: Rules
) -> tuple[Instances, npt.NDArray[np.bool_]]:
    """Return the core's instances, found by numba, and the nuclear pixels of the window.

    Parameters
    ----------
    core
        Half-open box in window pixels.
    kinds
        Names of the kind channels of ``fields``, background first.

    Returns
    -------
    instances
        With sums over :data:`LAYERS` and then over the kinds' probabilities, 0..255.
    nuclear
        ``(h, w)`` bool.
    """
    logit = fields.output[2]
    foreground = logit > rules.cellprob_threshold
    # A unit flow; a network gone astray must not send a pixel off without end.
    flow = np.clip(fields.output[:2] / np.float32(FLOW_SCALE), np.float32(-_MAX_STEP), np.float32(_MAX_STEP))
    labels, seeds = flows_to_labels(
        flow * foreground, foreground, niter=rules.niter, max_cell_diameter_px=rules.max_cell_diameter_px
    )
    kind_logits = fields.output[3:] if kinds else None
    nuclear = nuclear_pixels(fields.rgb, normalisation, kind_logits, kinds)
    layers = np.empty((len(LAYERS) + len(kinds), *logit.shape), np.uint8)
    layers[0] = np.rint(255 / (1 + np.exp(-np.clip(logit, -_MAX_LOGIT, _MAX_LOGIT))))
    layers[1:4] = fields.rgb.transpose(2, 0, 1)
    layers[4] = nuclear
    if kind_logits is not None:
        layers[5:] = kind_probabilities(kind_logits)
    instances = extract_instances(
        labels,
        seeds,
        core=core,
        flow=flow,
        foreground=foreground,
        layers=layers,
        flow_threshold=rules.flow_threshold,
        min_area_px=rules.min_area_px,
        max_cell_diameter_px=rules.max_cell_diameter_px,
    )
    return instances, nuclear


def find_on_device(
    fields: DeviceFields, *, core: Box, normalisation: Normalisation, kinds: tuple[str, ...], rules: Rules
) -> tuple[Instances, npt.NDArray[np.bool_]]:
    """As :func:`find_on_host`, by torch on the device of the fields.

    From the same fields the cells are the same; sums of probabilities may differ by a grey level here and there,
    since the exponential of another device is rounded in another way.
    """
    import torch

    from wsi_pipeline.segmentation import torch_dynamics, torch_instances

    with torch.inference_mode():
        output = fields.output
        logit = output[2]
        foreground = logit > rules.cellprob_threshold
        scale = torch.tensor(FLOW_SCALE, dtype=torch.float32, device=output.device)
        flow = (output[:2] / scale).clamp(-_MAX_STEP, _MAX_STEP)
        labels, seeds = torch_dynamics.flows_to_labels(
            flow * foreground, foreground, niter=rules.niter, max_cell_diameter_px=rules.max_cell_diameter_px
        )
        layers = torch.empty((len(LAYERS) + len(kinds), *logit.shape), dtype=torch.uint8, device=output.device)
        layers[0] = (255 / (1 + (-logit.clamp(-_MAX_LOGIT, _MAX_LOGIT)).exp())).round()
        layers[1:4] = torch.from_numpy(fields.rgb).to(output.device).permute(2, 0, 1)
        if (parts := parts_of(kinds)) is not None:
            likelier = output[3 + parts[0]] > output[3 + parts[1]]
            nuclear = likelier.cpu().numpy()
            layers[4] = likelier
        else:
            nuclear = nuclear_pixels(fields.rgb, normalisation, None, kinds)
            layers[4] = torch.from_numpy(nuclear).to(output.device)
        if kinds:
            layers[5:] = (255 * output[3:].softmax(0)).round()
        instances = torch_instances.extract_instances(
            labels,
            seeds,
            core=core,
            flow=flow,
            foreground=foreground,
            layers=layers,
            flow_threshold=rules.flow_threshold,
            min_area_px=rules.min_area_px,
            max_cell_diameter_px=rules.max_cell_diameter_px,
        )
    return instances, nuclear
