"""Training a cell classifier: data, the fit, resuming, and the weights that come out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from wsi_pipeline.cells.classifier import load_classifier
from wsi_pipeline.cells.network import CellNetwork, NetworkSpec, initialise
from wsi_pipeline.errors import ConfigError, DataError
from wsi_pipeline.evaluation.cells import evaluate_classifier_on_folder, mapped_answers
from wsi_pipeline.simulation.split import is_reserved
from wsi_pipeline.taxonomies import load_taxonomy
from wsi_pipeline.training.cells.augment import FAR, NEAR, AugmentSpec, augment, augment_in_turn
from wsi_pipeline.training.cells.confusion import calibration_cells, card_confusion, write_confusion
from wsi_pipeline.training.cells.data import (
    WHITE_CELL,
    PackedCells,
    pack,
    pack_cached,
    read_class_folders,
    shipped_recipe,
)
from wsi_pipeline.training.cells.fit import CellRecipe, fit, logits_of, sampling_weights
from wsi_pipeline.training.cells.mixing import Mixing
from wsi_pipeline.training.cells.report import Answers, report_on, source_leak
from wsi_pipeline.training.cells.train_shipped import measure_confusion, train_cells

RECIPE = CellRecipe(
    window_px=32, side_px=48, stem=8, widths=(16, 24), depths=(1, 1), embedding_dim=16, batch=16, epochs=6, dropout=0.0
)
COLOURS = {"Lymphocyte": (70, 40, 160), "EOS": (220, 110, 90)}


def _cell(name: str, seed: int) -> np.ndarray:
    """A cell 8 um wide at 0.5 um per pixel on a pale background."""
    rng = np.random.default_rng((seed, len(name)))
    y, x = np.mgrid[:36, :36] + 0.5
    radius = rng.uniform(6.5, 9)
    inside = np.hypot(x - 18 - rng.normal(), y - 18 - rng.normal()) < radius
    image = np.where(inside[..., None], COLOURS[name], (244, 238, 236)) + rng.normal(0, 12, (36, 36, 3))
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cells")
    for name in COLOURS:
        (root / name).mkdir()
        for k in range(60):
            Image.fromarray(_cell(name, k)).save(root / name / f"{k:03d}.png")
    return root


@pytest.fixture(scope="module")
def trained(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    return train_cells(folders, out, mpp=0.5, name="two", recipe=RECIPE, report=lambda _: None)


def test_trained_weights_work_and_carry_a_card(trained: Path, folders: Path) -> None:
    classifier = load_classifier(trained)
    assert classifier.classes == ("eosinophil", "lymphocyte")
    result = evaluate_classifier_on_folder(folders, model=trained, mpp=0.5)
    assert result.metrics.n == 120
    assert result.metrics.macro_f1.value is not None
    assert result.metrics.macro_f1.value > 0.95
    card = json.loads(trained.with_suffix(".json").read_text())
    assert {m["name"] for m in card["metrics"]} >= {"macro-F1, 2 classes", "accuracy, 2 classes"}
    assert card["split"]["train"] + card["split"]["val"] + card["split"]["test"] == 120
    text = trained.with_suffix(".md").read_text()
    assert card["sha256"] in text
    assert "Research use only" in text
    assert (trained.parent / "split.csv").read_text().count("\n") == 121


def test_the_card_says_how_the_classifier_errs_on_its_test_images(trained: Path) -> None:
    card = json.loads(trained.with_suffix(".json").read_text())
    blood, marrow = (card["confusion"]["specimens"][s] for s in ("blood_smear", "marrow_smear"))
    assert blood == marrow
    assert blood["classes"] == ["eosinophil", "lymphocyte"]
    assert sum(map(sum, blood["counts"])) == card["split"]["test"]
    assert "What corrects the differential of a blood smear and marrow smear" in trained.with_suffix(".md").read_text()


def test_the_confusion_can_be_made_again_without_training(trained: Path, folders: Path, tmp_path: Path) -> None:
    weights = tmp_path / trained.name
    for suffix in (".safetensors", ".json", ".md"):
        weights.with_suffix(suffix).write_bytes(trained.with_suffix(suffix).read_bytes())
    before = {s: weights.with_suffix(s).read_bytes() for s in (".safetensors", ".json", ".md")}
    card = json.loads(before[".json"])
    wrong = {**card["confusion"]["specimens"], "marrow_smear": {**card["confusion"]["specimens"]["blood_smear"]}}
    wrong["marrow_smear"]["counts"] = [[1, 2], [3, 4]]
    write_confusion(weights, {"specimens": wrong})
    assert weights.with_suffix(".json").read_bytes() != before[".json"]
    measure_confusion(weights, folders, tmp_path, mpp=0.5, recipe=RECIPE, report=lambda _: None)
    assert {s: weights.with_suffix(s).read_bytes() for s in before} == before
    other = tmp_path / "other"
    for name in COLOURS:
        (other / name).mkdir(parents=True)
        for k in range(4):
            Image.fromarray(_cell(name, 100 + k)).save(other / name / f"{k}.png")
    with pytest.raises(DataError, match="splits into"):
        measure_confusion(weights, other, tmp_path / "work", mpp=0.5, recipe=RECIPE, report=lambda _: None)
    weights.with_suffix(".md").write_text("not a card")
    with pytest.raises(DataError, match="not a card of this package"):
        write_confusion(weights, card["confusion"])


def test_images_of_the_simulator_correct_nothing() -> None:
    """Of the shipped recipe, reserved images and their near-duplicates are left out, each smear has its own images."""
    names = [f"pbc/monocyte/{k}.jpg" for k in range(60)] + [f"marrow-cells/BLA/{k}.jpg" for k in range(30)]
    split = np.array((["train", "val", "test"] * 30)[: len(names)])
    reserved = np.array([is_reserved(name) for name in names])
    split[reserved] = "test"
    groups = np.arange(len(names))
    twin = int(np.flatnonzero(~reserved & (split == "test"))[0])
    groups[twin] = groups[int(np.flatnonzero(reserved)[0])]
    nothing = np.zeros(len(names))
    cells = PackedCells(
        images=nothing, background=nothing, class_names=nothing, sources=nothing, digests=nothing,
        files=np.array(names), fields=nothing,
    )  # fmt: skip
    chosen = calibration_cells(cells, split, groups, shipped=True)
    assert set(chosen) == set(np.flatnonzero(~reserved & (split != "train"))) - {twin}
    assert set(calibration_cells(cells, split, groups, shipped=False)) == set(np.flatnonzero(split == "test"))
    truth = np.array(["monocyte", "monocyte", "monocyte", "blast", "basophil"])
    answers = Answers(
        truth=truth,
        answer=np.array(["monocyte", "blast", "blast", "blast", "monocyte"]),
        source=np.array(["pbc", "pbc", "marrow-cells", "marrow-cells", "bccd"]),
        group=np.arange(5),
        probability=np.ones(5, np.float32),
        embedding=np.ones((5, 2), np.float16),
    )
    made = card_confusion(answers, ("basophil", "monocyte", "blast"), ("blood_smear", "marrow_smear"), shipped=True)[
        "specimens"
    ]
    assert made["blood_smear"]["counts"] == [[0, 1, 0], [0, 1, 1], [0, 0, 1]]
    assert made["marrow_smear"]["counts"] == [[0, 1, 0], [0, 0, 1], [0, 0, 1]]
    assert made["marrow_smear"]["sources"] == {
        "basophil": ["bccd"], "monocyte": ["marrow-cells"], "blast": ["marrow-cells"]
    }  # fmt: skip


class _KilledError(Exception):
    """Stands for a kill between two epochs."""


def test_a_killed_run_continues_to_the_same_weights(trained: Path, folders: Path, tmp_path: Path) -> None:
    def die_at_three(line: str) -> None:
        if line.startswith("epoch 3/"):
            raise _KilledError

    with pytest.raises(_KilledError):
        train_cells(folders, tmp_path, mpp=0.5, name="two", recipe=RECIPE, report=die_at_three)
    assert not (tmp_path / "two.safetensors").exists()
    lines: list[str] = []
    again = train_cells(folders, tmp_path, mpp=0.5, name="two", recipe=RECIPE, report=lines.append)
    assert "resumed after epoch 3 of 6" in lines
    a, b = load_file(trained), load_file(again)
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_another_recipe_does_not_resume(trained: Path, folders: Path) -> None:
    with pytest.raises(DataError, match="another recipe"):
        train_cells(folders, trained.parent, mpp=0.5, name="two", seed=1, recipe=RECIPE, report=lambda _: None)


def test_fine_tuning_starts_where_the_earlier_network_ended(trained: Path, folders: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    deeper = replace(RECIPE, depths=(2, 2), epochs=1)
    tuned = train_cells(
        folders, tmp_path, mpp=0.5, name="tuned", start_from=trained, recipe=deeper, report=lines.append
    )
    assert any(line.startswith("took over") for line in lines)
    card = json.loads(tuned.with_suffix(".json").read_text())
    assert card["started_from"].startswith("two, SHA-256 ")
    first = next(line for line in lines if line.startswith("epoch 1/1"))
    assert float(first.split("val macro-F1")[1].split()[0]) > 0.9


def test_a_new_block_begins_as_the_identity() -> None:
    shallow, deep = (
        CellNetwork(NetworkSpec(n_classes=2, stem=8, widths=(8, 16), depths=d, embedding_dim=8)).eval()
        for d in ((0, 1), (1, 2))
    )
    initialise(shallow, 1)
    initialise(deep, 2)
    merged = deep.state_dict() | shallow.state_dict()
    deep.load_state_dict(merged)
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(deep(x), shallow(x))


def test_unknown_folders_and_missing_resolution(trained: Path, folders: Path, tmp_path: Path) -> None:
    for name in ("eosinophil", "hairy cell"):
        (tmp_path / name).mkdir()
        Image.fromarray(_cell("EOS", 1)).save(tmp_path / name / "1.png")
    with pytest.raises(DataError, match="hairy cell"):
        train_cells(tmp_path, tmp_path / "out", mpp=0.5, recipe=RECIPE, report=lambda _: None)
    with pytest.raises(DataError, match="hairy cell"):
        evaluate_classifier_on_folder(tmp_path, model=trained, mpp=0.5)
    with pytest.raises(DataError, match="--mpp"):
        evaluate_classifier_on_folder(folders, model=trained, mpp=None)
    with pytest.raises(ConfigError, match="cannot be mapped"):
        evaluate_classifier_on_folder(folders, model=trained, mpp=0.5, map_to="section")
    with pytest.raises(DataError, match="one folder per class"):
        read_class_folders(tmp_path / "eosinophil", 0.5)
    with pytest.raises(DataError, match="pbc is not a folder"):
        shipped_recipe(tmp_path)


def test_five_part_sums_what_becomes_one_class() -> None:
    classes = ("band_neutrophil", "segmented_neutrophil", "lymphocyte", "blast")
    table: dict[str, str | None] = {
        "band_neutrophil": "neutrophil",
        "segmented_neutrophil": "neutrophil",
        "lymphocyte": "lymphocyte",
        "blast": None,
    }
    p = np.array([[0.3, 0.3, 0.4, 0.0], [0.1, 0.1, 0.3, 0.5]], dtype=np.float32)
    answers, sure = mapped_answers(p, classes, table)
    assert answers == ["neutrophil", None]
    np.testing.assert_allclose(sure, [0.6, 0.5], atol=1e-6)
    answers, sure = mapped_answers(p, classes, table, among={"neutrophil", "lymphocyte"})
    assert answers == ["neutrophil", "lymphocyte"]
    np.testing.assert_allclose(sure, [0.6, 0.6], atol=1e-6)
    with pytest.raises(ConfigError, match="monocyte"):
        mapped_answers(p, classes, table, among={"monocyte"})


def test_a_batch_is_dealt_among_the_strengths_of_change() -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(40, 255, (5, 48, 48, 3), dtype=np.uint8))
    background = torch.full((5, 3), 250, dtype=torch.uint8)
    options: dict[str, Any] = {"window_px": 32, "mpp": 0.25, "stain": "nuclear-density"}

    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(3)

    both = augment_in_turn(images, background, generator(), specs=(NEAR, FAR), **options)
    near = augment(images[:3], background[:3], generator(), spec=NEAR, **options)
    assert both.shape == (5, 3, 32, 32)
    torch.testing.assert_close(both[:3], near)
    one = augment_in_turn(images[:1], background[:1], generator(), specs=(NEAR, FAR), **options)
    torch.testing.assert_close(one, augment(images[:1], background[:1], generator(), spec=NEAR, **options))


def test_blank_surroundings_leave_the_cell() -> None:
    images = torch.full((1, 96, 96, 3), 120, dtype=torch.uint8)
    background = torch.full((1, 3), 240, dtype=torch.uint8)
    spec = AugmentSpec(
        scale=0, shift_um=0, warp_share=0, stain_density=0, stain_mix=0, stain_offset=0, stain_exchange=0, noise=0,
        surroundings_exchange=0, surroundings_blank=1, mirror_surroundings=0, blur_share=0, coarse_share=0,
        sharpen_share=0, chroma_share=0,
    )  # fmt: skip
    window = augment(images, background, torch.Generator().manual_seed(0), window_px=96, mpp=0.25, spec=spec)
    assert abs(float(window[0, :, 48, 48].mean()) - 0.5) < 0.02
    assert float(window[0, :, 0, 0].mean()) > 0.9


def test_an_open_label_teaches_what_a_cell_is_not(folders: Path, tmp_path: Path) -> None:
    cutouts = read_class_folders(folders, 0.5)
    third = [replace(c, class_name="third") for c in cutouts if c.class_name == "EOS"][:12]
    known = [c for c in cutouts if c.class_name == "Lymphocyte"]
    unknown = [replace(c, class_name="open") for c in cutouts if c.class_name == "EOS"][12:]
    other = [replace(c, class_name="other") for c in known[:6]]
    cells = pack([*third, *known, *other, *unknown], side=48, mpp=0.25)
    split = np.where(np.arange(len(cells)) % 5 == 0, "val", "train")
    split = np.where((cells.class_names == "open") & (split == "val"), "unused", split)
    classes = ("third", "Lymphocyte", "other")
    may_be = {"open": ["Lymphocyte", "other"]}
    fitted = fit(cells, split, classes, tmp_path, RECIPE, partial=may_be, report=lambda _: None)
    index = np.flatnonzero((cells.class_names == "open") & (split == "train"))
    p = torch.softmax(torch.from_numpy(logits_of(fitted.network, cells, index, RECIPE)), dim=1)
    without = fit(
        cells, np.where(cells.class_names == "open", "unused", split), classes, tmp_path / "without", RECIPE,
        partial=may_be, report=lambda _: None,
    )  # fmt: skip
    before = torch.softmax(torch.from_numpy(logits_of(without.network, cells, index, RECIPE)), dim=1)
    assert before[:, 0].mean() > 0.5 > p[:, 0].mean()
    with pytest.raises(ConfigError, match="mixup"):
        fit(cells, split, classes, tmp_path / "mixed", RECIPE, partial=may_be, mixing=Mixing(), report=lambda _: None)


def test_the_cache_follows_its_list(folders: Path, tmp_path: Path) -> None:
    cutouts = read_class_folders(folders, 0.5)
    cache = tmp_path / "cells.npz"
    first = pack_cached(cutouts[:5], side=48, mpp=0.25, cache=cache)
    written = cache.stat().st_mtime_ns
    again = pack_cached(cutouts[:5], side=48, mpp=0.25, cache=cache)
    assert cache.stat().st_mtime_ns == written
    assert (first.images == again.images).all()
    assert first.files.tolist() == again.files.tolist()
    assert len(pack_cached(cutouts[:6], side=48, mpp=0.25, cache=cache)) == 6


def test_rare_classes_and_small_sets_do_not_drown() -> None:
    labels = np.array([0] * 900 + [1] * 100)
    sources = np.array(["a"] * 800 + ["b"] * 100 + ["a"] * 100)
    weights = sampling_weights(labels, sources)
    assert weights.sum() == pytest.approx(1)
    assert weights[labels == 1].sum() == pytest.approx(10 / 40)
    of_b = weights[(labels == 0) & (sources == "b")].sum() / weights[labels == 0].sum()
    assert of_b == pytest.approx(10 / (10 + 800**0.5))


def test_augmentation_is_seeded_and_keeps_the_middle(folders: Path) -> None:
    cells = pack(read_class_folders(folders, 0.5)[:16], side=48, mpp=0.25)
    images, light = torch.from_numpy(cells.images), torch.from_numpy(cells.background)

    def once(seed: int, spec: AugmentSpec) -> torch.Tensor:
        return augment(images, light, torch.Generator().manual_seed(seed), window_px=32, mpp=0.25, spec=spec)

    assert torch.equal(once(1, AugmentSpec()), once(1, AugmentSpec()))
    assert not torch.equal(once(1, AugmentSpec()), once(2, AugmentSpec()))
    still = AugmentSpec(**dict.fromkeys(AugmentSpec.__dataclass_fields__, 0.0))
    turned = once(3, still)
    plain = images[:, 8:40, 8:40].permute(0, 3, 1, 2).float() / light[:, :, None, None]
    # Only turned and flipped: a disc around the centre keeps its mean colour.
    y, x = np.mgrid[:32, :32] - 15.5
    disc = torch.from_numpy(np.hypot(x, y) < 14)
    assert torch.allclose(turned[:, :, disc].mean(-1), plain.clamp(max=1.2)[:, :, disc].mean(-1), atol=0.02)


def _answers(rng: np.random.Generator, *, leak: float) -> Answers:
    n = 200
    source = np.array(["blood", "marrow"] * (n // 2))
    truth = np.where(rng.random(n) < 0.5, "lymphocyte", "monocyte")
    embedding = rng.normal(size=(n, 8))
    embedding[:, 0] += leak * (source == "marrow")
    return Answers(
        truth=truth,
        answer=np.where(rng.random(n) < 0.9, truth, "blast"),
        source=source,
        group=np.arange(n),
        probability=rng.random(n).astype(np.float32),
        embedding=embedding.astype(np.float16),
    )


def test_the_source_probe_sees_a_leak_and_only_a_leak() -> None:
    rng = np.random.default_rng(0)
    (tight,) = source_leak(_answers(rng, leak=0.0))
    (leaky,) = source_leak(_answers(rng, leak=8.0))
    assert tight.lower is not None
    assert tight.lower < 0.5 < 0.65
    assert leaky.value is not None
    assert leaky.value > 0.95
    assert leaky.baseline == 0.5


def test_the_report_counts_blast_calls_as_errors() -> None:
    answers = _answers(np.random.default_rng(1), leak=0.0)
    taxonomy = load_taxonomy("pbc-blast")
    report = report_on(answers, taxonomy, taxonomy.classifier_classes)
    on_blood = next(f for f in report.figures if f.name.startswith("accuracy") and "blood" in f.on)
    part = answers.source == "blood"
    assert on_blood.value == pytest.approx((answers.truth == answers.answer)[part].mean())
    assert on_blood.n == 100


@pytest.mark.data
def test_the_shipped_recipe_reads_the_public_sets(data_root: Path) -> None:
    cutouts = shipped_recipe(data_root)
    counts = {s: sum(c.source == s for c in cutouts) for s in ("pbc", "marrow-cells", "bccd", "rbc-morphology")}
    assert counts["pbc"] == 8473
    assert counts["marrow-cells"] == 2100
    assert {c.class_name for c in cutouts} == {*load_taxonomy("pbc-blast").classifier_classes, WHITE_CELL}
    few = [replace(c) for c in cutouts[::1500]]
    assert pack(few, side=144, mpp=0.25).images.shape == (len(few), 144, 144, 3)
