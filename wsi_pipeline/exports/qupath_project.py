"""A folder that opens in QuPath in one step: objects of every slide of a run, and the script that makes the project.

``slides.json`` says what to add; ``import.groovy`` reads it. No name of a slide, class or patient is ever part of a
script, so none can become code.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from wsi_pipeline.atomic import write_json, write_text
from wsi_pipeline.errors import DataError, UnsupportedFormatError
from wsi_pipeline.exports.finished_run import RunSlide
from wsi_pipeline.exports.qupath import encode_cells, plain_name
from wsi_pipeline.exports.qupath_megakaryocytes import megakaryocyte_extras, phenotype_names
from wsi_pipeline.exports.qupath_metadata import answers_of, describe
from wsi_pipeline.exports.qupath_shards import SHARD_OBJECTS, Progress, read_encoded, write_shards
from wsi_pipeline.slides import RemotePath, SlidePath

SCRIPTS = ("import.groovy", "export.groovy")
"""What QuPath runs: one makes the project, the other writes corrected objects for ``import qupath``."""

PROJECT_FILE, CORRECTED = "slides.json", "corrected"
"""What to add, and the folder that ``export.groovy`` writes; the scripts know these names."""

_IMAGE_TYPES = {"trephine": "BRIGHTFIELD_H_E"}
_OTHER = "BRIGHTFIELD_OTHER"


@dataclass(frozen=True, kw_only=True)
class ProjectSlide:
    """One slide of ``slides.json``.

    Attributes
    ----------
    slide_id, fingerprint
        As in the run.
    uri
        The slide's file, percent-encoded.
    width, height
        Of the image as QuPath shows it: the scanned part, level-0 pixels.
    mpp_x, mpp_y
        Microns per pixel of the run, which QuPath takes over.
    image_type
        QuPath's; it brings the stain vectors.
    files
        Objects, relative to the folder of ``slides.json``.
    objects
        How many there are.
    metadata
        Shown beside the slide: the answers.
    description
        The differential and the answers in words.
    """

    slide_id: str
    fingerprint: str
    uri: str
    width: int
    height: int
    mpp_x: float
    mpp_y: float
    image_type: str
    files: tuple[str, ...]
    objects: int
    metadata: dict[str, str]
    description: str


def export_slide(
    slide: RunSlide, path: SlidePath, out: Path, *, shard_objects: int = SHARD_OBJECTS, progress: Progress | None = None
) -> ProjectSlide:
    """Write the objects of one slide below ``out/<slide_id>``: those of the run's own file, where it wrote one.

    Parameters
    ----------
    slide, path
        The slide of a finished run, and where its file is now.
    out
        Folder of the project.
    shard_objects
        Most objects of a file.
    progress
        Told how many batches of cells are written, and of how many.

    Raises
    ------
    UnsupportedFormatError
        The slide is behind a URL, which QuPath does not open.
    SlideError, DataError
        The file is not the slide of the run, or the run's results cannot be read.
    """
    if isinstance(path, RemotePath):
        raise UnsupportedFormatError(
            f"{path}: QuPath opens files only; download the slide and say where it is with --slides"
        )
    with slide.spec(path).open() as opened:
        bounds = opened.bounds
    summary = _json(slide.folder / "summary.json")
    regions = _region_features(slide)
    total = pq.read_metadata(slide.cells).num_rows
    own = slide.folder / "qupath.geojson.gz"
    batches = (
        read_encoded(own)
        if own.is_file()
        else encode_cells(
            slide.cells,
            offset_px0=(bounds.x0, bounds.y0),
            taxonomies=slide.taxonomies(),
            extras=megakaryocyte_extras(slide.folder / "megakaryocytes.csv", phenotype_names(summary.get("trephine"))),
        )
    )
    folder = out / slide.slide_id
    files, objects = write_shards(
        folder, slide.specimen, regions, total, batches, shard_objects=shard_objects, progress=progress
    )
    return ProjectSlide(
        slide_id=slide.slide_id,
        fingerprint=slide.fingerprint,
        uri=path.absolute().as_uri(),
        width=bounds.width,
        height=bounds.height,
        mpp_x=slide.mpp[0],
        mpp_y=slide.mpp[1],
        image_type=_OTHER if summary.get("stain") == "reticulin" else _IMAGE_TYPES.get(slide.specimen, _OTHER),
        files=tuple(f"{slide.slide_id}/{name}" for name in files),
        objects=objects,
        metadata=answers_of(summary, slide),
        description=describe(summary, slide),
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error}); run the slide again") from None


def _region_features(slide: RunSlide) -> list[str]:
    """Return the regions of a run as locked annotations that carry the slide's fingerprint."""
    path = slide.folder / "regions.geojson"
    try:
        features = _json(path)["features"]
        for feature in features:
            properties = feature["properties"]
            properties["isLocked"] = True
            properties["metadata"] = {**properties.get("metadata", {}), "fingerprint": slide.fingerprint}
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is not a regions file ({type(error).__name__}); run the slide again") from None
    return [json.dumps(feature, separators=(",", ":"), allow_nan=False) for feature in features]


def write_project(out: Path, slides: Sequence[ProjectSlide], run_slides: Sequence[RunSlide]) -> None:
    """Write ``slides.json`` and the scripts; the last step, so that a folder with scripts is whole.

    Parameters
    ----------
    out
        Folder of the project.
    slides
        What :func:`export_slide` returned.
    run_slides
        The same slides of the run, for the classes that QuPath offers.
    """
    taxonomies = {taxonomy.name: taxonomy for slide in run_slides for taxonomy in slide.taxonomies()}
    classes = {
        plain_name(cell.name_en): list(cell.color) for taxonomy in taxonomies.values() for cell in taxonomy.classes
    }
    listed = {
        "version": 1,
        "classes": [{"name": name, "color": color} for name, color in classes.items()],
        "slides": [asdict(slide) for slide in slides],
    }
    write_json(out / PROJECT_FILE, listed)
    for name in SCRIPTS:
        template = resources.files("wsi_pipeline.exports") / "qupath_scripts" / name
        # Percent-encoded, a path holds nothing that could end the string it stands in.
        write_text(out / name, template.read_text(encoding="utf-8").replace("@FOLDER@", out.absolute().as_uri()))
