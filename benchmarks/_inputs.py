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


def field_mosaic(scratch: Path, *, size_px: int, mpp: float = 0.25, tile_px: int = 256, quality: int = 85) -> Path:
    """Return an Aperio-like pyramid tiled from real smear fields (Chula RBC-12), made once and kept in ``scratch``.

    The fields, 0.18 um/px, are brought to ``mpp`` and laid side by side in rows; levels are 1, 1/4 and 1/16 in size,
    as Aperio's are, in JPEG tiles with halved chroma.

    Raises
    ------
    SystemExit
        ``WSI_PIPELINE_DATA`` does not hold the fields.
    """
    import os

    import tifffile
    from PIL import Image

    path = scratch / f"fields-{size_px}-{tile_px}-q{quality}.svs"
    if path.is_file():
        return path
    fields = sorted(Path(os.environ.get("WSI_PIPELINE_DATA", "")).glob("rbc-morphology/images/*.jpg"))
    if not fields:
        raise SystemExit("set WSI_PIPELINE_DATA to the folder with rbc-morphology/images: the slide is tiled from it")
    print(f"making {path.name} from {len(fields)} fields ...", flush=True)
    images = []
    for field in fields:
        with Image.open(field) as image:
            size = tuple(round(side * 0.18 / mpp) for side in image.size)
            images.append(np.asarray(image.convert("RGB").resize(size, Image.Resampling.LANCZOS)))
    height, width = images[0].shape[:2]
    images = [image for image in images if image.shape[:2] == (height, width)]
    columns, rows = -(-size_px // width), -(-size_px // height)
    # A step that shares no factor with the number of fields brings every field into every column.
    step = next(n for n in range(37, 37 + len(images)) if np.gcd(n, len(images)) == 1)
    lines = [
        np.hstack([images[(row * step + column) % len(images)] for column in range(columns)]) for row in range(rows)
    ]
    level0 = np.vstack(lines)[:size_px, :size_px]
    with tifffile.TiffWriter(path) as out:
        for level, factor in enumerate((1, 4, 16)):
            pixels = level0 if factor == 1 else np.asarray(Image.fromarray(level0).reduce(factor))
            shape = f"{pixels.shape[1]}x{pixels.shape[0]}"
            about = f"{shape} ({shape}) JPEG/RGB Q={quality}|AppMag = 40|MPP = {mpp}"
            out.write(
                pixels,
                tile=(tile_px, tile_px), photometric="rgb", compression="jpeg",
                compressionargs={"level": quality}, subsampling=(2, 2), metadata=None, subfiletype=int(level > 0),
                description="Aperio Image Library v12.0.0\n" + about,
            )  # fmt: skip
    return path
