"""The features of one subject, and of a cohort as a table."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from wsi_pipeline.predictions.bags.bag import CellBag
from wsi_pipeline.predictions.plain_csv import safe_cell
from wsi_pipeline.predictions.slide_features.feature import Columns, FloatArray, IntArray, SlideFeatures
from wsi_pipeline.predictions.slide_features.vocabulary import Vocabulary, families_of

_WHO = ("subject_id", "patient", "specimen", "slides", "cells")


class FeatureTable(NamedTuple):
    """Features of several subjects: ``names`` (d), ``values`` ``(n, d)`` with NaN, and ``n``, cells behind each."""

    names: tuple[str, ...]
    values: FloatArray
    n: IntArray


def slide_features(bag: CellBag, *, vocabulary: Vocabulary) -> SlideFeatures:
    """Return the features of a subject; they do not depend on the order of its cells.

    Raises
    ------
    DataError
        The bag was typed with another classifier than the vocabulary is of, or has no embeddings although they are
        needed.
    """
    vocabulary.check(bag)
    ordered = bag.in_order()
    columns = Columns()
    for family in families_of(vocabulary):
        family.add_values(ordered, vocabulary, columns)
    return SlideFeatures(
        names=vocabulary.names,
        values=np.array(columns.values, np.float64),
        n=np.array(columns.n, np.int64),
    )


def feature_table(bags: Sequence[CellBag], *, vocabulary: Vocabulary | None = None) -> FeatureTable:
    """Return the features of subjects, a row a bag.

    Parameters
    ----------
    vocabulary
        Of a model; that of the bags when None.

    Raises
    ------
    DataError
        As :func:`slide_features`, or no bag.
    """
    words = vocabulary or Vocabulary.of(bags)
    found = [slide_features(bag, vocabulary=words) for bag in bags]
    width = len(words.names)
    return FeatureTable(
        names=words.names,
        values=np.array([f.values for f in found], np.float64).reshape(len(found), width),
        n=np.array([f.n for f in found], np.int64).reshape(len(found), width),
    )


def table_csv(bags: Sequence[CellBag], table: FeatureTable) -> tuple[str, str]:
    """Return two CSV files of the same form: the values (empty where NaN), and the cells behind each."""
    texts = (io.StringIO(), io.StringIO())
    writers = [csv.writer(text, lineterminator="\n") for text in texts]
    for writer in writers:
        writer.writerow([*_WHO, *table.names])
    for bag, values, n in zip(bags, table.values.tolist(), table.n.tolist(), strict=True):
        who = [safe_cell(bag.subject_id), safe_cell(bag.patient), bag.specimen, len(bag.slide_ids), len(bag)]
        writers[0].writerow([*who, *("" if math.isnan(v) else f"{v:.9g}" for v in values)])
        writers[1].writerow([*who, *n])
    return texts[0].getvalue(), texts[1].getvalue()
