"""Generated cells for the training part of a classifier, and what keeps them from testing it.

Beside a generator's weights lies ``<name>.seen.csv``: a row for each image it was trained on. A generator that has seen
an image, or a copy of one, or a patient, that a split validates or tests on is refused: what it makes would carry test
images into training.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_pipeline.atomic import write_text
from wsi_pipeline.cells.windows import resample
from wsi_pipeline.csv_rows import csv_text
from wsi_pipeline.errors import DataError, MissingWeightsError, ModelError
from wsi_pipeline.training.cells.data import PackedCells
from wsi_pipeline.training.cells.listing import some
from wsi_pipeline.training.cells.own_data import OwnCells
from wsi_pipeline.training.splits import Fingerprint, fingerprint, near_duplicates
from wsi_pipeline.training.synthetic.fit import LIGHT, make_images
from wsi_pipeline.training.synthetic.guard import SYNTHETIC, check_synthetic_in_train
from wsi_pipeline.training.synthetic.network import Generator, GeneratorSpec
from wsi_pipeline.weights import Weights, file_sha256, find_weights

TASK = "cell-generator"
"""Task in the card of a generator's weights."""

_GROUPS = ("patient", "slide", "centre")
_HEADER = ("digest", "class", *_GROUPS, "difference_hash", "thumbnail")
_COPY_BITS, _COPY_DIFFERENCE = 48, 3.0
"""How alike a copy is, saved again as JPEG or resized: of 256 bits, and grey levels of the thumbnail.

Of 100 cells of ``pbc`` the bits of copies differed by at most 20 (resized), 28 (JPEG 90) and 56 (JPEG 75), the
thumbnails by at most 1.6 levels; no two cells of 1,000 differed by less than 68 bits.
"""
_CARD_KEYS = ("classes", "mpp", "taxonomy", "network", "seen")


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The images a generator was trained on; groups are hashed, since patients' names leave no laboratory."""

    digests: frozenset[str]
    groups: dict[str, frozenset[str]]
    prints: Fingerprint


@dataclass(frozen=True, kw_only=True)
class CellGenerator:
    """A trained generator and what its card says."""

    weights: Weights
    network: Generator
    classes: tuple[str, ...]
    taxonomy: str
    mpp: float
    seen: Seen

    def images(self, classes: list[str], *, seed: int) -> npt.NDArray[np.uint8]:
        """Return an image of each class named, uint8 ``(n, side, side, 3)`` at ``mpp``, background ``LIGHT``."""
        rank = {name: i for i, name in enumerate(self.classes)}
        target = np.array([rank[c] for c in classes], dtype=np.int64)
        return make_images(self.network, target, seed=seed, device=str(self.network.start.weight.device))


def write_seen(weights: Path, own: OwnCells, split: npt.NDArray[np.str_], window_px: int) -> dict[str, Any]:
    """Write ``<name>.seen.csv`` beside the weights and return its entry of the card.

    Parameters
    ----------
    window_px
        Side of what the generator sees of the packed images.
    """
    train = np.flatnonzero(split == "train")
    prints = _prints(own.cells, train, window_px)
    rows: list[list[object]] = []
    columns = own.packed.groups
    for row, i in enumerate(train.tolist()):
        groups = [_hashed(name, str(columns[name][i])) for name in _GROUPS]
        bits, thumbnail = prints.bits[row].tobytes().hex(), prints.thumbnails[row].tobytes().hex()
        rows.append([own.cells.digests[i], own.cells.class_names[i], *groups, bits, thumbnail])
    path = seen_file(weights)
    write_text(path, csv_text(_HEADER, rows))
    return {"file": path.name, "images": len(train), "sha256": file_sha256(path)}


def seen_file(weights: Path) -> Path:
    """Return the list of a generator's training images, beside its weights."""
    return weights.with_name(f"{weights.stem}.seen.csv")


