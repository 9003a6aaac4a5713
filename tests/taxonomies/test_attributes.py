"""The registry of attributes."""

from __future__ import annotations

import pytest

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.taxonomies import load_taxonomy, taxonomy_names
from wsi_pipeline.taxonomies.attributes import load_attributes, parse_attributes


def test_every_attribute_is_of_a_class_of_a_shipped_taxonomy() -> None:
    registry = load_attributes()
    meanings = {c.meaning for name in taxonomy_names() for c in load_taxonomy(name).classes}
    for attribute in registry.attributes:
        assert set(attribute.applies_to) & meanings, attribute.code
        unknown = set(attribute.applies_to) - meanings
        assert not unknown, (attribute.code, unknown)
        assert attribute.name_en != attribute.name_fr or attribute.code == "vacuoles"
    assert registry.get("pseudo_pelger").classes_of(load_taxonomy("pbc-blast")) == (
        "band_neutrophil",
        "segmented_neutrophil",
    )
    with pytest.raises(ConfigError, match="'zebra' is unknown; the registry has hypogranular"):
        registry.get("zebra")


def test_a_registry_that_does_not_hold_is_refused() -> None:
    one = "{code: a, name_en: a, name_fr: a, definition: d, applies_to: [x], source: s}"
    assert parse_attributes(f"attributes: [{one}]", "mine").codes == ("a",)
    for text, message in (
        (f"attributes: [{one}, {one}]", "mine: .*attribute given twice: a"),
        ("attributes: []", "mine: attributes"),
        (f"attributes: [{one}]\nmore: 1", "mine: more"),
        ("attributes: [", "mine is not YAML"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse_attributes(text, "mine")
