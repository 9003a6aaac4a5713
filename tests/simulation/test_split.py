"""The rule that keeps assets out of training."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.simulation import is_reserved
from wsi_pipeline.simulation.sprites import ASSETS_FOLDER


@given(st.from_regex(r"pbc/[a-z_]{1,12}/[A-Z]{2,3}_[0-9]{1,6}\.jpg", fullmatch=True))
def test_rule_is_the_agreed_hash(path: str) -> None:
    assert is_reserved(path) == (hashlib.sha1(path.encode()).digest()[0] % 10 == 0)


def test_about_one_image_in_ten_is_reserved() -> None:
    share = sum(is_reserved(f"pbc/monocyte/MO_{i}.jpg") for i in range(4000)) / 4000
    assert 0.08 < share < 0.125


@pytest.mark.parametrize("path", ["", "/pbc/a.jpg", "../pbc/a.jpg", "pbc\\a.jpg", "./pbc/a.jpg", "pbc//a.jpg"])
def test_path_that_would_hash_differently_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"data root|normal form"):
        is_reserved(path)


def test_every_shipped_cutout_comes_from_a_reserved_image_that_may_be_shipped() -> None:
    index = json.loads((ASSETS_FOLDER / "ASSETS.json").read_text(encoding="utf-8"))
    notice = (ASSETS_FOLDER / "NOTICE.txt").read_text(encoding="utf-8")
    sources = {cutout["source"] for cutout in index["cutouts"]}
    assert len(sources) > 150
    for source in sources:
        assert is_reserved(source), source
        licence = index["sources"][source.split("/")[0]]["licence"]
        assert licence in {"CC BY 4.0", "MIT", "CC0 1.0"}
    for name, entry in index["sources"].items():
        assert name in notice
        assert entry["attribution"] in notice
        assert entry["licence"] in notice


def test_assets_stay_small() -> None:
    assert sum(path.stat().st_size for path in Path(ASSETS_FOLDER).iterdir()) < 4_000_000
