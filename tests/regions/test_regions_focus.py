"""Focus and exposure: calibrated on drawn red cells, monotone on real fields that are blurred and darkened."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from wsi_pipeline.regions.focus import blur_um, exposure

FINE = 0.125  # um per pixel of the drawing
SIDE_UM = 160


def draw_red_cells(seed: int, *, pallor: bool = True) -> np.ndarray:
    """Return transmitted intensity (240 on glass) of red cells lying apart, with the profile of Evans & Fung.

    Thickness over radius: sqrt(1 - r^2) (0.81 + 7.83 r^2 - 4.39 r^4), Microvasc Res 4:335, 1972.
    """
    rng = np.random.default_rng(seed)
    size = int(SIDE_UM / FINE)
    density = np.zeros((size, size), np.float32)
    centres: list[tuple[float, float]] = []
    while len(centres) < 0.45 * SIDE_UM**2 / 44:
        x, y = rng.uniform(0, SIDE_UM, 2)
        if all((x - a) ** 2 + (y - b) ** 2 > 7.3**2 for a, b in centres):
            centres.append((x, y))
        elif rng.random() < 0.0005:
            break
    ys, xs = np.mgrid[:96, :96]
    for x, y in centres:
        r2 = np.clip(((xs - 48) ** 2 + (ys - 48) ** 2) * (FINE / rng.normal(3.75, 0.2)) ** 2, 0, 1)
        cell = np.sqrt(1 - r2) * ((0.81 + 7.83 * r2 - 4.39 * r2**2) if pallor else 1.0)
        x0, y0 = int(x / FINE) - 48, int(y / FINE) - 48
        left, top, right, bottom = max(0, x0), max(0, y0), min(size, x0 + 96), min(size, y0 + 96)
        density[top:bottom, left:right] += (cell / cell.max() * rng.normal(0.2, 0.02))[
            top - y0 : bottom - y0, left - x0 : right - x0
        ]
    return 240 * 10 ** (-density)


def photograph(intensity: np.ndarray, sigma_um: float, mpp: float) -> np.ndarray:
    """Blur, sample and add noise: uint8 RGB."""
    blurred = cv2.GaussianBlur(intensity, (0, 0), sigma_um / FINE) if sigma_um else intensity
    small = cv2.resize(blurred, None, fx=FINE / mpp, fy=FINE / mpp, interpolation=cv2.INTER_AREA)
    noisy = small + np.random.default_rng(9).normal(0, 1.5, small.shape)
    return np.repeat(np.clip(noisy, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize("mpp", [0.25, 0.5])
def test_blur_is_in_micrometres(mpp):
    cells = draw_red_cells(100)
    for sigma in (0.45, 0.6, 0.8, 1.0, 1.25):
        assert blur_um(photograph(cells, sigma, mpp), mpp) == pytest.approx(sigma, abs=0.12 + 0.1 * sigma)
    assert blur_um(photograph(cells, 0.0, mpp), mpp) < 0.3


def test_neither_darkness_nor_density_changes_blur():
    cells = draw_red_cells(101)
    sharp = photograph(cells, 0.6, 0.5)
    dark = np.clip(np.rint(sharp * 0.5), 0, 255).astype(np.uint8)
    assert blur_um(dark, 0.5) == pytest.approx(blur_um(sharp, 0.5), abs=0.1)
    assert exposure(dark) == pytest.approx(0.5 * exposure(sharp), abs=0.01)


def test_a_field_without_cells_has_no_focus():
    noise = np.random.default_rng(3).normal(238, 1.5, (256, 256, 1))
    assert np.isnan(blur_um(np.repeat(noise, 3, axis=2).astype(np.uint8), 0.5))


# Microns per pixel as in the data's README; wbc-masks' from the width of its red cells.
FIELDS = {
    "bccd/fields": 0.073,
    "pbc/segmented_neutrophil": 0.198,
    "pbc/lymphocyte": 0.198,
    "marrow-cells/BLA": 0.095,
    "marrow-cells/NGS": 0.095,
    "rbc-morphology/images": 0.18,
    "wbc-masks/images": 0.2,
}


def some_fields(folder: Path, number: int = 12) -> list[np.ndarray]:
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".png", ".jpg", ".jpeg", ".bmp"))
    # Every other field served to choose thresholds; these are the ones between.
    paths = paths[1 :: max(2, len(paths) // number // 2 * 2)][:number]
    return [cv2.cvtColor(cv2.imread(str(p)), cv2.COLOR_BGR2RGB) for p in paths]


@pytest.mark.data
@pytest.mark.parametrize("folder", FIELDS)
def test_real_fields_lose_focus_step_by_step(data_root, folder):
    mpp = FIELDS[folder]
    steps = (0.0, 0.5, 0.75, 1.0, 1.25, 1.5)
    found = []
    for field in some_fields(data_root / folder):
        blurred = [cv2.GaussianBlur(field, (0, 0), s / mpp) if s else field for s in steps]
        found.append(
            [
                blur_um(cv2.resize(b, None, fx=mpp / 0.5, fy=mpp / 0.5, interpolation=cv2.INTER_AREA), 0.5)
                for b in blurred
            ]
        )
    scores = np.array(found)
    print(folder, np.round(np.median(scores, axis=0), 2))
    assert (np.diff(scores, axis=1) > 0).all()
    assert np.median(scores[:, 0]) < 0.9
    assert np.median(scores[:, steps.index(1.5)]) > 1.2


@pytest.mark.data
@pytest.mark.parametrize("folder", FIELDS)
def test_real_fields_get_darker_step_by_step(data_root, folder):
    for field in some_fields(data_root / folder):
        scores = [exposure((field * share).astype(np.uint8)) for share in (1.0, 0.8, 0.6, 0.4, 0.2)]
        assert (np.diff(scores) < 0).all()
        assert scores[0] > 0.4
        assert scores[-1] < 0.25
