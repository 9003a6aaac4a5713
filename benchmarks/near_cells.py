"""How many copies of a cell the search for near-identical cells finds, and how many other cells it takes for copies.

    python benchmarks/near_cells.py                24 cells of each of the 11 classes of pbc
    python benchmarks/near_cells.py --cells 100

Cells of Acevedo et al. 2020 under ``$WSI_PIPELINE_DATA/pbc``, chosen by a seed. Each is copied as files get copied:
compressed anew, cropped, shifted, resampled, turned. A copy is found where its embedding (classifier ``pbc-blast``)
has a cosine to the cell's of at least ``NEAR_COSINE``. "other cells" are cells that have another cell of their class
that near: none should, as far as the set has no duplicates of its own. Prints a table with Wilson intervals of 95 %.

Not measured: other classifiers, other laboratories' copies.
"""

from __future__ import annotations

import argparse
import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from wsi_pipeline.cells.classifier import load_classifier
from wsi_pipeline.cells.windows import resample
from wsi_pipeline.predictions.bags.leakage import NEAR_COSINE
from wsi_pipeline.predictions.intervals import wilson

MPP = 0.198
GLASS = (235, 225, 225)
Copy = Callable[[Image.Image], Image.Image]


def jpeg(quality: int) -> Copy:
    """Return what compresses anew."""

    def copy(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file).convert("RGB")

    return copy


COPIES: dict[str, Copy] = {
    "2 px off each edge": lambda i: i.crop((2, 2, i.width - 2, i.height - 2)),
    "doubled in size and back": lambda i: i.resize((2 * i.width, 2 * i.height)).resize(i.size),
    "JPEG of quality 95": jpeg(95),
    "JPEG of quality 85": jpeg(85),
    "shifted by 1 px": lambda i: i.crop((2, 0, i.width, i.height)),
    "turned by 90 degrees": lambda i: i.rotate(90),
}


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cells", type=int, default=24, help="of each class")
    options.add_argument("--seed", type=int, default=0)
    asked = options.parse_args()
    root = Path(os.environ["WSI_PIPELINE_DATA"]) / "pbc"
    classifier = load_classifier("pbc-blast")
    rng = np.random.default_rng(asked.seed)
    files = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        found = sorted(folder.iterdir())
        files += [found[i] for i in rng.choice(len(found), min(asked.cells, len(found)), replace=False)]
    images = [Image.open(path).convert("RGB") for path in files]
    glass = np.tile(np.array(GLASS, np.uint8), (len(images), 1))

    def embed(copy: Copy) -> tuple[np.ndarray, np.ndarray]:
        scale, side = classifier.mpp / MPP, classifier.window_px
        pixels = [np.asarray(copy(image)) for image in images]
        windows = np.stack([resample(p, p.shape[1] / 2, p.shape[0] / 2, side=side, scale=scale) for p in pixels])
        answer = classifier.predict(windows, glass)
        vectors = answer.embedding.astype(np.float64)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), answer.p.argmax(axis=1)

    cells, classes = embed(lambda image: image)
    print("| copy | found | % | 95 % interval |\n|---|---|---|---|")

    def row(name: str, k: int, n: int) -> None:
        low, high = wilson(k, n)
        print(f"| {name} | {k} of {n} | {100 * k / n:.1f} | {100 * low:.1f} to {100 * high:.1f} |")

    for name, copy in COPIES.items():
        copied, answered = embed(copy)
        near = ((cells * copied).sum(axis=1) >= NEAR_COSINE) & (classes == answered)
        row(name, int(near.sum()), len(near))
    alike = cells @ cells.T
    alike[(classes[:, None] != classes[None, :]) | np.eye(len(cells), dtype=bool)] = -1
    row("other cells", int((alike.max(axis=1) >= NEAR_COSINE).sum()), len(cells))


if __name__ == "__main__":
    main()
