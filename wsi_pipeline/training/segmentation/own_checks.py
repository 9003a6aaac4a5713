"""Whether a user's masks can be what they are said to be: one label a cell, cells of the kind's size.

The bounds are wide: they stop a wrong scale, touching cells in one piece, and maps of classes, not odd cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import DataError
from wsi_pipeline.evaluation.images import MIN_COMPONENT_PX
from wsi_pipeline.training.segmentation.own_data import Field
from wsi_pipeline.training.segmentation.own_request import OWN_KINDS

MIN_LABELLED_IMAGES = 3
MIN_CELLS = 20

_MIN_DIAMETER_PX = 5.0
_MOST_OF_IMAGE = 0.8
_MAX_SCATTERED = 0.3
_MAX_JOINED = 0.2
_JOINED_AREA, _JOINED_SOLIDITY = 1.7, 0.92
_MAX_NOT_CONVEX = 0.5
_ONE_LEVEL, _MAX_ONE_LEVEL = 0.02, 0.5
_OWN_MEDIAN_CELLS = 5
_LISTED = 5


def check_masks(fields: Sequence[Field], kind: str, *, allow_any_size: bool = False) -> float:
    """Check that masks hold single cells of a kind, and return their median diameter in um.

    Parameters
    ----------
    kind
        One of :data:`OWN_KINDS`.
    allow_any_size
        Go on when sizes are implausible or labels look like several cells that touch.

    Raises
    ------
    DataError
        A label covers most of an image; labels or grey levels are classes, not cells; several cells have one label;
        the median diameter is none of the kind, or only a few pixels; there are too few cells or labelled images.
    """
    _check_coverage(fields)
    _check_scattered(fields)
    _check_levels(fields, kind)
    diameters = [_diameters_um(field) for field in fields]
    median = float(np.median(np.concatenate(diameters)))
    if not allow_any_size:
        _check_sizes(fields, diameters, median, kind)
        _check_joined(fields, kind)
    _check_counts(fields)
    pixels = float(np.median(np.concatenate([d / f.mpp for d, f in zip(diameters, fields, strict=True)])))
    if pixels < _MIN_DIAMETER_PX:
        raise DataError(
            f"the cells are {pixels:.1f} px across in the median; {_MIN_DIAMETER_PX:g} px are needed to learn an "
            "outline: use images of a higher magnification"
        )
    return median


def _check_coverage(fields: Sequence[Field]) -> None:
    for field in fields:
        largest = int(np.bincount(field.labels.ravel())[1:].max(initial=0))
        if largest > _MOST_OF_IMAGE * field.labels.size:
            raise DataError(
                f"{field.mask}: one label covers {100 * largest / field.labels.size:.0f} % of the image; a label "
                "is one cell and background is 0 (is the mask inverted, or its background a label?)"
            )


def _check_scattered(fields: Sequence[Field]) -> None:
    """Refuse labels that lie in many pieces: class numbers, or label numbers that were used again."""
    scattered = total = 0
    example: tuple[int, Field] | None = None
    for field in fields:
        pieces_of_label = _pieces(field.labels)
        many = pieces_of_label > 1
        scattered += int(pieces_of_label[many].sum())
        total += int(pieces_of_label.sum())
        most = int(pieces_of_label.max(initial=0))
        if example is None or most > example[0]:
            example = (most, field)
    if example is not None and scattered > _MAX_SCATTERED * total:
        most, field = example
        raise DataError(
            f"the masks look like maps of classes, not of cells: {100 * scattered / total:.0f} % of the labelled "
            f"pieces share their label with another piece of the image ({field.mask.name} has a label in {most} "
            "pieces); every cell needs a label of its own (or draw one kind as a binary mask with gaps between cells)"
        )


def _check_levels(fields: Sequence[Field], kind: str) -> None:
    """Refuse three grey levels that are not the cytoplasm and nucleus of white cells."""
    three = [field for field in fields if field.nucleus is not None]
    if three and kind != "white":
        raise DataError(
            f"{three[0].mask}: a mask of three grey levels is read as cytoplasm and nucleus of white cells, but "
            f"--kind is {kind}; give each cell a number of its own, or draw one kind as a binary mask"
        )
    shares = [np.zeros(0)]
    for field in three:
        area = np.bincount(field.labels.ravel())[1:]
        nuclear = np.bincount(field.labels[field.nucleus], minlength=len(area) + 1)[1:]
        shares.append(nuclear / np.maximum(area, 1))
    share = np.concatenate(shares)
    one_level = (share < _ONE_LEVEL) | (share > 1 - _ONE_LEVEL)
    if len(share) and one_level.mean() > _MAX_ONE_LEVEL:
        raise DataError(
            f"{three[0].mask} and others have three grey levels, read as cytoplasm (grey) and nucleus (white), but "
            f"{int(one_level.sum())} of {len(share)} cells are of one level; if the levels are classes, give each cell "
            "a number of its own instead"
        )


def _pieces(labels: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """Return for each label 1.. the number of its connected pieces, specks left out; at least 1."""
    from skimage.measure import label

    pieces = label(labels, connectivity=2, background=0)
    _, first, area = np.unique(pieces, return_index=True, return_counts=True)
    owner = labels.ravel()[first]
    real = (owner > 0) & (area >= MIN_COMPONENT_PX)
    return np.maximum(np.bincount(owner[real], minlength=int(labels.max(initial=0)) + 1)[1:], 1)


def _diameters_um(field: Field) -> npt.NDArray[np.float64]:
    """Return the diameters of the circles of each cell's area; cells cut by the border are left out if others stay."""
    areas = np.bincount(field.labels.ravel())[1:]
    diameters = 2 * np.sqrt(areas / np.pi) * field.mpp
    edge = np.concatenate([field.labels[0], field.labels[-1], field.labels[:, 0], field.labels[:, -1]])
    whole = np.setdiff1d(np.arange(1, len(areas) + 1), edge)
    return diameters[whole - 1] if len(whole) else diameters


