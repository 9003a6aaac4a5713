"""Objects for QuPath in files that it can hold: one, or several of about equal length."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from wsi_pipeline.errors import DataError
from wsi_pipeline.exports._stream import BATCH_ROWS
from wsi_pipeline.exports.qupath import feature_collection

SHARD_OBJECTS = 250_000
"""Most objects of a file: QuPath holds a whole file as JSON before it makes objects of it."""

Progress = Callable[[int, int], None]


def read_encoded(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the encoded features of a file that :func:`wsi_pipeline.exports.qupath.write_qupath` wrote, in batches.

    What was added to its cells since, such as the attention of models, stays.

    Raises
    ------
    DataError
        The file is damaged, or was not written by this package.
    """
    features: list[str] = []
    line = ""
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
            head = next(file, "")
            if not (head.startswith('{"type":"FeatureCollection"') and head.endswith('"features":[\n')):
                raise DataError(f"{path} was not written by this package; run the slide again")
            for line in file:
                if line.startswith('{"type":"Feature"'):
                    features.append(line.rstrip(",\n"))
                if len(features) == BATCH_ROWS:
                    yield len(features), features
                    features = []
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); run the slide again") from None
    if line != "]}\n":
        raise DataError(f"{path} is cut off; run the slide again")
    if features:
        yield len(features), features


def write_shards(
    folder: Path,
    specimen: str,
    regions: Sequence[str],
    total: int,
    batches: Iterator[tuple[int, list[str]]],
    *,
    shard_objects: int = SHARD_OBJECTS,
    progress: Progress | None = None,
) -> tuple[list[str], int]:
    """Write regions, then cells, into files of about equal length.

    Parameters
    ----------
    folder
        Of the slide; files of an earlier export are replaced, those no longer needed removed.
    specimen
        For each file's ``specimen`` member.
    regions
        Encoded features.
    total
        Rows of the cell table.
    batches
        As :func:`read_encoded` or :func:`wsi_pipeline.exports.qupath.encode_cells` yield them.
    shard_objects
        Most objects of a file.
    progress
        Told how many batches are written, and of how many.

    Returns
    -------
    names, objects
        Names of the files in order, and how many objects they hold.
    """
    n_files = max(1, math.ceil((total + len(regions)) / shard_objects))
    names = ["qupath.geojson.gz"] if n_files == 1 else [f"qupath-{i + 1:03d}.geojson.gz" for i in range(n_files)]
    each = math.ceil((total + len(regions)) / n_files)
    written = done = 0
    waiting = list(regions)
    for number, name in enumerate(names):
        room = each if number < n_files - 1 else None
        with feature_collection(folder / name, specimen) as add:
            while True:
                now = waiting if room is None else waiting[:room]
                waiting = waiting[len(now) :]
                add(now)
                written += len(now)
                if room is not None:
                    room -= len(now)
                if waiting or room == 0 or (batch := next(batches, None)) is None:
                    break
                done += 1
                waiting = batch[1]
                if progress is not None:
                    progress(done, math.ceil(total / BATCH_ROWS))
    for old in folder.glob("qupath*.geojson.gz"):  # of an export with other shards
        if old.name not in names:
            old.unlink()
    return names, written
