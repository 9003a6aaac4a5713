"""Label images for the compact flow networks, from data whose licence lets the weights be shipped.

Smears
    ``bccd`` white cells come from published masks (nucleus and cytoplasm). Red cells come from a classical
    foreground, split by markers a person set: annotated points on the fully labelled ``rbc-morphology`` fields,
    annotated boxes on ``bccd``. Where no person marked a cell the pixels are ignored by the loss, so a missing
    label never teaches background.
    ``pbc`` and ``marrow-cells`` images bring other scanners and stains: cells that lie alone are outlined by their
    stain (:func:`wsi_pipeline.simulation.cutouts.find_cells`), everything else on them is ignored.
Sections
    ``tissue-nuclei`` instance maps. The fields carry no pixel size: it is estimated from the median nucleus,
    taken as ``NUCLEUS_UM`` across.

The split is by a hash of the path (:func:`split_of`); reserved images are test.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage as ndi
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed

from wsi_pipeline.errors import DataError
from wsi_pipeline.simulation.cutouts import estimate_glass, find_cells, optical_density
from wsi_pipeline.simulation.split import is_reserved

Split = Literal["train", "validation", "test"]

BCCD_MPP = 0.073
RBC_MPP = 0.18
PBC_MPP = 0.198
MARROW_MPP = 0.095

SINGLE_CELLS_PER_CLASS = {"pbc": 70, "marrow-cells": 50}
"""Images taken of each class folder, in the order of a hash of their path."""

SET_SHARES = {"bccd": 0.35, "rbc-morphology": 0.2, "pbc": 0.3, "marrow-cells": 0.15, "tissue-nuclei": 1.0}
"""Share of the training crops drawn from each set."""
NUCLEUS_UM = 7.0

SMEAR_KINDS = ("background", "red", "platelet", "cytoplasm", "white_nucleus")
SECTION_KINDS = ("background", "nucleus")
IGNORE = 255

COMPLETE_RBC_FIELDS = (
    "100", "101", "22", "247", "258", "263", "278", "28", "282", "297", "304", "307", "314", "5", "6", "9", "94",
    "98",
)  # fmt: skip
"""``rbc-morphology`` fields judged fully labelled: at most 5 % of the cells inside the field have no point, and
overlays of points on pixels showed none overlooked. Cells cut by the border are labelled in some, not in others."""

_SAME_FIELD = {"bccd/fields/BloodImage_00038.jpg": "bccd/fields/BloodImage_00037.jpg"}
"""Near-duplicates (correlation 0.98 at 24 x 18 px, the only pair above 0.9), kept on one side of the split."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One labelled field.

    Attributes
    ----------
    name
        Path below the data root.
    rgb
        ``(h, w, 3)`` uint8.
    labels
        ``(h, w)`` int32 instances, 0 elsewhere.
    kinds
        ``(h, w)`` uint8 index into the kinds of the network, :data:`IGNORE` where unknown.
    known
        ``(h, w)`` bool, false where instances are unknown.
    mpp
        Microns per pixel (an estimate: the sets carry none).
    """

    name: str
    split: Split
    rgb: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int32]
    kinds: npt.NDArray[np.uint8]
    known: npt.NDArray[np.bool_]
    mpp: float


def split_of(relative_path: str) -> Split:
    """Return the fixed split of an image: a hash of its path, 20 % test, 10 % validation, 70 % train."""
    relative_path = _SAME_FIELD.get(relative_path, relative_path)
    if is_reserved(relative_path):
        return "test"
    bucket = hashlib.sha1(relative_path.encode(), usedforsecurity=False).digest()[0] % 10
    return "test" if bucket == 1 else "validation" if bucket == 2 else "train"


def stain_density(rgb: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], float]:
    """Return optical density against the local glass, green weighted most, and its Otsu threshold."""
    smooth = cv2.GaussianBlur(rgb.astype(np.float32), (0, 0), 1)
    small = cv2.resize(smooth, None, fx=1 / 8, fy=1 / 8, interpolation=cv2.INTER_AREA)
    glass = np.stack([ndi.percentile_filter(small[..., c], 85, size=25) for c in range(3)], -1)
    glass = cv2.resize(cv2.GaussianBlur(glass, (0, 0), 8), (rgb.shape[1], rgb.shape[0]))
    density = np.clip(-np.log((smooth + 1) / (glass + 1)), 0, None) @ np.array([0.2, 0.6, 0.2], np.float32)
    return density, float(threshold_otsu(density[density < np.quantile(density, 0.99)]))


def smear_foreground(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Return stained cells, central pallor filled."""
    density, threshold = stain_density(rgb)
    return ndi.binary_opening(ndi.binary_fill_holes(density > 0.8 * threshold), iterations=2)


