"""Drawn trephines with known bone, fat, marrow and artefacts: 2 um per pixel, in the colours of H&E."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

MPP = 2.0
GLASS = (240, 238, 241)
_STROMA = (226, 178, 208)
_NUCLEUS = (92, 66, 142)
_BONE = (232, 140, 176)
_BLOOD = (206, 74, 98)


@dataclass
class Drawn:
    """A picture, uint8 RGB, and the true mask of every class."""

    image: np.ndarray
    truth: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def cellularity(self) -> float:
        """True haematopoietic share of haematopoietic and fat area, percent."""
        marrow, fat = self.truth["haematopoietic"].sum(), self.truth["fat"].sum()
        return 100 * marrow / (marrow + fat)


def draw_trephine(
    *,
    fat: float = 0.45,
    width: int = 2400,
    height: int = 900,
    seed: int = 0,
    bone: bool = True,
    cortex: bool = False,
    artefacts: bool = False,
    stain: float = 1.0,
) -> Drawn:
    """Draw a core lying on glass.

    Parameters
    ----------
    fat
        Share of the marrow that fat cells cover, 0 to about 0.6.
    stain
        Power of the light let through: above 1 is a heavier stain.
    """
    rng = np.random.default_rng(seed)
    picture = np.empty((height, width, 3), np.float32)
    picture[:] = GLASS
    core = np.zeros((height, width), np.uint8)
    outline = [(80, 120 + int(rng.integers(0, 30)))]
    outline += [(x, 110 + int(rng.integers(0, 50))) for x in range(200, width - 100, 150)]
    outline += [(width - 80, 150), (width - 80, height - 150)]
    outline += [(x, height - 110 - int(rng.integers(0, 50))) for x in range(width - 200, 100, -150)]
    cv2.fillPoly(core, [np.array([*outline, (80, height - 120)], np.int32)], 1)
    taken = np.zeros_like(core)
    masks = {name: np.zeros_like(core) for name in ("bone", "fat", "haemorrhage", "fold", "crush")}
    if bone:
        for x in range(350, width - 250, 500):
            line = np.array([(x, 60), (x + 60, height // 2 - 60), (x - 40, height - 300)], np.int32)
            cv2.polylines(masks["bone"], [line], False, 1, 56)
    if cortex:
        cv2.rectangle(masks["bone"], (0, 0), (420, height), 1, -1)
    masks["bone"] &= core
    taken |= masks["bone"]
    if artefacts:
        cv2.ellipse(masks["haemorrhage"], (640, height - 280), (130, 90), 0, 0, 360, 1, -1)
        cv2.line(masks["fold"], (1000, 300), (1180, 640), 1, 18)
        cv2.ellipse(masks["crush"], (1600, 520), (110, 90), 0, 0, 360, 1, -1)
        for name in ("haemorrhage", "fold", "crush"):
            masks[name] &= core & ~taken
            taken |= masks[name]
    blocked = cv2.dilate(taken | (1 - core), np.ones((9, 9), np.uint8))
    free = int((core & ~taken).sum())
    covered = 0
    for _ in range(30_000):
        if covered >= fat * free:
            break
        x, y = int(rng.integers(90, width - 90)), int(rng.integers(90, height - 90))
        axes = (int(rng.integers(12, 26)), int(rng.integers(12, 26)))
        reach = max(axes) + 2
        spot = np.s_[y - reach : y + reach + 1, x - reach : x + reach + 1]
        cell = np.zeros_like(core[spot])
        cv2.ellipse(cell, (reach, reach), axes, float(rng.integers(0, 180)), 0, 360, 1, -1)
        if not (cv2.dilate(cell, np.ones((3, 3), np.uint8)) & (blocked[spot] | masks["fat"][spot])).any():
            masks["fat"][spot] |= cell
            covered += int(cell.sum())
    marrow = core & ~taken & ~masks["fat"]
    picture[core > 0] = _STROMA
    _scatter(picture, rng, 2, _NUCLEUS, 70.0)
    picture[masks["fat"] > 0] = (237, 235, 238)
    picture[(core == 0)] = GLASS
    _paint_bone(picture, masks["bone"], rng)
    _paint_blood(picture, masks["haemorrhage"], rng)
    _paint_crush(picture, masks["crush"], rng)
    # Two layers of section let through the product of what each does.
    dark = masks["fold"] > 0
    picture[dark] = picture[dark] ** 2.4 / 245.0**1.4 * 0.8
    picture = cv2.GaussianBlur(picture, (0, 0), 0.6)
    picture = 245.0 * (picture / 245.0) ** stain + rng.normal(0, 1.5, picture.shape)
    truth = {name: mask.astype(bool) for name, mask in masks.items()} | {"haematopoietic": marrow.astype(bool)}
    return Drawn(image=np.clip(picture, 0, 255).astype(np.uint8), truth=truth)


def _scatter(picture: np.ndarray, rng: np.random.Generator, radius: int, colour: tuple, every_px: float) -> None:
    height, width = picture.shape[:2]
    n = int(height * width / every_px)
    for x, y in zip(rng.integers(0, width, n), rng.integers(0, height, n), strict=True):
        shade = tuple(float(c + rng.integers(-18, 18)) for c in colour)
        cv2.circle(picture, (int(x), int(y)), int(rng.integers(1, radius + 1)), shade, -1)


def _paint_bone(picture: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> None:
    layer = np.empty_like(picture)
    layer[:] = _BONE
    _scatter(layer, rng, 1, _NUCLEUS, 900.0)
    picture[mask > 0] = layer[mask > 0]


def _paint_blood(picture: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> None:
    layer = np.empty_like(picture)
    layer[:] = tuple(c + 14 for c in _BLOOD)
    _scatter(layer, rng, 2, _BLOOD, 9.0)
    picture[mask > 0] = layer[mask > 0]


def _paint_crush(picture: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> None:
    layer = np.empty_like(picture)
    layer[:] = (176, 140, 192)
    height, width = mask.shape
    n = height * width // 120
    for x, y in zip(rng.integers(0, width, n), rng.integers(0, height, n), strict=True):
        far = (int(x) + int(rng.integers(30, 60)), int(y) + int(rng.integers(8, 16)))
        cv2.line(layer, (int(x), int(y)), far, (88, 64, 140), 2)
    picture[mask > 0] = layer[mask > 0]
