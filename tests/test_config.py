"""Configuration: shipped files load, unknown keys are errors, overrides win, hashes are stable."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from wsi_pipeline.config import SPECIMENS, PipelineConfig, config_folder, load_config, parse_overrides
from wsi_pipeline.errors import ConfigError


@pytest.mark.parametrize("specimen", SPECIMENS)
def test_shipped_configurations_load(specimen: str) -> None:
    config = load_config(specimen)
    assert config.specimen == specimen
    tree = yaml.safe_load((config_folder() / f"{specimen}.yaml").read_text(encoding="utf-8"))
    assert tree["specimen"] == specimen
    assert config.segmentation.mpp == (0.5 if specimen == "trephine" else 0.25)


def test_what_the_design_fixes() -> None:
    blood, marrow, trephine = (load_config(s) for s in SPECIMENS)
    assert [c.segmentation.max_cell_diameter_um for c in (blood, marrow, trephine)] == [40, 160, 160]
    assert (blood.predictions.min_cells, blood.predictions.target_cells) == (100, 200)
    assert (marrow.predictions.min_cells, marrow.predictions.target_cells) == (200, 500)
    assert trephine.cells.classifier is None


def test_nothing_given_is_a_blood_smear() -> None:
    assert load_config() == load_config("blood_smear")


def test_a_file_needs_only_what_differs_from_its_specimen(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("specimen: marrow_smear\ntiling: {core_px: 1024}\n", encoding="utf-8")
    config = load_config(path)
    assert config.tiling.core_px == 1024
    assert config.segmentation.max_cell_diameter_um == 160
    assert load_config(path, {"tiling.core_px": 512}).tiling.core_px == 512


def test_a_specimen_can_be_overridden() -> None:
    config = load_config(None, {"specimen": "trephine"})
    assert config == load_config("trephine")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"tiling.core_pixels": 5}, ["tiling.core_pixels"]),
        ({"tilling.core_px": 512}, ["tilling"]),
        ({"tiling.core_px": "wide"}, ["tiling.core_px", "wide"]),
        ({"tiling.core_px": 1}, ["tiling.core_px", "256"]),
        ({"segmentation.mpp": -1}, ["segmentation.mpp"]),
        ({"segmentation.mpp": float("nan")}, ["segmentation.mpp"]),
        ({"runtime.device": "tpu"}, ["runtime.device", "tpu"]),
        ({"predictions.target_cells": 5}, ["target_cells", "min_cells"]),
        ({"specimen": "urine"}, ["urine", "blood_smear"]),
        ({"specimen.kind": "x"}, ["specimen"]),
        ({"specimen": "trephine", "cells.classifier": "pbc-blast"}, ["pbc-blast", "trephine"]),
        ({"tiling": 5}, ["tiling"]),
        ({"exports.labels": "perhaps"}, ["exports.labels"]),
    ],
)
def test_what_is_not_allowed_is_said(overrides: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("blood_smear", overrides)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("text", ["[1, 2]", "just words", "a: [", "\x00", "tiling: 5"])
def test_a_file_that_is_no_configuration(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        load_config(path)


def test_an_empty_file_is_the_default(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("", encoding="utf-8")
    assert load_config(path) == load_config()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml does not exist"):
        load_config(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError):
        load_config(tmp_path)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["tiling.core_px=1024"], {"tiling.core_px": 1024}),
        (["cells.classifier=null"], {"cells.classifier": None}),
        (["exports.labels=true", "segmentation.mpp=0.5"], {"exports.labels": True, "segmentation.mpp": 0.5}),
        (["segmentation.model=/a=b/c.safetensors"], {"segmentation.model": "/a=b/c.safetensors"}),
        ([" tiling.core_px =512"], {"tiling.core_px": 512}),
        ([], {}),
    ],
)
def test_assignments(texts: list[str], expected: dict[str, Any]) -> None:
    assert parse_overrides(texts) == expected


@pytest.mark.parametrize("text", ["core_px=3", "tiling.core_px", "=", "", "tiling.core_px=[1", "tiling.core_px={"])
def test_bad_assignments(text: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        parse_overrides([text])


@given(st.text(max_size=40))
def test_any_assignment_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ConfigError):
        load_config(None, parse_overrides([text]))


def test_it_cannot_be_changed() -> None:
    config = load_config()
    with pytest.raises(ValidationError):
        config.tiling.core_px = 5  # type: ignore[misc]


def test_the_digest_sees_the_sections_named_and_no_others() -> None:
    base, other = load_config(), load_config(None, {"tiling.core_px": 512})
    assert base.digest() != other.digest()
    assert base.digest("tiling") != other.digest("tiling")
    assert base.digest("segmentation", "cells") == other.digest("segmentation", "cells")
    assert base.digest() == PipelineConfig.model_validate(base.model_dump(mode="json")).digest()


def test_configurations_are_hashable_and_equal_by_value() -> None:
    assert len({load_config("trephine"), load_config("trephine"), load_config()}) == 2
