"""The cell table: one order that no cut can change, classes in their places, a file that others can read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wsi_pipeline.cells import merge as merge_module
from wsi_pipeline.cells.merge import MergedTable, merge_blocks, read_targets
from wsi_pipeline.cells.schema import KIND_CLASS, MEASURED, table_schema
from wsi_pipeline.cells.table import write_cells, write_classes
from wsi_pipeline.tiling import ORDER_CELL_PX, Block, plan_blocks

SIDE = 3000
KINDS = ("white", "red", "platelet")


def make_cells(seed: int, n: int, side: int = SIDE) -> pa.Table:
    """Return rows as a slide's blocks would measure them, in no order, at seeds that differ."""
    rng = np.random.default_rng(seed)
    places = rng.choice(side * side, n, replace=False)
    y, x = np.divmod(places, side)
    kind = rng.choice(KINDS, n)
    white = kind == "white"
    columns: dict[str, Any] = {
        "cell_id": [f"cell-{p}" for p in places],
        "geometry": shapely.to_wkb(shapely.box(x, y, x + 1.5, y + 1.5)),
        "x_px0": x + 0.5,
        "y_px0": y + 0.5,
        "kind": kind,
        "class_name": [KIND_CLASS[k] for k in kind],
        "class_probability": rng.random(n),
        **{f"mean_{name}": rng.uniform(40, 220, n) for name in ("red", "green", "blue")},
        "cell_probability": rng.random(n),
        "flow_error": rng.random(n),
        "nucleus": [shapely.to_wkb(shapely.box(0, 0, 1, 1)) if w else None for w in white],
        "block": ["?"] * n,
        "truncated": rng.random(n) < 0.1,
        "seed_x": x,
        "seed_y": y,
    }
    arrays = [
        pa.array(columns[f.name] if f.name in columns else rng.random(n), f.type, from_pandas=False) for f in MEASURED
    ]
    return pa.Table.from_arrays(arrays, schema=MEASURED)


def cut(cells: pa.Table, core_px: int, folder: Path, side: int = SIDE) -> list[tuple[Block, Path]]:
    """Write the cells of each block to its part, in the block's own seed order."""
    folder.mkdir()
    parts = []
    y, x = cells.column("seed_y").to_numpy(), cells.column("seed_x").to_numpy()
    for block in plan_blocks((side, side), shapely.box(0, 0, side, side), core_px=core_px, halo=10):
        core = block.core
        rows = np.flatnonzero((y >= core.y0) & (y < core.y1) & (x >= core.x0) & (x < core.x1))
        own = cells.take(rows[np.lexsort((x[rows], y[rows]))])
        names = pa.array([block.name] * len(own), pa.string())
        own = own.set_column(own.schema.get_field_index("block"), "block", names)
        path = folder / f"{block.name}.parquet"
        pq.write_table(own.cast(MEASURED), path)
        parts.append((block, path))
    return parts


def merge(parts: list[tuple[Block, Path]], folder: Path, chunk_cells: int = 100) -> MergedTable:
    glass = np.array([235, 236, 234], np.uint8)
    files = folder / "table.parquet", folder / "targets.parquet"
    return merge_blocks(parts, *files, chunk_cells=chunk_cells, background=glass)


