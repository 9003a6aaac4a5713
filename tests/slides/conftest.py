"""Small slides written with tifffile, which OpenSlide opens as generic TIFF pyramids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

WritePyramid = Callable[..., Path]


@pytest.fixture(scope="session")
def write_pyramid() -> WritePyramid:
    """Return a writer of tiled pyramids: level sizes as given, resolution tags from ``mpp``."""

    def write(
        path: Path,
        image: np.ndarray,
        *,
        sizes: Sequence[tuple[int, int]] = (),
        mpp: float | None = 0.25,
        tile: int = 256,
        compression: str = "deflate",
    ) -> Path:
        options: dict[str, object] = {"tile": (tile, tile), "compression": compression, "metadata": None}
        if image.ndim == 3:
            options["photometric"] = "rgb"
        if mpp is not None:
            options.update(resolution=(1e4 / mpp, 1e4 / mpp), resolutionunit="CENTIMETER")
        with tifffile.TiffWriter(path) as tiff:
            tiff.write(image, **options)
            for width, height in sizes:
                level = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
                tiff.write(level, subfiletype=1, **options)
        return path

    return write


@pytest.fixture(scope="session")
def texture() -> Callable[[int, int], np.ndarray]:
    """Return a maker of bright, detailed RGB images (height, width, 3), the same for the same size."""

    def make(width: int, height: int) -> np.ndarray:
        rng = np.random.default_rng(width * 7919 + height)
        image = cv2.resize(rng.integers(60, 256, (height // 3 + 1, width // 3 + 1, 3), dtype=np.uint8), (width, height))
        image[:: max(1, height // 40)] = 90
        return image

    return make


@pytest.fixture(scope="session")
def odd_pyramid(tmp_path_factory: pytest.TempPathFactory, write_pyramid: WritePyramid, texture) -> Path:
    """A slide whose second level has a downsample of 4.003 and the third 17.6, at 0.25 um/px."""
    path = tmp_path_factory.mktemp("slides") / "odd.tiff"
    return write_pyramid(path, texture(4003, 3002), sizes=[(1000, 750), (227, 170)])
