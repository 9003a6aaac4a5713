"""The fixture generator and its tables, shared by the tests of the exports."""

from __future__ import annotations

from pathlib import Path

import pytest
from make_cells import FakeTaxonomy, make_cells, taxonomy


@pytest.fixture(scope="session")
def fake_taxonomy() -> FakeTaxonomy:
    return taxonomy()


@pytest.fixture(scope="session")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 cells on 3000 x 2000 level-0 pixels, in several row groups."""
    folder = tmp_path_factory.mktemp("cells")
    return make_cells(folder / "cells.parquet", 600, size_px0=(3000, 2000), row_group=150)
