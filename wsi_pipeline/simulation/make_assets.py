"""How the shipped cutouts were made: from the reserved images of the development data to the atlases.

Run once, with the data at hand: ``make_assets(Path(data_root), Path("wsi_pipeline/simulation/assets"))``.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import yaml
from PIL import Image
from scipy import ndimage
from skimage import measure, morphology

from wsi_pipeline.atomic import atomic_path, write_text
from wsi_pipeline.errors import DataError
from wsi_pipeline.simulation.cutouts import (
    Cutout,
    cut,
    estimate_glass,
    find_cells,
    foreground,
    nuclear,
    optical_density,
    surest_central_cell,
)
from wsi_pipeline.simulation.separate import free_from_red_cells, of_marrow
from wsi_pipeline.simulation.split import is_reserved
from wsi_pipeline.simulation.sprites import ASSET_MPP, TRANSMITTANCE_ONE

SOURCES: dict[str, dict[str, Any]] = {
    "pbc": {
        "mpp": 0.198,
        "licence": "CC BY 4.0",
        "attribution": "Acevedo A, Merino A, Alferez S, Molina A, Boldu L, Rodellar J. A dataset of microscopic "
        "peripheral blood cell images for development of automatic recognition systems. Data in Brief 30:105474, "
        "2020. https://doi.org/10.1016/j.dib.2020.105474",
    },
    "marrow-cells": {
        "mpp": 0.095,
        "licence": "CC BY 4.0",
        "attribution": "Matek C, Krappe S, Muenzenmayer C, Haferlach T, Marr C. An expert-annotated dataset of bone "
        "marrow cytology in hematologic malignancies. The Cancer Imaging Archive, 2021. "
        "https://doi.org/10.7937/TCIA.AXH3-T579",
    },
    "rbc-morphology": {
        "mpp": 0.18,
        "licence": "MIT",
        "attribution": "Chula RBC-12: Naruenatthanaset K, Chalidabhongse TH, Palasuwan D, Anantrasirichai N, "
        "Palasuwan A. Red blood cell segmentation with overlapping cell separation and classification on imbalanced "
        "dataset. 2021. https://arxiv.org/abs/2012.01321",
    },
    "tissue-nuclei": {
        "mpp": 0.32,
        "licence": "CC0 1.0",
        "attribution": "2018 Data Science Bowl, Broad Bioimage Benchmark Collection BBBC038v1 (Caicedo et al., "
        "Nature Methods 16:1247, 2019), with community fixes of the masks.",
    },
}
"""Origin of the cutouts; micrometres per pixel are estimates from the cells themselves."""

CHANGES = (
    "Single cells were cut out with a soft mask, divided by the colour of the empty glass around them and "
    "resampled to 0.25 um per pixel. Smudge cells were made from nuclei by deforming and blurring them."
)
SPLIT = (
    "Every source is reserved by wsi_pipeline/simulation/split.py (the first byte of the SHA-1 of its path below the "
    "data root is a multiple of 10, or it is one of two tissue fields named there); no network is trained on them."
)
WHITE_FOLDERS: dict[str, tuple[str, ...]] = {
    "band_neutrophil": ("pbc/band_neutrophil",),
    "basophil": ("pbc/basophil",),
    "blast": ("marrow-cells/BLA",),
    "eosinophil": ("pbc/eosinophil",),
    "erythroblast": ("pbc/erythroblast",),
    "lymphocyte": ("pbc/lymphocyte",),
    "metamyelocyte": ("pbc/metamyelocyte",),
    "monocyte": ("pbc/monocyte",),
    "myelocyte": ("pbc/myelocyte",),
    "promyelocyte": ("pbc/promyelocyte", "marrow-cells/PMO"),
    "segmented_neutrophil": ("pbc/segmented_neutrophil",),
}
"""Class of white cells -> folders of single cells of that class."""

_N_WHITE = 55
_N_RED, _N_PLATELET, _N_PLATELET_ALONE = 60, 40, 26
_N_RED_OF_FIELDS, _N_ABNORMAL = 80, 40
_SMUDGES = {"lymphocyte": 8, "blast": 5, "monocyte": 3}
_MEGAKARYOCYTE_UM = 14.0
_LEAST_SOLIDITY = 0.93
_GIANT_PLATELET_UM = 4.6
_ATLAS_WIDTH = 1200
_MARROW_DENSITIES = (0.16, 0.20, 0.25)


@dataclass(frozen=True, kw_only=True, eq=False)
class Named:
    cutout: Cutout
    class_name: str
    source: str
    variant: str = ""


def make_assets(data_root: Path, folder: Path) -> None:
    """Cut cells out of the reserved images and write atlases, ``ASSETS.json`` and ``NOTICE.txt``.

    Parameters
    ----------
    data_root
        Folder that holds ``pbc``, ``marrow-cells``, ``rbc-morphology`` and ``tissue-nuclei``.
    folder
        The assets folder; must hold ``picks.yaml``.

    Raises
    ------
    DataError
        A picked image is not reserved or is missing, or the images hold too few cells that can be cut out.
    """
    picks = yaml.safe_load((folder / "picks.yaml").read_text(encoding="utf-8"))
    excluded = frozenset(picks["excluded"])
    cells: list[Named] = []
    for class_name, folders in WHITE_FOLDERS.items():
        whites = [c for part in folders for c in _whites(data_root, part, class_name, excluded)]
        cells += whites
        # The last ones, so that a small slide seldom shows a cell and its smudge.
        cells += [_smudge(white) for white in whites[::-1][: _SMUDGES.get(class_name, 0)]]
    cells += _reds_and_platelets(data_root, excluded)
    cells += _platelets_alone(data_root, excluded)
    cells += _reds_of_fields(data_root, excluded)
    cells += [cell for image in picks["nuclei"] for cell in _nuclei(data_root, image)]
    entries: list[dict[str, Any]] = []
    for class_name in sorted({cell.class_name for cell in cells}):
        members = [cell for cell in cells if cell.class_name == class_name]
        entries += write_atlas(members, folder / f"{class_name}.webp")
    used = sorted({entry["source"].split("/")[0] for entry in entries})
    head = {
        "mpp": ASSET_MPP,
        "sources": {name: {**SOURCES[name], "changes": CHANGES} for name in used},
        "split": SPLIT,
    }
    rows = ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in entries)
    text = json.dumps(head, indent=1, ensure_ascii=False).removesuffix("\n}")
    write_text(folder / "ASSETS.json", f'{text},\n "cutouts": [\n{rows}\n]}}\n')
    lines = [f"Cell cutouts in wsi_pipeline/simulation/assets. {CHANGES} {SPLIT}", ""]
    lines += [f"- {name} ({SOURCES[name]['licence']}): {SOURCES[name]['attribution']}" for name in used]
    write_text(folder / "NOTICE.txt", "\n".join(lines) + "\n")


def _reserved(data_root: Path, pattern: str, excluded: frozenset[str]) -> list[str]:
    """Return the reserved images of a glob pattern below the data root, in the order of their hashes."""
    images = (p.relative_to(data_root).as_posix() for p in data_root.glob(pattern) if p.is_file())
    kept = (image for image in images if is_reserved(image) and image not in excluded)
    return sorted(kept, key=_digest)


def _digest(image: str) -> str:
    return hashlib.sha1(image.encode(), usedforsecurity=False).hexdigest()


def _open(data_root: Path, image: str) -> npt.NDArray[np.uint8]:
    if not is_reserved(image):
        raise DataError(f"{image} may be used for training; pick an image for which is_reserved() is true")
    path = data_root / image
    if not path.is_file():
        raise DataError(f"{path} does not exist; give the root of the development data")
    return np.asarray(Image.open(path).convert("RGB"))


def _whites(data_root: Path, part: str, class_name: str, excluded: frozenset[str]) -> list[Named]:
    """Return the middle cells of a folder's images that can be cut out, at most ``_N_WHITE``, those alone first."""
    mpp = SOURCES[part.split("/", maxsplit=1)[0]]["mpp"]
    cells: list[Named] = []
    touching: list[Named] = []
    for image in _reserved(data_root, f"{part}/*", excluded):
        rgb = _open(data_root, image)
        mask = _middle_cell(rgb, image, mpp)
        found = cells
        if mask is None and image.startswith("pbc/"):
            mask, found = free_from_red_cells(rgb, mpp), touching
        if mask is not None and _is_round(mask):
            piece = cut(rgb, mask, kind="white", mpp=mpp, target_mpp=ASSET_MPP)
            found.append(Named(cutout=piece, class_name=class_name, source=image))
    return (cells + touching)[:_N_WHITE]


