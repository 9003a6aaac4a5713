"""How the shipped cut-outs for drawn megakaryocytes were made, from fields of ``tissue-nuclei`` (CC0).

Run once, with the data at hand: ``make_textures(Path(data_root), TEXTURES_FOLDER)``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from wsi_pipeline.atomic import write_text
from wsi_pipeline.errors import DataError
from wsi_pipeline.simulation.cutouts import cut, estimate_glass, optical_density
from wsi_pipeline.simulation.make_assets import SOURCES, Named, write_atlas
from wsi_pipeline.simulation.sprites import ASSET_MPP

CHROMATIN: dict[str, dict[str, tuple[int, ...]]] = {
    "test": {"7f34dfccd1bc": (15,), "bb61fc17daf8": (12, 36), "5d75a63972ef": (22,)},
    "train": {
        "e414b54f2036": (43,),
        "2c61fdcb36fd": (21,),
        "420f43d21dba": (3,),
        "4e92129f4e80": (28, 43),
        "4590d7d47f52": (45,),
        "ea94ba4b01d1": (3, 22, 32, 34, 37, 42),
    },
}
"""Nuclei whose chromatin is used, by half, field and label: megakaryocytes, certain or likely, and large vesicular
nuclei. No field is in both halves; those of ``test`` are of the test split of every network."""

CYTOPLASM: dict[str, dict[str, tuple[tuple[int, int, int, int], ...]]] = {
    "test": {
        "57bd029b19c1": (
            (118, 132, 60, 40), (178, 132, 60, 40), (60, 24, 52, 40), (140, 96, 56, 36),
        ),
    },
    "train": {
        "87ea72894f65": ((44, 8, 50, 40), (24, 56, 56, 50), (150, 70, 60, 56), (170, 26, 44, 50)),
        "4193474b2f1c": ((264, 30, 50, 30), (8, 112, 60, 30)),
    },
}  # fmt: skip
"""Cytoplasm told by eye, by half and field: x, y, width and height of boxes, pixels. The marrow-like fields show no
cytoplasm at all; these, stained with haematoxylin and eosin, are of another tissue. Nuclei in
the boxes are left out."""

_SECTION_MPP = 0.32
_CYTOPLASM_MPP = 0.2
_CLEAR_PX = 4
_WHITEST = 99.5
_MOST_RED_OD = 0.30


def make_textures(data_root: Path, folder: Path) -> None:
    """Cut chromatin and cytoplasm out and write ``textures.webp`` and ``textures.json``.

    Raises
    ------
    DataError
        A field or a nucleus named above is missing.
    """
    cells = [cell for half in CHROMATIN for cell in (*_chromatin(data_root, half), *_cytoplasm(data_root, half))]
    entries = write_atlas(cells, folder / "textures.webp")
    source = SOURCES["tissue-nuclei"]
    head = {"mpp": ASSET_MPP, "licence": source["licence"], "attribution": source["attribution"], "cutouts": entries}
    write_text(folder / "textures.json", json.dumps(head, indent=1, ensure_ascii=False) + "\n")


def _field(data_root: Path, field: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint16], str]:
    name = f"tissue-nuclei/images/{field}.png"
    image, labels = data_root / name, data_root / "tissue-nuclei" / "labels" / f"{field}.png"
    if not image.is_file() or not labels.is_file():
        raise DataError(f"{image} or its labels do not exist; give the root of the development data")
    return np.asarray(Image.open(image).convert("RGB")), np.asarray(Image.open(labels)), name


def _chromatin(data_root: Path, half: str) -> Iterator[Named]:
    for field, numbers in CHROMATIN[half].items():
        rgb, labels, name = _field(data_root, field)
        for number in numbers:
            # A pixel off the rim, where the stain fades into the glass.
            mask = ndimage.binary_erosion(labels == number)
            if not mask.any():
                raise DataError(f"{name} has no nucleus {number}")
            piece = cut(rgb, mask, kind="chromatin", mpp=_SECTION_MPP, target_mpp=ASSET_MPP, glass=estimate_glass(rgb))
            yield Named(cutout=piece, class_name="chromatin", source=name, variant=half)


def _cytoplasm(data_root: Path, half: str) -> Iterator[Named]:
    for field, boxes in CYTOPLASM[half].items():
        rgb, labels, name = _field(data_root, field)
        # These fields have no empty glass; their whitest places come nearest to it.
        glass = np.percentile(rgb.reshape(-1, 3), _WHITEST, axis=0)
        od = ndimage.gaussian_filter(optical_density(rgb, glass), (1.5, 1.5, 0))
        clear = ~ndimage.binary_dilation(labels > 0, iterations=_CLEAR_PX) & (od[..., 0] < _MOST_RED_OD)
        for x, y, width, height in boxes:
            mask = np.zeros(labels.shape, bool)
            mask[y : y + height, x : x + width] = clear[y : y + height, x : x + width]
            piece = cut(rgb, mask, kind="cytoplasm", mpp=_CYTOPLASM_MPP, target_mpp=ASSET_MPP, glass=glass)
            yield Named(cutout=piece, class_name="cytoplasm", source=name, variant=half)
