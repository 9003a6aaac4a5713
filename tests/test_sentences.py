"""Sentences are strings that remember what they were made of."""

from __future__ import annotations

import json
import pickle

from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.sentences import joined, made_of, say


def test_a_sentence_is_the_string_it_says() -> None:
    sentence = say("{found!c}: {n} of {all}, {percent:.1f} %", found=say("blasts"), n=3, all=12, percent=25.04)
    assert sentence == "Blasts: 3 of 12, 25.0 %"
    assert isinstance(sentence, str)
    assert json.loads(json.dumps({"a": sentence})) == {"a": "Blasts: 3 of 12, 25.0 %"}


def test_it_survives_a_process_border() -> None:
    sentence = say("{n} cells {what}", n=3, what=say("of {kind}", kind="blood"))
    again = pickle.loads(pickle.dumps(sentence))
    assert (again, again.to_dict()) == (sentence, sentence.to_dict())


def test_what_a_document_is_made_of() -> None:
    inner = say("{n} cells", n=3)
    whole = joined([inner, "as it is"])
    found = made_of({"a": [whole], "b": ({"c": inner}, "plain", 3)})
    assert found == {
        "3 cells": {"text": "{n} cells", "values": {"n": 3}},
        "3 cells as it is": {
            "text": "{part0} {part1}",
            "values": {"part0": {"text": "{n} cells", "values": {"n": 3}}, "part1": "as it is"},
        },
    }
    assert json.loads(json.dumps(found)) == found


@given(st.text(), st.text())
def test_values_are_never_read_as_templates(first: str, second: str) -> None:
    assert say("{a} and {b}", a=first, b=second) == f"{first} and {second}"
    assert joined([first, second]) == f"{first} {second}"
