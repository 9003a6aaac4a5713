"""How the shipped cutouts were made: from the reserved images of the development data to the atlases.

Run once, with the data at hand: ``make_assets(Path(data_root), Path("wsi_pipeline/simulation/assets"))``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml
from PIL import Image
from scipy import ndimage
from skimage import measure

from wsi_pipeline.atomic import atomic_path, write_json, write_text
from wsi_pipeline.errors import DataError
from wsi_pipeline.simulation.cutouts import Cutout, central_cell, cut, estimate_glass, find_cells, optical_density
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
    "resampled to 0.25 um per pixel."
)
_N_RED, _N_PLATELET = 60, 32
_MEGAKARYOCYTE_UM = 14.0


@dataclass(frozen=True, kw_only=True, eq=False)
class _Named:
    cutout: Cutout
    class_name: str
    source: str


def make_assets(data_root: Path, folder: Path) -> None:
    """Cut the cells named in ``picks.yaml`` and write atlases, ``ASSETS.json`` and ``NOTICE.txt``.

    Parameters
    ----------
    data_root
        Folder that holds ``pbc``, ``marrow-cells`` and ``tissue-nuclei``.
    folder
        The assets folder; must hold ``picks.yaml``.

    Raises
    ------
    DataError
        A picked image is not reserved, is missing, or holds no cell that can be cut out.
    """
    picks = yaml.safe_load((folder / "picks.yaml").read_text(encoding="utf-8"))
    cells: list[_Named] = []
    for class_name, images in picks["white"].items():
        cells += [_white(data_root, image, class_name) for image in images]
    cells += _reds_and_platelets(data_root)
    cells += [cell for image in picks["nuclei"] for cell in _nuclei(data_root, image)]
    entries: list[dict[str, Any]] = []
    for class_name in sorted({cell.class_name for cell in cells}):
        members = [cell for cell in cells if cell.class_name == class_name]
        entries += _write_atlas(members, folder / f"{class_name}.png")
    used = sorted({entry["source"].split("/")[0] for entry in entries})
    sources = {name: {**SOURCES[name], "changes": CHANGES} for name in used}
    write_json(folder / "ASSETS.json", {"mpp": ASSET_MPP, "sources": sources, "cutouts": entries})
    lines = [f"Cell cutouts in wsi_pipeline/simulation/assets. {CHANGES}", ""]
    lines += [f"- {name} ({SOURCES[name]['licence']}): {SOURCES[name]['attribution']}" for name in used]
    write_text(folder / "NOTICE.txt", "\n".join(lines) + "\n")


def _open(data_root: Path, image: str) -> npt.NDArray[np.uint8]:
    if not is_reserved(image):
        raise DataError(f"{image} may be used for training; pick an image for which is_reserved() is true")
    path = data_root / image
    if not path.is_file():
        raise DataError(f"{path} does not exist; give the root of the development data")
    return np.asarray(Image.open(path).convert("RGB"))


def _white(data_root: Path, image: str, class_name: str) -> _Named:
    rgb = _open(data_root, image)
    mpp = SOURCES[image.split("/", maxsplit=1)[0]]["mpp"]
    height, width = rgb.shape[:2]
    mask = None
    if image.startswith("marrow-cells/"):
        masks = (central_cell(rgb, mpp, red_density=density) for density in (0.16, 0.20))
        mask = next((candidate for candidate in masks if candidate is not None), None)
    else:
        for kind, candidate in find_cells(rgb, mpp):
            middle = candidate[height // 2 - 12 : height // 2 + 12, width // 2 - 12 : width // 2 + 12]
            if kind == "white" and middle.any():
                mask = candidate
    if mask is None:
        raise DataError(f"{image}: no cell alone in the middle can be cut out; remove it from picks.yaml")
    return _Named(
        cutout=cut(rgb, mask, kind="white", mpp=mpp, target_mpp=ASSET_MPP), class_name=class_name, source=image
    )


def _reds_and_platelets(data_root: Path) -> Iterator[_Named]:
    """Yield red cells and platelets, at most one of each an image, in the order of the images' hashes."""
    mpp = SOURCES["pbc"]["mpp"]
    images = [p.relative_to(data_root).as_posix() for p in (data_root / "pbc").glob("*/*") if p.is_file()]
    images = sorted(filter(is_reserved, images), key=lambda i: hashlib.sha1(i.encode()).hexdigest())
    wanted = {"red": _N_RED, "platelet": _N_PLATELET}
    for image in images:
        if not any(wanted.values()):
            return
        rgb = _open(data_root, image)
        od = optical_density(rgb, estimate_glass(rgb))
        taken: set[str] = set()
        for kind, mask in find_cells(rgb, mpp):
            if kind in taken or not wanted.get(kind) or not _is_typical(kind, mask, od, mpp):
                continue
            taken.add(kind)
            wanted[kind] -= 1
            class_name = "red_cell" if kind == "red" else "platelet"
            piece = cut(rgb, mask, kind=kind, mpp=mpp, target_mpp=ASSET_MPP)
            yield _Named(cutout=piece, class_name=class_name, source=image)
    raise DataError(f"{data_root / 'pbc'}: too few images for the cutouts; still wanted: {wanted}")


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


def _nuclei(data_root: Path, image: str) -> Iterator[_Named]:
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
        yield _Named(cutout=piece, class_name=kind, source=image)


def _write_atlas(cells: list[_Named], path: Path) -> list[dict[str, Any]]:
    """Write the cutouts side by side as RGBA: transmittance x 240 and the mask."""
    heights = [c.cutout.alpha.shape[0] for c in cells]
    widths = [c.cutout.alpha.shape[1] for c in cells]
    sheet = np.zeros((max(heights), sum(widths), 4), dtype=np.uint8)
    sheet[..., :3] = TRANSMITTANCE_ONE
    entries = []
    x = 0
    for cell, height, width in zip(cells, heights, widths, strict=True):
        light = np.rint(cell.cutout.transmittance * TRANSMITTANCE_ONE)
        sheet[:height, x : x + width, :3] = np.clip(light, 1, 255)
        sheet[:height, x : x + width, 3] = np.rint(cell.cutout.alpha * 255)
        entries.append(
            {
                "atlas": path.name,
                "box": [x, 0, width, height],
                "class": cell.class_name,
                "kind": cell.cutout.kind,
                "source": cell.source,
            }
        )
        x += width
    with atomic_path(path) as temporary:
        Image.fromarray(sheet).save(temporary, format="PNG", optimize=True)
    return entries
