"""Labelled fields in one npz that needs nothing but numpy and OpenCV to read: for training on another machine.

The file holds one uint8 array with all images end to end, each encoded (PNG without loss, the RGB as JPEG when
asked), and where each begins. No pickles.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from wsi_pipeline.training.segmentation.data import Sample

VERSION = 1


def _encode(image: np.ndarray, jpeg: int | None) -> np.ndarray:
    kind, options = (".jpg", [cv2.IMWRITE_JPEG_QUALITY, jpeg]) if jpeg else (".png", [cv2.IMWRITE_PNG_COMPRESSION, 6])
    done, data = cv2.imencode(kind, image, options)
    if not done:
        raise ValueError(f"OpenCV cannot encode an image of shape {image.shape} as {kind}")
    return data.ravel()


def write_pack(path: Path, samples: Sequence[Sample], *, jpeg: int | None = None) -> int:
    """Write samples and return the bytes written; ``jpeg`` is the quality of RGB, None for without loss."""
    parts: list[np.ndarray] = []
    for sample in samples:
        if sample.labels.max(initial=0) >= 2**16:
            raise ValueError(f"{sample.name}: more than 65535 instances do not fit a 16-bit image")
        parts += [
            _encode(np.ascontiguousarray(sample.rgb[..., ::-1]), jpeg),
            _encode(sample.labels.astype(np.uint16), None),
            _encode(sample.kinds, None),
            _encode(sample.known.astype(np.uint8), None),
        ]
    arrays: dict[str, Any] = {
        "version": np.array(VERSION),
        "data": np.concatenate(parts),
        "ends": np.cumsum([len(p) for p in parts]).reshape(-1, 4),
        "names": np.array([s.name for s in samples]),
        "splits": np.array([s.split for s in samples]),
        "mpp": np.array([s.mpp for s in samples], np.float64),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez(file, **arrays)
    return path.stat().st_size


def read_pack(path: Path) -> list[Sample]:
    """Return the samples of a pack.

    Raises
    ------
    ValueError
        The file is of another version.
    """
    from wsi_pipeline.training.segmentation.data import Sample

    with np.load(path, allow_pickle=False) as pack:
        if int(pack["version"]) != VERSION:
            raise ValueError(f"{path} is a pack of version {int(pack['version'])}, this program reads {VERSION}")
        data, ends = pack["data"], pack["ends"].ravel()
        names, splits, mpp = pack["names"], pack["splits"], pack["mpp"]
    pieces = np.split(data, ends[:-1])

    def decode(index: int, flags: int) -> np.ndarray:
        image = cv2.imdecode(pieces[index], flags)
        if image is None:
            raise ValueError(f"{path}: image {index} of {len(pieces)} cannot be decoded; pack it again")
        return image

    samples = []
    for i, name in enumerate(names):
        rgb = np.ascontiguousarray(decode(4 * i, cv2.IMREAD_COLOR)[..., ::-1])
        labels, kinds, known = (decode(4 * i + k, cv2.IMREAD_UNCHANGED) for k in (1, 2, 3))
        samples.append(
            Sample(
                name=str(name), split=str(splits[i]), rgb=rgb, labels=labels.astype(np.int32), kinds=kinds,
                known=known > 0, mpp=float(mpp[i]),
            )
        )  # fmt: skip
    return samples
