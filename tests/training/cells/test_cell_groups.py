"""Groups, splits and folds of cells."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from wsi_pipeline.errors import DataError
from wsi_pipeline.training.cells.groups import choose_grouping, deal_folds, fold_split, join, split_groups
from wsi_pipeline.training.cells.mixing import Mixing, mix


def _digests(n: int) -> list[str]:
    return [hashlib.sha256(str(i).encode()).hexdigest() for i in range(n)]


def test_groups_are_joined_by_chains() -> None:
    joined = join(np.array([0, 0, 1, 2]), np.array([5, 6, 6, 7]))
    assert joined[0] == joined[1] == joined[2] != joined[3]


def test_the_first_known_column_groups() -> None:
    patient, slide = np.array(["a", ""]), np.array(["s", "t"])
    columns = {"patient": patient, "slide": slide, "centre": np.array(["", ""])}
    assert choose_grouping(None, columns)[0] == "slide"
    assert choose_grouping("near-duplicate", columns) == ("near-duplicate", None)
    with pytest.raises(DataError, match="1 of 2 cells have no patient"):
        choose_grouping("patient", columns)


def test_every_class_reaches_every_part_without_tearing_groups() -> None:
    labels = np.array(["a"] * 60 + ["b"] * 9)
    groups = np.arange(69) // 3
    split = split_groups(groups, _digests(69), labels)
    for part in ("train", "val", "test"):
        assert set(labels[split == part]) == {"a", "b"}
    for group in range(23):
        assert len(set(split[groups == group])) == 1
    with pytest.raises(DataError, match="1 groups cannot be split"):
        split_groups(np.zeros(69, int), _digests(69), labels)


def test_each_group_is_tested_in_one_fold() -> None:
    labels = np.array(["a", "b"] * 40)
    groups = np.arange(80) // 2
    dealt = deal_folds(groups, _digests(80), labels, 5)
    assert all(len(set(dealt[groups == g])) == 1 for g in range(40))
    assert np.bincount(dealt).tolist() == [16] * 5
    split = fold_split(dealt, 2, groups, _digests(80), labels)
    assert ((split == "test") == (dealt == 2)).all()
    assert not set(groups[split == "val"]) & set(groups[split == "train"])
    with pytest.raises(DataError, match="only 40 groups"):
        deal_folds(groups, _digests(80), labels, 41)


@pytest.mark.parametrize("mixing", [Mixing(mixup=0.5), Mixing(cutmix=1.0)])
def test_targets_follow_the_pixels(mixing: Mixing) -> None:
    target = torch.arange(8) % 4
    window = target.float().view(8, 1, 1, 1).expand(8, 3, 32, 32).contiguous()
    generator = torch.Generator().manual_seed(5)
    mixed, shares = mix(window, target, 4, generator, mixing)
    assert torch.allclose(shares.sum(1), torch.ones(8))
    # Each image is as bright as its class number, so the mean brightness is the mean of the classes in it.
    assert torch.allclose(mixed.mean((1, 2, 3)), shares @ torch.arange(4.0), atol=1e-4)
    assert (shares.max(1).values < 1).any()
    again, _ = mix(window, target, 4, torch.Generator().manual_seed(5), mixing)
    assert torch.equal(mixed, again)
