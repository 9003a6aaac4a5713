"""Morphology of the cells of one image: ours against scikit-image.

The peer measures what scikit-image knows, as its users would: ``regionprops_table`` for area, Crofton perimeter, axes,
eccentricity, equivalent diameter, solidity and mean colour of cells and nuclei, and ``graycomatrix`` of each cell's
and nucleus's own pixels (32 levels, four directions, symmetric, the outside dropped). Ours computes these and all
others of ``docs/morphology.md`` (hull defects, Fourier descriptors, lobes, granularity, stains, pallor) in the same
time, so the ratio favours the peer. Printed as well: how far the two are apart on what both have.

Not measured: segmentation, writing of the table.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _harness import Contender, compare, parser, report, start
from _inputs import dense_labels

COMMON = (
    "area_um2", "perimeter_um", "cell_glcm_contrast", "cell_glcm_homogeneity", "cell_glcm_energy",
    "cell_glcm_correlation", "nucleus_area_um2", "nucleus_glcm_contrast", "nucleus_glcm_energy",
)  # fmt: skip
_REGION = (
    "label", "area", "perimeter_crofton", "axis_major_length", "axis_minor_length", "eccentricity",
    "equivalent_diameter_area", "solidity",
)  # fmt: skip


def ours(path: Path, mpp: float) -> Callable[[], Any]:
    from wsi_pipeline.cells.features import NAMES
    from wsi_pipeline.cells.morphology import measure_morphology

    inputs = dict(np.load(path))
    columns = [NAMES.index(name) for name in COMMON]

    def work() -> Any:
        table = measure_morphology(inputs["labels"], inputs["pixels"], mpp=mpp, nucleus=inputs["nucleus"])
        return table[:, columns]

    return work


def scikit_image(path: Path, mpp: float) -> Callable[[], Any]:
    from skimage.feature import graycomatrix, graycoprops
    from skimage.measure import regionprops_table

    from wsi_pipeline.cells.features import PAIR_UM
    from wsi_pipeline.cells.texture import GREY_LEVELS

    inputs = dict(np.load(path))
    labels, pixels, nucleus = inputs["labels"], inputs["pixels"], inputs["nucleus"]
    angles = (0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)

    def texture(levels: Any, mask: Any) -> dict[str, float]:
        outside = np.where(mask, levels + 1, 0).astype(np.uint8)
        counts = graycomatrix(outside, [round(PAIR_UM / mpp)], angles, levels=GREY_LEVELS + 1, symmetric=True)
        counts = counts[1:, 1:].astype(float)
        counts = counts[..., counts.sum(axis=(0, 1))[0] > 0]  # directions with a pair
        if not counts.size:
            return dict.fromkeys(("contrast", "homogeneity", "energy", "correlation"), np.nan)
        shares = counts / counts.sum(axis=(0, 1))
        return {p: graycoprops(shares, p).mean() for p in ("contrast", "homogeneity", "energy", "correlation")}

    def work() -> Any:
        luma = (pixels.astype(np.int64) @ np.array([299, 587, 114]) + 500) // 1000
        levels = luma * GREY_LEVELS // 256
        n = int(labels.max())
        found = np.full((n, len(COMMON)), np.nan)
        inner = np.where(nucleus, labels, 0)
        cells = regionprops_table(labels, pixels, properties=(*_REGION, "mean_intensity", "bbox"))
        nuclei = regionprops_table(inner, pixels, properties=(*_REGION, "mean_intensity"))
        found[cells["label"] - 1, 0] = cells["area"] * mpp**2
        found[cells["label"] - 1, 1] = cells["perimeter_crofton"] * mpp
        found[nuclei["label"] - 1, 6] = nuclei["area"] * mpp**2
        boxes = np.stack([cells[f"bbox-{i}"] for i in range(4)], axis=1)
        for k, (y0, x0, y1, x1) in zip(cells["label"], boxes, strict=True):
            window = (slice(y0, y1), slice(x0, x1))
            cell = labels[window] == k
            at_all = texture(levels[window], cell)
            found[k - 1, 2:6] = [at_all[p] for p in ("contrast", "homogeneity", "energy", "correlation")]
            if (cell & nucleus[window]).any():
                at_nucleus = texture(levels[window], cell & nucleus[window])
                found[k - 1, 7:9] = at_nucleus["contrast"], at_nucleus["energy"]
        return found

    return work


def make_inputs(path: Path, size: int, spacing: int, white: float) -> int:
    """Write labels, a nucleus in a share of them, and smooth colours; return how many cells."""
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    rng = np.random.default_rng(1)
    labels = dense_labels(size, spacing_px=spacing, seed=1, radius=(0.36, 0.46))
    has_nucleus = rng.random(labels.max() + 1) < white
    depth = distance_transform_edt(labels > 0)
    nucleus = (depth > 0.15 * spacing) & has_nucleus[labels] & (labels > 0)
    grey = np.where(labels > 0, 170, 235)[..., None] - 70 * nucleus[..., None]
    noise = gaussian_filter(rng.normal(0, 40, (size, size, 3)), (1, 1, 0))
    pixels = np.clip(grey + noise, 0, 255).astype(np.uint8)
    np.savez(path, labels=labels, nucleus=nucleus, pixels=pixels)
    return int(labels.max())


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--size", type=int, default=1024, help="side of the image, pixels (default 1024)")
    options.add_argument("--spacing", type=int, default=36, help="distance of the cells, pixels (default 36)")
    options.add_argument("--mpp", type=float, default=0.25, help="um per pixel (default 0.25)")
    options.add_argument("--white", type=float, default=0.5, help="share of cells with a nucleus (default 0.5)")
    chosen = start(options.parse_args())
    path = chosen.scratch / "morphology.npz"
    n = make_inputs(path, chosen.size, chosen.spacing, chosen.white)
    timings = compare(
        [
            Contender(name="ours", prepare=ours, arguments=(path, chosen.mpp)),
            Contender(name="scikit-image", prepare=scikit_image, arguments=(path, chosen.mpp)),
        ],
        repeats=chosen.repeats,
    )
    extra: dict[str, Any] = {"cells a minute a core, ours": round(60 * n / timings[0].best)}
    if len(timings) > 1:
        a, b = timings[0].value, timings[1].value
        there = np.isfinite(a) & np.isfinite(b)
        extra["NaN in the same places"] = bool((np.isfinite(a) == np.isfinite(b)).all())
        extra["largest relative difference"] = float((np.abs(a - b)[there] / np.maximum(np.abs(b[there]), 1e-3)).max())
    work = {"size": chosen.size, "cells": n, "mpp": chosen.mpp, "white": chosen.white}
    report(chosen, "morphology", "dense", timings, work=work, amount=n / 1000, unit="thousand cells", extra=extra)


if __name__ == "__main__":
    main()
