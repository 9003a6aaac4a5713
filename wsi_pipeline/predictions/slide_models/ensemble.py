"""A trained slide-level model: members, how they are put together, calibrated, and when they keep silent.

Members of one name (one a fold and seed) are averaged, each name is scaled to calibrated margins, and the names are
averaged with weights by how much each told of patients that it did not see. Members that read what not every subject
has (labels of folders, routine counts) take part where they can: every such case has weights and a calibration of its
own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import DataError, ModelError
from wsi_pipeline.predictions.bags.bag import CellBag
from wsi_pipeline.predictions.slide_features.feature import FloatArray
from wsi_pipeline.predictions.slide_models.calibration import ConformalSets, Scaling
from wsi_pipeline.predictions.slide_models.known import Known
from wsi_pipeline.predictions.slide_models.member import Member
from wsi_pipeline.predictions.slide_models.subject import Subject, subjects_of
from wsi_pipeline.predictions.slide_models.unusual import Unusual
from wsi_pipeline.predictions.tasks import Task


class SlideModel(Protocol):
    """What answers a task for bags of cells."""

    @property
    def task(self) -> Task:
        """The task, with the classes that the model answers."""

    @property
    def card(self) -> Mapping[str, Any]:
        """Its card: ``name``, ``sha256``, ``specimens``, ``classifier``, ``simulated``, ``trained_on``, ``limits``."""

    def probabilities(self, bags: Sequence[CellBag]) -> FloatArray:
        """Return calibrated probabilities ``(n, classes)``."""

    def attention(self, bag: CellBag) -> FloatArray | None:
        """Return the weight of each cell ``(n,)``, adding up to 1; None of a model that does not weigh cells."""


@dataclass(frozen=True, kw_only=True)
class Combination:
    """How the members are put together for subjects that have the same.

    Parameters
    ----------
    weights
        Of each name, adding up to 1.
    scaling, sets
        Of the weighted mean.
    """

    weights: Mapping[str, float]
    scaling: Scaling
    sets: ConformalSets


@dataclass(frozen=True, kw_only=True)
class SlideEnsemble:
    """A :class:`SlideModel`.

    Parameters
    ----------
    members
        Those of one name are averaged.
    scalings
        Of each name.
    combinations
        By the optional names that apply, sorted and joined by ``+``.
    optional
        Names of members that not every subject has something for.
    known
        Whom it was trained on; None where its file does not say it.
    """

    task: Task
    card: Mapping[str, Any]
    members: tuple[Member, ...]
    scalings: Mapping[str, Scaling]
    combinations: Mapping[str, Combination]
    optional: tuple[str, ...]
    unusual: Unusual
    known: Known | None = None

    def probabilities(
        self,
        bags: Sequence[CellBag],
        *,
        counts: npt.NDArray[np.float64] | None = None,
        count_names: Sequence[str] = (),
    ) -> FloatArray:
        """Return calibrated probabilities ``(n, classes)``; neither order of cells nor company of subjects matters.

        Parameters
        ----------
        counts, count_names
            Routine counts ``(n, k)`` in canonical units, NaN where missing, and their analytes; None without any.

        Raises
        ------
        DataError
            A bag has no cell, was typed by another classifier, or has no embeddings although they are read.
        """
        rows = []
        for subject in subjects_of(bags, counts=counts, count_names=count_names):
            self.check(subject.bag)
            rows.append(self.resampled(subject, np.ones((1, len(subject.bag))))[0])
        return np.stack(rows) if rows else np.empty((0, len(self.task.codes)))

    def attention(self, bag: CellBag) -> FloatArray | None:
        """Return the mean attention of the members that weigh cells ``(n,)``, adding up to 1, in the bag's order.

        None where those members have no say in the answer.
        """
        self.check(bag)
        (subject,) = subjects_of([bag])
        heard = {name for name, w in self.combination_for(subject).weights.items() if w > 0}
        found = [
            w
            for m in self.members
            if m.name in heard and m.applies(subject) and (w := m.attention(subject)) is not None
        ]
        if not found:
            return None
        weight = np.empty(len(bag))
        weight[bag.order] = np.mean(found, axis=0)
        return weight

    def resampled(self, subject: Subject, weights: FloatArray, names: frozenset[str] | None = None) -> FloatArray:
        """Return probabilities ``(B, classes)`` of resamples, in which cells count ``weights`` ``(B, n)`` times.

        Parameters
        ----------
        names
            Members that take part; all when None.
        """
        combination = self.combination_for(subject)
        wanted = {name for name, w in combination.weights.items() if w > 0 and (names is None or name in names)}
        total = np.zeros((len(weights), len(self.task.codes)))
        for name, margins in self.margins_by_name(subject, weights, wanted).items():
            total += combination.weights[name] * self.scalings[name].scaled(margins)
        return combination.scaling.probabilities(total)

    def margins_by_name(self, subject: Subject, weights: FloatArray, wanted: Collection[str]) -> dict[str, FloatArray]:
        """Return the mean margins ``(B, classes)`` of the members of each wanted name that applies."""
        found: dict[str, list[FloatArray]] = {}
        for member in self.members:
            if member.name in wanted and member.applies(subject):
                found.setdefault(member.name, []).append(member.margins(subject, weights))
        return {name: np.mean(own, axis=0) for name, own in found.items()}

    def combination_for(self, subject: Subject) -> Combination:
        """Return how the members are put together for a subject."""
        return self.combination_with({m.name for m in self.members if m.applies(subject)})

    def combination_with(self, names_that_apply: Collection[str]) -> Combination:
        """Return how the members are put together where these can answer."""
        able = set(names_that_apply) & set(self.optional)
        # The training patients may not have had this very case; "" is always there.
        return next(
            self.combinations[key]
            for size in range(len(able), -1, -1)
            for names in combinations(sorted(able), size)
            if (key := combination_key(names)) in self.combinations
        )

    def check(self, bag: CellBag) -> None:
        """Refuse a bag that the model cannot read.

        Raises
        ------
        DataError
            It has no cell, or no embeddings although they are read.
        ModelError
            Another classifier typed its cells, or the model was made for another specimen.
        """
        if not len(bag):
            raise DataError(f"{bag.subject_id} has no nucleated cell")
        self.check_made_for(bag.specimen, whose=bag.subject_id)
        self.check_typed_by(bag.classifier_sha256, whose=bag.subject_id)
        if bag.classes != tuple(self.card["classifier"]["classes"]):
            raise ModelError(
                f"model {self.card['name']} reads the classes {', '.join(self.card['classifier']['classes'])}; the "
                f"cells of {bag.subject_id} have {', '.join(bag.classes)}. Run it again with the model's classifier"
            )
        if self.card["reads_embedding"] and bag.embedding is None:
            raise DataError(
                f"{bag.subject_id} has no embeddings, which model {self.card['name']} reads; run again with "
                "--set cells.embedding=true"
            )

    def check_made_for(self, *specimens: str, whose: str) -> None:
        """Refuse subjects none of whose specimens the model was made for.

        Parameters
        ----------
        whose
            Who or what asks, for the sentence.

        Raises
        ------
        ModelError
            It was made for others.
        """
        if not set(specimens) & set(self.card["specimens"]):
            raise ModelError(
                f"model {self.card['name']} was made for {', '.join(self.card['specimens'])}, not for "
                f"{', '.join(specimens) or 'no specimen'} ({whose})"
            )

    def check_typed_by(self, sha256: str, *, whose: str) -> None:
        """Refuse cells that another classifier typed than those the model learnt from; ``whose`` as above.

        Raises
        ------
        ModelError
            Another one did.
        """
        needed = self.card["classifier"]
        if sha256 != needed["sha256"]:
            raise ModelError(
                f"model {self.card['name']} was trained on cells that classifier {needed['name']} typed; those of "
                f"{whose} are typed by another ({sha256[:12]}), whose answers and embeddings mean something else. Run "
                "with that classifier, or train the model again on cells of this one"
            )


def combination_key(names: Iterable[str]) -> str:
    """Return the key of a combination."""
    return "+".join(sorted(names))
