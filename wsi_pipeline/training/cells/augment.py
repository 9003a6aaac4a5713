"""Random changes to cell images that a reader would see through: geometry, stain, scanner, surroundings.

Everything runs on whole batches in torch, from one generator, so that a seed gives the same pictures again.

Two of the changes work against a class being recognised by where it was photographed. *Stain exchange* gives
a cell the stain density of another cell of the batch, per colour channel. *Surroundings exchange* keeps the
middle of a window and takes the rest from another one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from wsi_pipeline.cells.network import balance
from wsi_pipeline.cells.preparation import Stain, as_tiatoolbox
from wsi_pipeline.cells.stain import normalise_stain, nuclear_density, optical_density


@dataclass(frozen=True, kw_only=True)
class AugmentSpec:
    """Strength of the changes; lengths in um, shares as probabilities.

    Parameters
    ----------
    background_error
        Standard deviation of the log of the estimated background, per colour channel.
    scale
        Largest relative change of size.
    shift_um
        Largest error of the centre.
    warp_share, warp_um
        How often the picture is bent smoothly, and by how much.
    stain_density, stain_mix, stain_offset
        Standard deviations of the log density of all channels, of the mixing between channels, and of the offset of
        optical density.
    stain_channel
        Standard deviation of the log density per channel; None takes half of ``stain_density``.
    stain_exchange, surroundings_exchange, surroundings_blank, mirror_surroundings
        Shares of cells that get another cell's stain density, another window's surroundings, empty surroundings (as
        smears of another thickness have), and their own middle mirrored outwards (as cells near the edge of a file
        have).
    blur_share, coarse_share, sharpen_share, chroma_share, noise
        Defocus, loss of resolution, sharpening, JPEG-like loss of colour detail, and grain.
    """

    background_error: float = 0.0
    scale: float = 0.12
    shift_um: float = 2.0
    warp_share: float = 0.3
    warp_um: float = 0.5
    stain_density: float = 0.18
    stain_channel: float | None = None
    stain_mix: float = 0.05
    stain_offset: float = 0.02
    stain_exchange: float = 0.3
    surroundings_exchange: float = 0.25
    surroundings_blank: float = 0.0
    mirror_surroundings: float = 0.4
    blur_share: float = 0.25
    coarse_share: float = 0.25
    sharpen_share: float = 0.2
    chroma_share: float = 0.3
    noise: float = 0.02


NEAR = AugmentSpec(
    background_error=0.02,
    scale=0.06,
    shift_um=1.0,
    warp_share=0.2,
    stain_density=0.04,
    stain_channel=0.05,
    stain_mix=0.02,
    stain_offset=0.01,
    stain_exchange=0.0,
    surroundings_exchange=0.05,
    surroundings_blank=0.05,
    mirror_surroundings=0.2,
    blur_share=0.08,
    coarse_share=0.08,
    sharpen_share=0.1,
    chroma_share=0.15,
    noise=0.01,
)
"""Changes as within one laboratory, once the stain is normalised."""

FAR = AugmentSpec(
    background_error=0.05,
    scale=0.15,
    shift_um=1.5,
    stain_density=0.1,
    stain_channel=0.15,
    stain_mix=0.08,
    stain_offset=0.03,
    stain_exchange=0.0,
    surroundings_blank=0.15,
)
"""Changes as between laboratories, beyond what normalising the stain takes away."""


def augment_in_turn(
    images: torch.Tensor,
    background: torch.Tensor,
    generator: torch.Generator,
    *,
    window_px: int,
    mpp: float,
    specs: Sequence[AugmentSpec],
    stain: Stain = "as-is",
    smudge: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return changed windows; the batch is cut into as many equal parts as there are ``specs``, one for each.

    Half near and half far changes keep the fine differences (band against segmented) that far changes alone wash
    out, and most of what far changes gain on other laboratories. Parameters as of :func:`augment`.
    """
    parts = []
    for spec, index in zip(specs, torch.arange(len(images)).tensor_split(len(specs)), strict=True):
        if len(index):
            parts.append(
                augment(
                    images[index],
                    background[index],
                    generator,
                    window_px=window_px,
                    mpp=mpp,
                    spec=spec,
                    stain=stain,
                    smudge=None if smudge is None else smudge[index],
                )
            )
    return torch.cat(parts)


