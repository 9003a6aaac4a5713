"""Data doors: CSV files, with boxes as CytologIA gives them, or one row a cell.

The first has columns ``NAME,x1,y1,x2,y2,class`` (one row a box, several an image, pixels), the second ``path,class``
and, where known, ``patient``, ``slide``, ``centre`` (the laboratory), ``mpp`` and ``x,y`` (middle of the cell, pixels).
Column names are read in upper or lower case.
"""

from __future__ import annotations

from pathlib import Path

from wsi_pipeline.csv_rows import number, read_rows
from wsi_pipeline.errors import DataError, some
from wsi_pipeline.evaluation.cytologia import COLUMNS as BOX_COLUMNS
from wsi_pipeline.evaluation.images import find_image
from wsi_pipeline.training.cells.listing import Example, Listing, checked_mpp

TABLE_COLUMNS = ("path", "class")


def read_table(path: Path, images: Path | None = None) -> Listing:
    """List the cells of a CSV file of either form.

    Parameters
    ----------
    path
        The file.
    images
        Folder the names are relative to. By default that of the file, and of boxes also ``images`` beside it and a
        folder of the file's name.

    Raises
    ------
    DataError
        Missing columns, images that do not exist, values that are no numbers, boxes without an area in the image;
        with line numbers.
    """
    if images is not None and not images.is_dir():
        raise DataError(f"--images {images} is not a folder")
    header, rows = read_rows(path)
    if "path" in header:
        return _cells(path, header, rows, images or path.parent)
    missing = [c for c in BOX_COLUMNS if c not in header]
    if missing:
        raise DataError(
            f"{path} has the columns {', '.join(header) or 'none'}; {', '.join(BOX_COLUMNS)} (boxes; missing: "
            f"{', '.join(missing)}) or {', '.join(TABLE_COLUMNS)} are needed"
        )
    folders = [images] if images is not None else [path.parent, path.parent / "images", path.with_suffix("")]
    return _boxes(path, header, rows, folders)


def _cells(path: Path, header: list[str], rows: list[tuple[int, dict[str, str]]], folder: Path) -> Listing:
    if "class" not in header:
        raise DataError(f"{path} has the columns {', '.join(header)}; class is missing")
    if ("x" in header) != ("y" in header):
        raise DataError(f"{path}: columns x and y belong together; found {', '.join(header)}")
    examples, absent = [], []
    for line, row in rows:
        where = f"{path} line {line}"
        if not row["path"]:
            raise DataError(f"{where}: no path")
        file = folder / row["path"]
        if not file.is_file():
            absent.append(f"{row['path']} (line {line})")
        x, y = row.get("x"), row.get("y")
        if bool(x) != bool(y):
            raise DataError(f"{where}: x and y belong together")
        examples.append(
            Example(
                path=file,
                name=row["path"] if not x else f"{row['path']}@{x},{y}",
                label=row["class"],
                centre=(number(x, where, "x"), number(y, where, "y")) if x and y else None,
                mpp=checked_mpp(number(row["mpp"], where, "mpp"), where) if row.get("mpp") else None,
                patient=row.get("patient") or None,
                slide=row.get("slide") or None,
                site=row.get("centre") or None,
            )
        )
    _refuse_absent(path, absent, folder)
    return Listing(door="table", examples=tuple(examples))


def _boxes(path: Path, header: list[str], rows: list[tuple[int, dict[str, str]]], folders: list[Path]) -> Listing:
    files: dict[str, Path | None] = {}
    sizes: dict[Path, tuple[int, int] | None] = {}
    examples, absent = [], []
    clipped = 0
    for line, row in rows:
        where = f"{path} line {line}"
        name = row["name"]
        if name not in files:
            files[name] = find_image(name, folders)
        file = files[name]
        x1, y1, x2, y2 = (number(row[c], where, c) for c in ("x1", "y1", "x2", "y2"))
        if x2 <= x1 or y2 <= y1:
            raise DataError(f"{where}: the box {x1:g},{y1:g} to {x2:g},{y2:g} of {name} has no area")
        if file is None:
            absent.append(f"{name or '(no name)'} (line {line})")
            continue
        if file not in sizes:
            sizes[file] = _size(file)
        if (size := sizes[file]) is not None:
            inside = max(x1, 0.0), max(y1, 0.0), min(x2, float(size[0])), min(y2, float(size[1]))
            if inside[2] <= inside[0] or inside[3] <= inside[1]:
                raise DataError(
                    f"{where}: the box {x1:g},{y1:g} to {x2:g},{y2:g} lies outside {name} ({size[0]} x {size[1]} px)"
                )
            clipped += inside != (x1, y1, x2, y2)
            x1, y1, x2, y2 = inside
        examples.append(
            Example(
                path=file,
                name=f"{name}@line{line}",
                label=row["class"],
                centre=((x1 + x2) / 2, (y1 + y2) / 2),
                mpp=checked_mpp(number(row["mpp"], where, "mpp"), where) if row.get("mpp") else None,
                patient=row.get("patient") or None,
                slide=row.get("slide") or None,
                site=row.get("centre") or None,
            )
        )
    _refuse_absent(path, absent, *folders)
    notes = (f"{clipped} of {len(examples)} boxes reached beyond their image and were clipped",) if clipped else ()
    return Listing(door="boxes", examples=tuple(sorted(examples, key=lambda e: str(e.path))), notes=notes)


def _size(path: Path) -> tuple[int, int] | None:
    """Return width and height from the file's header; None where it cannot be read, which reading will report."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, SyntaxError, Image.DecompressionBombError):
        return None


def _refuse_absent(path: Path, absent: list[str], *folders: Path) -> None:
    if absent:
        places = ", ".join(map(str, folders))
        raise DataError(f"{path}: {len(absent)} rows name images that do not exist in {places}: {some(absent)}")
