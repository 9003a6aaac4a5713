"""Answers about one subject may not contradict each other."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.predictions.slide_models import SlideAnswer
from wsi_pipeline.predictions.tasks import consistent, load_task, task_names


def _answer(task: str, *classes: str, reason: str = "") -> SlideAnswer:
    own = load_task(task)
    return SlideAnswer(
        task=own,
        model=f"{task}-model",
        subject_id="P1",
        level="patient",
        probabilities=dict.fromkeys(own.codes, 1 / len(own.codes)),
        lower={},
        upper={},
        class_set=classes,
        abstained=bool(reason),
        reason=reason,
        n_cells=100,
        evidence=(),
        flags=(),
        wording="said",
    )


def test_apl_and_not_aml_silence_each_other() -> None:
    found = consistent([_answer("aml", "normal"), _answer("apl", "apl"), _answer("mds", "normal")])
    assert [one.reason for one in found] == ["contradicts-apl", "contradicts-aml", ""]
    assert found[0].class_set == ()
    assert "acute promyelocytic leukaemia" in found[0].wording


def test_silenced_answers_of_simulated_cohorts_still_say_so() -> None:
    simulated = replace(_answer("aml", "normal"), wording="Simulated: Compatible with normal.")
    found = consistent([simulated, _answer("apl", "apl")])
    assert [one.wording.startswith("Simulated: ") for one in found] == [True, False]


def test_a_negative_answer_is_only_a_negative_one() -> None:
    asked = [_answer("aml", "normal"), _answer("mds", "mds"), _answer("apl", "aml_other")]
    assert consistent(asked) == asked


def test_joint_and_binary_answers() -> None:
    agree = [_answer("smear_diagnosis", "apl"), _answer("aml", "aml"), _answer("apl", "apl")]
    assert consistent(agree) == agree
    differ = consistent([_answer("smear_diagnosis", "normal", "mds_like"), _answer("aml", "aml")])
    assert [one.reason for one in differ] == ["contradicts-aml", "contradicts-smear_diagnosis"]


def test_three_that_agree_two_by_two_only() -> None:
    asked = [
        _answer("smear_diagnosis", "apl", "mds_like"),
        _answer("aml", "normal"),
        _answer("mds", "normal"),
    ]
    assert all(one.abstained for one in consistent(asked))


def test_an_abstention_takes_no_part() -> None:
    asked = [_answer("aml", reason="uncertain"), _answer("apl", "apl")]
    assert consistent(asked) == asked


_ASKED = st.lists(
    st.sampled_from(task_names()).flatmap(
        lambda name: st.sets(st.sampled_from(load_task(name).codes), min_size=1).map(
            lambda codes: _answer(name, *sorted(codes))
        )
    ),
    max_size=5,
)


@given(_ASKED)
def test_what_still_answers_agrees_and_the_order_does_not_matter(asked: list[SlideAnswer]) -> None:
    found = consistent(asked)
    left = [set(one.task.open_states(one.class_set) or ()) for one in found if not one.abstained]
    assert not left or set.intersection(*left)
    assert all(a & b for a, b in product(left, left))
    turned = consistent(asked[::-1])[::-1]
    assert [one.abstained for one in turned] == [one.abstained for one in found]
