"""Generated cells: trained on the training part alone, resumable, and never where a classifier is chosen or tested."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from killed_training import kill_training
from own_cell_images import COLOURS, MPP, RECIPE, cell, class_folders
from PIL import Image
from sklearn.metrics import f1_score

from wsi_pipeline.errors import ConfigError, DataError, MissingWeightsError, ModelError
from wsi_pipeline.training.cells.fit import fit
from wsi_pipeline.training.cells.own_data import OwnCells, read_own_cells
from wsi_pipeline.training.cells.own_request import CellTraining
from wsi_pipeline.training.cells.train_own import train_own_cells
from wsi_pipeline.training.synthetic.ablation import macro_f1_of_arms
from wsi_pipeline.training.synthetic.cells import add_synthetic, load_generator, refuse_seen
from wsi_pipeline.training.synthetic.choice import SyntheticChoice
from wsi_pipeline.training.synthetic.fit import LIGHT, GeneratorRecipe, to_grey_levels, to_signed
from wsi_pipeline.training.synthetic.guard import SYNTHETIC, check_synthetic_in_train
from wsi_pipeline.training.synthetic.memorising import flag, frechet_distance, nearest_by_embedding, nearest_by_pixels
from wsi_pipeline.training.synthetic.train import packing, train_own_generator

TINY = GeneratorRecipe(side_px=32, width=2, noise_dim=8, steps=6, batch=4, each=2, checked=8)
WINDOW = 48


def _own(request: CellTraining, out: Path) -> OwnCells:
    return read_own_cells(request, out, side_px=72, window_px=WINDOW, mpp=0.5, report=lambda _: None)


def _generate(request: CellTraining, out: Path, **settings: object) -> Path:
    return train_own_generator(request, out, recipe=TINY, report=lambda _: None, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folders(tmp_path_factory.mktemp("own") / "cells")


@pytest.fixture(scope="module")
def request_(folders: Path) -> CellTraining:
    return CellTraining(data=folders, mpp=MPP, name="cells-made")


@pytest.fixture(scope="module")
def made(request_: CellTraining, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generators of the plain split and of two folds."""
    return _generate(replace(request_, folds=2), tmp_path_factory.mktemp("made"))


_KILLED = """
import sys
from pathlib import Path
from test_synthetic_cells import TINY, MPP
from wsi_pipeline.training.cells.own_request import CellTraining
from wsi_pipeline.training.synthetic.train import train_own_generator
request = CellTraining(data=Path(sys.argv[1]), mpp=MPP, name="cells-made")
train_own_generator(request, Path(sys.argv[2]), recipe=TINY, report=lambda line: print(line, flush=True))
"""


@pytest.mark.usefixtures("one_thread")
def test_a_generator_killed_by_the_system_ends_with_the_same_bytes(request_: CellTraining, tmp_path: Path) -> None:
    whole = _generate(request_, tmp_path / "whole")
    killed = tmp_path / "killed"
    kill_training(_KILLED, request_.data, killed, at="step 2/")
    assert not (killed / whole.name).exists()
    lines: list[str] = []
    again = train_own_generator(request_, killed, recipe=TINY, report=lines.append)
    assert any(line.startswith("resumed after step") for line in lines)
    for name in ("cells-made.safetensors", "cells-made.seen.csv", "history.csv", "nearest_training.csv"):
        assert (killed / name).read_bytes() == (whole.parent / name).read_bytes(), name
    longer = train_own_generator(request_, again.parent, recipe=replace(TINY, steps=8), report=lines.append)
    assert lines.count("resumed after step 6 of 8") == 1
    assert longer.read_bytes() != whole.read_bytes()
    with pytest.raises(DataError, match="of step 8, beyond --steps 6"):
        train_own_generator(request_, again.parent, recipe=TINY, report=lines.append)
    with pytest.raises(DataError, match="another request"):
        train_own_generator(request_, again.parent, recipe=replace(TINY, batch=5), report=lines.append)


