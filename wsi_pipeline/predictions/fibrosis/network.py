"""The network that ranks tiles by their fibres, and its scale from 0 to 1.

Trained on pairs (RankNet: Burges et al., ICML 2005, doi 10.1145/1102351.1102363), as the Continuous Indexing of
Fibrosis is (Ryou et al., Leukemia 2023, doi 10.1038/s41375-022-01773-0): grades of fibrosis are an order, not
distances. What it gives is brought to 0..1 by the grades of the training (:mod:`wsi_pipeline.training.fibrosis.train`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from wsi_pipeline.errors import ModelError
from wsi_pipeline.predictions.fibrosis.tiles import FibreTile
from wsi_pipeline.weights import find_weights

TASK = "fibrosis"
WIDTHS = (12, 16, 24, 32)
"""Channels after each of the four halvings."""
BATCH = 16
"""Tiles of a batch, always so many: a result in float32 may depend on the shape."""

_CARD_KEYS = ("widths", "scale", "mpp")


class FibrosisNetwork(nn.Module):
    """Four strided convolutions, a mean over the marrow, one number.

    Parameters
    ----------
    widths
        Channels after each halving.
    """

    def __init__(self, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for i, width in enumerate(widths):
            side = 5 if i == 0 else 3
            layers += [nn.Conv2d(before, width, side, stride=2, padding=side // 2), nn.ReLU()]
            before = width
        self.features = nn.Sequential(*layers)
        self.score = nn.Sequential(nn.Linear(before, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, density: torch.Tensor, marrow: torch.Tensor) -> torch.Tensor:
        """Return scores ``(n,)`` without a scale.

        Parameters
        ----------
        density
            ``(n, 3, h, w)``; sides are multiples of 16.
        marrow
            ``(n, h / 16, w / 16)`` share of marrow, which weighs the mean.
        """
        maps = self.features(density)
        weight = marrow[:, None]
        pooled = (maps * weight).sum(dim=(2, 3)) / weight.sum(dim=(2, 3)).clamp_min(1e-6)
        scores: torch.Tensor = self.score(pooled)[:, 0]
        return scores


class FibrosisModel:
    """A trained network and its scale.

    Parameters
    ----------
    card
        ``widths``, ``scale`` (pairs of raw score and index, rising) and ``mpp``.
    network
        With its weights.

    Raises
    ------
    ModelError
        The scale is not a rising one.
    """

    def __init__(self, card: dict[str, Any], network: FibrosisNetwork) -> None:
        self.card = card
        self.name = str(card["name"])
        self.sha256 = str(card.get("sha256", ""))
        self.mpp = float(card["mpp"])
        self.simulated = bool(card.get("simulated", False))
        self._network = network.eval()
        try:
            knots = np.asarray(card["scale"], dtype=np.float64)
        except (TypeError, ValueError):
            knots = np.empty(0)
        if knots.ndim != 2 or knots.shape[1:] != (2,) or len(knots) < 2 or not np.isfinite(knots).all():
            raise ModelError(f"the scale of {self.name} is not a list of pairs of numbers")
        if (np.diff(knots[:, 0]) <= 0).any() or (np.diff(knots[:, 1]) < 0).any():
            raise ModelError(f"the scale of {self.name} does not rise")
        self._knots = knots

    @property
    def trained_on(self) -> str:
        """Return what ``predictions.csv`` says of the training."""
        titles = "; ".join(str(source["title"]) for source in self.card.get("data", ()))
        return f"{'simulated: ' if self.simulated else ''}{titles or 'not stated'}"

    def raw(self, tiles: Sequence[FibreTile]) -> npt.NDArray[np.float32]:
        """Return raw scores ``(n,)``, whatever the number of tiles in batches of one shape."""
        scores = np.empty(len(tiles), dtype=np.float32)
        for start in range(0, len(tiles), BATCH):
            part = list(tiles[start : start + BATCH])
            n = len(part)
            part += [part[-1]] * (BATCH - n)
            density = torch.from_numpy(np.stack([tile.density for tile in part]))
            marrow = torch.from_numpy(np.stack([tile.marrow for tile in part]))
            with torch.inference_mode():
                found = self._network(density, marrow).numpy()
            scores[start : start + n] = found[:n]
        if not np.isfinite(scores).all():
            raise ModelError(f"model {self.name} gives scores that are no numbers; its weights are damaged")
        return scores

    def scaled(self, raw: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return raw scores on the scale from 0 to 1; beyond the training's they stay at its ends."""
        return np.interp(raw.astype(np.float64), self._knots[:, 0], self._knots[:, 1]).astype(np.float32)


def load_fibrosis_model(name_or_path: str) -> FibrosisModel:
    """Load a model by the name of shipped weights or the path of a ``.safetensors`` file with its card.

    Raises
    ------
    MissingWeightsError
        There are no such weights.
    ModelError
        The weights are damaged, for another task, or do not fit their card.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    weights = find_weights(name_or_path, TASK)
    weights.verify()
    if missing := [key for key in _CARD_KEYS if key not in weights.card]:
        raise ModelError(f"the card of {weights.path} lacks {', '.join(missing)}")
    network = FibrosisNetwork(weights.card["widths"])
    try:
        network.load_state_dict(load_file(weights.path))
    except (SafetensorError, RuntimeError, ValueError) as error:
        raise ModelError(f"{weights.path} does not fit its card: {' '.join(str(error).split())}") from None
    return FibrosisModel(weights.card, network)
