"""Notes of answers are said once, where they belong."""

from __future__ import annotations

from wsi_pipeline.exports.report.summary import Answer
from wsi_pipeline.exports.report.text import placed_notes


def answer(*notes: str) -> Answer:
    return Answer(task="smear_diagnosis", notes=notes)


def test_a_note_stands_with_the_narrowest_question_and_one_of_all_below() -> None:
    own, below = placed_notes([answer("confirm", "all", "own"), answer("confirm", "all"), answer("all")])
    assert own == [["own"], ["confirm"], []]
    assert below == ["all"]


def test_a_single_answer_keeps_its_notes_and_says_none_twice() -> None:
    assert placed_notes([answer("a", "b", "a")]) == ([["a", "b"]], [])
    assert placed_notes([]) == ([], [])
