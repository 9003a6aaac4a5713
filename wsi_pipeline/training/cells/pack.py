"""Read listed cells once, refuse what cannot be trained on, and pack them with their groups.

Refused, with names: images that cannot be decoded, images too small to hold a cell at their resolution, and one picture
under two labels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsi_pipeline.atomic import atomic_path
from wsi_pipeline.cells.windows import estimate_background, resample
from wsi_pipeline.errors import DataError, SlideError, some
from wsi_pipeline.evaluation.images import MIN_SIDE_PX, MIN_SIDE_UM, is_too_small
from wsi_pipeline.slides.picture import read_image
from wsi_pipeline.training.cells.data import PackedCells
from wsi_pipeline.training.cells.listing import Example, Listing


@dataclass(frozen=True, kw_only=True)
class LabelledCells:
    """Packed cells with the groups their source states, empty where unknown, and what was noticed."""

    cells: PackedCells
    patient: npt.NDArray[np.str_]
    slide: npt.NDArray[np.str_]
    centre: npt.NDArray[np.str_]
    notes: tuple[str, ...]

    @property
    def groups(self) -> dict[str, npt.NDArray[np.str_]]:
        """The columns cells can be grouped by."""
        return {"patient": self.patient, "slide": self.slide, "centre": self.centre}


def pack_listing(
    listing: Listing,
    *,
    side: int,
    mpp: float,
    source: str,
    cache: Path,
    skip_unreadable: bool = False,
    drop_conflicts: bool = False,
) -> LabelledCells:
    """Return the cells of a listing, resampled to ``mpp`` and ``side`` pixels.

    Parameters
    ----------
    listing
        With labels resolved and a resolution for every image.
    source
        Name of the set for cells whose laboratory is unknown.
    cache
        File (npz) that keeps the pixels for the same listing.
    skip_unreadable
        Leave out images that cannot be decoded, and note them.
    drop_conflicts
        Leave out, under all its labels, a picture that has several, and note it.

    Raises
    ------
    DataError
        See the module.
    """
    key = _key(listing, f"{side}|{mpp}|{source}|{skip_unreadable}")
    stored = _load(cache, key)
    if stored is None:
        stored = _read(listing, side=side, mpp=mpp, source=source, skip_unreadable=skip_unreadable)
        _store(cache, key, stored)
    return _without_conflicts(stored, drop=drop_conflicts)


def _read(listing: Listing, *, side: int, mpp: float, source: str, skip_unreadable: bool) -> LabelledCells:
    images, backgrounds, digests, kept = [], [], [], []
    unreadable: list[str] = []
    small: list[str] = []
    fields: list[int] = []
    numbers: dict[str, int] = {}
    for path, group in groupby(listing.examples, key=lambda e: (e.path, e.on_slide)):
        examples = list(group)
        try:
            found = list(_slide_windows(examples, side, mpp) if path[1] else _image_windows(examples, side, mpp, small))
        except (DataError, SlideError) as error:
            unreadable.append(f"{examples[0].name}: {error}")
            continue
        for example, window, background, digest, field in found:
            images.append(window)
            backgrounds.append(background)
            digests.append(digest)
            kept.append(example)
            fields.append(numbers.setdefault(field, len(numbers)))
    if small:
        raise DataError(
            f"{len(small)} images are too small for their resolution: {some(small)}; at least {MIN_SIDE_UM:g} um and "
            f"{MIN_SIDE_PX} px a side are needed. Is the number of microns per pixel right?"
        )
    notes = listing.notes
    if unreadable:
        listed = "; ".join(unreadable[:5]) + (f"; and {len(unreadable) - 5} more" if len(unreadable) > 5 else "")
        if not skip_unreadable:
            raise DataError(
                f"{len(unreadable)} images cannot be read: {listed}. Repair or remove them, or --skip-unreadable"
            )
        notes = (*notes, f"left out {len(unreadable)} images that cannot be read: {listed}")
    if not kept:
        raise DataError("no image is left to train on")
    return LabelledCells(
        cells=PackedCells(
            images=np.stack(images),
            background=np.stack(backgrounds),
            class_names=np.array([e.label for e in kept]),
            sources=np.array([e.site or source for e in kept]),
            digests=np.array(digests),
            files=np.array([e.name for e in kept]),
            fields=np.array(fields, dtype=np.int64),
        ),
        patient=np.array([e.patient or "" for e in kept]),
        slide=np.array([e.slide or "" for e in kept]),
        centre=np.array([e.site or "" for e in kept]),
        notes=notes,
    )


_Window = tuple[Example, npt.NDArray[np.uint8], npt.NDArray[np.uint8], str, str]


def _image_windows(examples: list[Example], side: int, mpp: float, small: list[str]) -> Iterator[_Window]:
    pixels = read_image(examples[0].path)
    height, width = pixels.shape[:2]
    content = hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).hexdigest()
    background = estimate_background(pixels)
    for example in examples:
        own = example.mpp or mpp
        if is_too_small(width, height, own):
            small.append(f"{example.name} ({width} x {height} px, {width * own:.3g} x {height * own:.3g} um)")
            continue
        x, y = example.centre or (width / 2, height / 2)
        if not (0 <= x <= width and 0 <= y <= height):
            raise DataError(f"{example.name}: the middle {x:g}, {y:g} lies outside the image of {width} x {height} px")
        window = resample(pixels, x, y, side=side, scale=mpp / own)
        digest = content if example.centre is None else f"{content}@{x:.1f},{y:.1f}"
        yield example, window, background, digest, content


def _slide_windows(examples: list[Example], side: int, mpp: float) -> Iterator[_Window]:
    from wsi_pipeline.slides import open_slide
    from wsi_pipeline.units import Box

    with open_slide(examples[0].path, mpp=examples[0].mpp, force_mpp=examples[0].mpp is not None) as slide:
        frame = slide.frame(mpp)
        for example in examples:
            if example.centre is None:
                raise DataError(f"{example.name}: a cell of a slide needs its place")
            (x, y), *_ = frame.from_px0(np.array([example.centre]))
            x0, y0 = round(float(x) - side / 2), round(float(y) - side / 2)
            window = slide.read(Box(x0=x0, y0=y0, x1=x0 + side, y1=y0 + side), mpp)
            digest = hashlib.sha256(window.tobytes()).hexdigest()
            # Cells of one slide are told apart by their place: a slide's fields are no near-duplicates of each other.
            yield example, window, estimate_background(window), digest, f"{slide.fingerprint}@{x0},{y0}"


def _without_conflicts(found: LabelledCells, *, drop: bool) -> LabelledCells:
    """Refuse or leave out pictures that have several labels; of copies under one label, keep all (one group)."""
    labels: dict[str, set[str]] = {}
    for digest, name in zip(found.cells.digests.tolist(), found.cells.class_names.tolist(), strict=True):
        labels.setdefault(digest, set()).add(name)
    bad = np.array([len(labels[d]) > 1 for d in found.cells.digests.tolist()])
    if not bad.any():
        return found
    by_digest: dict[str, list[str]] = {}
    for i in np.flatnonzero(bad).tolist():
        by_digest.setdefault(str(found.cells.digests[i]), []).append(
            f"{found.cells.files[i]} ({found.cells.class_names[i]})"
        )
    listed = some(" = ".join(names) for names in by_digest.values())
    if not drop:
        raise DataError(
            f"{len(by_digest)} pictures have several labels: {listed}. Decide which is right and remove the others, or "
            "leave all of them out with --drop-conflicts"
        )
    note = f"left out {int(bad.sum())} images of {len(by_digest)} pictures with several labels: {listed}"
    return _keep(replace(found, notes=(*found.notes, note)), ~bad)


def _keep(found: LabelledCells, chosen: npt.NDArray[np.bool_]) -> LabelledCells:
    cells = found.cells.where(chosen)
    return LabelledCells(
        cells=cells,
        patient=found.patient[chosen],
        slide=found.slide[chosen],
        centre=found.centre[chosen],
        notes=found.notes,
    )


def _key(listing: Listing, settings: str) -> str:
    digest = hashlib.sha256(settings.encode())
    stats: dict[Path, str] = {}
    for e in listing.examples:
        if e.path not in stats:
            try:
                found = e.path.stat()
                stats[e.path] = f"{found.st_size}:{found.st_mtime_ns}"
            except OSError:
                stats[e.path] = "absent"
        text = f"{e.path}|{stats[e.path]}|{e.name}|{e.label}|{e.centre}|{e.mpp}|{e.patient}|{e.slide}|{e.site}\n"
        digest.update(text.encode())
    digest.update("\n".join(listing.notes).encode())
    return digest.hexdigest()


def _store(cache: Path, key: str, found: LabelledCells) -> None:
    cells = {name: getattr(found.cells, name) for name in PackedCells.__dataclass_fields__}
    with atomic_path(cache) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            key=np.array(key),
            patient=found.patient,
            slide=found.slide,
            centre=found.centre,
            notes=np.array(found.notes, dtype=np.str_),
            **cells,
        )


def _load(cache: Path, key: str) -> LabelledCells | None:
    if not cache.is_file():
        return None
    try:
        with np.load(cache, allow_pickle=False) as stored:
            if str(stored["key"]) != key:
                return None
            return LabelledCells(
                cells=PackedCells(**{name: stored[name] for name in PackedCells.__dataclass_fields__}),
                patient=stored["patient"],
                slide=stored["slide"],
                centre=stored["centre"],
                notes=tuple(stored["notes"].tolist()),
            )
    except (OSError, ValueError, KeyError):
        return None
