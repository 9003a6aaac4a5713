"""Answers about one subject that must not contradict each other.

Each answer leaves some of the states open that a patient may be in (:data:`~wsi_pipeline.predictions.tasks.STATES`).
Two answers contradict each other when no state is open to both: APL, and not AML; AML, and MDS. Which of the two is
wrong is not known, so both abstain (``contradicts-TASK``). Where each two of several agree and all of them together
leave nothing open, all of them abstain. An answer that abstained, or whose task names no states, takes no part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from wsi_pipeline.sentences import say

if TYPE_CHECKING:
    from wsi_pipeline.predictions.slide_models.answer import SlideAnswer

_SIMULATED = "Simulated: "
"""What the words of a model of simulated cohorts begin with."""


def consistent(answers: Sequence[SlideAnswer]) -> list[SlideAnswer]:
    """Return the answers about one subject, in their order; those that contradict each other abstain."""
    opened = [None if one.abstained else one.task.open_states(one.class_set) for one in answers]
    against: dict[int, int] = {}
    for i, first in enumerate(opened):
        for j in range(i + 1, len(opened)):
            second = opened[j]
            if first is not None and second is not None and not first & second:
                against.setdefault(i, j)
                against.setdefault(j, i)
    left = {i: states for i, states in enumerate(opened) if states is not None and i not in against}
    if len(left) > 2 and not frozenset.intersection(*left.values()):
        names = list(left)
        against |= {i: names[0] if i != names[0] else names[1] for i in names}
    return [_silenced(one, answers[against[i]]) if i in against else one for i, one in enumerate(answers)]


def _silenced(one: SlideAnswer, other: SlideAnswer) -> SlideAnswer:
    said = say(
        "{model} would say {answer}, {other} {others}: both cannot be, so neither answers.",
        model=one.model,
        answer=one.named(),
        other=other.model,
        others=other.named(),
    )
    if one.wording.startswith(_SIMULATED):
        said = say("Simulated: {said}", said=said)
    return replace(one, class_set=(), abstained=True, reason=f"contradicts-{other.task.name}", wording=said)
