"""Training on a user's own fields: real, tiny; killed and resumed; weights that a run and ``evaluate`` take."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from killed_training import kill_training
from own_fields import MPP, draw, save, write_fields

from wsi_pipeline.cli import main as cli
from wsi_pipeline.errors import DataError, ModelError, OutputError
from wsi_pipeline.segmentation.models import load_model
from wsi_pipeline.training.segmentation.own_request import OwnTraining
from wsi_pipeline.training.segmentation.own_start import load_start
from wsi_pipeline.training.segmentation.train_own import prepare, train_own
from wsi_pipeline.weights import file_sha256, load_weights

STEPS = 4


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fields(tmp_path_factory.mktemp("own"))


def request_for(folder: Path, **changes: object) -> OwnTraining:
    about: dict[str, object] = {
        "name": "mine", "images": folder / "images", "masks": folder / "masks", "mpp": str(MPP), "kind": "white",
        "steps": STEPS, "side": 64, "batch": 2,
    }  # fmt: skip
    return OwnTraining(**{**about, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return train_own(request_for(folder), tmp_path_factory.mktemp("straight"), device="cpu", report=lambda _: None)


# Weights and card ----------------------------------------------------------------------------------------------------


def test_weights_card_and_list_of_fields_are_written(trained: Path) -> None:
    weights = load_weights(trained)
    weights.verify()
    card = weights.card
    assert (card["name"], card["task"], card["kinds"]) == ("mine", "segmentation", ["background", "white"])
    assert (card["mpp"], card["specimens"]) == (0.25, ["blood_smear", "marrow_smear"])
    assert card["split"]["train"] + card["split"]["test"] == 6
    assert {m["name"] for m in card["metrics"]} >= {"AP50", "AP75", "recall at IoU 0.5"}
    assert all(m["n"] == 4 * card["split"]["test"] for m in card["metrics"])
    assert card["recipe"]["steps"] == STEPS
    assert card["labels_complete"] is True
    assert card["started_from"] is None
    text = trained.with_suffix(".md").read_text(encoding="utf-8")
    assert card["sha256"] in text
    assert "white cells" in text
    rows = (trained.parent / "fields.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0] == "image,mask,mpp,cells,split,sha256"
    assert [row.split(",")[:4] for row in rows[1:]] == [[f"f{n}.png", f"f{n}.png", "0.25", "4"] for n in range(6)]


def test_a_run_takes_the_weights_by_their_path(trained: Path) -> None:
    model = load_model(str(trained), specimen="marrow_smear", device="cpu")
    assert (model.name, model.kinds) == ("mine", ("background", "white"))
    with pytest.raises(ModelError, match="not trephine"):
        load_model(str(trained), specimen="trephine", device="cpu")


def test_of_incomplete_labels_only_the_recall_is_stated(folder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    request = request_for(folder, complete=False, steps=1)
    card = load_weights(train_own(request, tmp_path, device="cpu", report=said.append)).card
    assert [m["name"] for m in card["metrics"]] == ["recall at IoU 0.5"]
    assert card["labels_complete"] is False
    assert any("only some white cells have a label" in line for line in said)


# Killed and resumed --------------------------------------------------------------------------------------------------

SCRIPT = """
import sys, time
from pathlib import Path
import torch
from wsi_pipeline.training.segmentation.train_own import train_own
from wsi_pipeline.training.segmentation.own_request import OwnTraining

torch.set_num_threads(1)
folder, out = Path(sys.argv[1]), Path(sys.argv[2])

def report(line):
    print(line, flush=True)
    if line.startswith("step 2/"):
        time.sleep(600)

