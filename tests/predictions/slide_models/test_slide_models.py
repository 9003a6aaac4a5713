"""Slide-level models: order and company change nothing, files hold all of them, damaged ones are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from made_bags import CLASSES, SHA256, made_bag, made_training_set, two_groups

from wsi_pipeline.errors import DataError, MissingWeightsError, ModelError
from wsi_pipeline.predictions.slide_models import CriteriaModel, SlideEnsemble, answer, load_slide_model
from wsi_pipeline.predictions.slide_models.inputs import Labels
from wsi_pipeline.predictions.slide_models.storage import model_path, save_slide_model
from wsi_pipeline.predictions.slide_models.subject import Subject, subjects_of
from wsi_pipeline.predictions.tasks import load_task
from wsi_pipeline.training.slides.fit import fit_slide_model
from wsi_pipeline.training.slides.members import RECIPES
from wsi_pipeline.weights import beside_weights, file_sha256

CARD = {
    "name": "m", "task": "slides", "sha256": "0", "specimens": ["blood_smear"], "reads_embedding": True,
    "classifier": {"name": "c", "sha256": SHA256, "classes": list(CLASSES)}, "simulated": False,
    "trained_on": "made patients", "limits": ["It knows made patients only."],
}  # fmt: skip


def _model(kind: str, *, labelled: bool = False) -> SlideEnsemble:
    bags, labels = two_groups(32, labelled=labelled)
    counts = np.array([[10.0 + i % 2] for i in range(32)]) if kind == "fusion" else None
    data = made_training_set(bags, labels, counts=counts)
    return fit_slide_model(data, RECIPES[kind], seed=3, folds=2, card=CARD).model


@pytest.fixture(scope="module")
def fusion() -> SlideEnsemble:
    return _model("fusion", labelled=True)


@pytest.fixture(scope="module", params=["fusion", "mil", "counts"])
def model(request: pytest.FixtureRequest, fusion: SlideEnsemble) -> SlideEnsemble:
    return fusion if request.param == "fusion" else _model(request.param)


def _saved(model: SlideEnsemble, folder: Path) -> Path:
    path = model_path(folder, "m")
    save_slide_model(model, path)
    beside_weights(path, ".json").write_text(json.dumps({**CARD, "sha256": file_sha256(path)}))
    return path


def test_order_of_cells_and_company_of_patients_change_nothing(model: SlideEnsemble) -> None:
    bags = [made_bag(f"N{i}", seed=100 + i, shift=i / 2) for i in range(4)]
    shuffled = [b.take(np.random.default_rng(i).permutation(len(b))) for i, b in enumerate(bags)]
    together = model.probabilities(bags)
    assert np.array_equal(together, model.probabilities(shuffled))
    assert np.array_equal(together, np.concatenate([model.probabilities([b]) for b in bags]))
    assert np.array_equal(together[::-1], model.probabilities(bags[::-1]))
    assert answer(model, bags[0]) == answer(model, shuffled[0])


def test_attention_follows_the_order_of_the_bag(fusion: SlideEnsemble) -> None:
    bag = made_bag("N", seed=7)
    weight = fusion.attention(bag)
    assert weight is not None
    assert weight.shape == (len(bag),)
    assert weight.min() >= 0
    assert weight.sum() == pytest.approx(1)
    order = np.random.default_rng(0).permutation(len(bag))
    assert np.array_equal(fusion.attention(bag.take(order)), weight[order])


def test_new_patients_are_told_apart(model: SlideEnsemble) -> None:
    found = model.probabilities([
        *(made_bag(f"A{i}", seed=500 + i, promyelocytes=0.5, shift=1.3) for i in range(6)),
        *(made_bag(f"B{i}", seed=600 + i, promyelocytes=0.1) for i in range(6)),
    ])  # fmt: skip
    assert found[:6, 0].min() > found[6:, 0].max()
    assert found[:6, 0].mean() > found[6:, 0].mean() + 0.25
    assert np.allclose(found.sum(axis=1), 1)


def test_a_file_holds_the_whole_model(model: SlideEnsemble, tmp_path: Path) -> None:
    path = _saved(model, tmp_path)
    read = load_slide_model(path)
    bags = [made_bag("N", seed=9), made_bag("O", seed=10, labelled=True)]
    assert np.array_equal(read.probabilities(bags), model.probabilities(bags))
    assert np.array_equal(
        read.probabilities(bags, counts=np.array([[5.0], [9.0]]), count_names=("WBC_G_L",)),
        model.probabilities(bags, counts=np.array([[5.0], [9.0]]), count_names=("WBC_G_L",)),
    )
    assert read.task == model.task
    again = tmp_path / "again.slides.safetensors"
    save_slide_model(read, again)
    assert again.read_bytes() == path.read_bytes()


def test_the_same_seed_gives_the_same_file(tmp_path: Path) -> None:
    for name in "ab":
        save_slide_model(_model("mil"), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_labels_and_counts_are_used_where_they_are(fusion: SlideEnsemble) -> None:
    assert set(fusion.combinations) == {"", "labels", "routine counts", "labels+routine counts"}
    bag = made_bag("N", seed=11, labelled=True)
    plain = replace(bag, given=np.full(len(bag), -1), given_labels=None)
    p = fusion.probabilities([bag, plain])
    assert not np.array_equal(p[0], p[1])
    with_counts = fusion.probabilities([plain], counts=np.array([[11.0]]), count_names=("WBC_G_L",))
    assert not np.array_equal(with_counts[0], p[1])


def test_members_without_a_say_show_no_cells(fusion: SlideEnsemble) -> None:
    bag = made_bag("N", seed=7)
    unheard = {
        key: replace(own, weights={name: float(name == "composition") for name in own.weights})
        for key, own in fusion.combinations.items()
    }
    model = replace(fusion, combinations=unheard)
    assert model.attention(bag) is None
    found = answer(model, bag)
    assert found.attention is None
    assert sum(weight for _, weight in found.evidence) <= 1
    assert found.evidence, "the cells whose loss would lower the answer"


def test_counts_that_are_no_numbers_count_as_missing(fusion: SlideEnsemble) -> None:
    bag = made_bag("N", seed=7)
    for value in (np.nan, np.inf):
        assert answer(fusion, bag, counts={"WBC_G_L": value}) == answer(fusion, bag)
    assert answer(fusion, bag, counts={"WBC_G_L": 11.0}) != answer(fusion, bag)


def test_large_bags_are_drawn_a_few_at_a_time(fusion: SlideEnsemble, monkeypatch: pytest.MonkeyPatch) -> None:
    bag = made_bag("N", seed=7)
    at_once = answer(fusion, bag)
    asked: list[int] = []
    whole = SlideEnsemble.resampled

    def counted(self: SlideEnsemble, subject: Subject, weights: np.ndarray, *names: frozenset[str]) -> np.ndarray:
        asked.append(weights.size)
        return whole(self, subject, weights, *names)

    monkeypatch.setattr(SlideEnsemble, "resampled", counted)
    # The package has a function of the module's name.
    monkeypatch.setattr(import_module("wsi_pipeline.predictions.slide_models.answer"), "_MOST_WEIGHTS", 7 * len(bag))
    found = answer(fusion, bag)
    assert max(asked) == 7 * len(bag)
    for code in found.lower:
        assert found.lower[code] == pytest.approx(at_once.lower[code])
        assert found.upper[code] == pytest.approx(at_once.upper[code])


def test_a_patient_with_three_cells_abstains(model: SlideEnsemble) -> None:
    found = answer(model, made_bag("N", seed=1, cells=3))
    assert (found.abstained, found.reason, found.class_set) == (True, "too-few-cells", ())
    assert found.n_cells == 3
    assert found.probabilities == {}


def test_an_answer_has_interval_evidence_and_words(model: SlideEnsemble) -> None:
    bag = made_bag("N", seed=501, promyelocytes=0.6, shift=1.5, cells=80)
    found = answer(model, bag)
    for code, p in found.probabilities.items():
        assert 0 <= found.lower[code] <= p <= found.upper[code] <= 1
        assert found.upper[code] - found.lower[code] < 0.9
    assert sum(found.probabilities.values()) == pytest.approx(1)
    ids, weights = zip(*found.evidence, strict=True)
    assert set(ids) <= set(bag.cell_ids.tolist())
    assert list(weights) == sorted(weights, reverse=True)
    assert "promyelocytic" in found.wording
    narrow = answer(model, bag, confidence=0.5)
    top = found.class_set[0] if found.class_set else "apl"
    assert narrow.upper[top] - narrow.lower[top] < found.upper[top] - found.lower[top]


def test_a_model_of_simulated_cohorts_answers_only_when_allowed(fusion: SlideEnsemble) -> None:
    simulated = replace(fusion, card={**CARD, "simulated": True})
    bag = made_bag("N", seed=1)
    assert answer(simulated, bag).reason == "no-real-training-data"
    allowed = answer(simulated, bag, allow_simulated=True)
    assert allowed.reason != "no-real-training-data"
    assert allowed.wording.startswith("Simulated: ")


def test_another_stain_and_another_look_are_noticed(fusion: SlideEnsemble) -> None:
    usual = answer(fusion, made_bag("N", seed=2))
    assert usual.reason != "out-of-distribution"
    dark = answer(fusion, made_bag("N", seed=2, stain=0.9))
    assert (dark.abstained, dark.reason) == (True, "out-of-distribution")
    assert any(flag.startswith("Stain") for flag in dark.flags)
    bag = made_bag("N", seed=2)
    moved = replace(bag, embedding=bag.embedding + 3)  # type: ignore[operator]
    assert any(flag.startswith("Look of the cells") for flag in answer(fusion, moved).flags)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"classifier_sha256": "cd" * 32}, ModelError, "typed by another"),
        ({"specimen": "marrow_smear"}, ModelError, "was made for blood_smear"),
        ({"embedding": None}, DataError, "cells.embedding=true"),
    ],
)
def test_cells_that_the_model_cannot_read_are_refused(
    fusion: SlideEnsemble, change: dict[str, object], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        fusion.probabilities([replace(made_bag("N", seed=1), **change)])  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no nucleated cell"):
        fusion.probabilities([made_bag("N", seed=1).take([])])


def test_damaged_files_are_refused(fusion: SlideEnsemble, tmp_path: Path) -> None:
    path = _saved(fusion, tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ModelError, match="SHA-256"):
        load_slide_model(path)
    for wrong in (content[: len(content) // 2], b"pickle", content.replace(b"frame.basis", b"frame.basos", 1)):
        path.write_bytes(wrong)
        beside_weights(path, ".json").write_text(json.dumps({**CARD, "sha256": file_sha256(path)}))
        with pytest.raises(ModelError) as error:
            load_slide_model(path)
        assert str(path) in str(error.value)
    path.write_bytes(content)
    for classifier in ({"name": "c"}, "c"):
        said = {**CARD, "sha256": file_sha256(path), "classifier": classifier}
        beside_weights(path, ".json").write_text(json.dumps(said))
        with pytest.raises(ModelError, match="does not say the classifier"):
            load_slide_model(path)
    with pytest.raises(MissingWeightsError):
        load_slide_model(tmp_path / "none.slides.safetensors")


def test_a_header_that_lies_is_refused(tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.numpy import save

    path = _saved(_model("counts"), tmp_path)
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["model"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    for change, said in (
        (lambda h, t: h["combinations"][""]["weights"].update(composition=7.0), "weights"),
        (lambda h, t: h["members"][0].update(kind="pickle"), "kind 'pickle'"),
        (lambda h, t: h["combinations"].pop(""), "fit together"),
        (lambda h, t: h["scalings"]["composition"].update(slope=-1), "calibration"),
        (lambda h, t: t.update({"member.0.mean": t["member.0.mean"] * np.nan}), "no numbers"),
        (lambda h, t: h.update(limits={"stain": 0}), "limits"),
    ):
        own, arrays = json.loads(json.dumps(header)), dict(tensors)
        change(own, arrays)
        path.write_bytes(save(arrays, metadata={"model": json.dumps(own)}))
        beside_weights(path, ".json").write_text(json.dumps({**CARD, "sha256": file_sha256(path)}))
        with pytest.raises(ModelError, match=said):
            load_slide_model(path)


def test_criteria_put_one_half_at_the_published_limit() -> None:
    model = CriteriaModel(task=load_task("apl"))
    low, high = (made_bag(n, seed=1, cells=400, promyelocytes=p) for n, p in (("a", 0.03), ("b", 0.5)))
    p = model.probabilities([low, high])[:, 0]
    assert p[0] < 0.5 < p[1]
    assert model.attention(low) is None
    from wsi_pipeline.errors import ConfigError

    with pytest.raises(ConfigError, match="no published limit"):
        CriteriaModel(task=load_task("smear_diagnosis"))


def test_three_classes(tmp_path: Path) -> None:
    shares = {"normal": 0.05, "aml": 0.25, "apl": 0.6}
    bags, labels = [], []
    for i in range(36):
        label = list(shares)[i % 3]
        labels.append(label)
        bags.append(made_bag(f"P{i:02d}", seed=i, promyelocytes=shares[label], shift=1.0 if label == "apl" else 0.0))
    data = made_training_set(bags, labels, task="smear_diagnosis", classes=tuple(shares))
    model = fit_slide_model(
        data, ("composition", "immature", "forest", "tree", "attention"), seed=0, folds=2, card=CARD
    ).model
    new = [
        made_bag(f"N{c}", seed=900, promyelocytes=s, shift=1.0 if c == "apl" else 0.0, cells=200)
        for c, s in shares.items()
    ]
    p = model.probabilities(new)
    assert p.argmax(axis=1).tolist() == [0, 1, 2]
    assert np.array_equal(load_slide_model(_saved(model, tmp_path)).probabilities(new), p)
    found = answer(model, new[2])
    assert set(found.probabilities) == set(shares)
    assert len(found.class_set) < 3


def test_labels_of_another_taxonomy_that_mean_the_same_are_read_and_strange_ones_are_not() -> None:
    bag = made_bag("P", seed=0, labelled=True)
    assert bag.given_labels is not None
    own = tuple(sorted(set(bag.given_labels.tolist())))
    read = Labels(labels=own)
    (subject,) = subjects_of([bag])
    weights = np.ones((1, len(bag)))
    shares = read.read(subject, subject.views[0], weights)
    assert read.applies(subject)
    assert shares.sum() == pytest.approx(1, abs=0.02)
    # Both sets have lymphocytes; names of folders no training knew.
    other = np.array([v.replace("pbc-blast/lymphocyte", "deepapl/lymphocyte") for v in bag.given_labels])
    assert (other != bag.given_labels).any()
    (renamed,) = subjects_of([replace(bag, given_labels=other)])
    assert np.allclose(read.read(renamed, renamed.views[0], weights), shares)
    (strange,) = subjects_of([replace(bag, given_labels=np.array([f"folder/{i % 3}" for i in range(len(bag))]))])
    assert strange.labelled
    assert not read.applies(strange)


def test_a_label_that_the_classifier_has_no_class_for_says_whether_a_cell_is_immature() -> None:
    bag = made_bag("P", seed=0)
    labels = np.array(["deepapl/promyelocyte", "deepapl/lymphocyte", "deepapl/young_unidentified", "folder/x"] * 10)
    (subject,) = subjects_of([replace(bag, given_labels=labels)])
    order = subject.bag.given_labels
    assert order is not None
    first, second = subject.views
    assert set(first.immature[order == "deepapl/promyelocyte"]) == {1.0}
    assert set(first.immature[order == "deepapl/lymphocyte"]) == {0.0}
    for open_ in ("deepapl/young_unidentified", "folder/x"):
        assert np.array_equal(first.immature[order == open_], second.immature[order == open_])
    assert np.array_equal(first.classes, second.classes)