def expected_order(cells: pa.Table) -> list[str]:
    y, x = cells.column("seed_y").to_numpy(), cells.column("seed_x").to_numpy()
    order = np.lexsort((x, y, x // ORDER_CELL_PX, y // ORDER_CELL_PX))
    return cells.column("cell_id").take(order).to_pylist()


# The merge ---------------------------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.sampled_from([0, 1, 40, 600]),
    cores=st.lists(st.integers(400, 3500), min_size=2, max_size=2),
)
def test_the_merged_order_does_not_depend_on_the_blocks(
    tmp_path_factory: pytest.TempPathFactory, seed: int, n: int, cores: list[int]
) -> None:
    cells = make_cells(seed, n)
    files = []
    for core_px in cores:
        folder = tmp_path_factory.mktemp("merge")
        merged = merge(cut(cells, core_px, folder / "blocks"), folder)
        assert merged.n_cells == n
        table = pq.ParquetFile(folder / "table.parquet")
        rows = table.read()
        assert rows.column("cell_id").to_pylist() == expected_order(cells)
        groups = [table.metadata.row_group(i).num_rows for i in range(table.num_row_groups)]
        files.append((rows.drop_columns(["block"]), groups, (folder / "targets.parquet").read_bytes()))
    assert files[0] == files[1]


def test_the_merge_holds_a_band_of_blocks_and_not_the_slide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = cut(make_cells(0, 3000), 500, tmp_path / "blocks")
    events: list[str] = []
    read = merge_module._read_part
    monkeypatch.setattr(merge_module, "_read_part", lambda *a, **k: (events.append("read"), read(*a, **k))[1])
    for _ in merge_module._bands(parts):
        events.append("band")
    text = " ".join(events)
    assert len(parts) == 36
    assert events.count("band") == 6
    # Before the first band only the two rows of blocks that meet it are read.
    assert text.index("band") == 12 * len("read ")
    assert events[-1] == "band"


def test_targets_are_the_white_cells_in_table_order_in_fixed_chunks(tmp_path: Path) -> None:
    cells = make_cells(1, 1000)
    merged = merge(cut(cells, 1024, tmp_path / "blocks"), tmp_path, chunk_cells=64)
    table = pq.read_table(tmp_path / "table.parquet")
    white = table.filter(pa.compute.equal(table.column("kind"), "white"))
    chunks = [read_targets(tmp_path / "targets.parquet", i) for i in range(merged.n_chunks)]
    assert [len(c) for c in chunks[:-1]] == [64] * (merged.n_chunks - 1)
    assert 0 < len(chunks[-1]) <= 64
    found = np.concatenate(chunks)
    np.testing.assert_array_equal(found[:, 0], white.column("x_px0").to_numpy())
    np.testing.assert_array_equal(found[:, 1], white.column("y_px0").to_numpy())
    assert merged.n_targets == len(found)


def test_doubtful_white_cells_of_the_red_cells_dye_become_red_whatever_the_blocks(tmp_path: Path) -> None:
    cells = make_cells(3, 900)
    kind = np.array(cells.column("kind").to_pylist(), object)
    # Grey-blue red cells; among the white cells every other one has their colour, three times as dense.
    colours = np.array([150.0, 160.0, 190.0]) + np.random.default_rng(0).normal(0, 3, (900, 3))
    glass = np.array([235.0, 236.0, 234.0])
    alike = (kind == "white") & (np.arange(900) % 2 == 0)
    colours[alike] = glass * (colours[alike] / glass) ** 3
    colours[(kind == "white") & ~alike] = (90, 60, 150)
    support = np.where(np.arange(900) % 5 == 0, 0.95, 0.7)
    columns = {name: cells.column(name) for name in MEASURED.names}
    columns |= {f"mean_{name}": colours[:, i] for i, name in enumerate(("red", "green", "blue"))}
    cells = pa.table({**columns, "class_probability": support}, schema=MEASURED)
    files = []
    for core_px in (500, 1700):
        folder = tmp_path / str(core_px)
        folder.mkdir()
        merged = merge(cut(cells, core_px, folder / "blocks"), folder)
        rows = pq.read_table(folder / "table.parquet").drop_columns(["block"])
        files.append((rows, (folder / "targets.parquet").read_bytes()))
    assert files[0] == files[1]
    ids = np.array(cells.column("cell_id").to_pylist())
    turned = set(ids[alike & (support < 0.9)])
    found = {row["cell_id"]: row for row in files[0][0].to_pylist()}
    assert merged.n_targets == (kind == "white").sum() - len(turned) > 0
    assert len(turned) > 50
    for name, before in zip(ids, kind, strict=True):
        row = found[name]
        assert row["kind"] == ("red" if name in turned else before)
        if name in turned:
            assert (row["class_name"], row["nucleus"], row["nc_ratio"]) == ("red_cell", None, None)
            assert row["class_probability"] == pytest.approx(0.3)
            assert row["nucleus_od"] is None
            assert row["pallor_depth"] is not None
        elif before == "white":
            assert row["nucleus_od"] is not None
            assert row["pallor_depth"] is None


def test_no_blocks_and_no_cells(tmp_path: Path) -> None:
    assert merge([], tmp_path) == MergedTable(n_cells=0, n_targets=0, n_chunks=0)
    summary = write_cells(tmp_path / "table.parquet", [], tmp_path / "cells.parquet", classes=("a",), embedding_dim=3)
    assert summary.kinds == {}
    assert summary.mean_flow_error is None
    assert pq.read_schema(tmp_path / "cells.parquet").equals(table_schema(("a",), 3))


# The finished table --------------------------------------------------------------------------------------------------


CLASSES = ("blast", "lymphocyte", "monocyte")


def finish(tmp_path: Path, n: int = 1200, embedding_dim: int | None = None) -> tuple[np.ndarray, np.ndarray, Any]:
    """Merge random cells, type the white ones in chunks, write the table; return the answers and the summary."""
    merged = merge(cut(make_cells(2, n), 1024, tmp_path / "blocks"), tmp_path, chunk_cells=70)
    rng = np.random.default_rng(3)
    p = rng.dirichlet(np.ones(3), merged.n_targets).astype(np.float32)
    embedding = rng.normal(size=(merged.n_targets, 4)).astype(np.float16)
    chunks = []
    for i in range(merged.n_chunks):
        rows = np.s_[70 * i : 70 * (i + 1)]
        chunks.append(tmp_path / f"{i}.parquet")
        write_classes(chunks[-1], CLASSES, p[rows], embedding[rows] if embedding_dim else None)
    out = tmp_path / "cells.parquet"
    summary = write_cells(tmp_path / "table.parquet", chunks, out, classes=CLASSES, embedding_dim=embedding_dim)
    return p, embedding, summary


def test_white_cells_get_the_classifiers_answer_and_the_rest_keep_theirs(tmp_path: Path) -> None:
    p, _, summary = finish(tmp_path)
    cells = pq.read_table(tmp_path / "cells.parquet").to_pandas()
    before = pq.read_table(tmp_path / "table.parquet").to_pandas()
    white = (cells["kind"] == "white").to_numpy()
    assert white.sum() == len(p) > 100
    np.testing.assert_array_equal(cells.loc[white, [f"p_{c}" for c in CLASSES]].to_numpy(np.float32), p)
    assert cells.loc[white, "class_name"].tolist() == [CLASSES[i] for i in p.argmax(axis=1)]
    np.testing.assert_array_equal(cells.loc[white, "class_probability"], p.max(axis=1))
    assert cells.loc[~white, [f"p_{c}" for c in CLASSES]].isna().all(axis=None)
    for column in ("class_name", "class_probability"):
        assert cells.loc[~white, column].tolist() == before.loc[~white, column].tolist()
    kept = [f.name for f in MEASURED if f.name not in ("class_name", "class_probability")]
    assert pq.read_table(tmp_path / "cells.parquet", columns=kept) == pq.read_table(
        tmp_path / "table.parquet", columns=kept
    )
    assert summary.kinds == cells["kind"].value_counts().sort_index().to_dict()
    assert summary.classes == cells["class_name"].value_counts().sort_index().to_dict()
    assert summary.answered == cells.loc[white, "class_name"].value_counts().sort_index().to_dict()
    assert summary.truncated == cells["truncated"].sum()
    assert summary.mean_flow_error == pytest.approx(cells["flow_error"].mean())


def test_what_is_not_known_is_null_and_never_nan(tmp_path: Path) -> None:
    finish(tmp_path)
    column = pq.read_table(tmp_path / "cells.parquet").column("p_blast")
    kind = pq.read_table(tmp_path / "cells.parquet").column("kind").to_pylist()
    assert column.null_count == sum(k != "white" for k in kind)
    assert not np.isnan(column.drop_null().to_numpy()).any()


def test_embeddings_are_half_floats_of_fixed_length(tmp_path: Path) -> None:
    _, embedding, _ = finish(tmp_path, embedding_dim=4)
    table = pq.read_table(tmp_path / "cells.parquet")
    assert table.schema.field("embedding").type == pa.list_(pa.float16(), 4)
    values = table.column("embedding").to_pylist()
    kinds = table.column("kind").to_pylist()
    assert all((v is None) == (k != "white") for v, k in zip(values, kinds, strict=True))
    np.testing.assert_array_equal(np.array([v for v in values if v is not None], np.float16), embedding)


def test_evidence_stands_beside_the_probabilities_of_the_cells_it_is_of(tmp_path: Path) -> None:
    names = ("out_of_distribution", "map_x")
    merged = merge(cut(make_cells(2, 300), 1024, tmp_path / "blocks"), tmp_path, chunk_cells=1000)
    rng = np.random.default_rng(3)
    p = rng.dirichlet(np.ones(3), merged.n_targets).astype(np.float32)
    evidence = {name: rng.random(merged.n_targets).astype(np.float32) for name in names}
    write_classes(tmp_path / "0.parquet", CLASSES, p, None, evidence)
    out = tmp_path / "cells.parquet"
    write_cells(
        tmp_path / "table.parquet", [tmp_path / "0.parquet"], out, classes=CLASSES, embedding_dim=None, evidence=names
    )
    assert pq.read_schema(out).equals(table_schema(CLASSES, None, names))
    cells = pq.read_table(out).to_pandas()
    white = (cells["kind"] == "white").to_numpy()
    for name in names:
        np.testing.assert_array_equal(cells.loc[white, name].to_numpy(np.float32), evidence[name])
        assert cells.loc[~white, name].isna().all()


def test_without_a_classifier_cells_stay_at_their_kind(tmp_path: Path) -> None:
    merge(cut(make_cells(2, 300), 1024, tmp_path / "blocks"), tmp_path)
    summary = write_cells(tmp_path / "table.parquet", [], tmp_path / "cells.parquet", classes=(), embedding_dim=None)
    assert set(summary.classes) == {"white_cell", "red_cell", "platelet"}
    assert pq.read_schema(tmp_path / "cells.parquet").names == [f.name for f in MEASURED]


def test_others_can_read_it(tmp_path: Path) -> None:
    import geopandas

    finish(tmp_path)
    cells = geopandas.read_parquet(tmp_path / "cells.parquet")
    assert len(cells) == 1200
    assert cells.crs is None
    assert cells.geometry.name == "geometry"
    assert cells.geometry.is_valid.all()
    assert cells["cell_id"].is_unique
    nuclei = cells.set_geometry("nucleus").geometry
    assert (nuclei.notna() == (cells["kind"] == "white")).all()
    geo = json.loads(pq.read_schema(tmp_path / "cells.parquet").metadata[b"geo"])
    assert geo["version"] == "1.1.0"
    assert geo["columns"]["geometry"]["crs"] is None, "an absent crs would mean longitude and latitude"


def test_columns_come_in_the_order_of_the_design() -> None:
    names = table_schema(("a", "b"), 8).names
    start = names.index("class_probability")
    assert names[start : start + 3] == ["class_probability", "p_a", "p_b"]
    assert names[-1] == "embedding"
    assert names[:2] == ["cell_id", "geometry"]
