"""Augmentation of labelled fields: place, scale, stain, light, blur and JPEG, all from one random generator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from wsi_pipeline.segmentation.diffusion import labels_to_flows
from wsi_pipeline.segmentation.networks import FLOW_SCALE
from wsi_pipeline.segmentation.normalise import Normalisation, colour_histogram, normalisation_from_histogram
from wsi_pipeline.training.segmentation.data import IGNORE, Sample

_PALE_COLOURS = 0.1
_OWN_NORMALISATION = 0.5
_INCLUSIONS = 0.35


@dataclass(frozen=True, kw_only=True)
class Crop:
    """One training example.

    Attributes
    ----------
    image
        ``(3, t, t)`` float32, normalised.
    flows
        ``(2, t, t)`` float32, 5 x unit flow.
    cell
        ``(t, t)`` float32, 1 on cells.
    kinds
        ``(t, t)`` int64, IGNORE where unknown.
    known
        ``(t, t)`` float32 weight of flow and cell losses.
    """

    image: npt.NDArray[np.float32]
    flows: npt.NDArray[np.float32]
    cell: npt.NDArray[np.float32]
    kinds: npt.NDArray[np.int64]
    known: npt.NDArray[np.float32]


def draw_restaining(rng: np.random.Generator, strength: float) -> Restaining:
    """Draw a change of stain and light: gains and a channel mix in optical density, then glass tint, gamma and shading.

    Now and then the colours are drawn towards grey: what a cell is must not hang on its hue alone.
    """
    mix = np.eye(3, dtype=np.float32) + rng.normal(0, 0.10 * strength, (3, 3)).astype(np.float32)
    if rng.random() < _PALE_COLOURS:
        grey = np.float32(rng.uniform(0.2, 0.9))
        mix = (1 - grey) * mix + grey * np.full((3, 3), 1 / 3, np.float32)
    gain = np.exp(rng.normal(0, 0.22 * strength, 3)).astype(np.float32) * np.float32(np.exp(rng.normal(0, 0.15)))
    return Restaining(
        mix=mix,
        gain=gain,
        tint=1 - np.abs(rng.normal(0, 0.08 * strength, 3)).astype(np.float32),
        slope=rng.normal(0, 0.06 * strength, 2).astype(np.float32),
        gamma=float(np.exp(rng.normal(0, 0.12 * strength))),
    )


@dataclass(frozen=True, kw_only=True)
class Restaining:
    """One change of stain and light, the same for a crop and for the field it is cut from."""

    mix: npt.NDArray[np.float32]
    gain: npt.NDArray[np.float32]
    tint: npt.NDArray[np.float32]
    slope: npt.NDArray[np.float32]
    gamma: float

    def apply(self, rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return ``(h, w, 3)`` uint8 in the other stain and light."""
        density = -np.log((rgb.astype(np.float32) + 1) / 256)
        density = np.clip(density @ self.mix.T, 0, None) * self.gain
        light = (256 * np.exp(-density) - 1) * self.tint
        height, width = rgb.shape[:2]
        down = np.linspace(-self.slope[0], self.slope[0], height, dtype=np.float32)
        across = np.linspace(-self.slope[1], self.slope[1], width, dtype=np.float32)
        light *= (1 + down[:, None] + across[None])[..., None]
        return np.clip(255 * np.clip(light / 255, 0, 1) ** np.float32(self.gamma), 0, 255).astype(np.uint8)