def augment(
    images: torch.Tensor,
    background: torch.Tensor,
    generator: torch.Generator,
    *,
    window_px: int,
    mpp: float,
    spec: AugmentSpec,
    stain: Stain = "as-is",
    smudge: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return changed windows, float32 ``(n, 3, window_px, window_px)``, white-balanced.

    Parameters
    ----------
    images
        uint8 ``(n, side, side, 3)`` with the cell in the middle and room around the window.
    background
        uint8 ``(n, 3)``.
    generator
        Source of all randomness.
    window_px, mpp
        Side of the result and its resolution, um per pixel.
    spec
        Strength of the changes.
    stain
        All but ``as-is`` normalise the stain before it is changed at random.
    smudge
        bool ``(n,)``: cells to bend and blur beyond recognition, as smudge cells are.
    """
    n, side = images.shape[:2]
    if spec.background_error:
        error = torch.exp(torch.randn(n, 3, generator=generator) * spec.background_error)
        background = background.float() * error
    rgb = balance(images, background)
    grid = _grid(n, side, generator, window_px=window_px, mpp=mpp, spec=spec, smudge=smudge)
    rgb = F.grid_sample(rgb, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    rgb = _exchange_surroundings(rgb, mpp, spec, generator)
    rgb = normalise_stain(rgb) if stain == "nuclear-density" else as_tiatoolbox(rgb, stain)
    rgb = _stain(rgb, spec, generator)
    rgb = _optics(rgb, spec, generator, smudge)
    return rgb.clamp(0.0, 1.2)


def _uniform(n: int, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(n, generator=generator) * (high - low) + low


def _chance(n: int, share: float, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(n, generator=generator) < share


def _grid(
    n: int,
    side: int,
    generator: torch.Generator,
    *,
    window_px: int,
    mpp: float,
    spec: AugmentSpec,
    smudge: torch.Tensor | None,
) -> torch.Tensor:
    """Return a sampling grid ``(n, window, window, 2)``: any rotation, flips, scale, shift, gentle bending."""
    angle = _uniform(n, 0.0, 2 * math.pi, generator)
    scale = torch.exp(_uniform(n, -1.0, 1.0, generator) * math.log1p(spec.scale))
    flip = torch.where(_chance(n, 0.5, generator), -1.0, 1.0)
    reach = spec.shift_um / mpp
    length = reach * torch.rand(n, generator=generator) ** 0.75
    direction = _uniform(n, 0.0, 2 * math.pi, generator)
    axis = torch.arange(window_px, dtype=torch.float32) + 0.5 - window_px / 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    x, y = x * flip[:, None, None], y.expand(n, -1, -1)
    cos, sin = (torch.cos(angle) * scale)[:, None, None], (torch.sin(angle) * scale)[:, None, None]
    shift = torch.stack([length * torch.cos(direction), length * torch.sin(direction)], dim=1)
    points = torch.stack([cos * x - sin * y, sin * x + cos * y], dim=-1) + shift[:, None, None, :]
    bend = torch.where(_chance(n, spec.warp_share, generator), spec.warp_um / mpp, 0.0)
    if smudge is not None:
        bend = torch.where(smudge, 3.0 / mpp, bend)
    coarse = torch.randn(n, 2, 6, 6, generator=generator)
    field = F.interpolate(coarse, size=(window_px, window_px), mode="bicubic", align_corners=True)
    points = points + (field * bend[:, None, None, None]).permute(0, 2, 3, 1)
    # Some cells see only their own 24 um, mirrored outwards, as all cells of a tightly cropped set do.
    limit = torch.where(_chance(n, spec.mirror_surroundings, generator), window_px / 2 - 1.0, side / 2)
    limit = limit[:, None, None, None]
    points = limit - (torch.remainder(points + limit, 4 * limit) - 2 * limit).abs()
    return points / (side / 2)


def _exchange_surroundings(
    rgb: torch.Tensor, mpp: float, spec: AugmentSpec, generator: torch.Generator
) -> torch.Tensor:
    """Keep a disc of 8.5 to 11 um radius; take the rest from another window of the batch, or leave it empty."""
    n, _, side, _ = rgb.shape
    toss = torch.rand(n, generator=generator)
    chosen = toss < spec.surroundings_exchange + spec.surroundings_blank
    other = rgb[torch.randperm(n, generator=generator)]
    if spec.surroundings_blank:
        blank = (toss >= spec.surroundings_exchange)[:, None, None, None]
        empty = 1 + 0.02 * torch.randn(n, 3, 1, 1, generator=generator)
        other = torch.where(blank, empty, other)
    radius = _uniform(n, 8.5, 11.0, generator)[:, None, None] / mpp
    axis = torch.arange(side, dtype=torch.float32) + 0.5 - side / 2
    distance = torch.sqrt(axis[None, :] ** 2 + axis[:, None] ** 2)[None]
    keep = torch.sigmoid((radius - distance) / 1.5)
    keep = torch.where(chosen[:, None, None], keep, torch.ones_like(keep))[:, None]
    return rgb * keep + other * (1 - keep)


def _stain(rgb: torch.Tensor, spec: AugmentSpec, generator: torch.Generator) -> torch.Tensor:
    """Change density, hue and offset in optical-density space (Beer-Lambert), and exchange densities."""
    n = rgb.shape[0]
    density = optical_density(rgb)
    dark = nuclear_density(density, step=2)
    other = torch.randperm(n, generator=generator)
    ratio = (dark[other] / dark).clamp(0.6, 1.6)
    part = torch.rand(n, 1, generator=generator) * _chance(n, spec.stain_exchange, generator)[:, None]
    gain = ratio**part
    gain = gain * torch.exp(torch.randn(n, 1, generator=generator) * spec.stain_density)
    channel = spec.stain_density / 2 if spec.stain_channel is None else spec.stain_channel
    gain = gain * torch.exp(torch.randn(n, 3, generator=generator) * channel)
    mixing = torch.eye(3) + torch.randn(n, 3, 3, generator=generator) * spec.stain_mix
    offset = torch.randn(n, 3, generator=generator) * spec.stain_offset
    density = torch.einsum("nij,njhw->nihw", mixing * gain[:, None, :], density) + offset[:, :, None, None]
    return torch.exp(-density)


def _optics(
    rgb: torch.Tensor, spec: AugmentSpec, generator: torch.Generator, smudge: torch.Tensor | None
) -> torch.Tensor:
    """Blur, sharpen, coarsen, thin out colour detail and add grain."""
    n, _, side, _ = rgb.shape
    sigma = torch.where(_chance(n, spec.blur_share, generator), _uniform(n, 0.5, 1.6, generator), 0.0)
    if smudge is not None:
        sigma = torch.where(smudge, _uniform(n, 1.5, 3.0, generator), sigma)
    sharpen = _chance(n, spec.sharpen_share, generator) & (sigma == 0)
    amount = _uniform(n, 0.3, 1.2, generator)
    soft = _blur(rgb, torch.where(sharpen, 1.0, sigma).clamp(min=0.05))
    keep = torch.where(sharpen, 1 + amount, torch.where(sigma > 0, 0.0, 1.0))[:, None, None, None]
    rgb = rgb * keep + soft * (1 - keep)
    coarse = _chance(n, spec.coarse_share, generator)
    small = side * 5 // 8
    low = F.interpolate(rgb, size=(small, small), mode="bilinear", antialias=True)
    low = F.interpolate(low, size=(side, side), mode="bilinear")
    rgb = torch.where(coarse[:, None, None, None], low, rgb)
    grey = rgb.mean(dim=1, keepdim=True)
    colour = F.avg_pool2d(rgb - grey, 2)
    colour = F.interpolate(colour, size=(side, side), mode="nearest")
    rgb = torch.where(_chance(n, spec.chroma_share, generator)[:, None, None, None], grey + colour, rgb)
    grain = torch.rand(n, 1, 1, 1, generator=generator) * spec.noise
    return rgb + torch.randn(rgb.shape, generator=generator) * grain


def _blur(rgb: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Gaussian blur of each image with its own ``sigma``, pixels; up to 3."""
    n, channels, side, _ = rgb.shape
    reach = 5
    axis = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (axis[None] / sigma[:, None]) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)
    flat = rgb.reshape(1, n * channels, side, side)
    flat = F.conv2d(F.pad(flat, (reach, reach, 0, 0), mode="reflect"), kernel[:, None, None, :], groups=n * channels)
    flat = F.conv2d(F.pad(flat, (0, 0, reach, reach), mode="reflect"), kernel[:, None, :, None], groups=n * channels)
    return flat.reshape(n, channels, side, side)
