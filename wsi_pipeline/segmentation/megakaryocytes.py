"""Megakaryocytes by a network of their own, on the pixels that another network finds the nuclei on.

Both follow the same rules of tiles, seeds and ownership (:mod:`wsi_pipeline.segmentation.segment`), so a megakaryocyte
is whole and the same whatever the cut. Its network tells cell from nucleus inside it
(:data:`~wsi_pipeline.segmentation.kinds.MEGAKARYOCYTE_KINDS`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from wsi_pipeline.config import SegmentationConfig, Specimen
from wsi_pipeline.errors import ModelError
from wsi_pipeline.segmentation.kinds import MEGAKARYOCYTE_KINDS
from wsi_pipeline.segmentation.models import CompactModel, find_segmentation_weights, load_model
from wsi_pipeline.segmentation.normalise import Normalisation
from wsi_pipeline.segmentation.precision import RequestedPrecision
from wsi_pipeline.segmentation.segment import SegmentedBlock

if TYPE_CHECKING:
    from collections.abc import Sequence

EMBEDDING_SIDE_PX = 128
"""Side of the square around a megakaryocyte that its embedding is computed on, working pixels."""

_DEPTHS = (2, 3)


def load_megakaryocyte_model(
    name: str, *, specimen: Specimen, device: str, precision: RequestedPrecision
) -> CompactModel:
    """Load a network that delineates megakaryocytes, by name or from a path.

    Raises
    ------
    ModelError, MissingWeightsError
        As :func:`~wsi_pipeline.segmentation.models.load_model`, and for a network of other kinds.
    """
    model = load_model(name, specimen=specimen, device=device, precision=precision)
    if not isinstance(model, CompactModel) or model.kinds != MEGAKARYOCYTE_KINDS:
        raise ModelError(
            f"segmentation.megakaryocyte_model {name} knows {', '.join(model.kinds) or 'no kinds'}; it must be a "
            f"compact network that knows {', '.join(MEGAKARYOCYTE_KINDS)}, such as compact-megakaryocyte"
        )
    return model


def megakaryocyte_config(config: SegmentationConfig) -> SegmentationConfig:
    """Return the settings that megakaryocytes are segmented with: those of the nuclei but for the least area."""
    return config.model_copy(
        update={"model": config.megakaryocyte_model, "min_area_um2": config.megakaryocyte_min_area_um2}
    )


def nuclei_only(segmented: SegmentedBlock) -> SegmentedBlock:
    """Return the cells of the nuclei's network with those it takes for megakaryocytes called nuclei."""
    kind = np.where(segmented.kind == "megakaryocyte", "nucleus", segmented.kind).astype(object)
    return replace(segmented, kind=kind)


def embedding_dim(name: str) -> int:
    """Return the length of the embedding of a network, from its card.

    Raises
    ------
    ModelError, MissingWeightsError
        The weights are not on this machine, or their card is damaged.
    """
    return _dim(find_segmentation_weights(name).card["widths"])


def _dim(widths: Sequence[int]) -> int:
    return sum(int(widths[depth]) for depth in _DEPTHS)


def embed_cells(
    segmented: SegmentedBlock, rows: Sequence[int], *, model: CompactModel, normalisation: Normalisation
) -> npt.NDArray[np.float16]:
    """Return what the network sees in cells: its features at a quarter and an eighth of the resolution, over the cell.

    Each cell is looked at alone, in a square around its seed that is white beyond the window, so neither the block nor
    its neighbours in a batch can change it.

    Parameters
    ----------
    rows
        Indices of instances.

    Returns
    -------
    numpy.ndarray
        ``(len(rows), embedding_dim)`` float16: means over the cell's pixels, those of larger cells over what lies in
        the square.
    """
    half = EMBEDDING_SIDE_PX // 2
    rgb = np.pad(segmented.rgb, ((half, half), (half, half), (0, 0)), constant_values=255)
    labels = np.pad(segmented.instances.labels, half)
    found = []
    for row in rows:
        y, x = int(segmented.instances.seed_y[row]), int(segmented.instances.seed_x[row])
        box = (slice(y, y + EMBEDDING_SIDE_PX), slice(x, x + EMBEDDING_SIDE_PX))
        tile = normalisation.apply(rgb[box]).transpose(2, 0, 1)[None]
        found.append(model.pooled(np.ascontiguousarray(tile), labels[box] == row + 1, _DEPTHS))
    return np.array(found, np.float16).reshape(len(found), _dim(model.widths))
