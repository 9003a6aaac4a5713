"""Agreement of our flows -> instances with ``cellpose.dynamics.compute_masks`` on the same flows, over a matrix.

Rows are clean or noisy flows of sparse, dense or touching cells, small or large, by seed, and fields without cells.
Agreement is average precision, TP / (TP + FP + FN), at IoU 0.9, border cells included; two empty results agree.

Bounds: on clean flows 0.995. On noisy flows Cellpose does not agree with itself when the same flows are moved by 96
pixels on one canvas, since it follows them in coordinates normalised by the image's size; there the bound is its
agreement with itself, less 0.005. Where it finds nothing we must find nothing.

Not compared: truth (``dynamics.py`` does), cells beyond the largest diameter, holes with cells in them; there the two
differ by design.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from _inputs import dense_labels, noisy_fields

SIDE_PX = 512
SHIFT_PX = 96
NITER = 200
FLOW_THRESHOLD = 0.4
MIN_AREA_PX = 15
DIAMETER_PX = 160
CLEAN_BOUND = 0.995
NOISY_MARGIN = 0.005

NOISE = {"clean": 0.0, "noisy": 0.25}
SIZES = {"small": 14.0, "large": 56.0}
LAYOUTS = {"sparse": (2.0, (0.21, 0.31)), "dense": (1.22, (0.34, 0.48)), "touching": (1.0, (0.42, 0.62))}
"""Spacing in cell diameters, and radius in spacings."""

Labels = npt.NDArray[np.int32]
Flows = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A row of the matrix; ``layout`` may also be ``empty`` (no foreground) or ``still`` (foreground without flow)."""

    noise: str
    layout: str
    size: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.noise} {self.layout} {self.size} {self.seed}"

    def fields(self) -> Flows:
        """Return ``(3, h, w)``: 5 x flow y, 5 x flow x, cell logit."""
        if self.layout in ("empty", "still"):
            fields = noisy_fields(np.zeros((SIDE_PX, SIDE_PX), np.int32), noise=NOISE[self.noise], seed=self.seed)
            if self.layout == "still":
                fields[2] = 6
                fields[:2] *= 0
            return fields
        spacing, radius = LAYOUTS[self.layout]
        labels = dense_labels(SIDE_PX, spacing_px=spacing * SIZES[self.size], seed=self.seed, radius=radius)
        return noisy_fields(labels, noise=NOISE[self.noise], seed=self.seed + 1000)


MATRIX = tuple(
    Case(noise=noise, layout=layout, size=size, seed=seed)
    for noise, layout, size, seed in product(NOISE, LAYOUTS, SIZES, (1, 2, 3))
) + tuple(Case(noise=noise, layout=layout, size="none", seed=1) for noise, layout in product(NOISE, ("empty", "still")))


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a case gave.

    Attributes
    ----------
    theirs, ours
        Cells found by Cellpose and by us.
    agreement
        Of the two, average precision at IoU 0.9.
    own_agreement
        Of Cellpose with itself after the shift; None for clean rows.
    """

    theirs: int
    ours: int
    agreement: float
    own_agreement: float | None

    @property
    def bound(self) -> float:
        if self.theirs == 0:
            return 1.0
        return CLEAN_BOUND if self.own_agreement is None else self.own_agreement - NOISY_MARGIN

    @property
    def holds(self) -> bool:
        return self.agreement >= self.bound


def measure(case: Case) -> Row:
    """Run both engines on a case."""
    fields = case.fields()
    canvas = _placed(fields, 0)
    theirs, ours = cellpose_labels(canvas), our_labels(canvas)
    own = None
    if NOISE[case.noise] > 0:
        moved = cellpose_labels(_placed(fields, SHIFT_PX))[SHIFT_PX:, SHIFT_PX:]
        own = average_precision(theirs[:SIDE_PX, :SIDE_PX], moved, 0.9)
    return Row(
        theirs=len(np.unique(theirs[theirs > 0])),
        ours=len(np.unique(ours[ours > 0])),
        agreement=average_precision(theirs, ours, 0.9),
        own_agreement=own,
    )


def _placed(fields: Flows, offset: int) -> Flows:
    """Return the fields at an offset on a canvas that leaves room for the shift, background around them."""
    side = SIDE_PX + SHIFT_PX
    canvas = np.zeros((3, side, side), np.float32)
    canvas[2] = -6
    canvas[:, offset : offset + SIDE_PX, offset : offset + SIDE_PX] = fields
    return canvas


def our_labels(fields: Flows) -> Labels:
    from wsi_pipeline.segmentation.dynamics import flows_to_labels
    from wsi_pipeline.segmentation.instances import extract_instances
    from wsi_pipeline.segmentation.networks import FLOW_SCALE
    from wsi_pipeline.units import Box

    height, width = fields.shape[1:]
    foreground = fields[2] > 0
    flow = fields[:2] / np.float32(FLOW_SCALE)
    labels, seeds = flows_to_labels(flow * foreground, foreground, niter=NITER, max_cell_diameter_px=DIAMETER_PX)
    return extract_instances(
        labels, seeds, core=Box(x0=0, y0=0, x1=width, y1=height), flow=flow, foreground=foreground,
        layers=np.zeros((0, height, width), np.uint8), flow_threshold=FLOW_THRESHOLD, min_area_px=MIN_AREA_PX,
        max_cell_diameter_px=DIAMETER_PX,
    ).labels  # fmt: skip


def cellpose_labels(fields: Flows) -> Labels:
    import torch
    from cellpose import dynamics

    masks = dynamics.compute_masks(
        fields[:2], fields[2], niter=NITER, cellprob_threshold=0.0, flow_threshold=FLOW_THRESHOLD,
        min_size=MIN_AREA_PX, max_size_fraction=1.0, device=torch.device("cpu"),
    )  # fmt: skip
    return np.asarray(masks, dtype=np.int32)


def average_precision(a: Labels, b: Labels, threshold: float) -> float:
    """Return TP / (TP + FP + FN) at an IoU, border cells included; 1 where both are empty."""
    from wsi_pipeline.evaluation import instance_overlaps, match_instances

    match = match_instances(instance_overlaps(a, b), threshold, ignore_border=False)
    total = len(match.pairs) + len(match.missed) + len(match.false)
    return len(match.pairs) / total if total else 1.0
