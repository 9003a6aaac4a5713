"""Objects of GeoJSON read one at a time: the same as parsing it whole."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wsi_pipeline.errors import DataError
from wsi_pipeline.training.qupath.objects import class_name, read_features

_value = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
_feature = st.builds(lambda geometry, more: {**more, "geometry": geometry}, _value, st.dictionaries(st.text(), _value))


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    features=st.lists(_feature, max_size=4),
    before=st.dictionaries(st.text(max_size=4).filter(lambda k: k != "features"), _value, max_size=2),
    after=st.dictionaries(st.text(max_size=4).filter(lambda k: k != "features"), _value, max_size=2),
    indent=st.sampled_from([None, 2]),
    bare=st.booleans(),
)
def test_streamed_is_parsed(
    tmp_path: Path, features: list[Any], before: dict[str, Any], after: dict[str, Any], indent: int | None, bare: bool
) -> None:
    tree = features if bare else {**before, "features": features, **{k: v for k, v in after.items() if k not in before}}
    text = json.dumps(tree, indent=indent)
    path = tmp_path / "a.geojson"
    path.write_text("\ufeff" + text + "\n", encoding="utf-8")
    assert list(read_features(path)) == features
    zipped = tmp_path / "a.geojson.gz"
    zipped.write_bytes(gzip.compress(text.encode()))
    assert list(read_features(zipped)) == features


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "no GeoJSON FeatureCollection"),
        ("3", "no GeoJSON FeatureCollection"),
        ('{"type":"FeatureCollection"}', "no GeoJSON FeatureCollection"),
        ('{"features":3}', "no GeoJSON FeatureCollection"),
        ("[", "cannot be read as GeoJSON"),
        ('[{"geometry":1},]', "a comma before"),
        ('[{"geometry":1} {"geometry":1}]', "',' is missing"),
        ('{"features":[]} more', "more text after the end"),
        ('{"features":[{"id":1}]}', "element 0 is no GeoJSON feature"),
        ('[{"geometry":1}, 4]', "element 1 is no GeoJSON feature"),
        ("[" * 100_000, "cannot be read as GeoJSON"),
    ],
)
def test_what_is_no_collection_is_refused(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=match) as error:
        list(read_features(tmp_path / "a.json"))
    assert str(tmp_path / "a.json") in str(error.value)


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.geojson.gz").write_bytes(gzip.compress(b'{"features":[]}')[:-6])
    with pytest.raises(DataError, match="cannot be read"):
        list(read_features(tmp_path / "a.geojson.gz"))
    with pytest.raises(DataError, match="cannot be read"):
        list(read_features(tmp_path / "none.geojson"))


@pytest.mark.parametrize(
    ("properties", "name"),
    [
        ({"classification": {"name": " Blast "}}, "Blast"),
        ({"classification": {"names": ["Blast", "Positive"]}}, "Blast: Positive"),
        ({"classification": "Blast"}, "Blast"),
        ({"classification": None}, ""),
        ({"classification": {"name": None}}, ""),
        ({"classification": 3}, ""),
        ({}, ""),
        (None, ""),
        ("text", ""),
    ],
)
def test_class_names(properties: Any, name: str) -> None:
    assert class_name({"properties": properties}) == name
