"""Simulated patients made of real single cells, as a gallery: what one may compare slide-level recipes on.

No public set in this repository has cells of patients with acute promyelocytic leukaemia. These patients are invented;
their cells are real ones of healthy donors (Acevedo et al. 2020, ``pbc``) and of marrow smears (Matek et al. 2021,
``marrow-cells``). Two things differ between the groups, each with a spread between patients:

* **mix**: the second group has more promyelocytes and fewer blasts among its immature cells;
* **appearance**: more of its immature cells have attenuated granules (:mod:`wsi_pipeline.simulation.attenuation`), an
  image operation and not a disease.

Beside them stand nuisances that have nothing to do with the group: every patient has a stain and a magnification of
its own, the second laboratory another one on the whole, and some class folders are wrong. A cell is in one patient at
most, and of cells that look alike one is used.

What such figures can say is which recipe finds such signals, and which is fooled; they say nothing of real patients.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

MPP = 0.198
"""Of all images written, um per pixel."""
POSITIVE, NEGATIVE = "apl", "aml_other"
DISCOVERY, VALIDATION = "discovery", "validation"

IMMATURE = ("blast", "promyelocyte", "myelocyte", "metamyelocyte")
_MATURE = {
    "band_neutrophil": 0.16,
    "segmented_neutrophil": 0.26,
    "lymphocyte": 0.22,
    "monocyte": 0.14,
    "eosinophil": 0.07,
    "basophil": 0.05,
    "erythroblast": 0.10,
}
_MIX = {NEGATIVE: (0.16, 0.20, 0.34, 0.30), POSITIVE: (0.06, 0.44, 0.27, 0.23)}
"""Mean composition of the immature cells."""
_MIXED_UP = {
    "blast": "promyelocyte",
    "promyelocyte": "myelocyte",
    "myelocyte": "metamyelocyte",
    "metamyelocyte": "myelocyte",
    "band_neutrophil": "segmented_neutrophil",
    "segmented_neutrophil": "band_neutrophil",
}
"""What a wrong class folder says."""
_LOOK_ALIKE_SIDE, _LOOK_ALIKE_MPP = 84, 0.25


@dataclass(frozen=True, kw_only=True)
class PseudoSpec:
    """How patients are made; shares from 0 to 1.

    Attributes
    ----------
    discovery, validation
        Patients of the two laboratories.
    cells
        Mean number of cells of a patient; it varies by a third.
    positive
        Share of patients in the second group.
    immature, concentration
        Mean share of immature cells, and the Dirichlet concentration of compositions: less is more spread.
    mix
        Part of the difference in composition that is planted; 0 plants none.
    keep
        Share of the granules' fine structure that an attenuated cell keeps; 1 changes nothing.
    altered
        Mean shares of immature cells that are attenuated, in the first and in the second group.
    stain, magnification
        Standard deviation of the log stain density, and of the log magnification, between patients.
    wrong_folders
        Share of cells in a neighbouring class's folder.
    seed
        Of everything drawn.
    """

    discovery: int = 80
    validation: int = 24
    cells: int = 58
    positive: float = 0.42
    immature: float = 0.38
    concentration: float = 25.0
    mix: float = 1.0
    keep: float = 0.2
    altered: tuple[float, float] = (0.2, 0.55)
    stain: float = 0.1
    magnification: float = 0.03
    wrong_folders: float = 0.07
    seed: int = 0

    @property
    def name(self) -> str:
        """Return a folder's name that differs where any value does."""
        return f"seed{self.seed}-{hashlib.sha256(repr(sorted(asdict(self).items())).encode()).hexdigest()[:8]}"


@dataclass(frozen=True, kw_only=True)
class PseudoPatient:
    """One patient before its pixels: which files, in which folder, which of them changed, and its nuisance."""

    name: str
    label: str
    cohort: str
    files: tuple[str, ...]
    truth: tuple[str, ...]
    folders: tuple[str, ...]
    altered: tuple[bool, ...]
    gain: tuple[float, float, float]
    scale: float


