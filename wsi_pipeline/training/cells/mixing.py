"""Mixing pairs of training images: mixup (Zhang et al., ICLR 2018) and CutMix (Yun et al., ICCV 2019)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from wsi_pipeline.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """How batches are mixed; both 0 mixes nothing.

    Parameters
    ----------
    mixup, cutmix
        Shape of the Beta distribution that the share of the first image is drawn from; 0 leaves the method out. With
        both, each batch takes one by a toss.
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("mixup", self.mixup), ("cutmix", self.cutmix)):
            if not (math.isfinite(value) and 0 <= value <= 10):
                raise ConfigError(f"--{name} {value}: a number from 0 to 10 is needed")


def mix(
    window: torch.Tensor, target: torch.Tensor, n_classes: int, generator: torch.Generator, mixing: Mixing
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mixed windows and the share of each class in them, float32 ``(n, n_classes)``.

    Parameters
    ----------
    window
        ``(n, 3, side, side)``.
    target
        int64 ``(n,)``.
    generator
        On the CPU; all randomness comes from it.
    """
    shares = F.one_hot(target, n_classes).float()
    if not (mixing.mixup or mixing.cutmix):
        return window, shares
    cut = torch.rand((), generator=generator).item() < 0.5 if mixing.mixup and mixing.cutmix else bool(mixing.cutmix)
    keep = _beta(mixing.cutmix if cut else mixing.mixup, generator)
    order = torch.randperm(len(window), generator=generator)
    other = window[order.to(window.device)]
    if cut:
        side = window.shape[-1]
        length = round(side * math.sqrt(1 - keep))
        y, x = (int(torch.randint(0, side - length + 1, (), generator=generator)) for _ in range(2))
        window = window.clone()
        window[:, :, y : y + length, x : x + length] = other[:, :, y : y + length, x : x + length]
        keep = 1 - (length / side) ** 2
    else:
        window = keep * window + (1 - keep) * other
    return window, keep * shares + (1 - keep) * shares[order.to(shares.device)]


def _beta(shape: float, generator: torch.Generator) -> float:
    """Draw from Beta(shape, shape), as torch's own Beta takes no generator."""
    a, b = torch._standard_gamma(torch.tensor([shape, shape], dtype=torch.float64), generator=generator).tolist()
    return a / (a + b) if a + b > 0 else 0.5
