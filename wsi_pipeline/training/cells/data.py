"""Single-cell images for training and evaluation: where they come from, and how they are packed.

Two kinds of source are read. A *class-folder set* is ``DIR/<class>/*.png|jpg`` at one resolution, the cell
in the middle. The *shipped recipe* is the list of public sets the shipped classifier is made of; each has its
own folder names, resolution and licence (:data:`SHIPPED_SETS`), and fields without typed cells give examples
of what is no white cell.

All images are resampled to one resolution and packed into one array, so that training reads no files.
"""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from wsi_pipeline.atomic import atomic_path
from wsi_pipeline.cells.windows import estimate_background, resample
from wsi_pipeline.errors import DataError
from wsi_pipeline.evaluation.images import IMAGE_SUFFIXES
from wsi_pipeline.slides.picture import read_image

_FROM_WHITE_UM = 6.0
"""Room between a cut-out's middle and the box of a white cell, which a centring error must not cross."""

_FROM_PLATELET_UM = 3.0
"""The same for platelets, around what is to be called artefact."""


@dataclass(frozen=True, kw_only=True)
class CellSet:
    """A set of class folders with what a model card has to say about it."""

    folder: str
    mpp: float
    classes: Mapping[str, str]
    title: str
    licence: str
    attribution: str


SHIPPED_SETS: tuple[CellSet, ...] = (
    CellSet(
        folder="pbc",
        mpp=0.198,
        classes={
            name: name
            for name in (
                "band_neutrophil",
                "segmented_neutrophil",
                "basophil",
                "eosinophil",
                "erythroblast",
                "lymphocyte",
                "metamyelocyte",
                "monocyte",
                "myelocyte",
                "platelet",
                "promyelocyte",
            )
        },
        title="Peripheral blood cells of healthy donors, CellaVision DM96, May-Gruenwald-Giemsa",
        licence="CC BY 4.0",
        attribution="Acevedo et al., Data in Brief 30:105474, 2020, doi 10.1016/j.dib.2020.105474; halved in size",
    ),
    CellSet(
        folder="marrow-cells",
        mpp=0.095,
        classes={
            "BLA": "blast",
            "EOS": "eosinophil",
            "LYT": "lymphocyte",
            "MON": "monocyte",
            "NGS": "segmented_neutrophil",
            "PMO": "promyelocyte",
            "NIF": "artefact",
        },
        title="Bone marrow cells, 40x oil, May-Gruenwald-Giemsa / Pappenheim; a part of 7 of its 21 classes",
        licence="CC BY 4.0",
        attribution="Matek et al., The Cancer Imaging Archive, 2021, doi 10.7937/TCIA.AXH3-T579",
    ),
)

WHITE_CELL = "white_cell"
"""Label of a white cell of unknown class."""

