"""Nuclei and megakaryocytes in one table: joined, and the nuclei inside megakaryocytes taken out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely

from wsi_pipeline.cells.measure import with_embedding
from wsi_pipeline.cells.megakaryocytes import Swallowed, join
from wsi_pipeline.cells.schema import MEASURED, TOO_LARGE, TOO_LARGE_SEEDS

PX0_PER_UM = 4.0


def rows(kind: str, outlines: list[shapely.Polygon], large: int = 0) -> pa.Table:
    n = len(outlines)
    columns = {field.name: pa.nulls(n, field.type) for field in MEASURED}
    middles = [outline.centroid for outline in outlines]
    x, y = (np.array([getattr(m, axis) for m in middles], float) for axis in "xy")
    columns |= {
        "kind": pa.array([kind] * n, pa.string()),
        "geometry": pa.array([shapely.to_wkb(outline) for outline in outlines], pa.binary()),
        "x_px0": pa.array(x), "y_px0": pa.array(y), "x_um": pa.array(x / PX0_PER_UM), "y_um": pa.array(y / PX0_PER_UM),
        "perimeter_um": pa.array([o.length / PX0_PER_UM for o in outlines], pa.float32()),
    }  # fmt: skip
    metadata = {TOO_LARGE: str(large).encode(), TOO_LARGE_SEEDS: str([[1, 2]] * large).encode()}
    return pa.table(columns, schema=MEASURED.with_metadata(metadata))


def disc(x: float, y: float, radius: float) -> shapely.Polygon:
    return shapely.Point(x, y).buffer(radius)


@pytest.fixture
def swallowed(tmp_path: Path) -> Swallowed:
    # A horseshoe whose middle lies outside of it, and a disc, in two parts.
    horseshoe = disc(1000, 1000, 100).difference(shapely.box(980, 900, 1200, 1100))
    for name, cell in (("a", horseshoe), ("b", disc(2000, 500, 60))):
        pq.write_table(join(rows("nucleus", [disc(2000, 500, 10)]), rows("megakaryocyte", [cell])), tmp_path / name)
    return Swallowed([tmp_path / "a", tmp_path / "b"])


def test_nuclei_inside_megakaryocytes_go_and_those_beside_stay(swallowed: Swallowed) -> None:
    outlines = [
        disc(2000, 500, 20),  # inside
        disc(2070, 500, 20),  # touches: its middle and most of it lie outside
        disc(2050, 500, 20),  # its middle lies inside
        disc(930, 1000, 20),  # in the bow of the horseshoe
        disc(1040, 1000, 20),  # in its gap
        shapely.box(1960, 520, 2040, 552).union(shapely.box(1995, 552, 2005, 720)),  # most of it inside, not its middle
        disc(5000, 5000, 20),
    ]
    band = rows("nucleus", outlines)
    assert outlines[5].centroid.y > 560
    kept = swallowed(band).column("x_px0").to_pylist()
    assert kept == [outlines[i].centroid.x for i in (1, 4, 6)]


def test_other_kinds_are_never_taken_out(swallowed: Swallowed) -> None:
    band = rows("megakaryocyte", [disc(2000, 500, 20)])
    assert swallowed(band) is band
    assert len(swallowed(rows("nucleus", []))) == 0


def test_no_megakaryocytes(tmp_path: Path) -> None:
    pq.write_table(rows("nucleus", [disc(10, 10, 5)]), tmp_path / "part")
    band = rows("nucleus", [disc(10, 10, 5)])
    assert Swallowed([tmp_path / "part"])(band) is band


def test_joining_keeps_what_is_too_large_and_gives_nuclei_no_embedding() -> None:
    embedding = np.arange(8, dtype=np.float16).reshape(2, 4)
    large = with_embedding(rows("megakaryocyte", [disc(1, 1, 1), disc(9, 9, 1)], 1), embedding)
    both = join(rows("nucleus", [disc(5, 5, 1)], 2), large)
    assert both.column("kind").to_pylist() == ["nucleus", "megakaryocyte", "megakaryocyte"]
    assert both.column("embedding").to_pylist() == [None, *embedding.tolist()]
    assert both.schema.metadata == {TOO_LARGE: b"3", TOO_LARGE_SEEDS: b"[[1, 2], [1, 2], [1, 2]]"}
    plain = join(rows("nucleus", []), rows("megakaryocyte", []))
    assert plain.schema.names == MEASURED.names
    assert plain.schema.metadata == {TOO_LARGE: b"0", TOO_LARGE_SEEDS: b"[]"}
