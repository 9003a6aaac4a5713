"""The ledger: a part is there whole or not at all, and never taken for another configuration's."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsi_pipeline.errors import OutputError
from wsi_pipeline.runtime.ledger import Ledger, key_of


def test_a_key_is_of_the_values_and_not_of_their_order() -> None:
    assert key_of(a=1, b=[2, {"x": None}]) == key_of(b=[2, {"x": None}], a=1)
    keys = {key_of(a=1), key_of(a=1.5), key_of(a="1"), key_of(b=1), key_of(a=None), key_of(a=[1]), key_of()}
    assert len(keys) == 7
    # Part of every ledger on disk: another hash would throw all of them away.
    assert key_of(a=1) == "f9d86028c6e0d64e"


def test_a_part_is_done_when_it_is_there(tmp_path: Path) -> None:
    ledger = Ledger(folder=tmp_path / "key")
    assert not ledger.is_done("blocks", "00001_00002")
    part = ledger.part("blocks", "00001_00002")
    assert part == tmp_path / "key" / "blocks" / "00001_00002.parquet"
    part.parent.mkdir(parents=True)
    # What a killed writer leaves is not the part.
    (part.parent / f".{part.name}.abc.tmp").write_bytes(b"half")
    assert not ledger.is_done("blocks", "00001_00002")
    part.write_bytes(b"")
    assert ledger.is_done("blocks", "00001_00002")
    assert not ledger.is_done("blocks", "00001_00002", ".json")
    assert not Ledger(folder=tmp_path / "other").is_done("blocks", "00001_00002")


def test_records_come_back(tmp_path: Path) -> None:
    ledger = Ledger(folder=tmp_path / "key")
    assert ledger.read("merged", "record") is None
    record = {"n": 3, "x": 0.1, "name": "é", "none": None, "list": [1, 2]}
    ledger.write("merged", "record", record)
    assert ledger.read("merged", "record") == record
    assert ledger.is_done("merged", "record", ".json")


def test_a_damaged_record_is_said(tmp_path: Path) -> None:
    ledger = Ledger(folder=tmp_path / "key")
    ledger.write("merged", "record", {"n": 3})
    path = ledger.part("merged", "record", ".json")
    path.write_text(path.read_text(encoding="utf-8")[:5], encoding="utf-8")
    with pytest.raises(OutputError, match="--restart") as caught:
        ledger.read("merged", "record")
    assert str(path) in str(caught.value)


def test_clear_removes_its_own_parts_only(tmp_path: Path) -> None:
    one, two = Ledger(folder=tmp_path / "1"), Ledger(folder=tmp_path / "2")
    for ledger in (one, two):
        ledger.write("a", "b", {})
    one.clear()
    one.clear()
    assert not one.folder.exists()
    assert two.read("a", "b") == {}
