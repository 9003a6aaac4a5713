"""``train cells`` on the command line: which way a request goes, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from wsi_pipeline.cli.main import app
from wsi_pipeline.errors import ConfigError, DataError, WsiPipelineError


def _refusal(*arguments: str, command: str = "cells") -> WsiPipelineError | str:
    result = CliRunner().invoke(app, ["train", command, *arguments])
    assert result.exit_code != 0
    return result.exception if isinstance(result.exception, WsiPipelineError) else result.output


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ((), DataError, "holds no folders"),
        (("--tune", "some"), ConfigError, "--tune some"),
        (("--model", "wnet5", "--pretrained"), ConfigError, "--pretrained: only for timm"),
        (("--folds", "1"), ConfigError, "--folds 1"),
        (("--fold", "0"), ConfigError, "--fold 0"),
        (("--synthetic-per-class", "5"), ConfigError, "--synthetic-per-class goes with --synthetic"),
        (("--ablate-synthetic", "2"), ConfigError, "give --synthetic"),
        (("--synthetic", "g.safetensors", "--model", "features+svm"), ConfigError, "--synthetic means nothing"),
        (("--card-only", "pbc-blast", "--group", "slide"), ConfigError, "--card-only repeats the card"),
    ],
)
def test_own_cells(options: tuple[str, ...], kind: type[WsiPipelineError], message: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    found = _refusal("--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), *options)
    assert message in str(found)
    assert isinstance(found, str | kind)


def test_the_root_of_the_shipped_sets_takes_the_fixed_recipe(tmp_path: Path) -> None:
    for name in ("pbc", "marrow-cells"):
        (tmp_path / "data" / name).mkdir(parents=True)
    data = ("--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"))
    assert "whose recipe is fixed" in str(_refusal(*data, "--folds", "5"))
    assert "holds the folders none" in str(_refusal(*data)), "the shipped recipe looks for its own folders"
    assert "fixed" not in str(_refusal(*data, "--mpp", "0.2", "--folds", "5"))


def test_a_generator_is_refused_with_the_same_words(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    data = ("--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"))
    assert "holds no folders" in str(_refusal(*data, command="generator"))
    assert "--side 50" in str(_refusal(*data, "--side", "50", command="generator"))
    assert "--fold 0" in str(_refusal(*data, "--fold", "0", command="generator"))
