"""The tree as JSON, and the ways through it, against a reading by hand."""

from __future__ import annotations

import copy
import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.predictions.mds_counts.trees import document
from wsi_pipeline.errors import MissingWeightsError, ModelError
from wsi_pipeline.predictions.mds_counts import MdsTree, read_tree, write_tree

TREE = MdsTree.model_validate(document())
VALUE = st.one_of(st.just(float("nan")), st.sampled_from([320.5, 98.5, 6.0]), st.floats(0, 500))


def leaf_by_hand(row: dict[str, float]) -> int:
    """Read the tree of ``document`` as a person does."""
    if row["Ne-WX"] <= 320.5 or np.isnan(row["Ne-WX"]):
        return 2 if row["MCV"] <= 98.5 or np.isnan(row["MCV"]) else 3
    return 5 if row["IPF"] <= 6 or np.isnan(row["IPF"]) else 6


@given(st.lists(st.lists(VALUE, min_size=7, max_size=7), min_size=1, max_size=20))
def test_leaves_are_those_a_person_finds(table: list[list[float]]) -> None:
    expected = [leaf_by_hand(dict(zip(TREE.names, row, strict=True))) for row in table]
    assert TREE.leaves(np.array(table)).tolist() == expected


@given(st.lists(VALUE, min_size=7, max_size=7))
def test_open_leaves_are_those_some_value_would_reach(row: list[float]) -> None:
    # Any missing value is either under all thresholds or over all of them.
    reached = set()
    for filling in product([-1.0, 1e9], repeat=7):
        whole = [b if np.isnan(a) else a for a, b in zip(row, filling, strict=True)]
        reached.add(leaf_by_hand(dict(zip(TREE.names, whole, strict=True))))
    found = np.flatnonzero(TREE.open_leaves(np.array([row]))[0]).tolist()
    assert found == sorted(reached)
    assert TREE.leaves(np.array([row]))[0] in found


def test_the_threshold_belongs_to_the_lower_side() -> None:
    row = np.full((2, 7), np.nan)
    row[:, 0] = [320.5, np.nextafter(320.5, 999)]
    assert TREE.leaves(row).tolist() == [2, 5]


def test_another_number_of_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="7 columns"):
        TREE.leaves(np.zeros((3, 6)))


def test_a_tree_survives_its_file(tmp_path: Path) -> None:
    write_tree(TREE, tmp_path / "tree.json")
    assert read_tree(tmp_path) == TREE
    assert json.loads((tmp_path / "tree.json").read_text()) == document()
    write_tree(read_tree(tmp_path / "tree.json"), tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "tree.json").read_bytes()


def _set(document: Any, path: list[Any], value: Any) -> None:
    for key in path[:-1]:
        document = document[key]
    document[path[-1]] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["format"], "other", "format"),
        (["version"], 2, "version"),
        (["cut"], 0.0, "cut"),
        (["cut"], "0.3", "cut"),
        (["simulated"], "no", "simulated"),
        (["surprise"], 1, "surprise"),
        (["nodes"], [], "nodes"),
        (["analytes"], [], "analytes"),
        (["nodes", 0, "split", "threshold"], "320", "threshold"),
        (["nodes", 0, "split", "threshold"], None, "threshold"),
        (["nodes", 0, "split", "analyte"], "LDH", "none of the analytes"),
        (["nodes", 0, "split", "missing"], "left", "missing"),
        (["nodes", 0, "split", "below"], 0, "after its parent"),
        (["nodes", 0, "split", "below"], -1, "below"),
        (["nodes", 0, "split", "above"], 1, "exactly one parent"),
        (["nodes", 0, "split", "above"], 99, "exactly one parent"),
        (["nodes", 2, "positives"], 55, "more positive"),
        (["nodes", 2, "patients"], 0, "patients"),
        (["nodes", 2, "share"], 0.5, "share"),
        (["analytes", 0, "median"], 1000.0, "in order"),
        (["analytes", 1, "name"], "Ne-WX", "stands twice"),
        (["analytes", 1, "label"], {"en": "IPF"}, "en and fr"),
    ],
)  # fmt: skip
def test_a_malformed_tree_is_refused(path: list[Any], value: Any, message: str, tmp_path: Path) -> None:
    changed = copy.deepcopy(document())
    _set(changed, path, value)
    file = tmp_path / "tree.json"
    file.write_text(json.dumps(changed))
    with pytest.raises(ModelError, match=message) as caught:
        read_tree(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"cut": NaN}', b"[" * 100_000])
def test_what_is_no_json_object_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tree.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"tree\.json"):
        read_tree(tmp_path)


def test_not_a_number_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tree.json").write_text(json.dumps(document()).replace("320.5", "NaN"))
    with pytest.raises(ModelError):
        read_tree(tmp_path)


def test_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError, match="train mds-counts"):
        read_tree(tmp_path)