def _blueness(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return how far blue exceeds red, smoothed; nuclei and platelets are high, red cells low."""
    smooth = cv2.GaussianBlur(rgb.astype(np.float32), (0, 0), 1)
    return smooth[..., 2] - smooth[..., 0]


def _split_by_points(
    foreground: npt.NDArray[np.bool_], points: npt.NDArray[np.float64], radius: int = 4
) -> npt.NDArray[np.int32]:
    markers = np.zeros(foreground.shape, np.int32)
    for index, (x, y) in enumerate(points.astype(int), start=1):
        cv2.circle(markers, (int(x), int(y)), radius, index, -1)
    markers[~foreground] = 0
    distance = ndi.distance_transform_edt(foreground).astype(np.float32)
    return watershed(-cv2.GaussianBlur(distance, (0, 0), 2), markers, mask=foreground).astype(np.int32)


def _read_rgb(path: Path) -> npt.NDArray[np.uint8]:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(f"{path}: not an image that can be read")
    return np.ascontiguousarray(image[..., ::-1])


def rbc_sample(root: Path, stem: str) -> Sample:
    """Return a fully labelled ``rbc-morphology`` field: red cells by points, platelets by size and colour."""
    from wsi_pipeline.evaluation.datasets import read_points

    path = next((root / "rbc-morphology" / "images").glob(f"{stem}.*"))
    rgb = _read_rgb(path)
    points = read_points(root / "rbc-morphology" / "points" / f"{stem}.txt").xy
    density, threshold = stain_density(rgb)
    stained = density > 0.8 * threshold
    foreground = smear_foreground(rgb)
    labels = _split_by_points(foreground, points)
    kinds = np.where(labels > 0, SMEAR_KINDS.index("red"), 0).astype(np.uint8)
    known = np.ones(labels.shape, bool)
    blue = _blueness(rgb)
    red_blue = np.median(blue[labels > 0]) if (labels > 0).any() else 0.0
    pieces, n = ndi.label(ndi.binary_opening(ndi.binary_fill_holes(stained)) & (labels == 0))
    next_label = int(labels.max()) + 1
    for index, where in enumerate(ndi.find_objects(pieces, n), start=1):
        mask = pieces[where] == index
        area_um2 = mask.sum() * RBC_MPP**2
        if area_um2 < 0.4:
            continue
        small = 1.0 <= area_um2 <= 16.0
        if small and blue[where][mask].mean() > red_blue + 8:
            labels[where][mask] = next_label
            kinds[where][mask] = SMEAR_KINDS.index("platelet")
            next_label += 1
        else:
            known[where][mask] = False
            kinds[where][mask] = IGNORE
    _ignore_overlays(rgb, labels, kinds, known)
    name = path.relative_to(root).as_posix()
    return Sample(name=name, split=split_of(name), rgb=rgb, labels=labels, kinds=kinds, known=known, mpp=RBC_MPP)


def _ignore_overlays(
    rgb: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int32],
    kinds: npt.NDArray[np.uint8],
    known: npt.NDArray[np.bool_],
) -> None:
    """Ignore scale bars (bottom right) and the eyepiece pointer: darker and greyer than any cell."""
    height, width = labels.shape
    overlay = np.zeros(labels.shape, bool)
    overlay[int(height * 0.86) :, int(width * 0.78) :] = True
    grey = rgb.max(-1).astype(int) - rgb.min(-1)
    overlay |= ndi.binary_dilation((rgb.max(-1) < 70) & (grey < 30), iterations=6)
    touched = np.isin(labels, np.unique(labels[overlay & (labels > 0)])) & (labels > 0)
    for part in (overlay, touched):
        labels[part] = 0
        kinds[part] = IGNORE
        known[part] = False


def bccd_sample(root: Path, stem: str, shrink: int = 2) -> Sample:
    """Return a ``bccd`` field: white cells by masks, red cells and platelets by boxes on a classical foreground."""
    base = root / "bccd"
    rgb = _read_rgb(base / "fields" / f"{stem}.jpg")
    number = stem.rsplit("_", 1)[1]
    mask = cv2.imread(str(base / "wbc_masks" / f"BloodImage_Mask_{number}.png"), cv2.IMREAD_GRAYSCALE)
    boxes = _boxes(base / "boxes" / f"{stem}.xml")
    height, width = rgb.shape[0] // shrink, rgb.shape[1] // shrink
    rgb = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
    labels = np.zeros((height, width), np.int32)
    kinds = np.zeros((height, width), np.uint8)
    foreground = smear_foreground(rgb)
    # Unlabelled rings at the border enclose pallor that the foreground misses: close before calling it glass.
    closed = cv2.morphologyEx(foreground.astype(np.uint8), cv2.MORPH_CLOSE, _disk(11), borderType=cv2.BORDER_REPLICATE)
    known = cv2.dilate(closed, _disk(2)) == 0
    kinds[~known] = IGNORE
    if mask is not None:
        mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA)
    count = _add_white(labels, kinds, known, mask, [b for k, b in boxes if k == "WBC"], shrink)
    white_zone = ndi.binary_dilation(labels > 0, iterations=1)
    _add_red(labels, kinds, known, foreground & ~white_zone, [b for k, b in boxes if k == "RBC"], shrink, count)
    _add_platelets(labels, kinds, known, rgb, [b for k, b in boxes if k == "Platelets"], shrink)
    name = f"bccd/fields/{stem}.jpg"
    return Sample(
        name=name, split=split_of(name), rgb=rgb, labels=labels, kinds=kinds, known=known, mpp=BCCD_MPP * shrink
    )


def _disk(radius: int) -> npt.NDArray[np.uint8]:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


def _boxes(path: Path) -> list[tuple[str, tuple[int, int, int, int]]]:
    found = []
    for item in ElementTree.parse(path).getroot().iter("object"):
        box = item.find("bndbox")
        if box is None:
            continue
        x0, y0, x1, y1 = (int(float(box.findtext(key, "0"))) for key in ("xmin", "ymin", "xmax", "ymax"))
        found.append((item.findtext("name", ""), (x0, y0, x1, y1)))
    return found


def _add_white(
    labels: npt.NDArray[np.int32],
    kinds: npt.NDArray[np.uint8],
    known: npt.NDArray[np.bool_],
    mask: npt.NDArray[np.uint8] | None,
    boxes: list[tuple[int, int, int, int]],
    shrink: int,
) -> int:
    """Paint white cells from the mask; a component over two boxes, or a box without a mask, is ignored."""
    cells, n = ndi.label(mask >= 64) if mask is not None else (np.zeros(labels.shape, np.int32), 0)
    covered = np.zeros(labels.shape, bool)
    count = 0
    for index, where in enumerate(ndi.find_objects(cells, n), start=1):
        cell = cells[where] == index
        if cell.sum() < 400 / shrink**2:
            continue
        y0, x0 = where[0].start * shrink, where[1].start * shrink
        y1, x1 = where[0].stop * shrink, where[1].stop * shrink
        inside = [b for b in boxes if x0 <= (b[0] + b[2]) / 2 <= x1 and y0 <= (b[1] + b[3]) / 2 <= y1]
        covered[where] |= cell
        if len(inside) > 1:
            known[where][cell] = False
            kinds[where][cell] = IGNORE
            continue
        count += 1
        labels[where][cell] = count
        known[where][cell] = True
        nucleus = cell & (mask[where] >= 200) if mask is not None else cell
        kinds[where][cell] = SMEAR_KINDS.index("cytoplasm")
        kinds[where][nucleus] = SMEAR_KINDS.index("white_nucleus")
    for x0, y0, x1, y1 in boxes:
        window = np.s_[max(0, y0 // shrink) : y1 // shrink + 1, max(0, x0 // shrink) : x1 // shrink + 1]
        if not covered[window].any():
            known[window] = False
            kinds[window] = IGNORE
    return count


def _add_red(
    labels: npt.NDArray[np.int32],
    kinds: npt.NDArray[np.uint8],
    known: npt.NDArray[np.bool_],
    foreground: npt.NDArray[np.bool_],
    boxes: list[tuple[int, int, int, int]],
    shrink: int,
    count: int,
) -> None:
    """Paint red cells whose watershed region agrees with the box a person drew; the rest stays ignored."""
    if not boxes:
        return
    centres = np.array([((b[0] + b[2]) / 2 / shrink, (b[1] + b[3]) / 2 / shrink) for b in boxes])
    regions = _split_by_points(foreground, centres, radius=5)
    for index, (x0, y0, x1, y1) in enumerate(boxes, start=1):
        window = np.s_[max(0, y0 // shrink - 2) : y1 // shrink + 3, max(0, x0 // shrink - 2) : x1 // shrink + 3]
        cell = ndi.binary_opening(regions[window] == index, iterations=2)
        ys, xs = np.nonzero(cell)
        if len(ys) < 100:
            continue
        area_box = (y1 - y0) * (x1 - x0) / shrink**2
        spilled = (regions == index).sum() > 1.25 * cell.sum()
        extent = (np.ptp(ys) + 1) * (np.ptp(xs) + 1)
        if spilled or not 0.7 <= extent / max(area_box, 1) <= 1.35 or cell.sum() < 0.5 * area_box:
            continue
        count += 1
        labels[window][cell] = count
        kinds[window][cell] = SMEAR_KINDS.index("red")
        known[window][cell] = True


def _add_platelets(
    labels: npt.NDArray[np.int32],
    kinds: npt.NDArray[np.uint8],
    known: npt.NDArray[np.bool_],
    rgb: npt.NDArray[np.uint8],
    boxes: list[tuple[int, int, int, int]],
    shrink: int,
) -> None:
    """Paint the bluest component of each platelet box."""
    blue = _blueness(rgb)
    count = int(labels.max())
    for x0, y0, x1, y1 in boxes:
        window = np.s_[max(0, y0 // shrink) : y1 // shrink + 1, max(0, x0 // shrink) : x1 // shrink + 1]
        values = blue[window]
        if values.size < 16 or (labels[window] > 0).mean() > 0.5:
            continue
        pieces, n = ndi.label(ndi.binary_fill_holes(values > threshold_otsu(values)) & (labels[window] == 0))
        known[window] = labels[window] > 0
        kinds[window][labels[window] == 0] = IGNORE
        if n == 0:
            continue
        largest = int(np.argmax(np.bincount(pieces.ravel())[1:])) + 1
        piece = pieces == largest
        if piece.sum() < 12:
            continue
        count += 1
        labels[window][piece] = count
        kinds[window][piece] = SMEAR_KINDS.index("platelet")
        known[window][piece] = True


def single_cell_sample(root: Path, path: Path, mpp: float, shrink: int) -> Sample | None:
    """Return a single-cell image whose middle cell lies alone, or None.

    White, red and platelet cells that lie alone are labelled; other stained pixels are ignored. In a white cell
    the darkest red-light absorption is nucleus, the palest cytoplasm, and what lies between is left open.
    """
    rgb = _read_rgb(path)
    if shrink > 1:
        rgb = cv2.resize(rgb, (rgb.shape[1] // shrink, rgb.shape[0] // shrink), interpolation=cv2.INTER_AREA)
    mpp *= shrink
    cells = find_cells(rgb, mpp)
    if path.parent.name == "platelet":  # giant platelets are as large and as dark as small white cells
        cells = [("platelet" if kind == "white" else kind, mask) for kind, mask in cells]
    middle = (rgb.shape[0] // 2, rgb.shape[1] // 2)
    if not any(kind != "red" and mask[middle] for kind, mask in cells):
        return None
    density = optical_density(rgb, estimate_glass(rgb))
    stained = cv2.GaussianBlur(density.sum(axis=2), (0, 0), 1) > 0.10
    known = cv2.dilate(ndi.binary_fill_holes(stained).astype(np.uint8), _disk(2)) == 0
    labels = np.zeros(known.shape, np.int32)
    kinds = np.where(known, 0, IGNORE).astype(np.uint8)
    red_light = cv2.GaussianBlur(np.ascontiguousarray(density[..., 0]), (0, 0), 0.7)
    for index, (kind, mask) in enumerate(cells, start=1):
        labels[mask] = index
        known[mask] = True
        if kind == "white":
            kinds[mask] = IGNORE
            kinds[mask & (red_light > 0.38)] = SMEAR_KINDS.index("white_nucleus")
            kinds[mask & (red_light < 0.18)] = SMEAR_KINDS.index("cytoplasm")
        else:
            kinds[mask] = SMEAR_KINDS.index(kind)
    name = path.relative_to(root).as_posix()
    return Sample(name=name, split=split_of(name), rgb=rgb, labels=labels, kinds=kinds, known=known, mpp=mpp)


def _single_cells(root: Path, folder: str, mpp: float, shrink: int) -> Iterator[Sample]:
    for group in sorted(p for p in (root / folder).iterdir() if p.is_dir()):
        names = [p.relative_to(root).as_posix() for p in group.iterdir()]
        ranked = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
        for name in ranked[: SINGLE_CELLS_PER_CLASS[folder]]:
            # Reserved images are neither trained on nor needed for the figures, which come from the fields.
            sample = single_cell_sample(root, root / name, mpp, shrink) if split_of(name) == "train" else None
            if sample is not None:
                yield sample


def section_sample(root: Path, stem: str) -> Sample:
    """Return a ``tissue-nuclei`` field."""
    base = root / "tissue-nuclei"
    path = next((base / "images").glob(f"{stem}.*"))
    rgb = _read_rgb(path)
    labels = cv2.imread(str(base / "labels" / f"{stem}.png"), cv2.IMREAD_UNCHANGED)
    if labels is None:
        raise DataError(f"{base / 'labels' / stem}.png: the instance map is missing")
    labels = labels.astype(np.int32)
    name = path.relative_to(root).as_posix()
    return Sample(
        name=name, split=split_of(name), rgb=rgb, labels=labels, kinds=(labels > 0).astype(np.uint8),
        known=np.ones(labels.shape, bool), mpp=estimate_section_mpp(labels),
    )  # fmt: skip


def estimate_section_mpp(labels: npt.NDArray[np.integer]) -> float:
    """Return the pixel size at which the median nucleus is :data:`NUCLEUS_UM` across."""
    areas = np.bincount(labels.ravel())[1:]
    areas = areas[areas > 0]
    if areas.size == 0:
        raise DataError("no nuclei in the label image, so its pixel size cannot be estimated")
    return float(NUCLEUS_UM / np.median(2 * np.sqrt(areas / np.pi)))


def load_samples(root: Path, model: str) -> list[Sample]:
    """Return all labelled fields of the shipped recipe for ``compact-smear`` or ``compact-section``.

    Raises
    ------
    DataError
        The folders of the data sets are missing below ``root``.
    """
    folders = {
        "compact-smear": ("bccd", "rbc-morphology", "pbc", "marrow-cells"),
        "compact-section": ("tissue-nuclei",),
    }
    if model not in folders:
        raise DataError(f"{model}: no shipped recipe; use one of {', '.join(folders)}")
    for folder in folders[model]:
        if not (root / folder).is_dir():
            raise DataError(f"{root / folder} does not exist; {model} is trained on {', '.join(folders[model])}")
    if model == "compact-section":
        return [section_sample(root, p.stem) for p in sorted((root / "tissue-nuclei" / "images").iterdir())]
    fields = [bccd_sample(root, p.stem) for p in sorted((root / "bccd" / "fields").iterdir())]
    fields += [rbc_sample(root, stem) for stem in COMPLETE_RBC_FIELDS]
    fields += _single_cells(root, "pbc", PBC_MPP, 1)
    fields += _single_cells(root, "marrow-cells", MARROW_MPP, 2)
    return fields
