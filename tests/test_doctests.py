"""The examples of the public interface run, and say what they say."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

import wsi_pipeline

_MODULES = (
    "wsi_pipeline",
    "wsi_pipeline.cohort",
    "wsi_pipeline.config",
    "wsi_pipeline.config_reference",
    "wsi_pipeline.exports.finished_run",
    "wsi_pipeline.predictions.differential",
    "wsi_pipeline.predictions.intervals",
    "wsi_pipeline.simulation.slide",
    "wsi_pipeline.slides.open",
    "wsi_pipeline.taxonomies.model",
    "wsi_pipeline.units",
)
_API = Path(__file__).parents[1] / "docs" / "api.md"


@pytest.mark.parametrize("name", _MODULES)
@pytest.mark.usefixtures("in_this_process")
def test_the_examples_of(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0, "no example was found"
    assert result.failed == 0


@pytest.mark.usefixtures("in_this_process")
def test_the_examples_of_the_api_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = doctest.testfile(str(_API), module_relative=False, encoding="utf-8")
    assert result.attempted > 0
    assert result.failed == 0


def test_every_public_name_is_there_and_on_the_page() -> None:
    page = _API.read_text(encoding="utf-8")
    for name in wsi_pipeline.__all__:
        assert getattr(wsi_pipeline, name) is not None
        assert name == "__version__" or re.search(rf"`{name}\b", page), f"{name} is not in docs/api.md"


def test_functions_have_examples() -> None:
    plain = [n for n in wsi_pipeline.__all__ if n[0].islower() and n != "__version__"]
    without = [name for name in plain if ">>>" not in (getattr(wsi_pipeline, name).__doc__ or "")]
    assert not without


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(wsi_pipeline.__file__).parent / "py.typed").is_file()
