"""An encoder tuned to labels of subjects: it finds a planted look, and answers alike however it is asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoder_bags import CLASSES, make_bag

from wsi_pipeline.atomic import write_json
from wsi_pipeline.cells.classifier import load_classifier
from wsi_pipeline.errors import ConfigError, DataError, ModelError
from wsi_pipeline.predictions.bags import CellBag
from wsi_pipeline.predictions.slide_features import Vocabulary
from wsi_pipeline.predictions.slide_models import load_slide_model, save_slide_model
from wsi_pipeline.predictions.slide_models.encoder import TunedEncoder, immature_rows
from wsi_pipeline.predictions.slide_models.encoder_member import EncoderMember
from wsi_pipeline.predictions.slide_models.storage import model_path
from wsi_pipeline.predictions.slide_models.subject import Subject
from wsi_pipeline.predictions.tasks import load_task
from wsi_pipeline.training.slides import encoder as slides_encoder
from wsi_pipeline.training.slides.data import maps_of
from wsi_pipeline.training.slides.encoder import CellMaps, EncoderRecipe, fit_encoder, read_cell_maps, tune_encoder
from wsi_pipeline.training.slides.fit import fit_slide_model
from wsi_pipeline.training.slides.members import ENCODER, TrainingSet, members_of
from wsi_pipeline.weights import file_sha256

RECIPE = EncoderRecipe(cells=5, views=2, steps=12, draws=4, tunings=1)
ROUGH = 1.0


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> list[CellBag]:
    """Ten subjects; those with odd numbers have rough cytoplasm."""
    folder = tmp_path_factory.mktemp("bags")
    return [make_bag(folder, f"P{i}", 5, ROUGH * (i % 2), seed=i + 1) for i in range(10)]


@pytest.fixture(scope="module")
def maps(bags: list[CellBag]) -> CellMaps:
    return read_cell_maps(bags, load_classifier("pbc-blast"), 2, RECIPE, report=lambda line: None)


@pytest.fixture(scope="module")
def encoder(maps: CellMaps) -> TunedEncoder:
    return tune_encoder(maps, range(6), [i % 2 for i in range(6)], seed=0)


def _says(encoder: TunedEncoder, bag: CellBag) -> float:
    logits = encoder.look(bag).subject(np.ones((1, len(bag))))[0]
    return float(logits[1] - logits[0])


def test_subjects_it_never_saw_are_told_apart(encoder: TunedEncoder, bags: list[CellBag]) -> None:
    smooth, rough = [_says(encoder, bags[i]) for i in (6, 8)], [_says(encoder, bags[i]) for i in (7, 9)]
    assert max(smooth) < min(rough)


def test_subjects_outside_the_training_part_teach_nothing(
    encoder: TunedEncoder, maps: CellMaps, bags: list[CellBag]
) -> None:
    changed = maps.maps.copy()
    changed[maps.subject >= 6] = 0
    again = tune_encoder(replace(maps, maps=changed), range(6), [i % 2 for i in range(6)], seed=0)
    assert _says(again, bags[0]) == _says(encoder, bags[0])


def test_the_same_seed_gives_the_same_encoder(maps: CellMaps, encoder: TunedEncoder) -> None:
    again = tune_encoder(maps, range(6), [i % 2 for i in range(6)], seed=0)
    assert all(np.array_equal(value, encoder.arrays()[name]) for name, value in again.arrays().items())


def test_pixels_read_again_answer_as_those_of_the_training(encoder: TunedEncoder, bags: list[CellBag]) -> None:
    alone = TunedEncoder.of_arrays(encoder.spec.to_dict(), encoder.arrays())
    for bag in (bags[0], bags[7]):
        np.testing.assert_array_equal(alone.look(bag).logits, encoder.look(bag).logits)


def test_a_member_survives_its_file(maps: CellMaps, bags: list[CellBag]) -> None:
    member = fit_encoder("encoder", maps, bags[:6], [i % 2 for i in range(6)], seed=0)
    assert member is not None
    again = EncoderMember.load("encoder", member.settings(), member.tensors(), 2)
    subject, times = Subject(bag=bags[7]), np.ones((1, 5))
    np.testing.assert_array_equal(again.margins(subject, times), member.margins(subject, times))
    cells, weight = again.cell_margins(subject), again.encoder.look(bags[7]).weight
    assert cells is not None
    np.testing.assert_allclose(again.margins(subject, times)[0], weight @ cells / (weight.sum() + 3))
    with pytest.raises(ModelError, match="answers 2 classes, the task has 3"):
        EncoderMember.load("encoder", member.settings(), member.tensors(), 3)


def test_a_class_without_immature_cells_leaves_the_member_out(maps: CellMaps, bags: list[CellBag]) -> None:
    assert fit_encoder("encoder", maps, bags[:6:2], [0, 0, 0], seed=0) is None


def test_company_and_order_of_cells_change_nothing(encoder: TunedEncoder, bags: list[CellBag]) -> None:
    bag = bags[1]
    alone = TunedEncoder.of_arrays(encoder.spec.to_dict(), encoder.arrays())
    one = alone.look(bag.take([2])).logits[0]
    np.testing.assert_array_equal(alone.look(bag.take([4, 2, 0])).logits[1], one)


def test_a_bag_asked_while_another_is_looked_at_keeps_its_own_answer(maps: CellMaps, bags: list[CellBag]) -> None:
    """As threads of a gallery do it."""
    alone = tune_encoder(maps, range(6), [i % 2 for i in range(6)], seed=0)
    wanted = alone.look(bags[7]).logits

    class Interrupted(TunedEncoder):
        def __setattr__(self, name: str, value: Any) -> None:
            if name == "_last" and value is not None:
                value = "of another thread", replace(value[1], logits=value[1].logits + 1)
            super().__setattr__(name, value)

    shared = Interrupted(alone.spec, maps.trunk, alone._tunings, known=maps.of)
    np.testing.assert_array_equal(shared.look(bags[7]).logits, wanted)


def test_a_subject_without_immature_cells_says_nothing(encoder: TunedEncoder, bags: list[CellBag]) -> None:
    mature = replace(bags[0], given=np.full(5, CLASSES.index("lymphocyte"), np.int64))
    assert encoder.look(mature).subject(np.ones((1, 5))).tolist() == [[0.0, 0.0]]


def test_large_cohorts_are_looked_at_with_fewer_cells_each(
    bags: list[CellBag], monkeypatch: pytest.MonkeyPatch
) -> None:
    each = 2 * 96 * 12 * 12 * RECIPE.views  # bytes of a cell of the compact network
    monkeypatch.setattr(slides_encoder, "MOST_BYTES", 3 * 2 * each)
    maps = read_cell_maps(bags[:2], load_classifier("pbc-blast"), 2, RECIPE, report=lambda line: None)
    assert maps.spec.cells == 3
    assert np.bincount(maps.subject).tolist() == [3, 3]


def test_given_labels_count_before_the_classifier(bags: list[CellBag]) -> None:
    given = np.array([CLASSES.index(c) for c in ("lymphocyte", "blast", "myelocyte")] + [-1, -1], np.int64)
    rows, weight = immature_rows(replace(bags[0], given=given), 64)
    assert rows.tolist() == [1, 2, 3, 4]
    assert weight[:2].tolist() == [1.0, 1.0]
    assert (weight[2:] < 1).all()
    assert immature_rows(replace(bags[0], given=given), 2)[0].tolist() == [1, 2]


def test_resamples_weigh_cells(encoder: TunedEncoder, bags: list[CellBag]) -> None:
    looked = encoder.look(bags[1])
    once, only = looked.subject(np.array([[1.0] * 5, [0, 0, 3, 0, 0]]))
    weight = looked.weight
    np.testing.assert_allclose(once, weight @ looked.logits / (weight.sum() + 3))
    np.testing.assert_allclose(only, 3 * weight[2] * looked.logits[2] / (3 * weight[2] + 3))


def test_what_cannot_be_tuned_is_refused(maps: CellMaps, bags: list[CellBag]) -> None:
    with pytest.raises(DataError, match=r"every class needs a subject with immature cells.*found 3, 0"):
        tune_encoder(maps, [0, 2, 4], [0, 0, 0], seed=0)
    other = [replace(bags[0], classifier_sha256="0" * 64)]
    with pytest.raises(ConfigError, match="P0 were typed by another classifier"):
        read_cell_maps(other, load_classifier("pbc-blast"), 2, RECIPE, report=lambda line: None)


@pytest.mark.parametrize("damage", ["shape", "nan", "missing", "description", "size"])
def test_damaged_encoders_are_refused(encoder: TunedEncoder, damage: str) -> None:
    description, arrays = encoder.spec.to_dict(), encoder.arrays()
    name = "tuning.0.out.weight"
    if damage == "shape":
        arrays[name] = arrays[name][:, :3]
    elif damage == "nan":
        arrays[name] = arrays[name] * np.nan
    elif damage == "missing":
        del arrays[name]
    elif damage == "size":
        description["network"] = description["network"] | {"stem": 10**6}
    else:
        description["network"] = description["network"] | {"stem": 16}
    with pytest.raises(ModelError, match="encoder"):
        TunedEncoder.of_arrays(description, arrays)


def _training_set(bags: list[CellBag], maps: CellMaps) -> TrainingSet:
    task = load_task("apl").restricted({"apl", "aml_other"})
    return TrainingSet(
        task=task,
        subjects=tuple(Subject(bag=bag) for bag in bags),
        labels=np.arange(len(bags)) % 2,
        patients=np.arange(len(bags)),
        vocabulary=Vocabulary.of(bags),
        label_names=(),
        analytes=(),
        maps=maps,
    )


def test_a_model_with_an_encoder_is_written_and_reads_pixels_again(
    bags: list[CellBag], maps: CellMaps, tmp_path: Path
) -> None:
    data = _training_set(bags, maps)
    fitted = fit_slide_model(data, ("composition", ENCODER), seed=0).model
    path = model_path(tmp_path, "tuned")
    save_slide_model(fitted, path)
    card = {
        "name": "tuned",
        "task": "slides",
        "sha256": file_sha256(path),
        "specimens": ["blood_smear"],
        "classifier": {"name": "pbc-blast", "sha256": bags[0].classifier_sha256, "classes": list(CLASSES)},
        "reads_embedding": False,
        "simulated": False,
        "trained_on": "drawn cells",
        "limits": [],
    }
    write_json(path.with_suffix(".json"), card)
    loaded = load_slide_model(path)
    assert loaded.combinations[""].weights[ENCODER] > 0.9  # compositions are alike
    asked = bags[:2]
    told = np.stack([fitted.resampled(s, np.ones((1, 5)))[0] for s in data.subjects[:2]])
    np.testing.assert_allclose(loaded.probabilities(asked), told, atol=1e-12)
    apl = data.task.codes.index("apl")
    assert told[0, apl] != told[1, apl]
    moved = replace(bags[0], images=tuple(f"{name}.moved" for name in bags[0].images or ()))
    with pytest.raises(DataError, match="--encoder frozen"):
        loaded.probabilities([replace(moved, subject_id="elsewhere")])


@pytest.mark.parametrize(
    ("kind", "encoder", "said"),
    [("auto", "melt", "give frozen or tune"), ("counts", "tune", "looks at no single cell")],
)
def test_wrong_choices_are_said(kind: str, encoder: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        members_of(kind, encoder)
    assert members_of("auto", "tune")[-1] == ENCODER


def test_a_classifier_that_is_not_shipped_must_be_named(bags: list[CellBag], maps: CellMaps) -> None:
    data = _training_set([replace(bag, classifier_sha256="f" * 64) for bag in bags], maps)
    with pytest.raises(ConfigError, match=r"no shipped classifier typed these cells \(f{12}\).*--classifier"):
        maps_of(data, None, lambda line: None)