def test_only_the_training_part_is_seen_and_all_is_written(made: Path) -> None:
    for folder in (made.parent, made.parent / "fold-0", made.parent / "fold-1"):
        with (folder / "split.csv").open() as file:
            parts = {row["digest"]: row["split"] for row in csv.DictReader(file)}
        with (folder / "cells-made.seen.csv").open() as file:
            seen = [row["digest"] for row in csv.DictReader(file)]
        assert sorted(seen) == sorted(d for d, part in parts.items() if part == "train")
        assert {"val", "test"} < set(parts.values())
    card = json.loads(made.with_suffix(".json").read_text())
    assert (card["task"], card["classes"], card["mpp"]) == ("cell-generator", ["eosinophil", "lymphocyte"], 0.75)
    assert card["seen"]["images"] == card["split"]["train"]
    found = json.loads((made.parent / "metrics.json").read_text())
    assert 0 <= found["flagged"]["pixels"] <= 1
    for name in ("real_vs_synthetic.png", "nearest_training.png", "history.png"):
        with Image.open(made.parent / name) as picture:
            assert min(picture.size) > 150, name
    with (made.parent / "nearest_training.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {r["kind"] for r in rows} == {"synthetic", "held-out"}
    assert sum(r["kind"] == "held-out" for r in rows) == card["split"]["val"] + card["split"]["test"]


def test_generated_images_are_trained_on_and_nothing_else(request_: CellTraining, made: Path, tmp_path: Path) -> None:
    own = _own(request_, tmp_path)
    split = own.split()
    generator = load_generator(made)
    cells, parts, counts = add_synthetic(own, split, generator, 5, mpp=0.5, seed=3)
    assert counts == {"eosinophil": 5, "lymphocyte": 5}
    synthetic = cells.sources == SYNTHETIC
    assert synthetic.sum() == 10
    assert set(parts[synthetic].tolist()) == {"train"}
    assert (parts[~synthetic] == split).all()
    assert (cells.images[: len(own.cells)] == own.cells.images).all()
    assert cells.images.shape[1:] == (72, 72, 3)
    again = add_synthetic(own, split, generator, 5, mpp=0.5, seed=3)[0]
    assert (again.images == cells.images).all()
    assert not (add_synthetic(own, split, generator, 5, mpp=0.5, seed=4)[0].images == cells.images).all()
    for part in ("val", "test"):
        wrong = parts.copy()
        wrong[-1] = part
        with pytest.raises(DataError, match=f"1 generated images are in the part {part}"):
            check_synthetic_in_train(cells.sources, wrong)
        with pytest.raises(DataError, match="may only be trained on"):
            fit(cells, wrong, own.classes, tmp_path, RECIPE, report=lambda _: None)
    uneven = split.copy()
    uneven[np.flatnonzero((own.cells.class_names == "eosinophil") & (split == "train"))[:4]] = "val"
    real = {c: int((own.cells.class_names[uneven == "train"] == c).sum()) for c in own.classes}
    _, _, filled = add_synthetic(own, uneven, generator, None, mpp=0.5, seed=0)
    assert filled == {"eosinophil": real["lymphocyte"] - real["eosinophil"]}
    with pytest.raises(DataError, match="taxonomy pbc-blast; the cells have labels of pbc"):
        add_synthetic(_own(replace(request_, taxonomy="pbc"), tmp_path), split, generator, 5, mpp=0.5, seed=0)


def test_a_generator_that_saw_test_images_of_a_fold_is_refused(
    request_: CellTraining, made: Path, tmp_path: Path
) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    for suffix in (".safetensors", ".json", ".seen.csv"):
        shutil.copy(made.with_name(made.stem + suffix), alone)
    request = replace(request_, name="mine", folds=2, epochs=1)
    asked = replace(request, synthetic=SyntheticChoice(generator=alone / made.name, per_class=8))
    with pytest.raises(DataError, match=r"was trained on \d+ of \d+ images of the validation and test parts"):
        train_own_cells(asked, tmp_path / "refused", recipe=RECIPE, report=lambda _: None)
    # With a generator for each fold beside it, all is well, and the card says what was added.
    asked = replace(request, synthetic=SyntheticChoice(generator=made, per_class=8))
    weights = train_own_cells(asked, tmp_path / "mine", recipe=RECIPE, report=lambda _: None)
    assert json.loads(weights.with_suffix(".json").read_text())["training"]["synthetic"]["images"] == {
        "eosinophil": 8, "lymphocyte": 8
    }  # fmt: skip
    for folder in (tmp_path / "mine", tmp_path / "mine" / "fold-0", tmp_path / "mine" / "fold-1"):
        metrics = json.loads((folder / "metrics.json").read_text())
        assert sum(metrics["split"].values()) == 40, "only real cells are split"
        assert SYNTHETIC not in (folder / "split.csv").read_text()
    own = _own(request_, tmp_path)
    for k in (0, 1):
        refuse_seen(load_generator(made.parent / f"fold-{k}" / made.name), own, own.fold(k, 2), WINDOW)
        with pytest.raises(DataError, match="--folds and --fold"):
            refuse_seen(load_generator(made.parent / f"fold-{1 - k}" / made.name), own, own.fold(k, 2), WINDOW)
    # Other images under a fold's checkpoint are noticed.
    with pytest.raises(DataError, match="another request"):
        train_own_cells(request, tmp_path / "mine", recipe=RECIPE, report=lambda _: None)


def test_copies_and_patients_are_recognised(tmp_path: Path) -> None:
    for k in range(24):
        for name in COLOURS:
            folder = tmp_path / "data" / f"patient{k % 6}" / name
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(cell(name, k)).save(folder / f"{k}.png")
    request = CellTraining(data=tmp_path / "data", mpp=MPP, name="cells-made")
    generator = load_generator(_generate(request, tmp_path / "made"))
    own = _own(request, tmp_path)
    split = own.split()
    refuse_seen(generator, own, split, WINDOW)
    held = np.flatnonzero(split != "train")
    # Another image of a patient whose images were seen.
    new = replace(own.cells, digests=np.array([f"new-{i}" for i in range(len(own.cells))]))
    blank = replace(new, images=np.full_like(new.images, 200))
    patients = own.packed.patient.copy()
    patients[held[0]] = own.packed.patient[split == "train"][0]
    with pytest.raises(DataError, match=r"was trained on 1 patients of"):
        refuse_seen(generator, replace(own, packed=replace(own.packed, cells=blank, patient=patients)), split, WINDOW)
    # A seen image, saved again with loss: other bytes, the same cell.
    images = new.images.copy()
    seen = np.flatnonzero(split == "train")[0]
    Image.fromarray(images[seen]).save(tmp_path / "copy.jpg", quality=95, subsampling=0)
    images[held[0]] = np.asarray(Image.open(tmp_path / "copy.jpg"))
    with pytest.raises(DataError, match=r"was trained on copies of 1 of"):
        refuse_seen(
            generator, replace(own, packed=replace(own.packed, cells=replace(new, images=images))), split, WINDOW
        )


def test_copied_images_are_flagged_and_new_ones_are_not() -> None:
    names = ["lymphocyte", "eosinophil"] * 100
    images = to_grey_levels_of([cell(name, k) for k, name in enumerate(names)])
    training, held, others = images[:100], images[100:150], images[150:]
    held_out = nearest_by_pixels(held, training)
    turned = np.ascontiguousarray(np.rot90(training, 1, (1, 2))[:, :, ::-1])
    copied = nearest_by_pixels(turned, training)
    assert (copied.index == np.arange(100)).all(), "found in a mirrored view"
    assert copied.distance == pytest.approx(np.zeros(100), abs=1e-3)
    assert flag(copied, names[:100], held_out, names[100:150]).flagged.all()
    assert flag(nearest_by_pixels(others, training), names[150:], held_out, names[100:150]).flagged.mean() < 0.2
    rng = np.random.default_rng(0)
    points = rng.normal(size=(300, 4))
    near = nearest_by_embedding(points[:5] + 1e-3, points)
    assert (near.index == np.arange(5)).all()
    assert frechet_distance(points, points) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(points + [3, 0, 0, 0], points) == pytest.approx(9, abs=1e-6)


def to_grey_levels_of(cells: list[np.ndarray]) -> np.ndarray:
    import torch

    background = np.full((len(cells), 3), 240, dtype=np.uint8)
    return to_grey_levels(torch.from_numpy(to_signed(np.stack(cells), background, 32)))


def test_signed_images_keep_their_colours() -> None:
    windows = np.full((1, 96, 96, 3), (240, 200, 220), dtype=np.uint8)
    background = np.array([[240, 250, 220]], dtype=np.uint8)
    import torch

    back = to_grey_levels(torch.from_numpy(to_signed(windows, background, 64)))
    assert back.shape == (1, 64, 64, 3)
    assert np.abs(back[0, 5, 5].astype(int) - [LIGHT, round(LIGHT * 0.8), LIGHT]).max() <= 1
    assert packing(64) == (144, 96, 0.25)
    assert packing(128) == (192, 128, 0.1875)


def test_the_ablation_counts_as_scikit_learn_does_and_pairs_its_groups() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 3, 120)
    answers = [
        [np.where(rng.random(120) < share, truth, rng.integers(0, 3, 120)) for share in (0.6, 0.8)] for _ in range(2)
    ]
    groups = np.arange(120) // 2
    found = macro_f1_of_arms(truth, answers, groups, 3)
    for seed, pair in enumerate(answers):
        for arm, answer in zip(("real", "real and synthetic"), pair, strict=True):
            assert found[f"{arm} {seed}"].value == pytest.approx(f1_score(truth, answer, average="macro"))
    mean = np.mean([f1_score(truth, p[1], average="macro") - f1_score(truth, p[0], average="macro") for p in answers])
    assert found["difference mean"].value == pytest.approx(mean)
    same = macro_f1_of_arms(truth, [[answers[0][0]] * 2], groups, 3)["difference 0"]
    assert (same.value, same.lower, same.upper) == (0, 0, 0)


