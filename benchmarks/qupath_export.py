"""The objects of ``export qupath`` for many cells, and other writers on the same table.

Two cases. ``million``: ours alone on ``--size`` cells, shards of 250,000 objects, gzipped; the aim is under 60 s and
1 GiB for 10^6. ``peers``: ours, geopandas' ``to_file`` (pyogrio; plain GeoJSON of outline, class and seven
measurements), TIAToolbox's ``SQLiteStore`` (the same, on disk), and that store followed by its
``to_geojson``, all on ``--peer-size`` cells, which are the first of the same table. Peers write neither nuclei nor
QuPath's members, which is less work; what our validator says of the GeoJSON files is printed.

Sopa is no contender: version 2.2.11 has no writer of GeoJSON (its package calls ``to_file`` nowhere).

Not measured: reading the files in QuPath.
"""

from __future__ import annotations

import contextlib
import sqlite3
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _harness import MIB, Contender, SkipContender, compare, parser, report, start
from export import _MEASURES, geopandas_file, make_table

SHARD = 250_000


_STRIP = 100_000
"""Cells that are made; larger tables repeat them, each time further down the slide and with ids of their own."""


def make_large(path: Path, cells: int, strip: Path) -> None:
    """Write a table of ``cells`` rows by repeating ``strip``."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    import shapely

    made = pq.read_table(strip)
    outlines, nuclei = (shapely.from_wkb(made[name].to_numpy()) for name in ("geometry", "nucleus"))
    height = np.ceil(shapely.total_bounds(outlines)[3])
    with pq.ParquetWriter(path, made.schema, compression="zstd") as writer:
        for first in range(0, cells, len(made)):
            shift = np.array([0, height * (first // len(made))])
            part = {name: made[name] for name in made.column_names}
            for name, shapes in (("geometry", outlines), ("nucleus", nuclei)):
                moved = shapely.transform(shapes, lambda xy, shift=shift: xy + shift)
                part[name] = pa.array(shapely.to_wkb(moved), pa.binary())
            part["cell_id"] = pa.array(str(uuid.UUID(int=first + i + (4 << 76) + (2 << 62))) for i in range(len(made)))
            rows = pa.table(part, schema=made.schema).slice(0, cells - first)
            writer.write_table(rows, row_group_size=16384)


def ours(table: Path, out: Path) -> Callable[[], Any]:
    """Write shards as ``export qupath`` does, without regions."""
    import pyarrow.parquet as pq

    from wsi_pipeline.exports.qupath import encode_cells
    from wsi_pipeline.exports.qupath_shards import write_shards
    from wsi_pipeline.taxonomies import load_taxonomy

    taxonomies = (load_taxonomy("pbc-blast"), load_taxonomy("red-cells"))

    def work() -> int:
        batches = encode_cells(table, offset_px0=(0, 0), taxonomies=taxonomies)
        total = pq.read_metadata(table).num_rows
        return write_shards(out, "blood_smear", [], total, batches, shard_objects=SHARD)[1]

    return work


def _compile_options() -> list[str]:
    """Return what SQLite was compiled with, as TIAToolbox asks it, without loading extensions."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        return [row[0] for row in connection.execute("pragma compile_options")]


def store(table: Path, out: Path, geojson: bool) -> Callable[[], Any]:
    """Write TIAToolbox's annotation store, and GeoJSON from it when asked."""
    try:
        from tiatoolbox.annotation.storage import Annotation, SQLiteStore
    except ImportError as error:
        raise SkipContender(str(error)) from None
    import pyarrow.parquet as pq
    import shapely

    if not hasattr(sqlite3.Connection, "enable_load_extension"):
        SQLiteStore.compile_options = staticmethod(_compile_options)

    def work() -> int:
        out.unlink(missing_ok=True)
        frame = pq.read_table(table, columns=["cell_id", "geometry", "class_name", *_MEASURES]).to_pydict()
        shapes = shapely.from_wkb(frame["geometry"])
        names = ("class_name", *_MEASURES)
        found = SQLiteStore(out)
        found.append_many(
            (
                Annotation(shape, dict(zip(names, values, strict=True)))
                for shape, *values in zip(shapes, *(frame[name] for name in names), strict=True)
            ),
            frame["cell_id"],
        )
        if geojson:
            found.to_geojson(out.with_suffix(".geojson"))
        found.close()
        return len(shapes)

    return work


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--size", type=int, default=1_000_000, help="cells of the large case (default 1,000,000)")
    options.add_argument("--peer-size", type=int, default=50_000, help="cells of the comparison (default 50,000)")
    chosen = start(options.parse_args())
    import pyarrow.parquet as pq

    from wsi_pipeline.exports import validate_qupath

    table = chosen.scratch / f"cells-{chosen.size}.parquet"
    if not table.is_file():
        strip = chosen.scratch / f"cells-strip-{min(_STRIP, chosen.size)}.parquet"
        if not strip.is_file():
            make_table(strip, min(_STRIP, chosen.size))
        make_large(table, chosen.size, strip)
    few = chosen.scratch / f"cells-first-{chosen.peer_size}-of-{chosen.size}.parquet"
    if not few.is_file():
        pq.write_table(pq.read_table(table).slice(0, chosen.peer_size), few, row_group_size=16384)

    folder = chosen.scratch / "qupath"
    timings = compare(
        [Contender(name="export qupath", prepare=ours, arguments=(table, folder))], repeats=chosen.repeats
    )
    size = sum(path.stat().st_size for path in folder.glob("*.geojson.gz"))
    extra: dict[str, Any] = {
        "files": len(list(folder.glob("*.geojson.gz"))),
        "MiB on disk": round(size / MIB, 1),
        "problems the validator finds in the first file": len(validate_qupath(min(folder.glob("*.geojson.gz")))),
    }
    work = {"table": table.name, "cells": chosen.size}
    report(chosen, "qupath_export", "million", timings, work=work, amount=chosen.size / 1000, unit="thousand cells",
           extra=extra)  # fmt: skip

    peer, annotations = chosen.scratch / "peer.geojson", chosen.scratch / "peer.db"
    timings = compare(
        [
            Contender(name="export qupath", prepare=ours, arguments=(few, folder)),
            Contender(name="geopandas to_file", prepare=geopandas_file, arguments=(few, peer, False)),
            Contender(name="SQLiteStore", prepare=store, arguments=(few, annotations, False)),
            Contender(name="SQLiteStore, to_geojson", prepare=store, arguments=(few, chosen.scratch / "q.db", True)),
        ],
        repeats=chosen.repeats,
    )
    extra = {
        f"problems the validator finds, {name}": len(validate_qupath(path))
        for name, path in {
            "export qupath": folder / "qupath.geojson.gz", "geopandas to_file": peer,
            "SQLiteStore, to_geojson": chosen.scratch / "q.geojson",
        }.items() if path.is_file()
    }  # fmt: skip
    work = {"table": few.name, "cells": chosen.peer_size}
    report(chosen, "qupath_export", "peers", timings, work=work, amount=chosen.peer_size / 1000,
           unit="thousand cells", extra=extra)  # fmt: skip


if __name__ == "__main__":
    main()
