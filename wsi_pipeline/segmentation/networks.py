"""The compact flow network: a small U-Net that predicts Cellpose's flows, cell probability and the cell's kind.

It is a convolution net without any statistic over the tile (batch norms are folded when it is loaded), so a
pixel's output depends only on its receptive field. The outputs follow Cellpose (doi 10.1038/s41592-020-01018-x):
channels 0 and 1 are 5 x the unit flow (y, x), channel 2 the cell-probability logit, the rest kind logits.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

WIDTHS = (16, 32, 64, 128, 128)
"""Channels at each depth; the tile side must be a multiple of ``2 ** (len(WIDTHS) - 1)``."""

FLOW_SCALE = 5.0
"""Flows are trained and stored five times their unit length, as Cellpose's are."""


class _Double(nn.Module):
    """Two 3 x 3 convolutions with batch norm and a residual connection."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outside)
        self.skip = nn.Conv2d(inside, outside, 1) if inside != outside else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.skip(x))


class CompactFlowNet(nn.Module):
    """U-Net with additive skips.

    Parameters
    ----------
    n_kinds
        Number of kind logits, background included.
    widths
        Channels at each depth.
    """

    def __init__(self, n_kinds: int, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.n_kinds = n_kinds
        ins = (3, *widths[:-1])
        self.down = nn.ModuleList(_Double(a, b) for a, b in zip(ins, widths, strict=True))
        self.reduce = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairwise(widths))
        self.up = nn.ModuleList(_Double(a, a) for a in widths[:-1])
        self.head = nn.Conv2d(widths[0], 3 + n_kinds, 1)

    def encode(self, x: Tensor) -> list[Tensor]:
        """Return the features on the way down, one tensor a depth, each of half the resolution of the one before."""
        skips = []
        for depth, block in enumerate(self.down):
            x = block(nn.functional.max_pool2d(x, 2) if depth else x)
            skips.append(x)
        return skips

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, 3, t, t)`` normalised RGB to ``(n, 3 + n_kinds, t, t)``."""
        skips = self.encode(x)
        x = skips[-1]
        for depth in reversed(range(len(self.up))):
            x = nn.functional.interpolate(self.reduce[depth](x), scale_factor=2, mode="nearest")
            x = self.up[depth](x + skips[depth])
        return self.head(x)


def fold_batch_norms(network: CompactFlowNet) -> CompactFlowNet:
    """Fold batch norms into the convolutions before them, in place; the network must be in eval mode."""
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    for block in (*network.down, *network.up):
        for index in ("1", "2"):
            conv, norm = getattr(block, f"conv{index}"), getattr(block, f"norm{index}")
            setattr(block, f"conv{index}", fuse_conv_bn_eval(conv, norm))
            setattr(block, f"norm{index}", nn.Identity())
    return network