def make_cohort(data: Path, out: Path, spec: PseudoSpec) -> tuple[Path, Path]:
    """Write ``gallery/PATIENT/CLASS/images`` and ``labels.csv``; return both. What is there already is kept."""
    gallery, manifest = out / "gallery", out / "labels.csv"
    if manifest.is_file():
        return gallery, manifest
    patients = plan_patients(cell_pools(data), spec)
    for number, patient in enumerate(patients):
        _write_images(data, gallery / patient.name, patient, spec, number)
    with manifest.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("patient", "label", "cohort"))
        writer.writerows((p.name, p.label, p.cohort) for p in patients)
    return gallery, manifest


@cache
def cell_pools(data: Path) -> dict[str, list[str]]:
    """Return the files of each class below ``data``; of files that look alike the first."""
    from wsi_pipeline.training.cells.data import SHIPPED_SETS, pack, read_class_folders
    from wsi_pipeline.training.splits import near_duplicate_groups

    wanted = (*IMMATURE, *_MATURE)
    cutouts = [
        c
        for known in SHIPPED_SETS
        for c in read_class_folders(data / known.folder, known.mpp, known.classes, source=known.folder)
        if c.class_name in wanted
    ]
    packed = pack(cutouts, side=_LOOK_ALIKE_SIDE, mpp=_LOOK_ALIKE_MPP)
    groups = near_duplicate_groups(packed.images, window_px=_LOOK_ALIKE_SIDE - 12, reach_px=6)
    _, first = np.unique(groups, return_index=True)
    pools: dict[str, list[str]] = {name: [] for name in wanted}
    for i in np.sort(first).tolist():
        pools[str(packed.class_names[i])].append(str(packed.files[i]))
    return pools


def plan_patients(pools: dict[str, list[str]], spec: PseudoSpec) -> list[PseudoPatient]:
    """Draw the patients; a cell is taken once, and a class that runs out gives way to its neighbour."""
    rng = np.random.default_rng(spec.seed)
    left = {name: [files[i] for i in rng.permutation(len(files))] for name, files in pools.items()}
    mature = np.array(list(_MATURE.values()))
    laboratory = {DISCOVERY: np.zeros(3), VALIDATION: np.array([0.18, 0.05, 0.22])}
    patients = []
    for cohort, n in ((DISCOVERY, spec.discovery), (VALIDATION, spec.validation)):
        positives = round(spec.positive * n)
        for i, is_positive in enumerate(rng.permutation(np.arange(n) < positives).tolist()):
            label = POSITIVE if is_positive else NEGATIVE
            mean = np.array(_MIX[NEGATIVE])
            mean = mean + spec.mix * (np.array(_MIX[label]) - mean)
            total = round(spec.cells * rng.uniform(2 / 3, 4 / 3))
            n_immature = rng.binomial(total, rng.beta(spec.immature * 12, (1 - spec.immature) * 12))
            counts = [
                *rng.multinomial(n_immature, rng.dirichlet(spec.concentration * mean)).tolist(),
                *rng.multinomial(total - n_immature, rng.dirichlet(30 * mature / mature.sum())).tolist(),
            ]
            share = spec.altered[int(is_positive)]
            share = float(rng.beta(8 * share, 8 * (1 - share)))
            files, truth = _take(left, counts)
            wrong = rng.random(len(files)) < spec.wrong_folders
            folders = [_MIXED_UP.get(t, t) if w else t for t, w in zip(truth, wrong.tolist(), strict=True)]
            altered = (rng.random(len(files)) < share) & np.isin(truth, IMMATURE)
            gain = np.exp(laboratory[cohort] + spec.stain * rng.normal() + 0.5 * spec.stain * rng.normal(size=3))
            scale = float(np.exp(spec.magnification * rng.normal() + (0.04 if cohort == VALIDATION else 0.0)))
            patients.append(
                PseudoPatient(
                    name=f"{cohort[0].upper()}{i:03d}",
                    label=label,
                    cohort=cohort,
                    files=tuple(files),
                    truth=tuple(truth),
                    folders=tuple(folders),
                    altered=tuple(altered.tolist()),
                    gain=(float(gain[0]), float(gain[1]), float(gain[2])),
                    scale=scale,
                )
            )
    return patients