def _middle_cell(rgb: npt.NDArray[np.uint8], image: str, mpp: float) -> npt.NDArray[np.bool_] | None:
    """Return the mask of the cell in the middle if it lies alone, or is told from its neighbours in a marrow."""
    if image.startswith("marrow-cells/"):
        granular = of_marrow(rgb, mpp) if image.startswith("marrow-cells/PMO/") else None
        return surest_central_cell(rgb, mpp, _MARROW_DENSITIES) if granular is None else granular
    found = [mask for kind, mask in find_cells(rgb, mpp) if kind == "white" and _is_in_middle(mask)]
    # With two, nothing says which of them the image's class is about.
    return found[0] if len(found) == 1 and _is_round(found[0]) else None


def _is_round(mask: npt.NDArray[np.bool_]) -> bool:
    """Return whether a white cell's mask is convex enough to hold no red cell that touches."""
    (region,) = measure.regionprops(mask.astype(np.uint8))
    return bool(region.solidity >= _LEAST_SOLIDITY)


def _is_one_cell(mask: npt.NDArray[np.bool_], mpp: float) -> bool:
    """Return whether a mask is as wide in one place only: two cells that overlap are wide twice."""
    distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(np.pad(mask, 2)), 0.25 / mpp)
    return int(measure.label(morphology.h_maxima(distance, 0.12 / mpp)).max()) == 1