def _check_sizes(
    fields: Sequence[Field], diameters: Sequence[npt.NDArray[np.float64]], median: float, kind: str
) -> None:
    low, high = OWN_KINDS[kind].diameter_um
    expected = f"but {OWN_KINDS[kind].noun} are {low:g} to {high:g} um"
    scales = sorted({field.mpp for field in fields})
    at = f"{scales[0]:g}" if len(scales) == 1 else f"{scales[0]:g} to {scales[-1]:g}"
    if not low <= median <= high:
        joined = ", or cells that touch share a label (a binary mask joins them)" if median > high else ""
        raise DataError(
            f"the labelled cells measure {median:.1f} um across in the median at {at} um per pixel, {expected}: "
            f"--mpp is probably wrong{joined}, or --kind is another; --allow-any-size goes on all the same"
        )
    odd = [
        f"{field.image.name} ({np.median(own):.1f} um at {field.mpp:g})"
        for field, own in zip(fields, diameters, strict=True)
        if len(own) >= _OWN_MEDIAN_CELLS and not low <= np.median(own) <= high
    ]
    if odd:
        more = f" and {len(odd) - _LISTED} more" if len(odd) > _LISTED else ""
        raise DataError(
            f"the cells of {len(odd)} images have no plausible size: {', '.join(odd[:_LISTED])}{more}, {expected}; the "
            "--mpp of these images is probably wrong; --allow-any-size goes on all the same"
        )


def _check_joined(fields: Sequence[Field], kind: str) -> None:
    """Refuse masks in which many labels are several cells: too large for the kind, or large and not convex."""
    from skimage.measure import regionprops

    regions = [(field, region) for field in fields for region in regionprops(field.labels)]
    areas = np.array([region.area * field.mpp**2 for field, region in regions])
    solidity = np.array([region.solidity for _, region in regions])
    too_large = areas > np.pi / 4 * OWN_KINDS[kind].diameter_um[1] ** 2
    # With many pairs the median is no longer that of a single cell, so the lower quarter stands for one; where
    # nearly all are joined there is none, but half of the labels are not convex, as in no set of single cells.
    joined = too_large | ((areas > _JOINED_AREA * np.quantile(areas, 0.25)) & (solidity < _JOINED_SOLIDITY))
    if (solidity < _JOINED_SOLIDITY).mean() > _MAX_NOT_CONVEX:
        joined |= solidity < _JOINED_SOLIDITY
    if joined.mean() > _MAX_JOINED:
        worst = int(np.argmax(np.where(joined, areas, 0)))
        raise DataError(
            f"{int(joined.sum())} of {len(areas)} labels look like several cells in one (the largest, in "
            f"{regions[worst][0].mask.name}, covers {areas[worst]:.0f} um2): touching cells need labels of their own "
            "(a binary mask joins them; export an instance mask, or leave a background line between cells); "
            "--allow-any-size goes on all the same"
        )


def _check_counts(fields: Sequence[Field]) -> None:
    labelled = sum(field.n_cells > 0 for field in fields)
    cells = sum(field.n_cells for field in fields)
    if labelled < MIN_LABELLED_IMAGES or cells < MIN_CELLS:
        raise DataError(
            f"{fields[0].mask.parent}: {cells} cells are labelled on {labelled} images; at least {MIN_CELLS} cells on "
            f"{MIN_LABELLED_IMAGES} images are needed, and a few hundred cells for a network worth using"
        )
