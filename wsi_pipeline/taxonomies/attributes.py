"""The registry of attributes: what a reader may see on a cell beside its class."""

from __future__ import annotations

import functools
from importlib import resources
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.taxonomies.model import Code, Taxonomy, Text, parse_yaml

COLUMN = "attr_"
"""What stands before the code of an attribute in the names of columns."""


class Attribute(BaseModel):
    """Something that is present on a cell or absent.

    Parameters
    ----------
    code
        Its name in tables.
    name_en, name_fr, definition, source
        For people.
    applies_to
        Meanings of the classes whose cells can have it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    code: Code
    name_en: Text
    name_fr: Text
    definition: Text
    applies_to: Annotated[tuple[Code, ...], Field(min_length=1)]
    source: Text

    def classes_of(self, taxonomy: Taxonomy) -> tuple[str, ...]:
        """Return the codes of a taxonomy's classes that can have it."""
        return tuple(c.code for c in taxonomy.classes if c.meaning in self.applies_to)


class AttributeRegistry(BaseModel):
    """All attributes, in the order of tables."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    attributes: Annotated[tuple[Attribute, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _once(self) -> AttributeRegistry:
        codes = self.codes
        twice = sorted({c for c in codes if codes.count(c) > 1})
        if twice:
            raise ValueError(f"attribute given twice: {', '.join(twice)}")
        return self

    @property
    def codes(self) -> tuple[str, ...]:
        """Codes of all attributes."""
        return tuple(a.code for a in self.attributes)

    def get(self, code: str) -> Attribute:
        """Return the attribute with this code.

        Raises
        ------
        ConfigError
            There is none.
        """
        for attribute in self.attributes:
            if attribute.code == code:
                return attribute
        raise ConfigError(f"attribute {code!r} is unknown; the registry has {', '.join(self.codes)}")


def parse_attributes(text: str, source: str) -> AttributeRegistry:
    """Read and check a registry.

    Raises
    ------
    ConfigError
        Not YAML, or not a registry; the message names ``source`` and the key.
    """
    return parse_yaml(AttributeRegistry, text, source, whole="registry")


@functools.cache
def load_attributes() -> AttributeRegistry:
    """Return the shipped registry."""
    file = resources.files("wsi_pipeline.taxonomies") / "registries" / "attributes.yaml"
    return parse_attributes(file.read_text(encoding="utf-8"), "attributes.yaml")
