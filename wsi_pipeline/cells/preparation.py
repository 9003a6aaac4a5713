"""How windows are prepared for a classifier and how often it looks at each: what its card says beside its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, get_args

import torch
from torch import nn

from wsi_pipeline.cells.network import balance
from wsi_pipeline.cells.stain import normalise_stain
from wsi_pipeline.cells.stain_tiatoolbox import normalise_tiatoolbox
from wsi_pipeline.cells.views import VIEWS, mean_of, views_of
from wsi_pipeline.errors import ConfigError

Stain = Literal["as-is", "nuclear-density", "tiatoolbox:macenko", "tiatoolbox:reinhard"]


def as_tiatoolbox(rgb: torch.Tensor, stain: Stain) -> torch.Tensor:
    """Return windows as the method of TIAToolbox that ``stain`` names makes them; others name none."""
    if stain == "tiatoolbox:macenko":
        return normalise_tiatoolbox(rgb, "macenko")
    return normalise_tiatoolbox(rgb, "reinhard") if stain == "tiatoolbox:reinhard" else rgb


class Looks(Protocol):
    """A network of two parts."""

    @property
    def head(self) -> nn.Module:
        """The layer from embedding to logits."""
        ...

    def embed(self, rgb: torch.Tensor) -> torch.Tensor:
        """Return the embedding of balanced intensities."""
        ...


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What happens to a window before and after the network.

    Parameters
    ----------
    stain
        ``as-is``; ``nuclear-density`` to bring each cell's nucleus to a reference (:mod:`wsi_pipeline.cells.stain`);
        ``tiatoolbox:macenko`` or ``tiatoolbox:reinhard`` (:mod:`wsi_pipeline.cells.stain_tiatoolbox`).
    views
        Turned and mirrored views of a window whose answers are averaged: 1, 2, 4 or 8 (test-time augmentation).
    """

    stain: Stain = "as-is"
    views: int = 1

    def __post_init__(self) -> None:
        if self.stain not in get_args(Stain):
            raise ConfigError(f"stain {self.stain!r}: one of {', '.join(get_args(Stain))} is needed")
        if self.views not in VIEWS:
            raise ConfigError(f"{self.views} views: {', '.join(map(str, VIEWS))} are possible")

    @classmethod
    def of_card(cls, card: Mapping[str, Any]) -> Preparation:
        """Return what a card says; the windows of a card that says nothing are taken as they are, once."""
        return cls(stain=card.get("stain", "as-is"), views=card.get("views", 1))

    def to_card(self) -> dict[str, Any]:
        """Return the entries of a card."""
        return asdict(self)

    def windows(self, images: torch.Tensor, background: torch.Tensor) -> torch.Tensor:
        """Return float32 ``(n, 3, side, side)``, 1 = background.

        Parameters
        ----------
        images
            uint8 ``(n, side, side, 3)``.
        background
            uint8 ``(n, 3)``.
        """
        rgb = balance(images, background)
        return normalise_stain(rgb) if self.stain == "nuclear-density" else as_tiatoolbox(rgb, self.stain)

    def look(self, network: Looks, windows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mean embedding ``(n, d)`` and the mean logits ``(n, classes)`` over the views."""
        embeddings = [network.embed(view) for view in views_of(windows, self.views)]
        return mean_of(embeddings), mean_of([network.head(e) for e in embeddings])
