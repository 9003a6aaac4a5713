"""The configuration reference is current, and holds every key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from wsi_pipeline.config import PipelineConfig
from wsi_pipeline.config_reference import configuration_page, main
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.runtime.cluster_config import SlurmConfig

_PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"


def _keys(model: BaseModel) -> Iterator[tuple[str, str | None]]:
    for key, field in type(model).model_fields.items():
        value = getattr(model, key)
        yield key, "a section" if isinstance(value, BaseModel) else field.description
        if isinstance(value, BaseModel):
            yield from _keys(value)


def test_the_page_is_current() -> None:
    assert _PAGE.read_text(encoding="utf-8") == configuration_page(), (
        "run: python -m wsi_pipeline.config_reference docs/configuration.md"
    )


@pytest.mark.parametrize("tree", [PipelineConfig(), SlurmConfig()])
def test_every_key_has_a_row_and_a_meaning(tree: BaseModel) -> None:
    page = configuration_page()
    for key, what in _keys(tree):
        assert f"| `{key}` |" in page
        assert what, f"{key} has no description"


def test_it_writes_the_file_it_is_told(tmp_path: Path) -> None:
    main([str(tmp_path / "page.md")])
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == configuration_page()
    with pytest.raises(ConfigError, match="one argument"):
        main([])