def _take(left: dict[str, list[str]], counts: Sequence[int]) -> tuple[list[str], list[str]]:
    files, truth = [], []
    for groups, wanted in ((IMMATURE, counts[: len(IMMATURE)]), (tuple(_MATURE), counts[len(IMMATURE) :])):
        for name, n in zip(groups, wanted, strict=True):
            for _ in range(n):
                own = name if left[name] else max(groups, key=lambda g: len(left[g]))
                if left[own]:
                    files.append(left[own].pop())
                    truth.append(own)
    return files, truth


def _write_images(data: Path, folder: Path, patient: PseudoPatient, spec: PseudoSpec, number: int) -> None:
    from PIL import Image

    from wsi_pipeline.cells.crop_features import CropFeatures
    from wsi_pipeline.slides.picture import read_image
    from wsi_pipeline.training.cells.data import SHIPPED_SETS

    mpp_of = {known.folder: known.mpp for known in SHIPPED_SETS}
    features = CropFeatures()
    rows = zip(patient.files, patient.folders, patient.altered, strict=True)
    for i, (name, label, altered) in enumerate(rows):
        pixels = read_image(data / name)
        own = mpp_of[name.split("/")[0]]
        if altered and spec.keep < 1:
            pixels = _attenuated(pixels, own, spec, features, seed=hash_of(f"{spec.seed}|{name}"))
        picture = _as_photographed(pixels, own, patient, seed=hash_of(f"{number}|{i}|{spec.seed}"))
        path = folder / label / f"{i:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path, quality=92)


def hash_of(text: str) -> int:
    """Return a seed made of a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")


def _attenuated(
    pixels: npt.NDArray[np.uint8], mpp: float, spec: PseudoSpec, features: object, *, seed: int
) -> npt.NDArray[np.uint8]:
    """Return the picture with attenuated granules; as it is where no cell is found in the middle."""
    from wsi_pipeline.cells.crop_features import MPP as FOUND_AT
    from wsi_pipeline.cells.windows import estimate_background, resample
    from wsi_pipeline.simulation.attenuation import attenuate_granules

    height, width = pixels.shape[:2]
    side = 128
    crop = resample(pixels, width / 2, height / 2, side=side, scale=FOUND_AT / mpp)
    found = features.masks(crop)  # type: ignore[attr-defined]
    if found is None:
        return pixels
    cell, nuclear = found
    places = [
        np.clip(((np.arange(size) + 0.5 - size / 2) * mpp / FOUND_AT + side / 2).astype(int), 0, side - 1)
        for size in (height, width)
    ]
    cytoplasm = (cell & ~nuclear)[np.ix_(*places)]
    light = estimate_background(pixels)
    return attenuate_granules(pixels, cytoplasm, mpp=mpp, keep=spec.keep, background=light, seed=seed)


def _as_photographed(
    pixels: npt.NDArray[np.uint8], mpp: float, patient: PseudoPatient, *, seed: int
) -> npt.NDArray[np.uint8]:
    """Return the picture at :data:`MPP` with the patient's stain and magnification."""
    from wsi_pipeline.cells.windows import estimate_background, resample

    height, width = pixels.shape[:2]
    scale = MPP / mpp / patient.scale
    side = int(min(height, width) / scale)
    picture = resample(pixels, width / 2, height / 2, side=side, scale=scale).astype(np.float64)
    light = np.maximum(estimate_background(pixels).astype(np.float64), 1)
    density = -np.log(np.clip(picture / light, 0.02, 1.2))
    noise = np.random.default_rng(seed).normal(0, 0.6, picture.shape)
    return np.clip(np.rint(light * np.exp(-density * np.array(patient.gain)) + noise), 0, 255).astype(np.uint8)
