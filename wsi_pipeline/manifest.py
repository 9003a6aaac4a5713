"""Which slides a run is of: files, folders, and CSV manifests; a name for each that nothing can overwrite."""

from __future__ import annotations

import csv
import io
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wsi_pipeline.config import SPECIMENS, Specimen
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.slides import SLIDE_SUFFIXES, RemotePath, SlidePath, is_url, is_zarr, slide_path

COLUMNS = ("slide", "slide_id", "mpp", "specimen", "patient", "label", "batch", "regions", "simulated")
"""Columns of a manifest; only ``slide`` is required. Paths are relative to the manifest; a slide may be a
URL."""

_MAX_ID = 120


@dataclass(frozen=True, kw_only=True)
class SlideEntry:
    """One slide asked for.

    Attributes
    ----------
    path
        The file or URL.
    slide_id
        Its id; until :func:`list_slides` has made ids, what the manifest gives, or empty.
    mpp
        The manifest's microns per pixel.
    specimen
        The manifest's specimen.
    patient, label, batch
        The manifest's, as given.
    regions
        A GeoJSON file of drawn regions.
    simulated
        Whether the manifest says that the slide is of no patient.
    """

    path: SlidePath
    slide_id: str = ""
    mpp: float | None = None
    specimen: Specimen | None = None
    patient: str = ""
    label: str = ""
    batch: str = ""
    regions: Path | None = None
    simulated: bool = False


def safe_name(text: str) -> str:
    """Return text as a folder name: letters, digits, dot, dash and underscore, not hidden, of bounded length."""
    plain = unicodedata.normalize("NFKC", text)
    name = re.sub(r"[^\w.\-]+", "_", plain).strip("._") or "slide"
    return name[:_MAX_ID]


def list_slides(sources: Sequence[str | SlidePath]) -> list[SlideEntry]:
    """Return the slides of files, URLs, folders and manifests, each with a unique id.

    An id is the manifest's, else the file's stem; equal stems get the parent folder in front, and a number when
    that is not enough.

    Raises
    ------
    ConfigError
        A source is missing, a folder holds no slide, a manifest is unusable, an id is given twice.
    """
    entries: list[SlideEntry] = []
    for source in sources:
        path = slide_path(source)
        if isinstance(path, RemotePath):
            if path.suffix.lower() == ".csv":
                raise ConfigError(f"{path}: a manifest is read from disk; download it (its slides may be URLs)")
            entries.append(SlideEntry(path=path))
        elif path.is_dir() and not _is_slide_folder(path):
            found = sorted(
                p for p in path.iterdir() if p.suffix.lower() in SLIDE_SUFFIXES and not p.name.startswith(".")
            )
            if not found:
                raise ConfigError(
                    f"{path}: no slide in this folder; known endings: {', '.join(sorted(SLIDE_SUFFIXES))}"
                )
            entries += [SlideEntry(path=p) for p in found]
        elif path.suffix.lower() == ".csv":
            entries += read_manifest(path)
        else:
            entries.append(SlideEntry(path=path))
    unique: dict[SlidePath, SlideEntry] = {}
    for entry in entries:
        first = unique.setdefault(entry.path.absolute(), entry)
        if entry != first and _is_told(entry) and _is_told(first):
            raise ConfigError(
                f"{entry.path} is listed twice with different columns; a run has one row a slide: leave one, or make a "
                "link to the file under another name"
            )
    return _with_ids(list(unique.values()))


def _is_told(entry: SlideEntry) -> bool:
    """Return whether a manifest says anything of a slide but where it is."""
    return entry != SlideEntry(path=entry.path)


def _is_slide_folder(path: Path) -> bool:
    """Return whether a folder is itself a slide (OME-Zarr)."""
    return path.suffix.lower() == ".zarr" or is_zarr(path)


