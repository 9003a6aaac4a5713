"""Answers in files for QuPath: every other byte stays, and QuPath still reads it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from make_cells import FakeTaxonomy

from wsi_pipeline.errors import DataError
from wsi_pipeline.exports.qupath import write_qupath
from wsi_pipeline.exports.qupath_answers import add_answers
from wsi_pipeline.exports.qupath_validator import validate_qupath

ANSWER = {"level": "slide", "task": "apl", "class": "apl", "probability": 0.9, "abstained": False, "model": "m", "x": 1}


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(gzip.decompress(path.read_bytes())))


@pytest.fixture
def plain(cells: Path, tmp_path: Path, fake_taxonomy: FakeTaxonomy) -> Path:
    path = tmp_path / "qupath.geojson.gz"
    write_qupath(cells, path, offset_px0=(0.0, 0.0), taxonomy=fake_taxonomy, specimen="blood_smear")
    return path


def test_attention_becomes_a_measurement_and_nothing_else_changes(plain: Path, cells: Path, tmp_path: Path) -> None:
    table = pq.read_table(cells, columns=["cell_id", "kind"])
    white = [i for i, kind in zip(*table.to_pydict().values(), strict=True) if kind == "white"]
    weights = {cell_id: (2.0 if k == 0 else 1.0) / (len(white) + 1) for k, cell_id in enumerate(white)}
    before, out = _read(plain), tmp_path / "copy.geojson.gz"
    add_answers(plain, out, answers=[ANSWER], attention={"apl: mil": weights})
    after = _read(out)
    assert validate_qupath(out) == []
    (told,) = after.pop("answers")
    assert (told["class"], told["probability"], told["reason"]) == ("apl", 0.9, None)
    assert "x" not in told
    measured = {}
    for feature in after["features"]:
        value = feature["properties"]["measurements"].pop("Attention apl mil", None)
        if value is not None:
            measured[feature["id"]] = value
    assert after == before
    assert set(measured) == set(white)
    # Its weight over that of the average cell.
    assert measured[white[0]] == pytest.approx(2 * len(white) / (len(white) + 1), abs=1e-4)


def test_earlier_answers_are_replaced(plain: Path, cells: Path, tmp_path: Path) -> None:
    ids = pq.read_table(cells, columns=["cell_id"]).column("cell_id").to_pylist()
    fresh, again = tmp_path / "fresh.geojson.gz", tmp_path / "again.geojson.gz"
    later = {"answers": [ANSWER], "attention": {"m": {i: 1 / len(ids) for i in ids[::2]}}}
    add_answers(plain, fresh, **later)
    odd = {'a "quoted" \\ model': {i: 1.0 for i in ids}, "n": {i: 1e-9 for i in ids}}
    add_answers(plain, again, answers=[ANSWER, ANSWER], attention=odd)
    assert validate_qupath(again) == []
    add_answers(again, again, **later)
    assert again.read_bytes() == fresh.read_bytes()
    add_answers(again, again, answers=[], attention={})
    kept = _read(again)
    assert kept.pop("answers") == []
    assert kept == _read(plain)


def test_no_cells_and_no_measurements_stay_json(tmp_path: Path) -> None:
    path = tmp_path / "q.geojson.gz"
    cell = '{"type":"Feature","id":"c","geometry":null,"properties":{"objectType":"cell","measurements":{}}}'
    for inner in ("", "\n" + cell):
        text = '{"type":"FeatureCollection","specimen":"blood_smear","features":[' + inner + "\n]}\n"
        path.write_bytes(gzip.compress(text.encode()))
        add_answers(path, path, answers=[], attention={"m": {"c": 1.0}})
        found = _read(path)
        assert [f["properties"]["measurements"] for f in found["features"]] == ([{"Attention m": 1.0}] if inner else [])


@pytest.mark.parametrize(
    "content",
    [b"no", gzip.compress(b"{}"), gzip.compress(b'{"type":"FeatureCollection"')[:-3]],
    ids=["no gzip", "no collection", "cut short"],
)
def test_other_files_are_refused_and_left_alone(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "q.geojson.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"q\.geojson\.gz"):
        add_answers(path, path, answers=[], attention={})
    assert path.read_bytes() == content