def restain_red_cells(
    rgb: npt.NDArray[np.uint8], spared: npt.NDArray[np.bool_], rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Give haemoglobin another hue and density than the rest: pink, grey, blue-green or dark, as laboratories differ.

    The dyes of nuclei are the same everywhere; what red cells look like hangs on eosin, pH and camera.

    Parameters
    ----------
    spared
        ``(h, w)``: white cells and platelets, which keep their stain. Glass hardly changes, for it absorbs nothing.
    """
    glass = np.percentile(rgb.reshape(-1, 3)[::7], 95, axis=0).astype(np.float32) + 1
    density = np.clip(-np.log((rgb.astype(np.float32) + 1) / glass), 0, None)
    grey = np.float32(rng.uniform(0, 1))
    mix = (1 - grey) * np.eye(3, dtype=np.float32) + grey * np.full((3, 3), 1 / 3, np.float32)
    gain = np.exp(rng.normal(0, 0.3, 3) + rng.uniform(-0.5, 1.1)).astype(np.float32)
    other = glass * np.exp(-np.clip(density @ mix.T, 0, None) * gain) - 1
    keep = cv2.GaussianBlur(spared.astype(np.float32), (0, 0), 0.8)[..., None]
    return np.clip(keep * rgb + (1 - keep) * other, 0, 255).astype(np.uint8)


def add_inclusions(
    rgb: npt.NDArray[np.uint8], labels: npt.NDArray[np.int32], red: npt.NDArray[np.bool_], rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Lay purple and brown dots and veils into some of the red cells.

    Basophilic stippling, Howell-Jolly bodies, parasites with their pigment and platelets on top make no white cell
    of a red one; none of the labelled sets shows enough of them to learn it.

    Parameters
    ----------
    labels
        ``(h, w)`` instances.
    red
        ``(h, w)``: pixels of red cells.
    """
    cells = np.unique(labels[red])
    chosen = cells[rng.random(len(cells)) < rng.uniform(0.05, 0.5)]
    amount = np.zeros(labels.shape, np.float32)
    for cell in chosen:
        mask = (labels == cell) & red
        ys, xs = np.nonzero(mask)
        dots = np.zeros(labels.shape, np.float32)
        size = float(np.sqrt(len(ys)))
        if rng.random() < 0.35:
            k = int(rng.integers(len(ys)))
            cv2.circle(dots, (int(xs[k]), int(ys[k])), max(2, round(rng.uniform(0.2, 0.5) * size)), 0.5, -1)
            dots = cv2.GaussianBlur(dots, (0, 0), 1.5)
        for k in rng.integers(len(ys), size=int(rng.choice([1, 2, 4, 10, 25]))):
            reach = max(1, round(rng.uniform(0.02, 0.09) * size))
            cv2.circle(dots, (int(xs[k]), int(ys[k])), reach, float(rng.uniform(0.5, 1.2)), -1)
        amount[mask] = dots[mask]
    amount = cv2.GaussianBlur(amount, (0, 0), 0.6)
    brown, purple = np.array([0.8, 1.0, 1.1], np.float32), np.array([0.9, 1.3, 0.5], np.float32)
    density = amount[..., None] * (purple if rng.random() < 0.8 else brown) * np.float32(rng.uniform(0.6, 1.4))
    return np.clip(rgb * np.exp(-density), 0, 255).astype(np.uint8)


def degrade(rgb: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Lose resolution, blur, sharpen, add noise or recompress, each now and then."""
    if rng.random() < 0.2:
        side, small = rgb.shape[0], round(rgb.shape[0] / rng.uniform(1.2, 2.2))
        rgb = cv2.resize(cv2.resize(rgb, (small, small), interpolation=cv2.INTER_AREA), (side, side))
    if rng.random() < 0.35:
        rgb = cv2.GaussianBlur(rgb, (0, 0), float(rng.uniform(0.4, 1.6)))
    elif rng.random() < 0.3:
        soft = cv2.GaussianBlur(rgb, (0, 0), 1.2).astype(np.float32)
        rgb = np.clip(rgb + rng.uniform(0.3, 1.2) * (rgb - soft), 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        noise = rng.normal(0, rng.uniform(1, 7), rgb.shape)
        rgb = np.clip(rgb + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.4:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 95))]
        rgb = cv2.imdecode(cv2.imencode(".jpg", np.ascontiguousarray(rgb), quality)[1], cv2.IMREAD_COLOR)
    return rgb


def add_eosin(
    rgb: npt.NDArray[np.uint8], nuclei: npt.NDArray[np.bool_], rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Lay cloudy pink ground, as of H&E, under a field of bare nuclei.

    Parameters
    ----------
    nuclei
        ``(h, w)``: where the stain is left nearly as it is.
    """
    height, width = rgb.shape[:2]
    cloud = np.zeros((height, width), np.float32)
    for period in (4, 12, 40):
        coarse = rng.random((height // period + 2, width // period + 2), dtype=np.float32)
        cloud += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    cloud = np.clip((cloud / 3 - rng.uniform(0.1, 0.45)) * rng.uniform(1, 2.5), 0, None)
    cloud *= 1 - 0.8 * cv2.GaussianBlur(nuclei.astype(np.float32), (0, 0), 1.2)
    pink = np.array([rng.uniform(0.0, 0.25), rng.uniform(0.5, 1.0), rng.uniform(0.15, 0.6)], np.float32)
    density = np.float32(rng.uniform(0.15, 0.9)) * cloud[..., None] * pink
    return np.clip(rgb * np.exp(-density), 0, 255).astype(np.uint8)


def random_crop(
    sample: Sample, rng: np.random.Generator, *, side: int, mpp: float, scale_range: tuple[float, float],
    centre: tuple[float, float] | None = None, eosin: float = 0.0, red_stain: float = 0.0, red: int = 1,
) -> Crop:  # fmt: skip
    """Cut a turned, scaled and restained square from a field.

    Parameters
    ----------
    side
        Side of the crop, pixels.
    mpp
        Nominal microns per pixel of the crop.
    scale_range
        Factors on the nominal pixel size, log-uniform.
    centre
        x, y in the field that the crop is centred on; a random place when None.
    eosin
        Share of the crops that get pink ground (:func:`add_eosin`).
    red_stain, red
        Share of the crops whose red cells get a stain of their own (:func:`restain_red_cells`), a third of them
        inclusions as well (:func:`add_inclusions`), and the kind that red cells are.
    """
    restaining = draw_restaining(rng, strength=float(rng.choice([0.3, 1.0, 1.6])))
    factor = mpp * float(np.exp(rng.uniform(*np.log(scale_range)))) / sample.mpp
    height, width = sample.labels.shape
    if centre is None:
        margin = min(0.5 * side * factor, 0.5 * min(height, width))
        centre = (rng.uniform(margin, width - margin), rng.uniform(margin, height - margin))
    angle = rng.uniform(0, 2 * np.pi)
    cos, sin = np.cos(angle) * factor, np.sin(angle) * factor
    flip = -1.0 if rng.random() < 0.5 else 1.0
    half = (side - 1) / 2
    # Maps crop pixels to field pixels.
    matrix = np.array([[cos * flip, -sin, 0], [sin * flip, cos, 0]], np.float64)
    matrix[:, 2] = np.asarray(centre) - matrix[:, :2] @ (half, half)
    rgb = sample.rgb
    if factor > 1.2:
        rgb = cv2.GaussianBlur(rgb, (0, 0), 0.45 * float(np.sqrt(factor**2 - 1)))
    # Outside the field: reflected pixels the loss ignores, or white glass, as beyond the edge of a slide.
    inverse = cv2.WARP_INVERSE_MAP
    reflected = rng.random() < 0.7
    image = cv2.warpAffine(
        rgb, matrix, (side, side), flags=cv2.INTER_LINEAR | inverse,
        borderMode=cv2.BORDER_REFLECT_101 if reflected else cv2.BORDER_CONSTANT, borderValue=(255, 255, 255),
    )  # fmt: skip

    def warp(layer: npt.NDArray[Any], outside: int) -> npt.NDArray[Any]:
        return cv2.warpAffine(layer, matrix, (side, side), flags=cv2.INTER_NEAREST | inverse, borderValue=outside)

    labels = warp(sample.labels.astype(np.float32), 0).astype(np.int32)
    kinds = warp(sample.kinds, IGNORE if reflected else 0).astype(np.int64)
    known = warp(sample.known.astype(np.uint8), 0 if reflected else 1).astype(np.float32)
    pink = rng.random() < eosin
    if pink:
        image = add_eosin(image, labels > 0, rng)
    lone = rng.random() < red_stain
    if lone:
        image = restain_red_cells(image, (labels > 0) & (kinds != red), rng)
        if rng.random() < _INCLUSIONS:
            image = add_inclusions(image, labels, (labels > 0) & (kinds == red), rng)
    image = restaining.apply(image)
    if not reflected:
        image[warp(np.ones(sample.labels.shape, np.uint8), 0) == 0] = 255
    image = degrade(image, rng)
    # On a slide the bounds come from many tiles, on a single small image from what little it shows.
    own = rng.random() < _OWN_NORMALISATION or pink or lone
    histogram = colour_histogram(image if own else restaining.apply(sample.rgb[::4, ::4]))
    normalisation = _jittered(normalisation_from_histogram(histogram), rng)
    return Crop(
        image=np.ascontiguousarray(normalisation.apply(image).transpose(2, 0, 1)),
        flows=FLOW_SCALE * labels_to_flows(labels),
        cell=(labels > 0).astype(np.float32),
        kinds=kinds,
        known=known,
    )


def _jittered(normalisation: Normalisation, rng: np.random.Generator) -> Normalisation:
    low, high = np.asarray(normalisation.low), np.asarray(normalisation.high)
    width = high - low
    low = low + rng.normal(0, 0.06, 3) * width
    high = high + rng.normal(0, 0.04, 3) * width
    return Normalisation(low=(low[0], low[1], low[2]), high=(high[0], high[1], high[2]))