def test_an_ablation_writes_both_arms_on_the_same_test_cells(
    request_: CellTraining, made: Path, tmp_path: Path
) -> None:
    asked = replace(
        request_, name="mine", epochs=2, ablate_synthetic=1, synthetic=SyntheticChoice(generator=made, per_class=6)
    )
    table = train_own_cells(asked, tmp_path, recipe=RECIPE, report=lambda _: None)
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [r["trained on"] for r in rows] == ["real", "real and synthetic", "difference"]
    assert len({r["test_cells"] for r in rows}) == 1
    assert float(rows[2]["macro_f1"]) == pytest.approx(float(rows[1]["macro_f1"]) - float(rows[0]["macro_f1"]))
    splits = [(tmp_path / "seed-0" / arm / "split.csv").read_bytes() for arm in ("real", "real-and-synthetic")]
    assert splits[0] == splits[1]
    assert (tmp_path / "ablation.md").is_file()


def test_what_is_refused(request_: CellTraining, made: Path, tmp_path: Path) -> None:
    for text in ("0", "some", "-3", "1.5"):
        with pytest.raises(ConfigError, match="--synthetic-per-class"):
            SyntheticChoice.parse(made, text)
    with pytest.raises(ConfigError, match="--side 48"):
        GeneratorRecipe(side_px=48)
    with pytest.raises(ConfigError, match="give --synthetic"):
        CellTraining(data=made, ablate_synthetic=1)
    with pytest.raises(ConfigError, match="plain split"):
        CellTraining(data=made, ablate_synthetic=1, folds=2, synthetic=SyntheticChoice(generator=made))
    with pytest.raises(MissingWeightsError, match="does not exist"):
        load_generator(tmp_path / "none.safetensors")
    with pytest.raises(MissingWeightsError, match="a .safetensors file"):
        load_generator(made.parent)
    for suffix in (".safetensors", ".json"):
        shutil.copy(made.with_suffix(suffix), tmp_path)
    copy = tmp_path / made.name
    with pytest.raises(MissingWeightsError, match="seen no test image"):
        load_generator(copy)
    lines = made.with_name("cells-made.seen.csv").read_text().splitlines()
    (tmp_path / "cells-made.seen.csv").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(ModelError, match="damaged or was replaced"):
        load_generator(copy)
    real = class_folders(tmp_path / SYNTHETIC, 4)
    with pytest.raises(DataError, match="rename it"):
        _own(replace(request_, data=real), tmp_path / "out")
