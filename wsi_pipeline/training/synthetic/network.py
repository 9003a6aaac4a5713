"""Networks that make images of single cells of a class: a small conditional GAN.

The generator grows 4 x 4 features to the image; class and noise set the normalisation of every block, and features of
8 and 16 pixels gate those of 32 and 64, as FastGAN does for small sets (Liu et al., ICLR 2021, arXiv 2101.04775). The
discriminator is a residual network that knows the class by projection (Miyato & Koyama, ICLR 2018, arXiv 1802.05637)
and compares the images of a batch (Karras et al., ICLR 2018, arXiv 1710.10196).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from wsi_pipeline.errors import ModelError

SIDES = (32, 64, 128)
"""Sides of images that can be made, pixels."""

_GATED_BY = {32: 8, 64: 16}


@dataclass(frozen=True, kw_only=True)
class GeneratorSpec:
    """Rebuilds a :class:`Generator`.

    Parameters
    ----------
    n_classes
        Number of classes.
    side_px
        Side of the images, one of :data:`SIDES`.
    noise_dim, class_dim
        Length of the noise and of what stands for a class.
    width
        Channels at 64 pixels; they double with every halving of the side, up to eight times as many.
    """

    n_classes: int
    side_px: int = 64
    noise_dim: int = 96
    class_dim: int = 32
    width: int = 24

    def __post_init__(self) -> None:
        if self.side_px not in SIDES:
            raise ModelError(f"images of {self.side_px} px: one of {', '.join(map(str, SIDES))} is needed")
        if min(self.n_classes, self.noise_dim, self.class_dim, self.width) < 1:
            raise ModelError(f"a generator needs positive sizes; found {asdict(self)}")

    def channels(self, side: int) -> int:
        """Return the channels at a side in pixels."""
        return max(8, round(self.width * min(8.0, 64 / side)))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> GeneratorSpec:
        """Rebuild a description that :meth:`to_dict` wrote; unknown or missing keys raise TypeError."""
        return cls(**data)


class _ClassNorm(nn.Module):
    """Batch normalisation whose gain and offset come from class and noise (de Vries et al., NeurIPS 2017)."""

    def __init__(self, channels: int, condition_dim: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.gain = nn.Linear(condition_dim, channels)
        self.offset = nn.Linear(condition_dim, channels)
        for layer in (self.gain, self.offset):
            nn.init.normal_(layer.weight, std=0.05)
            nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        gain, offset = self.gain(condition), self.offset(condition)
        return self.norm(x) * (1 + gain[:, :, None, None]) + offset[:, :, None, None]


class _Grow(nn.Module):
    """Double the side: a residual block."""

    def __init__(self, inputs: int, outputs: int, condition_dim: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.past = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.norm_first = _ClassNorm(inputs, condition_dim)
        self.norm_second = _ClassNorm(outputs, condition_dim)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        y = F.leaky_relu(self.norm_first(x, condition), 0.2)
        y = self.first(F.interpolate(y, scale_factor=2.0, mode="bilinear"))
        y = self.second(F.leaky_relu(self.norm_second(y, condition), 0.2))
        return y + F.interpolate(self.past(x), scale_factor=2.0, mode="bilinear")


class _Gate(nn.Module):
    """Gate fine features by coarse ones, channel by channel (FastGAN's skip-layer excitation)."""

    def __init__(self, coarse: int, fine: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.AdaptiveAvgPool2d(4), nn.Conv2d(coarse, fine, 4), nn.SiLU(), nn.Conv2d(fine, fine, 1), nn.Sigmoid()
        )

    def forward(self, coarse: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
        return fine * self.body(coarse)


class Generator(nn.Module):
    """From noise and class to an image."""

    def __init__(self, spec: GeneratorSpec) -> None:
        super().__init__()
        self.spec = spec
        self.classes = nn.Embedding(spec.n_classes, spec.class_dim)
        condition = spec.noise_dim + spec.class_dim
        self.start = nn.Linear(condition, 16 * spec.channels(4))
        sides = [4 << i for i in range(int(math.log2(spec.side_px // 4)))]
        self.grow = nn.ModuleList(_Grow(spec.channels(s), spec.channels(2 * s), condition) for s in sides)
        self.gates = nn.ModuleDict(
            {
                str(fine): _Gate(spec.channels(coarse), spec.channels(fine))
                for fine, coarse in _GATED_BY.items()
                if fine <= spec.side_px
            }
        )
        self.norm = nn.BatchNorm2d(spec.channels(spec.side_px))
        self.paint = nn.Conv2d(spec.channels(spec.side_px), 3, 3, padding=1)
        _keep_variance(self)

    def forward(self, noise: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return images ``(n, 3, side, side)`` in -1 to 1.

        Parameters
        ----------
        noise
            ``(n, noise_dim)``, standard normal.
        target
            int64 ``(n,)``, index of the class.
        """
        condition = torch.cat([noise, F.normalize(self.classes(target)) * math.sqrt(self.spec.class_dim)], dim=1)
        x = self.start(condition).view(-1, self.spec.channels(4), 4, 4)
        at = {4: x}
        for block in self.grow:
            x = block(x, condition)
            side = x.shape[-1]
            if str(side) in self.gates:
                x = self.gates[str(side)](at[_GATED_BY[side]], x)
            at[side] = x
        return torch.tanh(self.paint(F.leaky_relu(self.norm(x), 0.2)))


class _Shrink(nn.Module):
    """Halve the side: a residual block."""

    def __init__(self, inputs: int, outputs: int, *, first: bool = False) -> None:
        super().__init__()
        self.before = nn.Identity() if first else nn.LeakyReLU(0.2)
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(outputs, outputs, 3, padding=1),
        )
        self.past = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.body(self.before(x)) + self.past(F.avg_pool2d(x, 2))) * math.sqrt(0.5)


class Discriminator(nn.Module):
    """From an image and a class to how real it looks."""

    def __init__(self, spec: GeneratorSpec) -> None:
        super().__init__()
        sides = [spec.side_px >> i for i in range(int(math.log2(spec.side_px // 4)))]
        widths = [3, *(spec.channels(s // 2) for s in sides)]
        self.body = nn.Sequential(*(_Shrink(a, b, first=i == 0) for i, (a, b) in enumerate(pairwise(widths))))
        self.last = nn.Conv2d(widths[-1] + 1, widths[-1], 3, padding=1)
        self.score = nn.Linear(widths[-1], 1)
        self.classes = nn.Embedding(spec.n_classes, widths[-1])
        nn.init.normal_(self.classes.weight, std=0.1)
        _keep_variance(self)

    def forward(self, image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return ``(n,)``: above 0 looks real, and of its class."""
        x = F.leaky_relu(self.body(image), 0.2)
        spread = x.float().var(dim=0, unbiased=False).add(1e-8).sqrt().mean().to(x.dtype)
        x = torch.cat([x, spread.expand(len(x), 1, *x.shape[2:])], dim=1)
        features = F.leaky_relu(self.last(x), 0.2).mean(dim=(2, 3))
        return self.score(features).squeeze(1) + (self.classes(target) * features).sum(dim=1)


def _keep_variance(network: nn.Module) -> None:
    """Initialise convolutions so that signals neither fade nor grow (He et al., ICCV 2015, arXiv 1502.01852).

    Without normalisation, torch's own first weights let the discriminator's signals fade to nothing.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, a=0.2, nonlinearity="leaky_relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