def _is_in_middle(mask: npt.NDArray[np.bool_]) -> bool:
    y, x = mask.shape[0] // 2, mask.shape[1] // 2
    return bool(mask[y - 12 : y + 12, x - 12 : x + 12].any())


def _reds_and_platelets(data_root: Path, excluded: frozenset[str]) -> Iterator[Named]:
    """Yield red cells and platelets of ``pbc``, at most one of each an image."""
    mpp = SOURCES["pbc"]["mpp"]
    wanted = {"red": _N_RED, "platelet": _N_PLATELET}
    for image in _reserved(data_root, "pbc/*/*", frozenset()):
        if not any(wanted.values()):
            return
        rgb = _open(data_root, image)
        od = optical_density(rgb, estimate_glass(rgb))
        taken: set[str] = set()
        for kind, mask in find_cells(rgb, mpp):
            out = f"{image}#{kind}" in excluded or (image.startswith("pbc/platelet/") and kind == "platelet")
            if out or kind in taken or not wanted.get(kind) or not _is_typical(kind, mask, od, mpp):
                continue
            taken.add(kind)
            wanted[kind] -= 1
            class_name = "red_cell" if kind == "red" else "platelet"
            piece = cut(rgb, mask, kind=kind, mpp=mpp, target_mpp=ASSET_MPP)
            yield Named(cutout=piece, class_name=class_name, source=image)
    raise DataError(f"{data_root / 'pbc'}: too few images for the cutouts; still wanted: {wanted}")


