"""Virtual training fields, made of cells of the training images alone: every outline is known, overlaps included.

No reserved image is used, so networks trained on these fields can be tested on virtual slides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from skimage.measure import regionprops

from wsi_pipeline.config import Specimen
from wsi_pipeline.simulation.cutouts import cut, estimate_glass, nuclear, optical_density
from wsi_pipeline.simulation.fields import LabelledField, render_labelled_field, sprites_from_image
from wsi_pipeline.simulation.profile import Profile
from wsi_pipeline.simulation.sprites import ASSET_MPP, Sprite, make_sprite
from wsi_pipeline.training.segmentation.data import (
    IGNORE,
    MARROW_MPP,
    PBC_MPP,
    SECTION_KINDS,
    SMEAR_KINDS,
    Sample,
    read_rgb,
    split_of,
)

FIELDS = {"virtual": 200, "virtual-section": 60}
"""Fields that are made for each of the two networks."""

_SIDE_PX = 512
_IMAGES_PER_CLASS = 36
_MARROW_CLASSES = ("BLA", "EOS", "LYT", "MON", "NGS", "PMO")
_LEAST_SEEN = 0.25
_MEGAKARYOCYTE_SCALES = (0.8, 1.0, 1.25, 1.5)


def virtual_smears(root: Path, n: int = FIELDS["virtual"]) -> list[Sample]:
    """Return smear fields of white cells, red cells and platelets, from bare glass to cells that overlap.

    Parameters
    ----------
    root
        Folder that holds ``pbc`` and ``marrow-cells``.
    """
    sprites = list(_smear_sprites(root))
    whites = sorted({s.class_name for s in sprites if s.kind == "white"})
    samples = []
    for number in range(n):
        rng = np.random.default_rng((17, number))
        field = render_labelled_field(
            _smear_profile(rng, whites), sprites, seed=10_000 + number, size_px=(_SIDE_PX, _SIDE_PX)
        )
        samples.append(_smear_sample(f"virtual/{number}", field))
    return samples


def virtual_sections(fields: Sequence[Sample], n: int = FIELDS["virtual-section"]) -> list[Sample]:
    """Return section fields of the nuclei and megakaryocytes of labelled training fields, on pink ground.

    Parameters
    ----------
    fields
        Labelled ``tissue-nuclei`` fields; those that are not of the training split are left out.
    """
    sprites = [s for field in fields if field.split == "train" for s in section_sprites(field)]
    megakaryocytes = any(s.kind == "megakaryocyte" for s in sprites)
    samples = []
    for number in range(n):
        rng = np.random.default_rng((18, number))
        layers: dict[str, object] = {}
        if megakaryocytes:
            layers["megakaryocyte"] = {"per_mm2": float(rng.uniform(0, 120)), "mix": {"megakaryocyte": 1}}
        layers["nucleus"] = {
            "per_mm2": float(rng.uniform(1500, 9000)),
            "variation": 0.4,
            "sticky": float(rng.uniform(0, 0.5)),
            "overlapping": float(rng.uniform(0, 0.15)),
            "mix": {"nucleus": 1},
        }
        profile = _profile("trephine", "tissue" if rng.random() < 0.8 else "glass", layers)
        field = render_labelled_field(profile, sprites, seed=20_000 + number, size_px=(_SIDE_PX, _SIDE_PX))
        kind_of = np.array([0, *(SECTION_KINDS.index(kind) for kind in field.kinds)], np.uint8)
        samples.append(
            Sample(
                name=f"virtual-section/{number}",
                split="train",
                rgb=field.rgb,
                labels=field.labels,
                kinds=kind_of[field.labels],
                known=np.ones(field.labels.shape, bool),
                mpp=ASSET_MPP,
            )
        )
    return samples


def _smear_profile(rng: np.random.Generator, whites: Sequence[str]) -> Profile:
    """Draw how dense and how crowded a field is; one in six has no red cells, as a close crop of a white cell has."""
    mix = rng.gamma(0.7, size=len(whites)) + 0.02
    layers = {
        "white": {
            "per_mm2": float(rng.choice([150, 400, 900, 1800])),
            "sticky": float(rng.uniform(0, 0.5)),
            "mix": {name: float(weight) for name, weight in zip(whites, mix, strict=True)},
        },
        "platelet": {
            "per_mm2": float(rng.uniform(200, 1800)),
            "sticky": float(rng.uniform(0, 0.4)),
            "mix": {"platelet": 1},
        },
    }
    if rng.random() > 1 / 6:
        layers["red"] = {
            "per_mm2": float(rng.uniform(2500, 15000)),
            "variation": float(rng.uniform(0, 0.5)),
            "sticky": float(rng.uniform(0, 0.9)),
            "overlapping": float(rng.uniform(0, 0.5)),
            "mix": {"red_cell": 1},
        }
    ordered: dict[str, object] = {name: layers[name] for name in ("white", "red", "platelet") if name in layers}
    return _profile("blood_smear", "glass", ordered)


def _profile(specimen: Specimen, background: str, layers: Mapping[str, object]) -> Profile:
    about = {"name": "training", "description": "training", "specimen": specimen, "background": background}
    return Profile.model_validate({**about, "layers": layers})


def _smear_sample(name: str, field: LabelledField) -> Sample:
    """Turn a field into a sample; of a cell of which little is seen nothing is asked."""
    kinds = np.zeros(field.labels.shape, np.uint8)
    known = np.ones(field.labels.shape, bool)
    nucleus = nuclear(optical_density(field.rgb, estimate_glass(field.rgb)))
    kind_of = np.array(["", *field.kinds])[field.labels]
    kinds[kind_of == "red"] = SMEAR_KINDS.index("red")
    kinds[kind_of == "platelet"] = SMEAR_KINDS.index("platelet")
    white = kind_of == "white"
    kinds[white] = SMEAR_KINDS.index("cytoplasm")
    kinds[white & nucleus] = SMEAR_KINDS.index("white_nucleus")
    # Where nucleus gives way to cytoplasm the threshold on stain decides nothing.
    edge = cv2.morphologyEx(nucleus.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    kinds[white & edge] = IGNORE
    hidden = _hidden(field)
    known[hidden] = False
    kinds[hidden] = IGNORE
    return Sample(name=name, split="train", rgb=field.rgb, labels=field.labels, kinds=kinds, known=known, mpp=ASSET_MPP)


def _hidden(field: LabelledField) -> npt.NDArray[np.bool_]:
    """Return the pixels of cells that others cover but for a sliver."""
    areas = np.bincount(field.labels.ravel(), minlength=len(field.kinds) + 1)
    red = np.array([False, *(kind == "red" for kind in field.kinds)])
    inner = np.zeros_like(red)
    inner[np.unique(field.labels[2:-2, 2:-2])] = True
    typical = np.median(areas[red]) if red.any() else 0
    covered = red & inner & (areas < _LEAST_SEEN * typical)
    return covered[field.labels]


def _smear_sprites(root: Path) -> Iterator[Sprite]:
    """Cut sprites out of training images of both sets, by class in the order of a hash of the path."""
    folders = [(f, f.name, PBC_MPP) for f in sorted((root / "pbc").iterdir()) if f.is_dir()]
    folders += [(root / "marrow-cells" / name, f"marrow_{name.lower()}", MARROW_MPP) for name in _MARROW_CLASSES]
    for folder, class_name, mpp in folders:
        names = [p.relative_to(root).as_posix() for p in folder.iterdir() if p.is_file()]
        names = [n for n in names if split_of(n) == "train"]
        names.sort(key=lambda name: hashlib.sha256(name.encode()).digest())
        for name in names[:_IMAGES_PER_CLASS]:
            yield from sprites_from_image(read_rgb(root / name), mpp, class_name=class_name, source=name)


def section_sprites(field: Sample) -> Iterator[Sprite]:
    """Cut the nuclei and megakaryocytes out of a labelled section field, those that are whole, dense and of known kind.

    Megakaryocytes come at several scales.
    """
    glass = estimate_glass(field.rgb)
    od = optical_density(field.rgb, glass)
    height, width = field.labels.shape
    for region in regionprops(field.labels):
        y0, x0, y1, x1 = region.bbox
        mask = field.labels == region.label
        kind = int(field.kinds[mask].max())
        dense = od[mask][:, 1].mean() > 0.15
        if y0 < 1 or x0 < 1 or y1 >= height or x1 >= width or region.solidity < 0.88 or kind == IGNORE or not dense:
            continue
        name = SECTION_KINDS[kind]
        scales = _MEGAKARYOCYTE_SCALES if name == "megakaryocyte" else (1.0,)
        others = (field.labels > 0) & ~mask
        for scale in scales:
            piece = cut(
                field.rgb, mask, kind=name, mpp=field.mpp * scale, target_mpp=ASSET_MPP, glass=glass, others=others
            )
            yield make_sprite(piece.transmittance, piece.alpha, class_name=name, kind=name, source=field.name)
