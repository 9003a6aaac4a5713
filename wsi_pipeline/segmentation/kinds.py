"""What kind of cell an instance is: from the network's kind channels, or from stain when it has none."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsi_pipeline.config import Specimen
from wsi_pipeline.segmentation.normalise import Normalisation

CELL_KINDS = ("white", "red", "platelet", "nucleus", "megakaryocyte", "other")
"""Values of the ``kind`` column."""

KIND_OF_CHANNEL = {
    "white": "white",
    "red": "red",
    "platelet": "platelet",
    "cytoplasm": "white",
    "white_nucleus": "white",
    "nucleus": "nucleus",
    "megakaryocyte": "megakaryocyte",
    "megakaryocyte_cytoplasm": "megakaryocyte",
    "megakaryocyte_nucleus": "megakaryocyte",
}
"""The cell kind that a kind channel of a network speaks for; ``megakaryocyte`` that of a megakaryocyte's nucleus."""

MEGAKARYOCYTE_KINDS = ("background", "megakaryocyte_cytoplasm", "megakaryocyte_nucleus")
"""Kind channels of a network that delineates megakaryocytes, cell and nucleus."""

PARTS = {"white_nucleus": "cytoplasm", "megakaryocyte_nucleus": "megakaryocyte_cytoplasm"}
"""Channels of nuclei inside cells, and those of the cytoplasm around them."""

_NUCLEAR_RED = 0.45
_MIN_NUCLEUS_UM2 = 9.0
_WHITE_SHARE = 0.62
_MAX_PLATELET_UM2 = 16.0
_MIN_MEGAKARYOCYTE_NUCLEUS_UM2 = 60.0


def kind_probabilities(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Return the softmax over ``(k, h, w)`` logits as uint8 0..255, so that sums over cells are integers."""
    shifted = np.exp(logits - logits.max(axis=0, keepdims=True))
    shifted /= shifted.sum(axis=0, keepdims=True)
    return np.rint(255 * shifted).astype(np.uint8)


def parts_of(kinds: tuple[str, ...]) -> tuple[int, int] | None:
    """Return the channels of nucleus and cytoplasm of a network that tells them apart; None where it does not."""
    return next(((kinds.index(inner), kinds.index(PARTS[inner])) for inner in PARTS if inner in kinds), None)


def has_nucleus(kind: npt.NDArray[np.object_], kinds: tuple[str, ...]) -> npt.NDArray[np.bool_]:
    """Return which cells have a nucleus inside their outline: white ones, and megakaryocytes told with theirs."""
    nucleated = kind == "white"
    if "megakaryocyte_nucleus" in kinds:
        nucleated |= kind == "megakaryocyte"
    return np.asarray(nucleated, dtype=bool)


def nuclear_pixels(
    rgb: npt.NDArray[np.uint8],
    normalisation: Normalisation,
    logits: npt.NDArray[np.float32] | None,
    kinds: tuple[str, ...],
) -> npt.NDArray[np.bool_]:
    """Return the pixels of stained nuclei.

    With a network that tells nucleus from cytoplasm, where the former is likelier; otherwise where red light is
    absorbed, since nuclear stains (azure B, haematoxylin) absorb red and eosin, the colour of red cells, does not.
    """
    if logits is not None and (parts := parts_of(kinds)) is not None:
        return logits[parts[0]] > logits[parts[1]]
    return normalisation.apply(rgb)[..., 0] < _NUCLEAR_RED


def decide_kinds(
    sums: npt.NDArray[np.int64],
    kinds: tuple[str, ...],
    *,
    area_px: npt.NDArray[np.int64],
    nuclear_px: npt.NDArray[np.int64],
    um2_per_px: float,
    specimen: Specimen,
) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.float64]]:
    """Return the kind of each cell and the share of the evidence that supports it.

    Parameters
    ----------
    sums
        ``(n, k)`` sums of :func:`kind_probabilities` over each cell; ``k`` is 0 for models without kinds.
    kinds
        Names of the ``k`` channels, background first.
    area_px, nuclear_px
        ``(n,)`` pixels of the cell and of its nucleus.

    Notes
    -----
    With kind channels the kind with most votes wins, with three exceptions that the biology asks for. A cell below
    16 um2 (4.5 um across) is never white: the smallest lymphocytes are 6 um across, and large platelets stain like
    them. A cell is white only if nucleus and cytoplasm have at least 0.62 of its votes against red: on the fields of
    the training and validation split every white cell has 0.78 or more and every red cell 0.46 or less, and red
    cells are a thousand times as many. A nucleus below 60 um2 (8.7 um across) is never a megakaryocyte's.

    Without kind channels a section has nuclei only; on a smear a cell with at least 9 um2 of nuclear stain is
    white, a smaller one of at most 16 um2 that is mostly nuclear stain a platelet, the rest red, with support 1.
    """
    n = len(area_px)
    if not kinds:
        if specimen == "trephine":
            return np.full(n, "nucleus", object), np.ones(n)
        white = nuclear_px * um2_per_px >= _MIN_NUCLEUS_UM2
        platelet = ~white & (area_px * um2_per_px <= _MAX_PLATELET_UM2) & (2 * nuclear_px >= area_px)
        return np.where(white, "white", np.where(platelet, "platelet", "red")).astype(object), np.ones(n)
    names = sorted({KIND_OF_CHANNEL[k] for k in kinds[1:]}, key=CELL_KINDS.index)
    votes = np.zeros((n, len(names)), np.int64)
    for channel, kind in enumerate(kinds[1:], start=1):
        votes[:, names.index(KIND_OF_CHANNEL[kind])] += sums[:, channel]
    best = votes.argmax(axis=1)
    area_um2 = area_px * um2_per_px
    if "white" in names and "red" in names:
        for_white, for_red = votes[:, names.index("white")], votes[:, names.index("red")]
        doubtful = (best == names.index("white")) & (for_white < _WHITE_SHARE * (for_white + for_red))
        best = np.where(doubtful, names.index("red"), best)
    if "white" in names and "platelet" in names:
        small = area_um2 < _MAX_PLATELET_UM2
        best = np.where(small & (best == names.index("white")), names.index("platelet"), best)
    if "megakaryocyte" in names and "nucleus" in names:
        small = area_um2 < _MIN_MEGAKARYOCYTE_NUCLEUS_UM2
        best = np.where(small & (best == names.index("megakaryocyte")), names.index("nucleus"), best)
    total = np.maximum(sums.sum(axis=1), 1)
    return np.array(names, object)[best], votes[np.arange(n), best] / total
