"""Fine-tuning a Cellpose 4 network on a user's own fields: real, tiny; killed and resumed; a file that a run takes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from own_fields import MPP, write_fields
from tiny_cellpose import tiny_sam, write_tiny

from wsi_pipeline.cli import main as cli
from wsi_pipeline.errors import ConfigError, DataError, MissingWeightsError, ModelError
from wsi_pipeline.segmentation.cellpose_model import import_cellpose
from wsi_pipeline.segmentation.models import load_model
from wsi_pipeline.training.segmentation.own_cellpose import settle_base
from wsi_pipeline.training.segmentation.own_request import OwnTraining
from wsi_pipeline.training.segmentation.train_own import prepare, train_own
from wsi_pipeline.weights import file_sha256, load_weights

STEPS = 3

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", autouse=True)
def _tiny() -> Iterator[None]:
    with tiny_sam():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fields(tmp_path_factory.mktemp("own"), n=5)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("start") / "cp4")


def request_for(folder: Path, start: Path, **changes: object) -> OwnTraining:
    about: dict[str, object] = {
        "name": "tuned", "images": folder / "images", "masks": folder / "masks", "mpp": str(MPP), "kind": "white",
        "steps": STEPS, "start_from": str(start),
    }  # fmt: skip
    return OwnTraining(**{**about, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained(folder: Path, start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("straight")
    return train_own(request_for(folder, start), out, device="cpu", report=lambda _: None)


def test_weights_and_card_are_written(trained: Path, start: Path) -> None:
    assert trained.name == "tuned.pth"
    weights = load_weights(trained)
    weights.verify()
    card = weights.card
    assert (card["base"], card["backbone"], card["kinds"]) == ("cellpose", "sam_vitl", ["background", "white"])
    assert card["started_from"] == f"cp4, SHA-256 {file_sha256(start)}"
    assert "not for commercial use" in card["licence"]
    assert (card["recipe"]["steps"], card["recipe"]["batch"], card["recipe"]["side"]) == (STEPS, 1, 256)
    assert {m["name"] for m in card["metrics"]} >= {"AP50", "recall at IoU 0.5"}
    assert "tuned" in trained.with_suffix(".md").read_text(encoding="utf-8")
    assert (trained.parent / "fields.csv").is_file()


def test_a_run_and_cellpose_itself_take_the_file(trained: Path, start: Path) -> None:
    model = load_model(str(trained), specimen="marrow_smear", device="cpu")
    assert (model.name, model.kinds, model.sha256) == ("tuned.pth", ("background", "white"), file_sha256(trained))
    with pytest.raises(ModelError, match="not trephine"):
        load_model(str(trained), specimen="trephine", device="cpu")
    theirs = import_cellpose("models").CellposeModel(pretrained_model=str(trained), device=torch.device("cpu"))
    assert theirs.backbone == "sam_vitl"
    before, after = (torch.load(path, weights_only=True) for path in (start, trained))
    assert before.keys() == after.keys()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert {"out.weight", "encoder.pos_embed"} <= moved
    assert not moved & {"W2", "diam_mean"}


def test_a_training_that_was_killed_ends_with_the_same_bytes(
    folder: Path, start: Path, trained: Path, tmp_path: Path
) -> None:
    class Killed(BaseException):
        pass

    def kill(line: str) -> None:
        if line.startswith("step 2/"):
            raise Killed

    request = request_for(folder, start)
    with pytest.raises(Killed):
        train_own(request, tmp_path, device="cpu", report=kill, checkpoint_every=2)
    assert not list(tmp_path.glob("tuned*"))
    torch.manual_seed(99)
    said: list[str] = []
    weights = train_own(request, tmp_path, device="cpu", report=said.append)
    assert f"resumed at step 2 of {STEPS}" in said
    assert file_sha256(weights) == file_sha256(trained)
    with pytest.raises(DataError, match="another recipe"):
        train_own(request_for(folder, start, seed=1), tmp_path, device="cpu", report=lambda _: None)


def test_what_was_tuned_can_be_tuned_again(folder: Path, trained: Path) -> None:
    prepared = prepare(request_for(folder, trained, name="again"), report=lambda _: None)
    assert prepared.start is not None
    assert prepared.start.specimens == ("blood_smear", "marrow_smear")
    with pytest.raises(ModelError, match="works at 0.25"):
        prepare(request_for(folder, trained, kind="nucleus"), report=lambda _: None)


def test_the_checks_of_the_data_come_first(folder: Path, start: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--mpp is probably wrong"):
        train_own(request_for(folder, start, mpp="0.05"), tmp_path / "out", device="cpu", report=lambda _: None)
    assert not (tmp_path / "out").exists()


def test_the_base_is_that_of_the_start(start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("CELLPOSE_LOCAL_MODELS_PATH", raising=False)
    assert settle_base(None, None) == settle_base("compact", "compact-smear") == settle_base(None, "x.safetensors")
    assert settle_base(None, str(start)) == settle_base("cellpose", None) == "cellpose"
    for base, begin, said in (
        ("cellpose", "compact-smear", "no Cellpose model"), ("compact", str(start), "is a Cellpose model"),
        ("sam", None, "unknown"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=said):
            settle_base(base, begin)
    with pytest.raises(MissingWeightsError, match="models fetch cpsam"):
        settle_base(None, "cpsam")


def test_base_cellpose_on_the_command_line(
    folder: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models = tmp_path / "models"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CELLPOSE_LOCAL_MODELS_PATH", str(models))

    def train() -> tuple[int, str, str]:
        words = [
            "train", "segmentation", "--model", "mine", "--base", "cellpose", "--images", folder / "images", "--masks",
            folder / "masks", "--mpp", MPP, "--kind", "white", "--steps", 1, "--out", tmp_path / "out",
            "--device", "cpu",
        ]  # fmt: skip
        monkeypatch.setattr(sys, "argv", ["wsi-pipeline", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return (ended.value.code if isinstance(ended.value.code, int) else 0), said.out, said.err

    status, _, err = train()
    assert (status, len(err.strip().splitlines())) == (2, 1)
    assert "cpsam_v2 is not in" in err
    models.mkdir()
    (models / "cpsam_v2").write_bytes(start.read_bytes())
    status, out, err = train()
    assert status == 0, err
    assert "starting from cpsam_v2 (Cellpose 4, sam_vitl)" in out
    assert f"weights: {tmp_path / 'out' / 'mine.pth'}" in out
