"""The cells a classifier was trained on, as its training left them: packed images and ``split.csv``."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import DataError
from wsi_pipeline.training.cells.data import PackedCells
from wsi_pipeline.weights import load_weights


def packed_split(folder: Path) -> tuple[PackedCells, npt.NDArray[np.str_], npt.NDArray[np.int64]]:
    """Return the cells in a folder of ``train cells``, the split of each and its group.

    Raises
    ------
    DataError
        ``cells.npz`` or ``split.csv`` is missing or damaged, or they are not of one training.
    """
    packed, listed = folder / "cells.npz", folder / "split.csv"
    absent = [path.name for path in (packed, listed) if not path.is_file()]
    if absent:
        raise DataError(
            f"{folder} has no {' and no '.join(absent)}; give the --out folder of the training that made the weights"
        )
    try:
        with np.load(packed, allow_pickle=False) as stored:
            cells = PackedCells(**{name: stored[name] for name in PackedCells.__dataclass_fields__})
        with listed.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        digests = np.array([row["digest"] for row in rows])
        split = np.array([row["split"] for row in rows])
        groups = np.array([int(row["group"]) for row in rows], dtype=np.int64)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{packed} or {listed} is damaged ({error}); train once more, it starts where it was") from None
    kept = np.isin(cells.digests, digests)  # Pictures under several labels were left out of the split.
    cells = cells.where(kept)
    if cells.digests.tolist() != digests.tolist():
        raise DataError(f"{listed} lists {len(digests)} cells, {packed} has {len(cells)} of them; train once more")
    return cells, split, groups


def check_split(weights: Path, split: npt.NDArray[np.str_], data: Path) -> None:
    """Raise :class:`DataError` unless a split has the numbers that the card of weights states."""
    found = {s: int((split == s).sum()) for s in ("train", "val", "test")}
    stated = load_weights(weights).card["split"]
    made = {s: stated.get(s) for s in found}
    if found != made:
        raise DataError(f"{data} splits into {found}; the card of {weights.name} was made from {made}")
