"""Which features there are: decided by the classifier and the label sets of a cohort, and kept with a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Protocol

from wsi_pipeline.errors import DataError, ModelError, some
from wsi_pipeline.predictions.bags.bag import CellBag
from wsi_pipeline.predictions.bags.cells import FLAGS
from wsi_pipeline.predictions.slide_features import composition, embeddings, rates, shape, trephine
from wsi_pipeline.predictions.slide_features.feature import Columns, SlideFeature
from wsi_pipeline.predictions.slide_features.words import Words


class FamilyModule(Protocol):
    """A module that says which features a family has, and what they are in a bag."""

    def features(self, words: Words) -> Iterator[SlideFeature]: ...

    def add_values(self, bag: CellBag, words: Words, columns: Columns) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Vocabulary(Words):
    """What decides the features; two bags of one vocabulary have the same columns in the same order."""

    @classmethod
    def of(cls, bags: Sequence[CellBag]) -> Vocabulary:
        """Return the vocabulary of a cohort.

        Raises
        ------
        DataError
            No bag, or bags of several classifiers.
        """
        if not bags:
            raise DataError("no bag of cells was given")
        first = bags[0]
        other = [b.subject_id for b in bags if (b.taxonomy, b.classes) != (first.taxonomy, first.classes)]
        if other:
            raise DataError(f"{some(other)} and {first.subject_id} were typed with classifiers of different classes")
        labels = {str(name) for bag in bags if bag.given_labels is not None for name in set(bag.given_labels.tolist())}
        sets = {name.partition("/")[0] for name in labels if name}
        dims = {None if bag.embedding is None else bag.embedding.shape[1] for bag in bags}
        return cls(
            taxonomy=first.taxonomy,
            classes=first.classes,
            attributes=tuple(sorted({n for b in bags for n in b.attribute_names} - set(FLAGS.values()))),
            label_sets=tuple(sorted(sets - {first.taxonomy})),
            embedding_dim=dims.pop() if len(dims) == 1 else None,
        )

    @property
    def features(self) -> tuple[SlideFeature, ...]:
        """Return all features, in order."""
        return features_of(self)

    @property
    def names(self) -> tuple[str, ...]:
        """Return their names."""
        return tuple(feature.name for feature in self.features)

    def to_dict(self) -> dict[str, Any]:
        """Return what a model's card keeps; JSON values only."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Vocabulary:
        """Return what :meth:`to_dict` wrote.

        Raises
        ------
        ModelError
            The record is none of a vocabulary.
        """
        try:
            fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in record.items()}
            return cls(**fields)
        except TypeError as error:
            raise ModelError(f"the card's vocabulary of features is damaged: {error}") from None

    def check(self, bag: CellBag) -> None:
        """Raise :class:`DataError` unless the features of a bag are those of the vocabulary."""
        if (bag.taxonomy, bag.classes) != (self.taxonomy, self.classes):
            raise DataError(
                f"{bag.subject_id} was typed in taxonomy {bag.taxonomy} ({len(bag.classes)} classes), the features are "
                f"of {self.taxonomy} ({len(self.classes)} classes); run it with the classifier of the model"
            )
        d = None if bag.embedding is None else bag.embedding.shape[1]
        if self.embedding_dim is not None and d != self.embedding_dim:
            what = "no embeddings" if d is None else f"embeddings of length {d}"
            raise DataError(
                f"{bag.subject_id} has {what}, the features need length {self.embedding_dim}; run again with "
                "--set cells.embedding=true and the classifier of the model"
            )


@cache
def features_of(words: Words) -> tuple[SlideFeature, ...]:
    """Return the features of a vocabulary, family by family."""
    return tuple(f for family in families_of(words) for f in family.features(words))


def families_of(words: Words) -> tuple[FamilyModule, ...]:
    """Return the modules of the families of a vocabulary, in order: of trephines, or of smears."""
    return (trephine,) if words.taxonomy == trephine.SECTION else (composition, shape, rates, embeddings)
