"""Outlines of real megakaryocytes: as shipped, and how instances are scored against them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wsi_pipeline.errors import DataError
from wsi_pipeline.evaluation.real_megakaryocytes import (
    RealMegakaryocyte,
    rasterise,
    read_real_megakaryocytes,
    score_real,
)


def square(x: float, y: float, side: float = 20.0) -> tuple[tuple[float, float], ...]:
    return ((x, y), (x + side, y), (x + side, y + side), (x, y + side))


def cell(x: float, y: float, *, certain: bool = True) -> RealMegakaryocyte:
    return RealMegakaryocyte(
        image="a", mpp=0.5, certain=certain, truncated=False, cell=square(x, y), nucleus=(square(x + 5, y + 5, 8),),
        why="",
    )  # fmt: skip


def labels(*places: tuple[int, int]) -> np.ndarray:
    found = np.zeros((100, 100), np.int32)
    for number, (x, y) in enumerate(places, 1):
        found[y : y + 20, x : x + 20] = number
    return found


def test_the_shipped_outlines() -> None:
    cells = read_real_megakaryocytes()
    certain = [c for c in cells if c.certain]
    assert len(certain) == 11
    assert sum(c.truncated for c in certain) == 3
    assert {c.image.split("/")[0] for c in cells} == {"marrow-he", "tissue-nuclei"}
    for c in cells:
        assert len(c.why) > 20
        assert 0.2 < c.mpp < 0.5
        body = rasterise(c.body, (1200, 1200))
        assert 90 < body.sum() * c.mpp**2 < 1600
        if c.cell is not None and c.nucleus:
            inside = rasterise(c.nucleus, (1200, 1200))
            assert (inside & body).sum() > 0.97 * inside.sum()


def test_a_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"cells": [{"image": "a"}]}')
    with pytest.raises(DataError, match="cannot be read"):
        read_real_megakaryocytes(tmp_path / "x.json")


def test_pixels_are_inside_when_their_middle_is() -> None:
    assert rasterise((square(2, 3, 4),), (10, 10)).sum() == 16
    assert not rasterise((), (10, 10)).any()


def test_found_missed_and_false() -> None:
    cells = [cell(10, 10), cell(50, 50)]
    score, found = score_real("a", cells, labels((12, 10), (70, 10)))
    assert (score.tp[0], score.fp[0], score.fn[0]) == (1, 1, 1)
    assert found == {0: 1}
    nothing, none = score_real("a", cells, labels())
    assert (nothing.tp[0], nothing.fp[0], nothing.fn[0], none) == (0, 0, 2, {})


def test_doubtful_ones_count_for_nothing() -> None:
    cells = [cell(10, 10), cell(50, 50, certain=False)]
    for places in (((10, 10),), ((10, 10), (50, 50)), ((10, 10), (55, 55))):
        score, found = score_real("a", cells, labels(*places))
        assert (score.tp[0], score.fp[0], score.fn[0], found) == (1, 0, 0, {0: 1})
    beside, _ = score_real("a", cells, labels((10, 10), (65, 65)))
    assert beside.fp[0] == 1


def test_a_cell_without_cytoplasm_is_its_nucleus() -> None:
    bare = replace(cell(10, 10), cell=None, nucleus=(square(10, 10),))
    score, _ = score_real("a", [bare], labels((10, 10)))
    assert score.tp[0] == 1