def _platelets_alone(data_root: Path, excluded: frozenset[str]) -> list[Named]:
    """Return the middle platelets of ``pbc/platelet``, giant ones among them."""
    mpp = SOURCES["pbc"]["mpp"]
    cells: list[Named] = []
    for image in _reserved(data_root, "pbc/platelet/*", excluded):
        rgb = _open(data_root, image)
        for kind, mask in find_cells(rgb, mpp):
            if kind in {"platelet", "white"} and _is_in_middle(mask) and len(cells) < _N_PLATELET_ALONE:
                piece = cut(rgb, mask, kind="platelet", mpp=mpp, target_mpp=ASSET_MPP)
                giant = 2 * math.sqrt(mask.sum() / math.pi) * mpp > _GIANT_PLATELET_UM
                variant = "giant" if giant else ""
                cells.append(Named(cutout=piece, class_name="platelet", source=image, variant=variant))
                break
    return cells


def _reds_of_fields(data_root: Path, excluded: frozenset[str]) -> list[Named]:
    """Return red cells of ``rbc-morphology`` as they come, and after them ``abnormal`` ones."""
    mpp = SOURCES["rbc-morphology"]["mpp"]
    found: list[tuple[bool, str, Named]] = []
    for image in _reserved(data_root, "rbc-morphology/images/*", frozenset()):
        rgb = _open(data_root, image)
        glass = estimate_glass(rgb)
        od = optical_density(rgb, glass)
        nucleus = nuclear(od)
        labels = measure.label(foreground(od, 0.15, mpp))
        height, width = labels.shape
        for region in measure.regionprops(labels):
            y0, x0, y1, x1 = region.bbox
            name = f"{image}#{round(region.centroid[1])},{round(region.centroid[0])}"
            diameter = region.equivalent_diameter_area * mpp
            whole = y0 > 2 and x0 > 2 and y1 < height - 2 and x1 < width - 2
            mask = labels == region.label
            red, green, _ = od[mask].mean(axis=0)
            if name in excluded or not whole or not 3.6 <= diameter <= 10.0 or region.solidity < 0.9:
                continue
            # A scale bar is drawn into the lower right corner of these fields.
            if (x1 > width - 150 and y1 > height - 75) or not _is_one_cell(mask[y0:y1, x0:x1], mpp):
                continue
            if nucleus[mask].mean() > 0.01 or red > 0.6 * green:
                continue
            abnormal = region.eccentricity > 0.75 or region.solidity < 0.96 or not 5.6 <= diameter <= 8.8
            piece = cut(rgb, mask, kind="red", mpp=mpp, target_mpp=ASSET_MPP, glass=glass)
            cell = Named(cutout=piece, class_name="red_cell", source=image, variant="abnormal" if abnormal else "")
            found.append((abnormal, _digest(name), cell))
    found.sort(key=lambda item: item[:2])
    usual = [cell for abnormal, _, cell in found if not abnormal][:_N_RED_OF_FIELDS]
    return usual + [cell for abnormal, _, cell in found if abnormal][:_N_ABNORMAL]


