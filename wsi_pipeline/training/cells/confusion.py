"""How a classifier errs, by specimen, for its card: the table by which a slide's differential is corrected.

Only images count that the network was not trained on. Of the shipped recipe, images the simulator is built from and
their near-duplicates are left out too, so that virtual slides stay an independent test of the correction; so many of
its test images are of that kind that validation images are taken in. Those chose the epoch, which may flatter them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_pipeline.evaluation.tables import text_table
from wsi_pipeline.simulation.split import is_reserved
from wsi_pipeline.training.cards import replace_entry
from wsi_pipeline.training.cells.data import PackedCells
from wsi_pipeline.training.cells.report import Answers

_BLOOD = ("pbc", "bccd", "rbc-morphology")
_MARROW = ("marrow-cells",)
_FIRST_CHOICE: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "blood_smear": (_BLOOD, _MARROW),
    "marrow_smear": (_MARROW, _BLOOD),
}
"""Of the shipped recipe: the sets whose images stand for a specimen, and those for classes they lack."""

_SHIPPED_IMAGES = (
    "test and validation images, without those the simulator is built from and their near-duplicates; "
    "validation images chose the epoch"
)
_FOLDER_IMAGES = "test images, the same for every specimen"


def calibration_cells(
    cells: PackedCells, split: npt.NDArray[np.str_], groups: npt.NDArray[np.int64], *, shipped: bool
) -> npt.NDArray[np.int64]:
    """Return which cells the confusion is measured on.

    Parameters
    ----------
    cells, split, groups
        The packed cells, the split and the near-duplicate group of each.
    shipped
        Whether they are those of the shipped recipe, whose reserved images the simulator uses.
    """
    if not shipped:
        return np.flatnonzero(split == "test")
    reserved = np.array([is_reserved(name) for name in cells.files.tolist()])
    like_reserved = np.isin(groups, groups[reserved])
    return np.flatnonzero(np.isin(split, ("val", "test")) & ~like_reserved)


def card_confusion(
    answers: Answers, classes: Sequence[str], specimens: Sequence[str], *, shipped: bool
) -> dict[str, Any]:
    """Return the ``confusion`` entry of a card.

    Parameters
    ----------
    answers
        On the images of :func:`calibration_cells`.
    classes
        All answers of the classifier, in its order.
    specimens
        Those it may be used on.
    shipped
        With the shipped recipe each specimen takes the images of its own kind of smear, and of the other kind those
        of classes it lacks; otherwise all specimens take all images.

    Returns
    -------
    dict
        ``specimens``: for each ``classes``, ``counts`` (true class by answer), ``sources`` (sets by true class) and
        ``images`` (which, in words).
    """
    found: dict[str, Any] = {}
    for specimen in specimens:
        everything = tuple(sorted(set(answers.source.tolist())))
        choices = _FIRST_CHOICE[specimen] if shipped and specimen in _FIRST_CHOICE else (everything,)
        counts, sources = [], {}
        for name in classes:
            chosen = np.zeros(len(answers.truth), bool)
            for sets in choices:
                if not chosen.any():
                    chosen = (answers.truth == name) & np.isin(answers.source, sets)
            answered = answers.answer[chosen].tolist()
            counts.append([answered.count(code) for code in classes])
            sources[name] = sorted(set(answers.source[chosen].tolist()))
        found[specimen] = {
            "classes": list(classes),
            "counts": counts,
            "sources": sources,
            "images": _SHIPPED_IMAGES if shipped else _FOLDER_IMAGES,
        }
    return {"specimens": found}


def confusion_tables(confusion: Mapping[str, Any]) -> dict[str, str]:
    """Return titles and plain-text tables of a ``confusion`` entry for the Markdown card, one where all are alike."""
    tables: dict[str, str] = {}
    entries = confusion["specimens"]
    alike: dict[str, list[str]] = {}
    for specimen, entry in entries.items():
        alike.setdefault(json.dumps(entry, sort_keys=True), []).append(specimen)
    for members in alike.values():
        entry = entries[members[0]]
        named = " and ".join(m.replace("_", " ") for m in members)
        rows = [
            [f"{name} ({', '.join(entry['sources'][name]) or 'none'})", sum(row), *row]
            for name, row in zip(entry["classes"], entry["counts"], strict=True)
        ]
        table = text_table(["true (sets) \\ answered", "images", *entry["classes"]], rows)
        tables[f"What corrects the differential of a {named}"] = f"{entry['images']}\n\n{table}"
    return tables


def write_confusion(weights: Path, confusion: Mapping[str, Any]) -> None:
    """Put a ``confusion`` entry into the card beside weights, in place of an earlier one; all else stays as it is.

    Raises
    ------
    DataError
        The card is missing, or its Markdown is not one of :func:`wsi_pipeline.training.cards.render_markdown`.
    """
    replace_entry(weights, "confusion", confusion, confusion_tables)