train_own(
    OwnTraining(name="mine", images=folder / "images", masks=folder / "masks", mpp="0.25", kind="white", steps=4,
                side=64, batch=2),
    out, device="cpu", report=report, checkpoint_every=2,
)
"""


def test_a_training_that_was_killed_ends_with_the_same_weights(folder: Path, trained: Path, tmp_path: Path) -> None:
    kill_training(SCRIPT, folder, tmp_path, at="step 2/", limit_s=120)
    assert (tmp_path / "checkpoint.safetensors").is_file()
    assert not list(tmp_path.glob("mine*"))

    said: list[str] = []
    weights = train_own(request_for(folder), tmp_path, device="cpu", report=said.append)
    assert "resumed at step 2 of 4" in said
    assert file_sha256(weights) == file_sha256(trained)
    assert load_weights(weights).card["metrics"] == load_weights(trained).card["metrics"]


def test_a_checkpoint_of_other_data_or_another_recipe_is_refused(folder: Path, trained: Path, tmp_path: Path) -> None:
    out = trained.parent
    before = file_sha256(trained)

    def refused(request: OwnTraining, said: str) -> None:
        with pytest.raises(DataError, match=said) as caught:
            train_own(request, out, device="cpu", report=lambda _: None)
        assert "--out" in str(caught.value)
        assert file_sha256(trained) == before

    other = write_fields(tmp_path / "own")
    rgb, labels = draw(3)
    save(other / "masks" / "f3.png", labels.T)
    save(other / "images" / "f3.png", rgb.transpose(1, 0, 2).copy())
    refused(request_for(other), "other data")
    refused(request_for(folder, complete=False), "other data")
    refused(request_for(folder, mpp="0.26"), "other data")
    refused(request_for(folder, seed=1), "another recipe")
    refused(request_for(folder, steps=5), "another recipe")


def test_a_folder_that_cannot_be_written_is_said_before_training(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OutputError, match="file"):
        train_own(request_for(folder), tmp_path / "file" / "out", device="cpu", report=lambda _: None)


# Fine-tuning ---------------------------------------------------------------------------------------------------------


def test_fine_tuning_keeps_what_fits() -> None:
    start = load_start("compact-smear")
    tensors = start.tensors_for(("background", "white", "platelet"))
    assert all(torch.equal(tensors[key], value) for key, value in start.tensors.items() if not key.startswith("head."))
    old, new = start.tensors["head.weight"], tensors["head.weight"]
    assert torch.equal(new[:4], old[:4])  # flow y, flow x, cell probability, background
    assert not new[4].any()
    assert torch.equal(new[5], old[3 + start.kinds.index("platelet")])
    assert start.sentence(("background", "white")).startswith("starting from compact-smear; white is learnt anew; red")


def test_fine_tuning_starts_at_the_given_network(folder: Path, trained: Path, tmp_path: Path) -> None:
    request = request_for(folder, start_from=str(trained), steps=1)
    prepared = prepare(request, report=lambda _: None)
    assert prepared.initial is not None
    tuned = load_start(str(train_own(request, tmp_path, device="cpu", report=lambda _: None)))
    moved = max(
        float((tuned.tensors[key] - value).abs().max())
        for key, value in prepared.initial.items()
        if key.endswith("weight")
    )
    assert 0 < moved < 1e-3
    assert load_weights(tmp_path / "mine.safetensors").card["started_from"].startswith("mine, SHA-256")
    assert prepared.digest != prepare(request_for(folder), report=lambda _: None).digest


# Command line --------------------------------------------------------------------------------------------------------


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str | Path
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["wsi-pipeline", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    code = ended.value.code
    return (code if isinstance(code, int) else 0 if code is None else 1), said.out, said.err


def test_train_then_evaluate_on_the_command_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--images", folder / "images", "--masks", folder / "masks", "--mpp", "0.25", "--kind", "white"]
    status, out, err = run(
        monkeypatch, capsys, "train", "segmentation", "--model", "cells-1", *data, "--steps", "1", "--out",
        tmp_path / "out", "--start-from", "compact-smear", "--device", "cpu",
    )  # fmt: skip
    assert status == 0, err
    weights = tmp_path / "out" / "cells-1.safetensors"
    assert f"weights: {weights}" in out
    assert "assumed: all white cells have a label" in out
    status, out, err = run(
        monkeypatch, capsys, "evaluate", "segmentation", "--model", weights, *data, "--out", tmp_path / "evaluation"
    )
    assert status == 0, err
    metrics = json.loads((tmp_path / "evaluation" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["model"] == "cells-1"
    assert metrics["sha256"] == file_sha256(weights)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "compact-smear"], "--start-from"),
        (["--mpp", "0.05"], "--mpp is probably wrong"),
        (["--mpp", "nowhere.csv"], "nowhere.csv"),
        (["--kind", "green"], "green"),
        (["--specimen", "trephine"], "trephine"),
        (["--masks", "nowhere"], "nowhere"),
        (["--data", "."], "--data"),
        (["--device", "tpu"], "tpu"),
    ],
)
def test_bad_input_is_one_sentence_with_status_2(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    words: list[str], said: str,
) -> None:  # fmt: skip
    options = {
        "--model": "mine", "--images": folder / "images", "--masks": folder / "masks", "--mpp": "0.25",
        "--kind": "white", "--out": tmp_path / "out", **dict([words]),
    }  # fmt: skip
    flat = [word for pair in options.items() for word in pair]
    status, _, err = run(monkeypatch, capsys, "train", "segmentation", *flat)
    assert status == 2
    (line,) = err.strip().splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert not (tmp_path / "out").exists()


def test_options_of_own_fields_need_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = run(
        monkeypatch, capsys, "train", "segmentation", "--model", "x", "--masks", tmp_path, "--incomplete"
    )
    assert status == 2
    assert "--masks, --incomplete" in err
    status, _, err = run(monkeypatch, capsys, "train", "segmentation", "--model", "x", "--images", tmp_path)
    assert status == 2
    assert "--masks" in err
    status, _, err = run(monkeypatch, capsys, "train", "segmentation", "--model", "x")
    assert status == 2
    assert "needs --images and --masks" in err
