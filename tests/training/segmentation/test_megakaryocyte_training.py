"""What the network of megakaryocytes is trained and measured on."""

from __future__ import annotations

import numpy as np
import pytest

from wsi_pipeline.errors import DataError
from wsi_pipeline.evaluation.segmentation import ImageScore
from wsi_pipeline.segmentation.kinds import MEGAKARYOCYTE_KINDS
from wsi_pipeline.simulation.megakaryocytes import MegakaryocyteShape
from wsi_pipeline.simulation.sprites import load_sprites
from wsi_pipeline.training.segmentation.data import IGNORE, SECTION_KINDS, Sample
from wsi_pipeline.training.segmentation.fit import RECIPES, initial_weights
from wsi_pipeline.training.segmentation.megakaryocyte_composites import COMPOSITE_MPP, composite
from wsi_pipeline.training.segmentation.megakaryocyte_figures import (
    CompositeScores,
    composite_figures,
    measure_composites,
    real_figures,
    touching_pairs,
)
from wsi_pipeline.training.segmentation.section_labels import megakaryocyte_sample
from wsi_pipeline.training.segmentation.train_shipped import train_shipped

NUCLEI = tuple(sprite for sprite in load_sprites() if sprite.kind == "nucleus")
CYTOPLASM, NUCLEUS = 1, 2


def test_a_composite_is_labelled_and_the_same_again() -> None:
    shape = MegakaryocyteShape(diameter_um=24, nc_ratio=0.4, lobes=4, lobulation=0.5)
    made = [composite(number, "test", NUCLEI, shape=shape) for number in (1, 3)]
    again = composite(3, "test", NUCLEI, shape=shape)
    assert np.array_equal(made[1].rgb, again.rgb)
    assert np.array_equal(made[1].labels, again.labels)
    assert not np.array_equal(made[0].rgb, made[1].rgb)
    for sample in made:
        assert (sample.split, sample.mpp) == ("test", COMPOSITE_MPP)
        assert ((sample.kinds > 0) == (sample.labels > 0)).all()
        assert set(np.unique(sample.kinds)) <= {0, CYTOPLASM, NUCLEUS}
        whole = [
            number
            for number in range(1, sample.labels.max() + 1)
            if number
            not in np.unique(np.concatenate([sample.labels[[0, -1]].ravel(), sample.labels[:, [0, -1]].ravel()]))
        ]
        for number in whole:
            area = (sample.labels == number).sum() * COMPOSITE_MPP**2
            assert area <= np.pi * 12**2 * 1.06
            assert area >= np.pi * 12**2 * 0.7  # what lies there first hides a part


def test_halves_differ() -> None:
    assert not np.array_equal(composite(0, "test", NUCLEI).rgb, composite(0, "train", NUCLEI).rgb)


def test_a_real_field_is_known_but_for_doubt_and_the_unseen_border() -> None:
    labels = np.zeros((60, 90), np.int32)
    labels[10:20, 10:20], labels[30:45, 20:40], labels[30:45, 60:80] = 1, 2, 3
    kinds = (labels > 0).astype(np.uint8)
    kinds[labels == 2], kinds[labels == 3] = SECTION_KINDS.index("megakaryocyte"), IGNORE
    field = Sample(
        name="tissue-nuclei/images/a.png", split="train", rgb=np.zeros((60, 90, 3), np.uint8), labels=labels,
        kinds=kinds, known=np.ones(labels.shape, bool), mpp=0.3,
    )  # fmt: skip
    found = megakaryocyte_sample(field)
    assert (found.labels == (labels == 2)).all()
    assert (found.kinds[labels == 2] == NUCLEUS).all()
    assert found.known[labels == 2].all()
    assert found.known[labels == 1].all()
    assert (found.kinds[labels == 1] == 0).all()
    assert not found.known[labels == 3].any()
    assert not found.known[27:30, 20:40].any()
    assert found.name.startswith("megakaryocyte-fields/")


def test_pairs_that_touch() -> None:
    labels = np.zeros((20, 30), np.int32)
    labels[5:10, 2:8], labels[5:10, 8:14], labels[12:15, 2:8], labels[5:10, 17:20] = 1, 2, 3, 4
    assert touching_pairs(labels) == [(1, 2)]
    labels[11, 3] = 3
    assert touching_pairs(labels) == [(1, 2), (1, 3)]
    assert touching_pairs(labels[:, ::-1].T) == [(1, 2), (1, 3)]


def test_the_shipped_network_finds_composites_of_held_out_cut_outs() -> None:
    shape = MegakaryocyteShape(diameter_um=26, nc_ratio=0.35, lobes=5, lobulation=0.6)
    samples = [composite(number, "test", NUCLEI, shape=shape) for number in range(6)]
    scores = measure_composites(samples, "compact-megakaryocyte", "cpu")
    figures = {figure.name: figure for figure in composite_figures(scores, "here")}
    assert figures["recall at IoU 0.5"].n >= 8
    assert (figures["recall at IoU 0.5"].value or 0) >= 0.7
    assert (figures["precision at IoU 0.5"].value or 0) >= 0.6
    assert (figures["Dice of the nucleus in found cells"].value or 0) >= 0.7


def test_figures_of_nothing_are_undefined() -> None:
    score = ImageScore(name="a", n_true=0, n_pred=0, tp=(0, 0), fp=(0, 0), fn=(0, 0))
    for figure in composite_figures(CompositeScores(images=[score]), "nothing") + real_figures([score], (), "nothing"):
        assert (figure.n, figure.value) == (0, None)


def test_the_recipe_starts_from_the_network_of_nuclei(tmp_path) -> None:
    recipe = RECIPES["compact-megakaryocyte"]
    assert (recipe.kinds, recipe.mpp) == (MEGAKARYOCYTE_KINDS, 0.5)
    weights = initial_weights("compact-megakaryocyte")
    assert weights is not None
    assert not any(key.startswith("head.") for key in weights)
    assert initial_weights("compact-section") is None
    with pytest.raises(DataError, match="leave it out"):
        train_shipped(tmp_path, tmp_path, "compact-megakaryocyte", device="cpu", report=print, folds=3)
