"""The compact network that types single cells: a small residual CNN in plain torch.

It sees a square window centred on one cell, white-balanced, plus a channel that says how far each pixel is
from the centre, since the neighbours in the window are not masked and only the cell in the middle counts.

Residual blocks follow He et al., CVPR 2016 (doi 10.1109/CVPR.2016.90).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

_MEAN, _SPREAD = 0.75, 0.25
"""Intensity after white balance lies in 0 to about 1; most of a smear is bright."""

_CENTRE_SIGMA = 0.35
"""Width of the centre-weighted pooling, as a share of half the window (4 um of 12)."""


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """What is needed to rebuild the network around its weights.

    Parameters
    ----------
    n_classes
        Number of outputs.
    widths, depths
        Channels and residual blocks of each stage; the first stage works at half the window's resolution and each
        further one halves it. A stage without blocks passes on what it gets.
    stem
        Channels of the first convolution.
    embedding_dim
        Length of the embedding before the last linear layer.
    """

    n_classes: int
    stem: int = 32
    widths: tuple[int, ...] = (32, 48, 96, 160)
    depths: tuple[int, ...] = (0, 2, 2, 2)
    embedding_dim: int = 128

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> NetworkSpec:
        """Rebuild a description that :meth:`to_dict` wrote; unknown or missing keys raise TypeError."""
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}
        return cls(**values)


def balance(images: torch.Tensor, background: torch.Tensor) -> torch.Tensor:
    """Divide by the background colour.

    Parameters
    ----------
    images
        uint8 ``(n, h, w, 3)``.
    background
        uint8 ``(n, 3)`` or ``(3,)``.

    Returns
    -------
    torch.Tensor
        float32 ``(n, 3, h, w)``, 1 = background, at most 1.2.
    """
    light = background.to(torch.float32).clamp(min=1.0).reshape(-1, 3, 1, 1)
    return (images.permute(0, 3, 1, 2).to(torch.float32) / light).clamp(max=1.2)


class ConvNorm(nn.Module):
    """Convolution without bias, then batch normalisation; the pair folds into one convolution."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))

    def fold(self) -> None:
        """Merge the normalisation into the convolution; for inference only."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv = nn.utils.fusion.fuse_conv_bn_eval(self.conv, self.norm)
            self.norm = nn.Identity()


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = ConvNorm(inputs, outputs, 3, stride)
        self.second = ConvNorm(outputs, outputs, 3)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else ConvNorm(inputs, outputs, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.shortcut(x) + self.second(F.relu(self.first(x))))


class CellNetwork(nn.Module):
    """Residual CNN over one window; pooled twice, over all of it and around the centre."""

    def __init__(self, spec: NetworkSpec, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.spec = spec
        self.stem = ConvNorm(4, spec.stem, 3, 2)
        self.stages = nn.Sequential()
        width = spec.stem
        for stage, (outputs, depth) in enumerate(zip(spec.widths, spec.depths, strict=True)):
            blocks = nn.Sequential()
            for index in range(depth):
                blocks.append(ResidualBlock(width, outputs, 2 if stage > 0 and index == 0 else 1))
                width = outputs
            self.stages.append(blocks)
        self.project = nn.Linear(2 * width, spec.embedding_dim)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(spec.embedding_dim, spec.n_classes)

    def embed(self, rgb: torch.Tensor) -> torch.Tensor:
        """Return the embedding, ``(n, embedding_dim)``.

        Parameters
        ----------
        rgb
            ``(n, 3, side, side)`` intensities after white balance, 1 = background.
        """
        return self.embed_maps(self.maps(rgb, len(self.stages)), len(self.stages))

    def maps(self, rgb: torch.Tensor, stages: int) -> torch.Tensor:
        """Return the feature maps ``(n, channels, side, side)`` after so many stages."""
        radius = _radius(rgb.shape[-1], rgb).expand(rgb.shape[0], 1, -1, -1)
        x = torch.cat([(rgb - _MEAN) / _SPREAD, radius], dim=1)
        x = x.contiguous(memory_format=torch.channels_last)
        return self.stages[:stages](F.relu(self.stem(x)))

    def embed_maps(self, x: torch.Tensor, stages: int) -> torch.Tensor:
        """Return the embedding of what :meth:`maps` gave after so many stages."""
        x = self.stages[stages:](x)
        weight = torch.exp(-0.5 * (_radius(x.shape[-1], x) / _CENTRE_SIGMA) ** 2)
        weight = weight / weight.sum()
        pooled = torch.cat([x.mean(dim=(2, 3)), (x * weight).sum(dim=(2, 3))], dim=1)
        return F.relu(self.project(pooled))

    def forward(self, rgb: torch.Tensor) -> torch.Tensor:
        """Return logits, ``(n, n_classes)``."""
        return self.head(self.dropout(self.embed(rgb)))

    def fold(self) -> None:
        """Merge all batch normalisations into their convolutions; the network can then only infer."""
        self.eval()
        for module in self.modules():
            if isinstance(module, ConvNorm):
                module.fold()


def _radius(side: int, like: torch.Tensor) -> torch.Tensor:
    """Return ``(1, 1, side, side)`` distance from the centre; 1 at the middle of an edge."""
    axis = (torch.arange(side, device=like.device, dtype=torch.float32) + 0.5) / side * 2 - 1
    return torch.sqrt(axis[None, :] ** 2 + axis[:, None] ** 2)[None, None].to(like.dtype)


def initialise(network: nn.Module, seed: int) -> None:
    """Fill the weights from ``seed``: He normal for convolutions, the last norm of each block at zero."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan: Sequence[int] = module.weight.shape[1:]
            scale = (2.0 / torch.Size(fan).numel()) ** 0.5
            with torch.no_grad():
                module.weight.normal_(0.0, scale, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
    for module in network.modules():
        if isinstance(module, ResidualBlock) and isinstance(module.second.norm, nn.BatchNorm2d):
            nn.init.zeros_(module.second.norm.weight)
