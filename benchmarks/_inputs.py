"""Inputs that several benchmarks share: virtual slides, dense label images, the network's fields."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt


def virtual_slide(scratch: Path, *, profile: str, size_px: int, seed: int = 1) -> Path:
    """Return a virtual slide, made once and kept in ``scratch``."""
    from wsi_pipeline.simulation import make_virtual_slide

    path = scratch / f"{profile}-{size_px}-{seed}.tiff"
    if not path.is_file():
        print(f"making {path.name} (a few seconds per ten megapixels, once) ...", flush=True)
        make_virtual_slide(path, profile=profile, size_px=size_px, seed=seed)
    return path


def dense_labels(
    size_px: int, *, spacing_px: float, seed: int, radius: tuple[float, float] = (0.42, 0.62)
) -> npt.NDArray[np.int32]:
    """Return ``(size, size)`` labels of roundish cells, by default touching and about ``spacing_px`` across.

    Centres lie on a jittered hexagonal grid; a pixel belongs to the nearest centre within the cell's own radius,
    which is drawn from ``radius``, in spacings.
    """
    from scipy.spatial import KDTree

    rng = np.random.default_rng(seed)
    rows = np.arange(-1, size_px / (spacing_px * 0.87) + 1)
    columns = np.arange(-1, size_px / spacing_px + 1)
    y, x = (v.ravel().astype(np.float64) for v in np.meshgrid(rows, columns, indexing="ij"))
    centres = np.stack([y * spacing_px * 0.87, (x + 0.5 * (y % 2)) * spacing_px], axis=1)
    centres += rng.uniform(-0.18, 0.18, centres.shape) * spacing_px
    radii = rng.uniform(*radius, len(centres)) * spacing_px
    pixels = np.stack(np.meshgrid(np.arange(size_px), np.arange(size_px), indexing="ij"), axis=-1).reshape(-1, 2)
    distance, nearest = KDTree(centres).query(pixels)
    inside = distance < radii[nearest]
    _, labels = np.unique(np.where(inside, nearest + 1, 0), return_inverse=True)
    return labels.reshape(size_px, size_px).astype(np.int32)


def noisy_fields(labels: npt.NDArray[np.int32], *, noise: float, seed: int) -> npt.NDArray[np.float32]:
    """Return what a network would say of ``labels``: ``(3, h, w)`` 5 x flow y, 5 x flow x, cell logit, with noise.

    The noise is smooth over three pixels, as a network's errors are, and given in units of the unit flow.
    """
    from scipy.ndimage import gaussian_filter

    from wsi_pipeline.segmentation.diffusion import labels_to_flows

    rng = np.random.default_rng(seed)
    rough = rng.standard_normal((3, *labels.shape)).astype(np.float32)
    smooth = gaussian_filter(rough, (0, 1.5, 1.5))
    smooth /= smooth.std()
    fields = np.empty((3, *labels.shape), np.float32)
    fields[:2] = 5 * (labels_to_flows(labels) + noise * smooth[:2])
    fields[2] = np.where(labels > 0, 6, -6) + 3 * noise * smooth[2]
    return fields
