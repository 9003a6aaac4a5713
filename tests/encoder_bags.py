"""Bags of drawn cells whose images lie on disk: rough or smooth cytoplasm, pictures as a gallery keeps them."""

from __future__ import annotations

import hashlib
import json
import uuid
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from wsi_pipeline.cells.measure import CELL_NAMESPACE
from wsi_pipeline.predictions.bags import CellBag
from wsi_pipeline.taxonomies import load_taxonomy
from wsi_pipeline.weights import shipped_weights

MPP = 0.25
CLASSES = load_taxonomy("pbc-blast").classifier_classes


def draw(seed: int, rough: float, side: int = 96) -> np.ndarray:
    """A cell with a dark nucleus and a cytoplasm of blots of about 1 um, of strength ``rough``."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] + 0.5
    distance = np.hypot(x - side / 2, y - side / 2)
    image = np.full((side, side, 3), (244, 238, 236), float)
    blots = ndimage.gaussian_filter(rng.normal(size=(side, side)), 2.0)
    blots = blots / blots.std()
    image[distance < 28] = (214, 200, 222)
    ring = (distance >= 16) & (distance < 28)
    image[ring] -= rough * np.maximum(blots[ring], 0)[:, None] * np.array([60, 80, 30])
    image[distance < 16] = (96, 50, 140)
    return np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)


def make_bag(folder: Path, name: str, n: int, rough: float, *, seed: int, label: str = "promyelocyte") -> CellBag:
    """Write ``n`` images and the summary of a gallery's patient, and return its bag."""
    own = folder / "gallery" / name
    own.mkdir(parents=True)
    cells = []
    for i in range(n):
        path = own / f"{i}.png"
        Image.fromarray(draw(1000 * seed + i, rough)).save(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        cells.append((str(uuid.uuid5(CELL_NAMESPACE, f"image/{digest}/0")), str(path)))
    cells.sort()
    source = folder / "run" / "slides" / name
    source.mkdir(parents=True)
    (source / "summary.json").write_text(json.dumps({"mpp": {"x": MPP, "y": MPP, "source": "option"}}))
    p = np.full((n, len(CLASSES)), 0.1 / (len(CLASSES) - 1), np.float32)
    p[:, CLASSES.index(label)] = 0.9
    return CellBag(
        subject_id=name,
        slide_ids=(name,),
        specimen="blood_smear",
        taxonomy="pbc-blast",
        classes=CLASSES,
        classifier_sha256=shipped_weights()["pbc-blast"].sha256,
        cell_ids=np.array([c for c, _ in cells]),
        slide=np.zeros(n, np.int64),
        probabilities=p,
        given=np.full(n, -1, np.int64),
        embedding=None,
        morphology=np.zeros((n, 0), np.float32),
        morphology_names=(),
        attributes=np.zeros((n, 0), np.float32),
        attribute_names=(),
        outlier=None,
        images=tuple(path for _, path in cells),
        sources=(source,),
        digests=np.array([c for c, _ in cells]),
        red={},
        other_counts={},
        patient=name,
    )
