"""Both languages say everything, with the same names filled in, and write numbers as they are written."""

from __future__ import annotations

import re
import string
from importlib import resources
from typing import get_args

import pytest
import yaml

from wsi_pipeline.predictions.counts.answers import Reason, Trust
from wsi_pipeline.serve.texts import load_texts

READ = yaml.safe_load(resources.files("wsi_pipeline.serve").joinpath("texts.yaml").read_text(encoding="utf-8"))


def names(sentence: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(sentence) if name}


@pytest.mark.parametrize("key", READ)
def test_both_languages_have_the_sentence_and_its_names(key: str) -> None:
    assert set(READ[key]) == {"en", "fr"}
    assert names(READ[key]["en"]) == names(READ[key]["fr"])
    assert all(READ[key].values())


def test_every_reason_and_every_trust_has_words() -> None:
    texts = load_texts("fr")
    for reason in filter(None, get_args(Reason)):
        assert texts(f"reason_{reason}")
    for trust in get_args(Trust):
        assert texts(f"trust_{trust}")
        assert texts(f"trust_{trust}_words")


def test_every_sentence_is_used_and_every_used_one_is_there() -> None:
    folder = resources.files("wsi_pipeline.serve")
    code = "".join(
        path.read_text(encoding="utf-8")
        for part in (folder, folder.joinpath("templates"))
        for path in part.iterdir()
        if path.name.endswith((".py", ".j2"))
    )
    built = ("said_", "reason_", "trust_", "class_", "short_", "unit_", "error_")
    for key in READ:
        if not key.startswith(built):
            assert re.search(rf"[\"']{re.escape(key)}[\"']", code), f"{key} is nowhere used"
    for key in re.findall(r"\b(?:t|texts)\(\s*[\"']([\w-]+)[\"']\s*[,)]", code):
        assert key in READ


@pytest.mark.parametrize(
    ("share", "english", "french"),
    [
        (0.0, "<1%", "<1\u202f%"),
        (0.999, ">99%", ">99\u202f%"),
        (0.425, "42%", "42\u202f%"),
        (1.0, ">99%", ">99\u202f%"),
    ],
)
def test_percent(share: float, english: str, french: str) -> None:
    assert (load_texts("en").percent(share), load_texts("fr").percent(share)) == (english, french)


def test_numbers() -> None:
    french = load_texts("fr")
    assert french.number(12.50, 2) == "12,5"
    assert french.number(400, 0) == "400"
    assert french.number(-0.001, 1) == "0"
    assert french.signed(-1.234) == "\u22121,23"
    assert load_texts("en").signed(0.001) == "0.00"
