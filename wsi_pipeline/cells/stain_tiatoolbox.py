"""TIAToolbox's stain normalisation of single cells: Macenko's and Reinhard's methods, to one fixed reference.

Macenko et al., ISBI 2009, p. 1107, finds two stains in the image and brings them to the reference's; Reinhard et al.,
IEEE Comput. Graph. Appl. 21(5):34, 2001, brings mean and spread in CIELAB to the reference's. Each window is
normalised by itself, so that no result depends on what else is in a batch. Vahadane's method is left out: TIAToolbox
itself calls its version unstable.

``import tiatoolbox.tools`` takes seconds, so it happens at the first window.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from wsi_pipeline.slides.backends.tiatoolbox_backend import import_readers

Method = Literal["macenko", "reinhard"]

# Reference: medians over 400 cells of the May-Gruenwald-Giemsa set ``pbc``, 40 of each class but platelets, evenly
# spaced by name, in windows of 24 um, white-balanced. Rows of the matrix are optical densities of the two stains, in
# red, green and blue, of length 1.
STAINS = ((0.707, 0.656, 0.266), (0.432, 0.898, 0.085))
STRONGEST = (1.03, 2.53)
"""The 99th percentile of the amount of each stain."""
LAB_MEANS = (80.5, 12.0, -12.9)
LAB_SPREADS = (21.8, 16.1, 19.8)


def normalise_tiatoolbox(rgb: torch.Tensor, method: Method) -> torch.Tensor:
    """Return intensities ``(n, 3, side, side)`` (1 = background) with the stain of each window at the reference.

    A window without stain, or with too little for the method, is returned as it is.
    """
    normaliser = _normaliser(method)
    pixels = (rgb.detach().clamp(0.0, 1.0) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    windows = [_normalised(window, normaliser) for window in pixels]
    kept = torch.tensor([window is None for window in windows], device=rgb.device)
    done = np.stack([pixels[i] if window is None else window for i, window in enumerate(windows)])
    out = torch.from_numpy(done).to(rgb.device, rgb.dtype).permute(0, 3, 1, 2) / 255
    return torch.where(kept[:, None, None, None], rgb, out)


def _normalised(window: npt.NDArray[np.uint8], normaliser: Any) -> npt.NDArray[np.uint8] | None:
    with warnings.catch_warnings(), np.errstate(divide="raise", invalid="raise"):
        warnings.simplefilter("ignore")  # of windows that are then returned as they are
        try:
            found = normaliser.transform(window.copy())
        except (ValueError, ArithmeticError, np.linalg.LinAlgError):  # no stained pixel, or one colour alone
            return None
    return np.asarray(found, np.uint8)


@cache
def _normaliser(method: Method) -> Any:
    import_readers()
    from tiatoolbox.tools.stainnorm import MacenkoNormalizer, ReinhardNormalizer

    import_readers()  # gives what was loaded now a logger of its own, too
    if method == "reinhard":
        reinhard = ReinhardNormalizer()
        reinhard.target_means, reinhard.target_stds = LAB_MEANS, LAB_SPREADS
        return reinhard
    macenko = MacenkoNormalizer()
    macenko.stain_matrix_target = np.array(STAINS)
    macenko.maxC_target = np.array([STRONGEST])
    return macenko
