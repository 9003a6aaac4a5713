"""Generated images are for training only: the one check that everything that trains or measures goes through."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import DataError

SYNTHETIC = "synthetic"
"""Source of generated images, which no real image may have."""


def check_synthetic_in_train(sources: npt.NDArray[np.str_], split: npt.NDArray[np.str_]) -> None:
    """Refuse a split that validates or tests on generated images.

    Parameters
    ----------
    sources, split
        Source and part (train, val, test) of each cell.

    Raises
    ------
    DataError
        A generated image is outside the training part.
    """
    outside = (sources == SYNTHETIC) & (split != "train")
    if outside.any():
        parts = ", ".join(sorted(set(split[outside].tolist())))
        raise DataError(
            f"{int(outside.sum())} generated images are in the part {parts}; they may only be trained on, never "
            "validated or tested with"
        )
