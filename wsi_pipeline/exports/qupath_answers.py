"""Put models' answers into a slide's file for QuPath: attention as a measurement of cells, and what was answered."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wsi_pipeline.atomic import atomic_path
from wsi_pipeline.errors import DataError
from wsi_pipeline.exports.qupath import GZIP_LEVEL

_CELL = '{"type":"Feature","id":"'
_END = "}}}"
_ATTENTION = '"Attention '
# They stand last among the measurements of a cell.
_EARLIER = re.compile(r',?"Attention (?:[^"\\]|\\.)*":[^,}]+')
_ANSWER_KEYS = (
    "level", "task", "class", "probability", "lower", "upper", "probability_of", "abstained", "reason", "n_cells",
    "model", "trained_on",
)  # fmt: skip


def add_answers(
    source: Path,
    out: Path,
    *,
    answers: Sequence[Mapping[str, Any]],
    attention: Mapping[str, Mapping[str, float]],
) -> None:
    """Write a copy of a file that :func:`~wsi_pipeline.exports.qupath.write_qupath` wrote, with answers in it.

    The file is streamed; the same input gives the same bytes. Earlier answers in it are replaced.

    Parameters
    ----------
    source, out
        The file to read, and the one to write, which may be the same.
    answers
        Entries of ``predictions`` of a summary; written to the collection's member ``answers``, which QuPath passes
        over.
    attention
        By model, the weight of each cell, adding up to 1 over the slide. The cell's measurement ``Attention MODEL`` is
        its weight times the number of weighed cells: 1 is a cell like the average.

    Raises
    ------
    DataError
        ``source`` is missing, damaged, or was not written by this package.
    """
    names = {model: json.dumps(f"Attention {' '.join(model.replace(':', ' ').split())}") for model in attention}
    with (
        atomic_path(out) as temporary,
        temporary.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", compresslevel=GZIP_LEVEL, fileobj=raw, mtime=0) as file,
    ):
        lines = _lines(source)
        file.write(_head(next(lines, ""), answers, source).encode())
        for line in lines:
            file.write((_cell(line, names, attention) if line.startswith(_CELL) else line).encode())


def _lines(source: Path) -> Iterator[str]:
    try:
        with gzip.open(source, "rt", encoding="utf-8", newline="\n") as file:
            yield from file
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{source} cannot be read ({error}); run the slide again") from None


def _head(line: str, answers: Sequence[Mapping[str, Any]], source: Path) -> str:
    try:
        before = json.loads(f"{line.rstrip()}]}}")
    except ValueError:
        before = None
    if not isinstance(before, dict) or before.get("type") != "FeatureCollection" or before.get("features") != []:
        raise DataError(f"{source} is no file of cells for QuPath that this package wrote; run the slide again")
    kept = [{key: answer.get(key) for key in _ANSWER_KEYS} for answer in answers]
    del before["features"]
    text = json.dumps({**before, "answers": kept, "features": []}, separators=(",", ":"), allow_nan=False)
    return f"{text.removesuffix(']}')}\n"


def _cell(line: str, names: Mapping[str, str], attention: Mapping[str, Mapping[str, float]]) -> str:
    cell_id = line[len(_CELL) : line.index('"', len(_CELL))]
    plain = _EARLIER.sub("", line) if _ATTENTION in line else line
    end = plain.rindex(_END)
    added = [
        f"{names[model]}:{round(weights[cell_id] * len(weights), 4)!r}"
        for model, weights in attention.items()
        if cell_id in weights
    ]
    if not added:
        return plain
    comma = "" if plain[end - 1] == "{" else ","
    return f"{plain[:end]}{comma}{','.join(added)}{plain[end:]}"
