"""What the families of features need to know of a cohort."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Words:
    """What decides which features there are.

    Parameters
    ----------
    taxonomy, classes
        Of the classifier.
    attributes
        Attributes it answers.
    label_sets
        Other taxonomies that folders gave labels of.
    embedding_dim
        Length of its embedding; None leaves the features of embeddings out.
    """

    taxonomy: str
    classes: tuple[str, ...]
    attributes: tuple[str, ...] = ()
    label_sets: tuple[str, ...] = ()
    embedding_dim: int | None = None