def load_generator(path: Path, device: str = "cpu") -> CellGenerator:
    """Load a generator that ``wsi-pipeline train generator`` wrote.

    Raises
    ------
    MissingWeightsError
        The weights, their card or their list of training images are not there.
    ModelError
        They are damaged, of another task, or do not fit each other.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.suffix != ".safetensors":
        raise MissingWeightsError(f"--synthetic {path}: a .safetensors file of `train generator` is needed")
    weights = find_weights(str(path), TASK)
    weights.verify()
    card = weights.card
    missing = [key for key in _CARD_KEYS if key not in card]
    if missing:
        raise ModelError(f"{path.with_suffix('.json')}: the card lacks {', '.join(missing)}")
    try:
        network = Generator(GeneratorSpec.from_dict(card["network"]))
        network.load_state_dict(load_file(path))
    except (TypeError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{path} does not fit the network its card describes: {error}") from None
    if network.spec.n_classes != len(card["classes"]):
        raise ModelError(f"{path} makes {network.spec.n_classes} classes, its card has {len(card['classes'])}")
    return CellGenerator(
        weights=weights,
        network=network.eval().to(device),
        classes=tuple(card["classes"]),
        taxonomy=str(card["taxonomy"]),
        mpp=float(card["mpp"]),
        seen=_read_seen(seen_file(path), card["seen"]),
    )


def _read_seen(path: Path, entry: dict[str, Any]) -> Seen:
    if not path.is_file():
        raise MissingWeightsError(
            f"{path} does not exist; without the list of a generator's training images nobody can say that it has "
            "seen no test image"
        )
    if file_sha256(path) != entry.get("sha256"):
        raise ModelError(f"{path} is not the list its generator's card was written with; it is damaged or was replaced")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    hashes = np.frombuffer(bytes.fromhex("".join(r["difference_hash"] for r in rows)), dtype=np.uint64)
    thumbnails = np.frombuffer(bytes.fromhex("".join(r["thumbnail"] for r in rows)), dtype=np.uint8)
    return Seen(
        digests=frozenset(r["digest"] for r in rows),
        groups={name: frozenset(r[name] for r in rows if r[name]) for name in _GROUPS},
        prints=Fingerprint(bits=hashes.reshape(len(rows), -1), thumbnails=thumbnails.reshape(len(rows), -1)),
    )


def refuse_seen(generator: CellGenerator, own: OwnCells, split: npt.NDArray[np.str_], window_px: int) -> None:
    """Refuse a generator that was trained on what a split validates or tests on.

    Looked for are the same images, copies of them (saved again or resized), and images of the same patients, slides or
    centres where these are what the split keeps together.

    Raises
    ------
    DataError
        With how many images are concerned, and which.
    """
    held = np.flatnonzero(split != "train")
    cells, seen = own.cells, generator.seen
    same = np.array([d in seen.digests for d in cells.digests[held].tolist()])
    why = f"{int(same.sum())} of {len(held)} images"
    if not same.any() and own.grouping in _GROUPS:
        values = own.packed.groups[own.grouping][held].tolist()
        same = np.array([_hashed(own.grouping, str(v)) in seen.groups[own.grouping] for v in values])
        why = f"{len({v for v, s in zip(values, same, strict=True) if s})} {own.grouping}s"
    if not same.any():
        theirs, n = _prints(cells, held, window_px), len(seen.prints.bits)
        both = Fingerprint(
            bits=np.concatenate([seen.prints.bits, theirs.bits]),
            thumbnails=np.concatenate([seen.prints.thumbnails, theirs.thumbnails]),
        )
        i, j = near_duplicates(both, both, max_bits=_COPY_BITS, max_difference=_COPY_DIFFERENCE).T
        same = np.isin(np.arange(len(held)), j[(i < n) & (j >= n)] - n)
        why = f"copies of {int(same.sum())} of {len(held)} images"
    if same.any():
        raise DataError(
            f"{generator.weights.path} was trained on {why} of the validation and test parts of this split, for "
            f"example {some(cells.files[held[same]].tolist()[:2])}; what it makes would carry them into training. "
            "Train it with the same --data, --group, --folds and --fold as this classifier"
        )


def add_synthetic(
    own: OwnCells,
    split: npt.NDArray[np.str_],
    generator: CellGenerator,
    per_class: int | None,
    *,
    mpp: float,
    seed: int,
) -> tuple[PackedCells, npt.NDArray[np.str_], dict[str, int]]:
    """Return the cells with generated ones after them, their split, and how many were made of each class.

    Parameters
    ----------
    split
        Of the real cells; all generated ones are in ``train``.
    per_class
        Images a class; None fills each class up to the largest of the training part.
    mpp
        Resolution of the packed cells, um per pixel.
    seed
        Of the noise.

    Raises
    ------
    DataError
        The generator is of another taxonomy, or makes none of the classes that need images.
    """
    if generator.taxonomy != own.taxonomy.name:
        raise DataError(
            f"{generator.weights.path} makes classes of taxonomy {generator.taxonomy}; the cells have labels of "
            f"{own.taxonomy.name}"
        )
    counts = wanted(own, split, generator.classes, per_class)
    names = [name for name, n in counts.items() for _ in range(n)]
    if not names:
        raise DataError(
            f"{generator.weights.path} makes {', '.join(generator.classes)}; none of these needs images here"
        )
    cells, side = own.cells, own.cells.images.shape[1]
    made = generator.images(names, seed=seed)
    middle = made.shape[1] / 2
    first = int(cells.fields.max()) + 1
    more = PackedCells(
        images=np.stack([resample(m, middle, middle, side=side, scale=mpp / generator.mpp) for m in made]),
        background=np.full((len(names), 3), LIGHT, dtype=np.uint8),
        class_names=np.array(names),
        sources=np.full(len(names), SYNTHETIC),
        digests=np.array([f"{SYNTHETIC}:{hashlib.sha256(m.tobytes()).hexdigest()}" for m in made]),
        files=np.array([f"{SYNTHETIC}/{name}/{i}" for i, name in enumerate(names)]),
        fields=np.arange(first, first + len(names)),
    )
    both = PackedCells(
        **{k: np.concatenate([getattr(cells, k), getattr(more, k)]) for k in PackedCells.__dataclass_fields__}
    )
    parts = np.concatenate([split, np.full(len(names), "train")])
    check_synthetic_in_train(both.sources, parts)
    return both, parts, {name: n for name, n in counts.items() if n}


def wanted(own: OwnCells, split: npt.NDArray[np.str_], made: tuple[str, ...], per_class: int | None) -> dict[str, int]:
    """Return how many images of each class that the generator makes are to be added."""
    real = Counter(own.cells.class_names[split == "train"].tolist())
    most = max(real.values())
    return {name: most - real[name] if per_class is None else per_class for name in own.classes if name in made}


def _prints(cells: PackedCells, index: npt.NDArray[np.int64], window_px: int) -> Fingerprint:
    return fingerprint(cells.windows(5 * window_px // 6, index))


def _hashed(column: str, value: str) -> str:
    return hashlib.sha256(f"{column}:{value}".encode()).hexdigest() if value else ""
