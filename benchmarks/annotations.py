"""Writing cells for TIAToolbox: write_annotations against TIAToolbox's own SQLiteStore on the same table.

Measured: cells a second from ``cells.parquet`` on disk to a store on disk, with the same properties and no compression
in both; the rows are the same (a test compares them). The peer is given batches of the same size, in one transaction.
``--alone`` leaves the peer out, for tables that it takes minutes for.

Not measured: drawing the store in the viewer.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _harness import MIB, Contender, compare, parser, report, start
from export import add_table_options, table_of


def ours(table: Path, out: Path) -> Callable[[], Any]:
    from wsi_pipeline.exports.annotation_store import write_annotations
    from wsi_pipeline.taxonomies import load_taxonomy

    taxonomies = (load_taxonomy("pbc-blast"),)
    return lambda: write_annotations(table, out, taxonomies=taxonomies)


def tiatoolbox(table: Path, out: Path) -> Callable[[], Any]:
    import shapely
    from tiatoolbox.annotation.storage import Annotation, SQLiteStore

    from wsi_pipeline.exports import annotation_store
    from wsi_pipeline.exports._stream import iter_cells
    from wsi_pipeline.exports.viewer import _sqlite_options
    from wsi_pipeline.taxonomies import load_taxonomy

    SQLiteStore.compile_options = staticmethod(_sqlite_options)
    names = annotation_store.type_names((load_taxonomy("pbc-blast"),))
    columns = ("kind", "truncated", *(column for _, column, _ in annotation_store._MEASUREMENTS))

    def work() -> int:
        out.unlink(missing_ok=True)
        store = SQLiteStore(out, compression=None, auto_commit=False)
        for _, batch in iter_cells(table, ("cell_id", "geometry", "class_name"), columns):
            outlines = shapely.from_wkb(batch.column("geometry").to_pylist())
            properties = map(json.loads, annotation_store._properties(batch, names))
            annotations = [Annotation(g, p) for g, p in zip(outlines, properties, strict=True)]
            store.append_many(annotations, batch.column("cell_id").to_pylist())
        store.commit()
        n = len(store)
        store.close()
        return n

    return work


def main() -> None:
    options = parser(__doc__)
    add_table_options(options, size=20_000)
    options.add_argument("--alone", action="store_true", help="without the peer")
    chosen = start(options.parse_args())
    import pyarrow.parquet as pq

    table = table_of(chosen)
    n = pq.read_metadata(table).num_rows
    files = {"write_annotations": chosen.scratch / "ours.db", "SQLiteStore": chosen.scratch / "peer.db"}
    contenders = [Contender(name="write_annotations", prepare=ours, arguments=(table, files["write_annotations"]))]
    if not chosen.alone:
        contenders.append(Contender(name="SQLiteStore", prepare=tiatoolbox, arguments=(table, files["SQLiteStore"])))
    timings = compare(contenders, repeats=chosen.repeats)
    extra = {f"{t.name}, MiB on disk": round(files[t.name].stat().st_size / MIB, 1) for t in timings}
    for path in files.values():
        path.unlink(missing_ok=True)
    work = {"table": table.name, "cells": n}
    report(chosen, "annotations", "store", timings, work=work, amount=n / 1000, unit="thousand cells", extra=extra)


if __name__ == "__main__":
    main()
