"""Model cards."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from wsi_pipeline.errors import DataError, ModelError
from wsi_pipeline.training.cards import Card, DataSource, Figure, render_markdown, write_card
from wsi_pipeline.weights import load_weights

CARD = Card(
    name="small",
    task="cells",
    description="Types cells.",
    classes=("a", "b"),
    specimens=("blood_smear",),
    mpp=0.25,
    data=(DataSource(title="One | set", licence="CC0", attribution="A. Nyone", n_train=7),),
    licence="CC0",
    split={"train": 7, "test": 3},
    figures=(
        Figure(name="macro-F1", on="test", n=3, value=0.5, lower=0.25, upper=0.75, baseline=0.125),
        Figure(name="undefined", on="test", n=0, value=None),
    ),
    fails_on=("Everything new.",),
    date="2026-01-01",
    details={"window_px": 32},
    tables={"By class": "a  b"},
)


def test_json_is_what_the_registry_reads(tmp_path: Path) -> None:
    weights = tmp_path / "small.safetensors"
    weights.write_bytes(b"weights")
    write_card(CARD, weights)
    read = load_weights(weights)
    read.verify()
    assert read.card["window_px"] == 32
    assert read.card["metrics"][0] == {
        "name": "macro-F1",
        "on": "test",
        "n": 3,
        "value": 0.5,
        "lower": 0.25,
        "upper": 0.75,
        "baseline": 0.125,
    }
    assert "tables" not in json.loads(weights.with_suffix(".json").read_text())
    weights.write_bytes(b"Weights")
    with pytest.raises(ModelError, match="SHA-256"):
        read.verify()


def test_markdown_is_for_people() -> None:
    text = render_markdown(CARD, "0" * 64)
    assert "| macro-F1 | test | 3 | 0.500 | 0.250 to 0.750 | 0.125 |" in text
    assert "| undefined | test | 0 | - | - | - |" in text
    assert "| One \\| set | 7 | CC0 | A. Nyone |" in text
    assert "- Everything new." in text
    assert "### By class\n\n```\na  b\n```" in text


def test_a_card_needs_its_weights_and_does_not_repeat_itself(tmp_path: Path) -> None:
    weights = tmp_path / "small.safetensors"
    with pytest.raises(DataError, match="does not exist"):
        write_card(CARD, weights)
    weights.write_bytes(b"weights")
    with pytest.raises(DataError, match="repeat sha256"):
        write_card(replace(CARD, details={"sha256": "0"}), weights)