def _smudge(white: Named) -> Named:
    """Return the smudge (Gumprecht) cell of a white cell: its nucleus burst and smeared, without cytoplasm.

    The nuclear stain is stretched, warped by smooth noise and blurred; the outline is moved until the area is
    1.4 to 2.3 times that of the nucleus, with a ragged edge towards which the stain fades.
    """
    rng = np.random.default_rng(int(_digest(white.source)[:12], 16))
    od = -np.log10(np.maximum(white.cutout.transmittance, 0.01))
    body = ndimage.binary_opening(nuclear(od) & (white.cutout.alpha > 0.5), iterations=1)
    nucleus = _largest(body)
    pad = nucleus.shape[0] // 2 + 16
    # Beyond the nucleus its own stain goes on, so that nothing of the cytoplasm is smeared in.
    nearest = ndimage.distance_transform_edt(~nucleus, return_distances=False, return_indices=True)
    od = np.pad(od[tuple(nearest)], ((pad, pad), (pad, pad), (0, 0)), mode="edge")
    mask = np.pad(nucleus, pad).astype(np.float32)
    shape = mask.shape

    def noise(sigma_um: float) -> npt.NDArray[np.float32]:
        field = ndimage.gaussian_filter(rng.standard_normal(shape), sigma_um / ASSET_MPP)
        return np.asarray(field / field.std(), dtype=np.float32)

    centre = np.array(ndimage.center_of_mass(mask))
    angle, stretch = rng.uniform(0, math.pi), rng.uniform(1.05, 1.45)
    along = np.array([math.cos(angle), math.sin(angle)])
    ratio = rng.uniform(1.4, 2.3)
    turned = np.outer(along, along) / stretch + (np.eye(2) - np.outer(along, along)) * stretch
    yx = np.moveaxis(np.mgrid[: shape[0], : shape[1]].astype(np.float64), 0, -1) - centre
    yx = yx @ (turned / math.sqrt(ratio)).T + centre
    bend = 1.1 / ASSET_MPP
    rows = (yx[..., 0] + bend * noise(1.9) + 0.3 * bend * noise(0.7)).astype(np.float32)
    columns = (yx[..., 1] + bend * noise(1.9) + 0.3 * bend * noise(0.7)).astype(np.float32)
    edge = cv2.BORDER_REPLICATE
    stain = cv2.remap(np.ascontiguousarray(od, np.float32), columns, rows, cv2.INTER_LINEAR, borderMode=edge)
    inside = cv2.remap(mask, columns, rows, cv2.INTER_LINEAR) > 0.5
    distance = ndimage.distance_transform_edt(inside) - ndimage.distance_transform_edt(~inside)
    # Strands: fine noise moves the edge in and out.
    height = distance * ASSET_MPP + 0.45 * noise(0.8) + 0.25 * noise(0.35)
    level = float(np.partition(height.ravel(), -round(ratio * nucleus.sum()))[-round(ratio * nucleus.sum())])
    burst = _largest(ndimage.binary_fill_holes(height > level))
    # What hangs on a strand thinner than the feather would lie outside the outline.
    main = _largest(ndimage.gaussian_filter(burst.astype(np.float32), 0.28 / ASSET_MPP) > 0.5)
    alpha = np.clip(ndimage.gaussian_filter(main.astype(np.float32), 0.28 / ASSET_MPP), 0, 1)
    depth = np.clip(ndimage.distance_transform_edt(main) * ASSET_MPP / 1.8, 0, 1)
    stain = ndimage.gaussian_filter(stain, (0.45 / ASSET_MPP, 0.45 / ASSET_MPP, 0))
    texture = np.clip(1 + 0.14 * noise(0.9) + 0.04 * noise(0.4), 0.5, 1.5)
    pale = (1 / ratio) ** 0.7 * (0.45 + 0.55 * depth) * texture
    light = 10.0 ** -(stain * pale[..., None])
    alpha[alpha < 0.02] = 0.0
    light[alpha == 0] = 1.0
    ys, xs = np.nonzero(alpha)
    box = (slice(ys.min() - 2, ys.max() + 3), slice(xs.min() - 2, xs.max() + 3))
    piece = replace(white.cutout, transmittance=light[box].astype(np.float32), alpha=alpha[box].astype(np.float32))
    return Named(cutout=piece, class_name="artefact", source=white.source, variant="smudge")