FIELD_SETS: tuple[CellSet, ...] = (
    CellSet(
        folder="bccd",
        mpp=0.073,
        classes={"RBC": "artefact", "background": "artefact", "Platelets": "platelet", "WBC": WHITE_CELL},
        title="Blood smear fields with boxes; bare red cells, empty places, platelets and untyped white cells cut out",
        licence="MIT",
        attribution="BCCD_Dataset, Shenggan and cosmicad",
    ),
    CellSet(
        folder="rbc-morphology",
        mpp=0.18,
        classes={"point": "artefact"},
        title="Red cell fields with points; red cells cut out",
        licence="MIT",
        attribution="Chula RBC-12-Dataset, Naruenatthanaset et al., arXiv 2012.01321",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Cutout:
    """One image to read: a file and the point of it that is the middle (None: the middle of the file).

    ``name`` is the path below the data root, with forward slashes.
    """

    path: Path
    name: str
    centre: tuple[float, float] | None
    class_name: str
    source: str
    mpp: float


@dataclass(frozen=True, kw_only=True)
class PackedCells:
    """Cells at one resolution, ready for training.

    Parameters
    ----------
    images
        uint8 ``(n, side, side, 3)``, the cell in the middle, mirrored beyond the edge of the file.
    background
        uint8 ``(n, 3)`` background colour estimated from each file.
    class_names, sources, digests, files
        Per cell: class, name of the set, SHA-256 of the decoded file plus the place in it, file name below the
        data root.
    fields
        Per cell: a number shared by cut-outs of one file.
    """

    images: npt.NDArray[np.uint8]
    background: npt.NDArray[np.uint8]
    class_names: npt.NDArray[np.str_]
    sources: npt.NDArray[np.str_]
    digests: npt.NDArray[np.str_]
    files: npt.NDArray[np.str_]
    fields: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.images)

    def where(self, chosen: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> PackedCells:
        """Return some of the cells, by a mask or by their numbers."""
        return PackedCells(**{name: getattr(self, name)[chosen] for name in self.__dataclass_fields__})

    def windows(self, window_px: int, index: npt.NDArray[np.int64] | slice = slice(None)) -> npt.NDArray[np.uint8]:
        """Return the middle ``(n, window_px, window_px, 3)`` of the cells, or of some of them."""
        edge = (self.images.shape[1] - window_px) // 2
        return self.images[index, edge : edge + window_px, edge : edge + window_px]


def shipped_recipe(data: Path, *, per_field: int = 1) -> list[Cutout]:
    """Return the cut-outs the shipped classifier is made of, in a fixed order.

    Parameters
    ----------
    data
        Folder that holds ``pbc``, ``marrow-cells``, ``bccd`` and ``rbc-morphology``.
    per_field
        Red cells, empty places, platelets (four times as many) and white cells taken from a field.

    Raises
    ------
    DataError
        A set or one of its class folders is missing.
    """
    cutouts: list[Cutout] = []
    for known in SHIPPED_SETS:
        cutouts += read_class_folders(data / known.folder, known.mpp, known.classes, source=known.folder)
    bccd, points = FIELD_SETS
    cutouts += _bccd_cutouts(data / bccd.folder, bccd, per_field)
    cutouts += _point_cutouts(data / points.folder, points, per_field)
    return cutouts


def read_class_folders(
    folder: Path, mpp: float, classes: Mapping[str, str] | None = None, *, source: str | None = None
) -> list[Cutout]:
    """List the images of ``folder/<class>/``, sorted by class and name.

    Parameters
    ----------
    folder
        The set.
    mpp
        Microns per pixel of all its images.
    classes
        Folder name to class name, all of them required; None takes every folder under its own name.
    source
        Name of the set; defaults to the folder's name.

    Raises
    ------
    DataError
        The folder, a class folder or its images are missing.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; class folders with images are needed there")
    if not 0.05 <= mpp <= 5:
        raise DataError(f"{folder}: {mpp} um per pixel is outside 0.05 to 5")
    found = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    wanted = dict(classes) if classes is not None else {name: name for name in found}
    missing = sorted(set(wanted) - set(found))
    if missing or not wanted:
        raise DataError(
            f"{folder} holds the folders {', '.join(found) or 'none'}; "
            f"{', '.join(missing) or 'one folder per class'} needed"
        )
    cutouts = []
    for name in sorted(wanted):
        files = sorted(p for p in (folder / name).iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise DataError(f"{folder / name} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
        cutouts += [
            Cutout(
                path=p,
                name=f"{folder.name}/{name}/{p.name}",
                centre=None,
                class_name=wanted[name],
                source=source or folder.name,
                mpp=mpp,
            )
            for p in files
        ]
    return cutouts


def pack(cutouts: Iterable[Cutout], *, side: int, mpp: float) -> PackedCells:
    """Read, resample to ``mpp`` and stack the cut-outs as ``side`` x ``side`` pixels.

    Raises
    ------
    DataError
        A file cannot be decoded, or there is none.
    """
    images, backgrounds, names, sources, digests, files, fields = [], [], [], [], [], [], []
    field_numbers: dict[str, int] = {}
    last: tuple[Path, npt.NDArray[np.uint8], str] | None = None
    for cutout in cutouts:
        if last is None or last[0] != cutout.path:
            pixels = read_image(cutout.path)
            last = (cutout.path, pixels, hashlib.sha256(pixels.tobytes()).hexdigest())
        _, pixels, digest = last
        height, width = pixels.shape[:2]
        x, y = cutout.centre or (width / 2, height / 2)
        images.append(resample(pixels, x, y, side=side, scale=mpp / cutout.mpp))
        backgrounds.append(estimate_background(pixels))
        names.append(cutout.class_name)
        sources.append(cutout.source)
        digests.append(digest if cutout.centre is None else f"{digest}@{x:.1f},{y:.1f}")
        files.append(cutout.name)
        fields.append(field_numbers.setdefault(digest, len(field_numbers)))
    if not images:
        raise DataError("no images to pack")
    return PackedCells(
        images=np.stack(images),
        background=np.stack(backgrounds),
        class_names=np.array(names),
        sources=np.array(sources),
        digests=np.array(digests),
        files=np.array(files),
        fields=np.array(fields, dtype=np.int64),
    )


def pack_cached(cutouts: list[Cutout], *, side: int, mpp: float, cache: Path) -> PackedCells:
    """As :func:`pack`, keeping the result in ``cache`` (npz) for the same list of files."""
    described = [f"{c.path}|{c.path.stat().st_size}|{c.centre}|{c.class_name}|{c.source}|{c.mpp}" for c in cutouts]
    key = hashlib.sha256("\n".join([f"{side}|{mpp}", *described]).encode()).hexdigest()
    names = ("images", "background", "class_names", "sources", "digests", "files", "fields")
    if cache.is_file():
        with np.load(cache, allow_pickle=False) as stored:
            if str(stored["key"]) == key:
                return PackedCells(**{name: stored[name] for name in names})
    packed = pack(cutouts, side=side, mpp=mpp)
    with atomic_path(cache) as temporary, temporary.open("wb") as file:
        np.savez(file, key=np.array(key), **{name: getattr(packed, name) for name in names})
    return packed


def _bccd_cutouts(folder: Path, known: CellSet, per_field: int) -> list[Cutout]:
    """Untyped white cells; red cells, empty places and platelets away from them, the first two from platelets too.

    The white cells keep platelet and artefact from being recognised by the look of these fields.
    """
    files = sorted((folder / "boxes").glob("*.xml"))
    if not files:
        raise DataError(f"{folder / 'boxes'} holds no Pascal VOC boxes (*.xml)")
    cutouts: list[Cutout] = []
    for file in files:
        image = next((folder / "fields").glob(f"{file.stem}.*"), None)
        if image is None:
            raise DataError(f"{folder / 'fields'} has no image for {file.name}")
        boxes = _read_boxes(file)
        middles = {name: [_middle(box) for n, box in boxes if n == name] for name in ("RBC", "Platelets", "WBC")} | {
            "background": [(x + 0.5, y + 0.5) for y in range(40, 440, 20) for x in range(40, 600, 20)]
        }
        for name, places in middles.items():
            room_um = {} if name == "WBC" else {"WBC": _FROM_WHITE_UM}
            if name in ("RBC", "background"):
                room_um["Platelets"] = _FROM_PLATELET_UM
            free = [
                place
                for place in places
                if all(_distance(place, box) * known.mpp >= room_um.get(n, 0.0) for n, box in boxes)
            ]
            count = 4 * per_field if name == "Platelets" else per_field
            cutouts += [
                Cutout(
                    path=image,
                    name=f"{known.folder}/fields/{image.name}",
                    centre=place,
                    class_name=known.classes[name],
                    source=known.folder,
                    mpp=known.mpp,
                )
                for place in _pick(free, count, f"{file.stem}:{name}")
            ]
    return cutouts


def _point_cutouts(folder: Path, known: CellSet, per_field: int) -> list[Cutout]:
    files = sorted((folder / "points").glob("*.txt"))
    if not files:
        raise DataError(f"{folder / 'points'} holds no points (*.txt)")
    cutouts: list[Cutout] = []
    for file in files:
        with file.open(encoding="utf-8", newline="") as lines:
            rows = [row for row in csv.reader(lines, delimiter=" ", skipinitialspace=True) if len(row) >= 2]
        points = [(float(row[0]), float(row[1])) for row in rows]
        cutouts += [
            Cutout(
                path=folder / "images" / f"{file.stem}.jpg",
                name=f"{known.folder}/images/{file.stem}.jpg",
                centre=(x, y),
                class_name=known.classes["point"],
                source=known.folder,
                mpp=known.mpp,
            )
            for x, y in _pick(points, per_field, file.stem)
        ]
    return cutouts


_Point = tuple[float, float]
_Rectangle = tuple[float, float, float, float]


def _read_boxes(file: Path) -> list[tuple[str, _Rectangle]]:
    try:
        root = ElementTree.parse(file).getroot()
        return [
            (
                item.findtext("name", ""),
                tuple(float(item.findtext(f"bndbox/{k}", "")) for k in ("xmin", "ymin", "xmax", "ymax")),  # type: ignore[misc]
            )
            for item in root.iter("object")
        ]
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{file} is not a Pascal VOC file: {error}") from error


def _pick(places: list[_Point], count: int, name: str) -> list[_Point]:
    """Return ``count`` of the places, chosen by a hash of the name and of each place."""
    return sorted(places, key=lambda place: hashlib.sha256(f"{name}:{place}".encode()).digest())[:count]


def _distance(place: _Point, box: _Rectangle) -> float:
    """Distance from a point to a rectangle; 0 inside it."""
    dx = max(box[0] - place[0], place[0] - box[2], 0.0)
    dy = max(box[1] - place[1], place[1] - box[3], 0.0)
    return math.hypot(dx, dy)


def _middle(box: _Rectangle) -> _Point:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
