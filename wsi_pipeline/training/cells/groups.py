"""Which cells must stay together, and how groups are dealt to train, validation and test, or to folds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import DataError
from wsi_pipeline.training.splits import group_keys, joined_groups, split_by_group

Grouping = Literal["patient", "slide", "centre", "near-duplicate"]
GROUPINGS: tuple[Grouping, ...] = ("patient", "slide", "centre", "near-duplicate")
_VAL_SHARE = 0.1


def choose_grouping(
    asked: str | None, columns: dict[str, npt.NDArray[np.str_]]
) -> tuple[Grouping, npt.NDArray[np.int64] | None]:
    """Return the grouping and a number per cell for it (None: near-duplicates alone).

    Parameters
    ----------
    asked
        ``patient``, ``slide``, ``centre`` or ``near-duplicate``; None takes the first of them that is known.
    columns
        For ``patient``, ``slide`` and ``centre`` the value of each cell, empty where unknown.

    Raises
    ------
    DataError
        An unknown grouping, or one that was asked for and that not every cell has.
    """
    if asked is not None and asked not in GROUPINGS:
        raise DataError(f"--group {asked}: one of {', '.join(GROUPINGS)} is needed")
    if asked == "near-duplicate":
        return "near-duplicate", None
    for name in GROUPINGS[:3] if asked is None else (asked,):
        values = columns[name]
        known = values != ""
        if asked is not None and not known.all():
            raise DataError(f"--group {asked}: {int((~known).sum())} of {len(known)} cells have no {asked}")
        if known.all():
            return name, np.unique(values, return_inverse=True)[1].astype(np.int64)
    return "near-duplicate", None


def join(first: npt.NDArray[np.int64], second: npt.NDArray[np.int64] | None) -> npt.NDArray[np.int64]:
    """Return groups in which cells share one if they do in either numbering, or by a chain of both."""
    n = len(first)
    pairs = []
    for numbers in (first, second):
        if numbers is not None:
            _, start, inverse = np.unique(numbers, return_index=True, return_inverse=True)
            pairs.append(np.stack([np.arange(n), start[inverse]], axis=1))
    return joined_groups(np.concatenate(pairs), n)


def split_groups(
    groups: npt.NDArray[np.int64], digests: Sequence[str], labels: npt.NDArray[np.str_]
) -> npt.NDArray[np.str_]:
    """Return train, val or test by group hash; whole groups move where a class would be missing from a part.

    A class of few groups may miss a part by chance. Then its group of the smallest hash moves there, first to train,
    then, unless a part would lose its last cells of a class by it, to test and val.

    Raises
    ------
    DataError
        A class has no group that may be trained on, or nothing is left to choose or to test on.
    """
    split = split_by_group(groups, digests)
    key = group_keys(groups, digests, "cells-1")
    for part in ("train", "test", "val"):
        for label in sorted(set(labels.tolist())):
            mine = labels == label
            if (mine & (split == part)).any():
                continue
            for group in sorted(set(groups[mine].tolist()), key=key.__getitem__):
                trial = split.copy()
                trial[groups == group] = part
                if part == "train" or _keeps(trial, split, labels):
                    split = trial
                    break
    for part in ("train", "val", "test"):
        if not (split == part).any():
            raise DataError(
                f"{len(set(groups.tolist()))} groups cannot be split into train, validation and test with every class "
                "in train; add patients or slides, or split by --group near-duplicate"
            )
    untrained = sorted(set(labels.tolist()) - set(labels[split == "train"].tolist()))
    if untrained:
        raise DataError(f"no group of {', '.join(untrained)} is left to train on; add patients or slides of these")
    return split


def deal_folds(
    groups: npt.NDArray[np.int64], digests: Sequence[str], labels: npt.NDArray[np.str_], folds: int
) -> npt.NDArray[np.int64]:
    """Return the fold of each cell: groups in hash order, dealt in turn within their most frequent class.

    Raises
    ------
    DataError
        There are fewer groups than folds.
    """
    key = group_keys(groups, digests, "folds-1")
    if len(key) < folds:
        raise DataError(f"--folds {folds}: there are only {len(key)} groups")
    main = {g: Counter(labels[groups == g].tolist()).most_common(1)[0][0] for g in key}
    ordered = sorted(key, key=lambda g: (main[g], key[g]))
    place = {group: i % folds for i, group in enumerate(ordered)}
    return np.array([place[g] for g in groups.tolist()], dtype=np.int64)


def fold_split(
    fold_of: npt.NDArray[np.int64],
    fold: int,
    groups: npt.NDArray[np.int64],
    digests: Sequence[str],
    labels: npt.NDArray[np.str_],
) -> npt.NDArray[np.str_]:
    """Return the split of one fold: the fold is test; a tenth of the other groups, by hash, chooses the epoch.

    Raises
    ------
    DataError
        A class has no cells left to train on.
    """
    key = group_keys(groups, digests, f"val-of-fold-{fold}")
    split = np.where(fold_of == fold, "test", "train").astype("<U5")
    others = sorted(set(groups[fold_of != fold].tolist()), key=key.__getitem__)
    wanted = max(1, round(_VAL_SHARE * len(others)))
    taken = 0
    for group in others:
        if taken == wanted:
            break
        trial = split.copy()
        trial[groups == group] = "val"
        if set(labels[trial == "train"].tolist()) == set(labels[split == "train"].tolist()):
            split, taken = trial, taken + 1
    missing = sorted(set(labels.tolist()) - set(labels[split == "train"].tolist()))
    if missing or not taken:
        raise DataError(
            f"fold {fold}: no cells of {', '.join(missing) or 'any class'} to {'train' if missing else 'choose'} on "
            "outside it; fewer --folds, or more groups"
        )
    return split


def _keeps(trial: npt.NDArray[np.str_], before: npt.NDArray[np.str_], labels: npt.NDArray[np.str_]) -> bool:
    """Whether no class that each part had is lost from it."""
    return all(set(labels[before == p].tolist()) <= set(labels[trial == p].tolist()) for p in ("train", "val", "test"))