def _largest(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return the largest connected part of a mask."""
    labels = measure.label(mask)
    return np.asarray(labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:])), dtype=bool)


def _is_typical(kind: str, mask: npt.NDArray[np.bool_], od: npt.NDArray[np.float32], mpp: float) -> bool:
    (region,) = measure.regionprops(mask.astype(np.uint8))
    diameter = region.equivalent_diameter_area * mpp
    red, green, _ = od[mask].mean(axis=0)
    if kind == "red":
        return bool(
            6.0 <= diameter <= 8.3
            and region.solidity > 0.972
            and region.eccentricity < 0.72
            and red < 0.62 * green
            and 0.09 < green < 0.22
            and od[mask][:, 0].max() < 0.2
            and np.percentile(od[mask][:, 1], 95) < 1.6 * green
            and od[round(region.centroid[0]), round(region.centroid[1]), 1] < 0.9 * green
        )
    return bool(1.7 <= diameter <= 3.6 and region.solidity > 0.93 and red > 0.10)


def _nuclei(data_root: Path, image: str) -> Iterator[Named]:
    rgb = _open(data_root, image)
    mpp = SOURCES["tissue-nuclei"]["mpp"]
    labels = np.asarray(Image.open(data_root / image.replace("/images/", "/labels/")))
    glass = estimate_glass(rgb)
    od = optical_density(rgb, glass)
    height, width = labels.shape
    for region in measure.regionprops(labels):
        y0, x0, y1, x1 = region.bbox
        diameter = region.equivalent_diameter_area * mpp
        whole = y0 > 1 and x0 > 1 and y1 < height - 1 and x1 < width - 1
        mask = labels == region.label
        red, green, _ = od[mask].mean(axis=0)
        # Pigment is grey; a stained nucleus absorbs green far more than red.
        if not whole or region.solidity < 0.88 or green < max(0.12, 1.5 * red):
            continue
        kind = "megakaryocyte" if diameter > _MEGAKARYOCYTE_UM else "nucleus"
        # A straight edge against a neighbour is where someone drew a line, not where the nucleus ends.
        rim = ndimage.binary_dilation(mask) & ~mask
        free = (labels[rim] == 0).mean() > 0.9
        clear = free and diameter >= 4.6 and region.solidity >= 0.92 and green >= 0.25
        if kind == "nucleus" and (not clear or region.axis_major_length * mpp > 16.0):
            continue
        others = (labels > 0) & ~mask
        piece = cut(rgb, mask, kind=kind, mpp=mpp, target_mpp=ASSET_MPP, glass=glass, others=others)
        yield Named(cutout=piece, class_name=kind, source=image)


def write_atlas(cells: list[Named], path: Path) -> list[dict[str, Any]]:
    """Write the cutouts in rows as RGBA: transmittance x 240 and the mask, without loss."""
    places = list(_in_rows([cell.cutout.alpha.shape for cell in cells]))
    bottom = max(y + cell.cutout.alpha.shape[0] for (_, y), cell in zip(places, cells, strict=True))
    sheet = np.zeros((bottom, _ATLAS_WIDTH, 4), dtype=np.uint8)
    sheet[..., :3] = TRANSMITTANCE_ONE
    entries = []
    for (x, y), cell in zip(places, cells, strict=True):
        height, width = cell.cutout.alpha.shape
        light = np.rint(cell.cutout.transmittance * TRANSMITTANCE_ONE)
        sheet[y : y + height, x : x + width, :3] = np.clip(light, 1, 255)
        sheet[y : y + height, x : x + width, 3] = np.rint(cell.cutout.alpha * 255)
        entry = {
            "atlas": path.name,
            "box": [x, y, width, height],
            "class": cell.class_name,
            "kind": cell.cutout.kind,
            "source": cell.source,
        }
        entries.append({**entry, "variant": cell.variant} if cell.variant else entry)
    with atomic_path(path) as temporary:
        # Lossy WebP loses up to 6 grey levels of colour in a cell, most of it blue, which classifiers see.
        Image.fromarray(sheet).save(temporary, format="WEBP", lossless=True, quality=80, method=4, exact=True)
    return entries


def _in_rows(shapes: Iterable[tuple[int, ...]]) -> Iterator[tuple[int, int]]:
    """Yield x, y of boxes set side by side in rows of ``_ATLAS_WIDTH``."""
    x = y = deepest = 0
    for height, width in shapes:
        if x + width > _ATLAS_WIDTH:
            x, y, deepest = 0, y + deepest, 0
        yield x, y
        x, deepest = x + width, max(deepest, height)
