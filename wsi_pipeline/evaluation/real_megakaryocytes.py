"""Outlines of real megakaryocytes, drawn or taken from instance maps, with reasons for each, and their scoring."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from skimage.draw import polygon

from wsi_pipeline.errors import DataError
from wsi_pipeline.evaluation.segmentation import THRESHOLDS, ImageScore, instance_overlaps, match_instances

OUTLINES = Path(__file__).with_suffix(".json")

_Ring = tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class RealMegakaryocyte:
    """One outlined megakaryocyte, or what may be one.

    Attributes
    ----------
    image
        Path below the data root.
    mpp
        Microns per pixel of the image, an estimate.
    certain
        Whether it is one beyond doubt; doubtful ones count for nothing.
    truncated
        The image's border cuts it.
    cell
        Outline, pixels of the image; None where the stain shows no cytoplasm.
    nucleus
        Outlines of its parts.
    why
        What speaks for it.
    """

    image: str
    mpp: float
    certain: bool
    truncated: bool
    cell: _Ring | None
    nucleus: tuple[_Ring, ...]
    why: str

    @property
    def body(self) -> tuple[_Ring, ...]:
        """Return what a network is asked to outline: the cell, or the nucleus where no cell is seen."""
        return self.nucleus if self.cell is None else (self.cell,)


def read_real_megakaryocytes(path: Path = OUTLINES) -> tuple[RealMegakaryocyte, ...]:
    """Read the outlines.

    Raises
    ------
    DataError
        The file is missing or damaged.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["cells"]
        return tuple(
            RealMegakaryocyte(
                image=str(e["image"]),
                mpp=float(e["mpp"]),
                certain={"certain": True, "doubtful": False}[e["certainty"]],
                truncated=bool(e["truncated"]),
                cell=None if e["cell"] is None else _ring(e["cell"]),
                nucleus=tuple(_ring(ring) for ring in e["nucleus"]),
                why=str(e["why"]),
            )
            for e in entries
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: the outlines of megakaryocytes cannot be read ({error}); reinstall it") from error


def _ring(points: Sequence[Sequence[float]]) -> _Ring:
    ring = tuple((float(x), float(y)) for x, y in points)
    if len(ring) < 3:
        raise ValueError(f"an outline of {len(ring)} points")
    return ring


def rasterise(rings: Sequence[_Ring], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Return the pixels ``(h, w)`` whose centre lies in one of the rings."""
    mask = np.zeros(shape, bool)
    for ring in rings:
        x, y = np.array(ring).T
        mask[polygon(y - 0.5, x - 0.5, shape)] = True
    return mask


def score_real(
    name: str, cells: Sequence[RealMegakaryocyte], found: npt.NDArray[np.int32]
) -> tuple[ImageScore, dict[int, int]]:
    """Score the instances of one image against its outlines.

    Parameters
    ----------
    name
        Of the image.
    cells
        Those of the image. Certain ones are found or missed, those that the border cuts by what is seen of them;
        an instance that lies mostly on a doubtful one, or matches it, counts for nothing.
    found
        ``(h, w)`` int32 instances that are called megakaryocytes.

    Returns
    -------
    ImageScore
        At the usual thresholds.
    dict
        Position in ``cells`` of each certain one that was found, and the label that found it at IoU 0.5.
    """
    true = np.zeros(found.shape, np.int32)
    for number, cell in enumerate(cells, 1):
        true[rasterise(cell.body, found.shape) & (true == 0)] = number
    doubtful = np.array([number for number, cell in enumerate(cells, 1) if not cell.certain], int)
    on_doubtful = {
        int(label)
        for label in np.unique(found[np.isin(true, doubtful)])
        if label and 2 * np.isin(true[found == label], doubtful).sum() > (found == label).sum()
    }
    overlaps = instance_overlaps(true, found)
    tp, fp, fn = [], [], []
    first: dict[int, int] = {}
    for threshold in THRESHOLDS:
        match = match_instances(overlaps, threshold, ignore_border=False)
        pairs = {t: p for t, p, _ in match.pairs if t not in doubtful}
        first = first or {t - 1: p for t, p in pairs.items()}
        tp.append(len(pairs))
        fn.append(sum(t not in doubtful for t in match.missed))
        fp.append(sum(p not in on_doubtful for p in match.false))
    score = ImageScore(
        name=name, n_true=tp[0] + fn[0], n_pred=tp[0] + fp[0], tp=tuple(tp), fp=tuple(fp), fn=tuple(fn)
    )  # fmt: skip
    return score, first
