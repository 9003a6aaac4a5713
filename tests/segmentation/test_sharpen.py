"""Nuclei of megakaryocytes that end where the stain changes, on drawn ones whose nuclei are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from skimage.draw import polygon

from wsi_pipeline.segmentation.sharpen import sharpen, sharpen_nuclei
from wsi_pipeline.simulation.megakaryocytes import MegakaryocyteShape, draw_megakaryocyte
from wsi_pipeline.simulation.sprites import ASSET_MPP

MPP = 0.5
SHAPES = [
    MegakaryocyteShape(diameter_um=28, nc_ratio=0.36, lobes=4, lobulation=0.85),
    MegakaryocyteShape(diameter_um=46, nc_ratio=0.38, lobes=8, lobulation=0.95),
    MegakaryocyteShape(diameter_um=36, nc_ratio=0.52, lobes=2, lobulation=0.4, darkness=1.35),
]


def drawn(shape: MegakaryocyteShape, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pixels, cell and nucleus of a megakaryocyte at 0.5 um per pixel."""
    sprite = draw_megakaryocyte(shape, np.random.default_rng(seed))
    light = 240.0 * (1 - sprite.absorbed)
    masks = []
    for rings in ((sprite.outline_um,), sprite.nucleus_um):
        mask = np.zeros(light.shape[:2], bool)
        for ring in rings:
            at = ring / ASSET_MPP + np.asarray(sprite.centre_px) - 0.5
            inside = np.zeros_like(mask)
            inside[polygon(at[:, 1], at[:, 0], mask.shape)] = True
            mask ^= inside
        masks.append(mask)
    half = [m[::2, ::2][: light.shape[0] // 2, : light.shape[1] // 2] for m in masks]
    small = np.clip(light.reshape(light.shape[0] // 2, 2, -1, 2, 3).mean(axis=(1, 3)), 0, 255)
    noise = np.random.default_rng(seed).normal(0, 2, small.shape)
    return np.clip(np.rint(small + noise), 0, 255).astype(np.uint8), half[0], half[1] & half[0]


def rough(nucleus: np.ndarray, cell: np.ndarray, seed: int) -> np.ndarray:
    """Return a nucleus as a poor network gives it: 1.5 um too wide all around, with a ragged edge."""
    edge = np.random.default_rng(seed).normal(0, 1.2, nucleus.shape)
    return np.asarray(((ndimage.distance_transform_edt(~nucleus) + edge) <= 3) & cell)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.mark.parametrize("shape", SHAPES)
def test_nuclei_end_where_the_stain_changes(shape: MegakaryocyteShape) -> None:
    before, after, sizes = [], [], []
    for seed in range(5):
        rgb, cell, nucleus = drawn(shape, seed)
        network = rough(nucleus, cell, seed)
        found = sharpen(rgb, cell, network, mpp=MPP)
        assert not (found & ~cell).any()
        before.append(dice(network, nucleus))
        after.append(dice(found, nucleus))
        sizes.append(found.sum() / nucleus.sum())
    assert np.mean(after) > np.mean(before) + 0.03
    assert np.mean(after) > 0.9
    assert np.mean(sizes) == pytest.approx(1, abs=0.1)


def test_bare_nuclei_and_hints_that_disagree_are_left_to_the_network() -> None:
    rgb, cell, _ = drawn(MegakaryocyteShape(diameter_um=18, bare=True), 1)
    assert dice(sharpen(rgb, cell, cell, mpp=MPP), cell) > 0.97
    rgb, cell, nucleus = drawn(SHAPES[0], 2)
    # A corner of cytoplasm taken for the nucleus: what the colours say is another part of the cell.
    wrong = cell & ~nucleus
    wrong[:, wrong.shape[1] // 2 :] = False
    found = sharpen(rgb, cell, wrong, mpp=MPP)
    assert dice(found, wrong) >= 0.5
    tiny = np.zeros_like(cell)
    assert not sharpen(rgb, cell, tiny, mpp=MPP).any()


def test_a_cell_is_the_same_whatever_lies_around_it() -> None:
    rgb, cell, nucleus = drawn(SHAPES[1], 3)
    network = rough(nucleus, cell, 3)
    rows, columns = np.flatnonzero(cell.any(axis=1)), np.flatnonzero(cell.any(axis=0))
    own = np.array([[rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]])
    alone = sharpen_nuclei(cell.astype(np.int32), own, rgb, network, np.array([True]), mpp=MPP)
    height, width = cell.shape
    labels = np.zeros((height + 90, width + 70), np.int32)
    big = np.full((*labels.shape, 3), 120, np.uint8)
    nuclear = np.asarray(np.random.default_rng(0).random(labels.shape) < 0.5)
    labels[40 : 40 + height, 30 : 30 + width] = 2 * cell
    labels[:20, :20] = 1
    big[40 : 40 + height, 30 : 30 + width][cell] = rgb[cell]
    nuclear[40 : 40 + height, 30 : 30 + width][cell] = network[cell]
    boxes = np.concatenate([[[0, 0, 20, 20]], own + [40, 30, 40, 30]])
    among = sharpen_nuclei(labels, boxes, big, nuclear, np.array([False, True]), mpp=MPP)
    np.testing.assert_array_equal(among[40 : 40 + height, 30 : 30 + width][cell], alone[cell])
    np.testing.assert_array_equal(among[labels != 2], nuclear[labels != 2])
