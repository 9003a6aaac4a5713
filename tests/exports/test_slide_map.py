"""The map of slides: where mean embeddings lie, and which slides are left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wsi_pipeline.errors import DataError
from wsi_pipeline.exports.report.slide_map import MAP_PX, MappedSlide, slide_map


def slide(folder: Path, name: str, mean: tuple[float, ...], *, n: int = 30, classifier: str = "ab") -> MappedSlide:
    """Write cells around a mean embedding, every third cell without one."""
    rows = [None if i % 3 == 0 else np.asarray(mean, np.float16) for i in range(n * 3 // 2)]
    path = folder / f"{name}.parquet"
    pq.write_table(pa.table({"embedding": pa.array(rows, pa.list_(pa.float16(), len(mean)))}), path, row_group_size=8)
    return MappedSlide(slide_id=name, cells=path, specimen="blood_smear", classifier=classifier, href="")


def test_slides_lie_along_what_tells_them_apart(tmp_path: Path) -> None:
    slides = [slide(tmp_path, f"s{i}", (4.0 * i, 0.5 * (i % 2), 1.0)) for i in range(4)]
    found = slide_map(slides)
    assert found is not None
    x = [dot.x for dot in found.dots]
    assert x == sorted(x)
    assert 0 < min(x) < MAP_PX / 2 < max(x) < MAP_PX
    assert found.shares[0] > 95
    assert sum(found.shares) == pytest.approx(100)
    assert slide_map(slides) == found


def test_other_classifiers_few_cells_and_missing_tables_are_left_out(tmp_path: Path) -> None:
    slides = [slide(tmp_path, f"s{i}", (float(i), 1.0)) for i in range(3)]
    other = slide(tmp_path, "other", (9.0, 9.0), classifier="cd")
    few = slide(tmp_path, "few", (5.0, 5.0), n=6)
    gone = MappedSlide(
        slide_id="gone", cells=tmp_path / "gone.parquet", specimen="blood_smear", classifier="ab", href=""
    )
    found = slide_map([other, *slides, few, gone])
    assert found is not None
    assert [dot.name for dot in found.dots] == ["s0", "s1", "s2"]
    assert found.left_out == 3
    assert slide_map(slides[:2]) is None


def test_alike_slides_lie_in_the_middle(tmp_path: Path) -> None:
    found = slide_map([slide(tmp_path, f"s{i}", (1.0, 2.0)) for i in range(3)])
    assert found is not None
    assert {(dot.x, dot.y) for dot in found.dots} == {(MAP_PX / 2, MAP_PX / 2)}


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    slides = [slide(tmp_path, f"s{i}", (float(i), 1.0)) for i in range(3)]
    slides[1].cells.write_bytes(b"no table")
    with pytest.raises(DataError, match=r"s1\.parquet"):
        slide_map(slides)
