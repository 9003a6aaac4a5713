"""Writing cells for QuPath: write_qupath against geopandas' GeoJSON writer on the same table.

Measured: cells a second from ``cells.parquet`` on disk to a file on disk. Ours is gzipped, streamed, on QuPath's
grid; geopandas (pyogrio, GDAL) reads the whole table and writes outlines, class and measurements as plain GeoJSON,
and again with gzip of the same level behind it. Its file holds no nuclei and no QuPath members, so it is less work;
what QuPath would say of each file is printed from our validator (problems found, 0 when it imports as meant).

Not measured: reading the file in QuPath. The table is made up of real-looking outlines (pixel contours of random
ellipses, one in fifty with a nucleus) unless ``--cells`` names a real one.
"""

from __future__ import annotations

import argparse
import gzip
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _harness import MIB, Contender, compare, parser, report, start

_MEASURES = (
    "area_um2", "perimeter_um", "circularity", "solidity", "nc_ratio", "class_probability", "cell_probability",
)  # fmt: skip
_GZIP_LEVEL = 5


def make_table(path: Path, cells: int) -> None:
    """Write a cell table of ``cells`` rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import shapely

    from wsi_pipeline.cells.schema import ROW_GROUP, table_schema
    from wsi_pipeline.segmentation.outlines import region_polygons

    rng = np.random.default_rng(0)
    y, x = np.mgrid[-24:25, -24:25]
    shapes = []
    for _ in range(256):
        a, b, turn = rng.uniform(10, 22), rng.uniform(10, 22), rng.uniform(0, np.pi)
        u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
        ripple = 1 + 0.05 * np.sin(5 * np.arctan2(v, u))
        mask = ((u / a) ** 2 + (v / b) ** 2 < ripple).astype(np.int32)
        shapes += region_polygons(mask, np.array([[0, 0, *mask.shape]]), (-24.0, -24.0)).tolist()
    schema = table_schema((), None)
    side = int(np.ceil(np.sqrt(cells)))
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for first in range(0, cells, ROW_GROUP):
            n = min(ROW_GROUP, cells - first)
            index = np.arange(first, first + n)
            centre = np.stack([(index % side) * 50.0 + 30, (index // side) * 50.0 + 30], axis=1)
            outlines = np.array([shapes[i % 256] for i in index])
            moved = shapely.transform(shapely.force_2d(outlines), lambda xy: xy)
            counts = shapely.get_num_coordinates(moved)
            coordinates = shapely.get_coordinates(moved) + np.repeat(centre, counts, axis=0)
            moved = shapely.set_coordinates(moved, coordinates)
            white = index % 50 == 0
            nuclei = shapely.to_wkb(shapely.buffer(moved, -5))
            columns: dict[str, Any] = {
                "cell_id": [str(uuid.UUID(int=int(i) + (4 << 76) + (2 << 62))) for i in index],
                "geometry": shapely.to_wkb(moved),
                "nucleus": [value if use else None for value, use in zip(nuclei, white, strict=True)],
                "kind": np.where(white, "white", "red"),
                "class_name": np.where(white, "white_cell", "red_cell"),
                "block": ["00000_00000"] * n,
                "truncated": np.zeros(n, bool),
                "x_px0": centre[:, 0],
                "y_px0": centre[:, 1],
            }
            for field in schema:
                if field.name in columns:
                    continue
                values = rng.uniform(0, 1, n) if pa.types.is_floating(field.type) else index
                columns[field.name] = np.asarray(values)
            columns["nc_ratio"] = np.where(white, columns["nc_ratio"], np.nan)
            arrays = [pa.array(columns[f.name], type=f.type, from_pandas=True) for f in schema]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=ROW_GROUP)


def ours(table: Path, out: Path) -> Callable[[], Any]:
    from wsi_pipeline.exports import write_qupath
    from wsi_pipeline.taxonomies import load_taxonomy

    taxonomy = load_taxonomy("pbc-blast")

    def work() -> int:
        return write_qupath(table, out, offset_px0=(0, 0), taxonomy=taxonomy, specimen="blood_smear")

    return work


def geopandas_file(table: Path, out: Path, zipped: bool) -> Callable[[], Any]:
    import geopandas
    import pyarrow.parquet as pq
    import shapely

    def work() -> int:
        frame = pq.read_table(table, columns=["cell_id", "geometry", "class_name", *_MEASURES]).to_pandas()
        cells = geopandas.GeoDataFrame(
            frame.drop(columns="geometry"), geometry=shapely.from_wkb(frame["geometry"].to_numpy())
        )
        plain = out.with_suffix("") if zipped else out
        plain.unlink(missing_ok=True)
        cells.to_file(plain, driver="GeoJSON", engine="pyogrio")
        if zipped:
            with plain.open("rb") as source, gzip.open(out, "wb", compresslevel=_GZIP_LEVEL) as target:
                shutil.copyfileobj(source, target, MIB)
        return len(cells)

    return work


def add_table_options(options: argparse.ArgumentParser, *, size: int) -> None:
    """Add ``--size`` and ``--cells``, which :func:`table_of` reads."""
    options.add_argument("--size", type=int, default=size, help=f"cells in the table (default {size:,})")
    options.add_argument("--cells", type=Path, help="a real cells.parquet instead")


def table_of(chosen: argparse.Namespace) -> Path:
    """Return the table that was asked for, made where it is not there yet."""
    table: Path = chosen.cells or chosen.scratch / f"cells-{chosen.size}.parquet"
    if not table.is_file():
        make_table(table, chosen.size)
    return table


def main() -> None:
    options = parser(__doc__)
    add_table_options(options, size=100_000)
    options.add_argument("--no-validate", action="store_true", help="do not run the validator on the files")
    chosen = start(options.parse_args())
    import pyarrow.parquet as pq

    from wsi_pipeline.exports import validate_qupath

    table = table_of(chosen)
    n = pq.read_metadata(table).num_rows
    files = {
        "write_qupath": chosen.scratch / "ours.geojson.gz",
        "geopandas": chosen.scratch / "peer.geojson",
        "geopandas + gzip": chosen.scratch / "peer-zipped.geojson.gz",
    }
    timings = compare(
        [
            Contender(name="write_qupath", prepare=ours, arguments=(table, files["write_qupath"])),
            Contender(name="geopandas", prepare=geopandas_file, arguments=(table, files["geopandas"], False)),
            Contender(
                name="geopandas + gzip", prepare=geopandas_file, arguments=(table, files["geopandas + gzip"], True)
            ),
        ],
        repeats=chosen.repeats,
    )
    extra: dict[str, Any] = {}
    for timing in timings:
        path = files[timing.name]
        extra[f"{timing.name}, MiB on disk"] = round(path.stat().st_size / MIB, 2)
        if not chosen.no_validate and timing.name != "geopandas + gzip":
            extra[f"{timing.name}, problems the validator finds"] = len(validate_qupath(path))
    for path in (*files.values(), files["geopandas + gzip"].with_suffix("")):
        path.unlink(missing_ok=True)
    work = {"table": table.name, "cells": n}
    report(chosen, "export", "geojson", timings, work=work, amount=n / 1000, unit="thousand cells", extra=extra)


if __name__ == "__main__":
    main()
