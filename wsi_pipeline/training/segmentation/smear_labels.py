"""Labels of smear fields, from data whose licence lets the weights be shipped.

``bccd`` white cells come from published masks (nucleus and cytoplasm). Red cells come from a classical foreground,
split by markers a person set: annotated points on ``rbc-morphology``, annotated boxes on ``bccd``. On the fields of
``rbc-morphology`` that were marked only in part, a piece of foreground that has the size and the convexity of one
cell counts as one, and a clump counts only when its points explain its size. Where neither a person nor the shape
says what is there the pixels are ignored by the loss, so a missing label never teaches background.

``pbc`` and ``marrow-cells`` images bring other scanners and stains: cells that lie alone are outlined by their
stain (:func:`wsi_pipeline.simulation.cutouts.find_cells`), everything else on them is ignored.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage as ndi
from skimage.filters import threshold_otsu
from skimage.measure import regionprops
from skimage.segmentation import watershed

from wsi_pipeline.errors import DataError
from wsi_pipeline.simulation.cutouts import estimate_glass, find_cells, optical_density
from wsi_pipeline.training.segmentation.data import (
    BCCD_MPP,
    IGNORE,
    RBC_MPP,
    SMEAR_KINDS,
    Sample,
    read_rgb,
    split_of,
)

COMPLETE_RBC_FIELDS = (
    "100", "101", "22", "247", "258", "263", "278", "28", "282", "297", "304", "307", "314", "5", "6", "9", "94",
    "98",
)  # fmt: skip
"""``rbc-morphology`` fields judged fully labelled: at most 5 % of the cells inside the field have no point, and
overlays of points on pixels showed none overlooked. Cells cut by the border are labelled in some, not in others."""

_RED_CELL_UM2 = 44.0
_ONE_CELL_SOLIDITY = 0.955
_MAX_PLATELET_UM2 = 16.0
_PLATELET_BLUER = 8.0


def stain_density(rgb: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], float]:
    """Return optical density against the local glass, green weighted most, and its Otsu threshold."""
    smooth = cv2.GaussianBlur(rgb.astype(np.float32), (0, 0), 1)
    small = cv2.resize(smooth, None, fx=1 / 8, fy=1 / 8, interpolation=cv2.INTER_AREA)
    glass = np.stack([ndi.percentile_filter(small[..., c], 85, size=25) for c in range(3)], -1)
    glass = cv2.resize(cv2.GaussianBlur(glass, (0, 0), 8), (rgb.shape[1], rgb.shape[0]))
    density = np.clip(-np.log((smooth + 1) / (glass + 1)), 0, None) @ np.array([0.2, 0.6, 0.2], np.float32)
    return density, float(threshold_otsu(density[density < np.quantile(density, 0.99)]))


def smear_foreground(density: npt.NDArray[np.float32], threshold: float) -> npt.NDArray[np.bool_]:
    """Return stained cells, central pallor filled."""
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


def rbc_sample(root: Path, stem: str) -> Sample:
    """Return an ``rbc-morphology`` field: red cells by points and shape, platelets by size and colour."""
    from wsi_pipeline.evaluation.datasets import read_points

    path = next((root / "rbc-morphology" / "images").glob(f"{stem}.*"))
    rgb = read_rgb(path)
    points = read_points(root / "rbc-morphology" / "points" / f"{stem}.txt").xy
    density, threshold = stain_density(rgb)
    stained = ndi.binary_opening(ndi.binary_fill_holes(density > 0.8 * threshold))
    foreground = smear_foreground(density, threshold)
    blue = _blueness(rgb)
    labels = _split_by_points(foreground, points)
    if stem not in COMPLETE_RBC_FIELDS:
        labels = _trusted_cells(foreground, labels, points, blue)
    kinds = np.where(labels > 0, SMEAR_KINDS.index("red"), 0).astype(np.uint8)
    known = np.ones(labels.shape, bool)
    red_blue = np.median(blue[labels > 0]) if (labels > 0).any() else 0.0
    pieces, n = ndi.label(stained & (labels == 0))
    next_label = int(labels.max()) + 1
    for index, where in enumerate(ndi.find_objects(pieces, n), start=1):
        mask = pieces[where] == index
        area_um2 = mask.sum() * RBC_MPP**2
        if area_um2 < 0.4:
            continue
        small = 1.0 <= area_um2 <= _MAX_PLATELET_UM2
        if small and blue[where][mask].mean() > red_blue + _PLATELET_BLUER:
            labels[where][mask] = next_label
            kinds[where][mask] = SMEAR_KINDS.index("platelet")
            next_label += 1
        else:
            known[where][mask] = False
            kinds[where][mask] = IGNORE
    _ignore_overlays(rgb, labels, kinds, known)
    name = path.relative_to(root).as_posix()
    return Sample(name=name, split=split_of(name), rgb=rgb, labels=labels, kinds=kinds, known=known, mpp=RBC_MPP)


def _trusted_cells(
    foreground: npt.NDArray[np.bool_],
    by_points: npt.NDArray[np.int32],
    points: npt.NDArray[np.float64],
    blue: npt.NDArray[np.float32],
) -> npt.NDArray[np.int32]:
    """Keep, of a field marked in part, the cells that points or shape vouch for.

    Parameters
    ----------
    foreground
        ``(h, w)`` stained cells.
    by_points
        The foreground split by the points; unmarked neighbours are swallowed by marked ones.
    points
        ``(n, 2)`` x, y.
    blue
        ``(h, w)`` how far blue exceeds red: white cells are bluer than red ones.
    """
    pieces, _ = ndi.label(foreground)
    height, width = pieces.shape
    columns = np.clip(points[:, 0].astype(int), 0, width - 1)
    rows = np.clip(points[:, 1].astype(int), 0, height - 1)
    marked = np.bincount(pieces[rows, columns], minlength=int(pieces.max()) + 1)
    regions = regionprops(pieces)
    alone = [r.area for r in regions if marked[r.label] == 1 and r.solidity >= _ONE_CELL_SOLIDITY]
    typical = float(np.median(alone)) if len(alone) >= 5 else _RED_CELL_UM2 / RBC_MPP**2
    red_blue = float(np.median(blue[by_points > 0])) if (by_points > 0).any() else 0.0
    out = np.zeros_like(by_points)
    count = 0
    for region in regions:
        where, mask, n = region.slice, region.image, int(marked[region.label])
        y0, x0, y1, x1 = region.bbox
        cut = y0 == 0 or x0 == 0 or y1 == height or x1 == width
        share = region.area / typical
        one = region.solidity >= _ONE_CELL_SOLIDITY and (0.15 if cut else 0.4) <= share <= 1.5
        bluer = blue[where][mask].mean() > red_blue + _PLATELET_BLUER
        if (n == 1 and one) or (n == 0 and one and not bluer):
            count += 1
            out[where][mask] = count
        elif n > 1 and 0.6 * n <= share <= 1.3 * n:
            inside = np.where(mask, by_points[where], 0)
            for label in np.unique(inside[inside > 0]):
                count += 1
                out[where][inside == label] = count
    return out


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
    rgb = read_rgb(base / "fields" / f"{stem}.jpg")
    number = stem.rsplit("_", 1)[1]
    mask = cv2.imread(str(base / "wbc_masks" / f"BloodImage_Mask_{number}.png"), cv2.IMREAD_GRAYSCALE)
    boxes = read_boxes(base / "boxes" / f"{stem}.xml")
    height, width = rgb.shape[0] // shrink, rgb.shape[1] // shrink
    rgb = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
    labels = np.zeros((height, width), np.int32)
    kinds = np.zeros((height, width), np.uint8)
    density, threshold = stain_density(rgb)
    foreground = smear_foreground(density, threshold)
    # Unlabelled rings at the border enclose pallor that the foreground misses: close before calling it glass.
    closed = cv2.morphologyEx(foreground.astype(np.uint8), cv2.MORPH_CLOSE, _disk(11), borderType=cv2.BORDER_REPLICATE)
    # Pale cells stay below the threshold of the foreground; glass is only what is hardly stained at all.
    pale = ndi.binary_opening(density > 0.45 * threshold, iterations=2)
    known = cv2.dilate(closed | pale.astype(np.uint8), _disk(2)) == 0
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


def read_boxes(path: Path) -> list[tuple[str, tuple[int, int, int, int]]]:
    """Return the boxes of a Pascal VOC file: name, and x0, y0, x1, y1 in pixels.

    Raises
    ------
    DataError
        The file is missing or no such file.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise DataError(f"{path} cannot be read as Pascal VOC boxes: {error}") from None
    found = []
    for item in root.iter("object"):
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
    """Paint red cells: stained pixels inside the ellipse of a box that a person drew, each to the box it is deepest in.

    Red cells that overlap are told apart by their boxes alone. A box whose ellipse is mostly bare, or mostly other
    cells', stays ignored, as do boxes that the field's border cuts into less than half a cell.
    """
    if not boxes:
        return
    height, width = labels.shape
    whole = float(np.median([max(x1 - x0, y1 - y0) for x0, y0, x1, y1 in boxes])) / shrink
    depth = np.full(labels.shape, np.inf, np.float32)
    owner = np.zeros(labels.shape, np.int32)
    sizes = np.zeros(len(boxes) + 1)
    accepted = np.zeros(len(boxes), bool)
    for index, (x0, y0, x1, y1) in enumerate(boxes, start=1):
        cy, cx = (y0 + y1) / 2 / shrink, (x0 + x1) / 2 / shrink
        ry, rx = (y1 - y0) / 2 / shrink, (x1 - x0) / 2 / shrink
        # The border cuts a cell whose box touches it: the ellipse then reaches beyond the field.
        if x0 <= shrink or x1 >= (width - 1) * shrink:
            grown = max(rx, min(ry, whole / 2))
            cx, rx = cx + (rx - grown if x0 <= shrink else grown - rx), grown
        if y0 <= shrink or y1 >= (height - 1) * shrink:
            grown = max(ry, min(rx, whole / 2))
            cy, ry = cy + (ry - grown if y0 <= shrink else grown - ry), grown
        if min(rx, ry) < 0.3 * whole or max(rx, ry) > 0.9 * whole:
            continue
        window = (
            slice(max(0, int(cy - 1.2 * ry)), min(height, int(cy + 1.2 * ry) + 2)),
            slice(max(0, int(cx - 1.2 * rx)), min(width, int(cx + 1.2 * rx) + 2)),
        )
        yy, xx = np.mgrid[window]
        d = (((yy + 0.5 - cy) / ry) ** 2 + ((xx + 0.5 - cx) / rx) ** 2).astype(np.float32)
        sizes[index] = (d <= 1).sum()
        # A little beyond the ellipse still belongs to the cell where it is stained: cells are not quite elliptic.
        mine = (d < depth[window]) & ((d <= 0.5) | ((d <= 1.25) & foreground[window]))
        depth[window][mine] = d[mine]
        owner[window][mine] = index
    owner[labels > 0] = 0
    for index in range(1, len(boxes) + 1):
        cell = owner == index
        if sizes[index] < 100 or (cell & foreground).sum() < 0.6 * sizes[index]:
            continue
        cell = ndi.binary_opening(cell, iterations=2)
        pieces, n = ndi.label(cell)
        if n == 0:
            continue
        cell = pieces == int(np.argmax(np.bincount(pieces.ravel())[1:])) + 1
        if cell.sum() < 0.55 * sizes[index]:
            continue
        count += 1
        accepted[index - 1] = True
        labels[cell] = count
        kinds[cell] = SMEAR_KINDS.index("red")
        known[cell] = True
    # A box that gave no cell may hold one too pale for the foreground: nothing in it is called glass.
    for (x0, y0, x1, y1), good in zip(boxes, accepted, strict=True):
        if not good:
            window = np.s_[max(0, y0 // shrink) : y1 // shrink + 1, max(0, x0 // shrink) : x1 // shrink + 1]
            known[window] &= labels[window] > 0
            kinds[window][labels[window] == 0] = IGNORE


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
    rgb = read_rgb(path)
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