def read_manifest(path: Path) -> list[SlideEntry]:
    """Return the slides of a CSV manifest with the columns :data:`COLUMNS`."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            text = file.read()  # line ends as they are: in quotes one may be part of a file's name
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"manifest {path} cannot be read: {error}") from None
    sample = text.splitlines()[0] if text.strip() else ""
    lines = io.StringIO(text, newline="")
    rows = csv.DictReader(lines, delimiter=";" if sample.count(";") > sample.count(",") else ",")
    entries = []
    try:
        header = [name.strip() for name in rows.fieldnames or ()]
        if "slide" not in header or not set(header) <= set(COLUMNS) or len(set(header)) < len(header):
            raise ConfigError(
                f"manifest {path}: columns are {', '.join(header) or 'missing'}; needed is slide, allowed are "
                f"{', '.join(COLUMNS)}, each once"
            )
        for row in rows:
            if any(row.get(None) or ()):
                raise ConfigError(
                    f"manifest {path}, line {rows.line_num}: more values than the {len(header)} columns; "
                    "put values that hold the separator in quotes"
                )
            values = {key.strip(): (value or "").strip() for key, value in row.items() if key is not None}
            if any(values.values()):
                entries.append(_entry(path, rows.line_num, values))
    except csv.Error as error:
        raise ConfigError(f"manifest {path}, line {rows.line_num}: {error}") from None
    if not entries:
        raise ConfigError(f"manifest {path} lists no slides")
    return entries


def _entry(manifest: Path, number: int, values: dict[str, str]) -> SlideEntry:
    where = f"manifest {manifest}, line {number}"
    if not values.get("slide"):
        raise ConfigError(f"{where}: no slide given")
    specimen = values.get("specimen") or None
    if specimen is not None and specimen not in SPECIMENS:
        raise ConfigError(f"{where}: specimen {specimen!r} is unknown; use one of {', '.join(SPECIMENS)}")
    mpp = None
    if values.get("mpp"):
        try:
            mpp = float(values["mpp"])
        except ValueError:
            mpp = math.nan
        if not (math.isfinite(mpp) and mpp > 0):
            raise ConfigError(f"{where}: mpp is {values['mpp']!r}; it must be microns per pixel, for example 0.25")
    regions = manifest.parent / values["regions"] if values.get("regions") else None
    if regions is not None and not regions.is_file():
        raise ConfigError(f"{where}: the regions file {regions} does not exist")
    simulated = values.get("simulated", "").lower()
    if simulated not in ("", "true", "false"):
        raise ConfigError(f"{where}: simulated is {values['simulated']!r}; it must be true, false or empty")
    return SlideEntry(
        path=slide_path(values["slide"]) if is_url(values["slide"]) else manifest.parent / values["slide"],
        slide_id=values.get("slide_id", ""),
        mpp=mpp,
        specimen=specimen,
        patient=values.get("patient", ""),
        label=values.get("label", ""),
        batch=values.get("batch", ""),
        regions=regions,
        simulated=simulated == "true",
    )


def _with_ids(entries: list[SlideEntry]) -> list[SlideEntry]:
    given = Counter(safe_name(e.slide_id).casefold() for e in entries if e.slide_id)
    twice = [name for name, n in given.items() if n > 1]
    if twice:
        raise ConfigError(f"slide_id {', '.join(sorted(twice))} is given to more than one slide; ids must differ")
    stems = Counter(safe_name(e.path.stem).casefold() for e in entries if not e.slide_id)
    taken = set(given)
    named = []
    for entry in entries:
        name = safe_name(entry.slide_id or entry.path.stem)
        if not entry.slide_id:
            if stems[name.casefold()] > 1 or name.casefold() in taken:
                name = safe_name(f"{entry.path.absolute().parent.name}_{entry.path.stem}")
            base, n = name, 2
            while name.casefold() in taken:
                name, n = f"{base}_{n}", n + 1
        taken.add(name.casefold())
        named.append(replace(entry, slide_id=name))
    return named
