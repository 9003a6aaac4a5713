"""The command line: what it prints, and errors as one sentence with exit status 2."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from wsi_pipeline.weights import shipped_weights

Command = Callable[..., tuple[int, str, str]]


def one_sentence(text: str) -> str:
    (line,) = text.strip().splitlines()
    assert line.startswith("error: ")
    assert "Traceback" not in text
    return line


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import tifffile

    rng = np.random.default_rng(0)
    pixels = np.clip(rng.normal(235, 4, (600, 700, 3)), 0, 255).astype(np.uint8)
    pixels[200:320, 250:400] = (150, 80, 160)
    path = tmp_path_factory.mktemp("slide") / "a slide.tiff"
    tifffile.imwrite(
        path, pixels, tile=(256, 256), photometric="rgb", resolution=(40_000, 40_000), resolutionunit="CENTIMETER"
    )
    return path


# Usage errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "core_px=5"], "section.key=value"),
        (["--set", "tiling.core_px"], "section.key=value"),
        (["--set", "tiling.core_pixels=512"], "tiling.core_pixels"),
        (["--set", "tiling.core_px=[1"], "YAML"),
        (["--set", "tiling.core_px=7"], "256"),
        (["--config", "urine"], "urine"),
        (["--device", "tpu"], "tpu"),
        (["--force-mpp"], "--mpp"),
        (["--set", "segmentation.model=no-such-model"], "no-such-model"),
        (["--set", "cells.classifier=no-such-classifier"], "no-such-classifier"),
        (["--config", "trephine", "--set", "segmentation.model=compact-smear"], "not for trephine"),
    ],
)
def test_bad_usage_of_run_is_one_sentence(
    command: Command, slide: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    status, _, err = command("run", slide, "--out", tmp_path / "out", *words)
    assert status == 2
    assert said in one_sentence(err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give slides, or --gallery DIR"),
        (["a.svs", "--gallery", "G", "--mpp", "0.2"], "not both"),
        (["--gallery", "G", "--mpp", "0.2", "--force-mpp"], "--force-mpp"),
        (["a.svs", "--skip-unreadable"], "go with --gallery"),
        (["--gallery", "G"], "needs --mpp"),
        (["--gallery", "no-such-folder", "--mpp", "0.2"], "no-such-folder is not a folder"),
    ],
)
def test_a_gallery_or_slides(command: Command, tmp_path: Path, words: list[str], said: str) -> None:
    status, _, err = command("run", "--out", tmp_path / "out", *words)
    assert status == 2
    assert said in one_sentence(err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--core", "512,wide"], "--core"),
        (["--core", "0"], "--core"),
        (["--core", "7"], "256"),
        (["--workers", ""], "--workers"),
        (["--side-um", "-3"], "--side-um"),
        (["--model", "no-such-model"], "no-such-model"),
        (["--config", "urine"], "urine"),
        (["--device", "tpu"], "tpu"),
        (["--force-mpp"], "--mpp"),
    ],
)
def test_bad_usage_of_evaluate_invariance_is_one_sentence(
    command: Command, slide: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    status, _, err = command("evaluate", "invariance", slide, "--out", tmp_path / "out", *words)
    assert status == 2
    assert said in one_sentence(err)
    assert not (tmp_path / "out").exists()


def test_evaluate_invariance_of_no_slide(command: Command, slide: Path, tmp_path: Path) -> None:
    status, _, err = command("evaluate", "invariance", tmp_path / "missing.svs", "--out", tmp_path / "out")
    assert status == 2
    assert "missing.svs" in one_sentence(err)
    status, _, err = command("evaluate", "invariance", slide.parent, "--out", tmp_path / "out")
    assert status == 2
    assert str(slide.parent) in one_sentence(err)


def test_evaluate_invariance_leaves_with_1_when_a_run_differs(
    command: Command, slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wsi_pipeline.evaluation import invariance
    from wsi_pipeline.evaluation.identical import Difference

    def differing(cuts: list[invariance.Cut], *_: object, **__: object) -> invariance.InvarianceResult:
        wrong = Difference(file="differential.csv", row=3)
        results = [invariance.CutResult(cut=cut, n_blocks=i, n_cells=9, seconds=1.0) for i, cut in enumerate(cuts)]
        last = invariance.CutResult(cut=cuts[-1], n_blocks=5, n_cells=8, seconds=1.0, difference=wrong, matched=0.5)
        return invariance.InvarianceResult(runs=(*results[:-1], last))

    monkeypatch.setattr(invariance, "measure_invariance", differing)
    status, out, err = command("evaluate", "invariance", slide, "--core", "512,1024", "--out", tmp_path / "out")
    assert status == 1
    assert "the whole slide" in out
    assert "NO" in out
    assert "differential.csv, line 3" in out
    assert "invariance-runs" in err
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["identical"] is False


@pytest.mark.parametrize(
    "words",
    [
        ["run"],
        ["run", "a.svs", "--nonsense"],
        ["nonsense"],
        ["evaluate", "segmentation"],
        ["run", "x", "--mpp", "wide"],
    ],
)
def test_usage_that_the_parser_refuses(command: Command, words: list[str]) -> None:
    status, _, err = command(*words)
    assert status == 2
    assert "Traceback" not in err


def test_a_gpu_that_is_not_there_is_said(command: Command, slide: Path, tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    quiet = ["--set", "cells.classifier=null"]
    status, _, err = command("run", slide, "--out", tmp_path / "out", "--device", "cuda", *quiet)
    assert status == 2
    assert "cuda" in one_sentence(err)


def test_debug_shows_the_traceback(command: Command, slide: Path, tmp_path: Path) -> None:
    status, _, err = command("run", slide, "--out", tmp_path / "out", "--set", "a.b=1", "--debug")
    assert status == 2
    assert "Traceback" in err
    assert err.strip().splitlines()[-1].startswith("error: ")


def test_help_names_the_commands(command: Command) -> None:
    status, out, _ = command("--help")
    assert status == 0
    for name in ("run", "demo", "inspect", "doctor", "models", "evaluate", "train"):
        assert name in out


# Models and machine --------------------------------------------------------------------------------------------------


def test_models_are_listed(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("CELLPOSE_LOCAL_MODELS_PATH", raising=False)
    status, out, _ = command("models", "list")
    assert status == 0
    for name, weights in shipped_weights().items():
        (line,) = (text for text in out.splitlines() if text.split()[:1] == [name])
        assert weights.card["task"] in line
    (line,) = (text for text in out.splitlines() if text.startswith("cpsam "))
    assert "CC-BY-NC" in line
    assert "not on this machine" in line


def test_models_are_verified(command: Command) -> None:
    status, out, _ = command("models", "verify")
    assert status == 0
    assert [line.split(":")[0] for line in out.splitlines()] == list(shipped_weights())
    status, out, _ = command("models", "verify", "compact-smear")
    assert (status, len(out.splitlines())) == (0, 1)
    status, _, err = command("models", "verify", "nothing")
    assert status == 2
    assert "compact-smear" in one_sentence(err)


def test_damaged_weights_are_found(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsi_pipeline.weights.file_sha256", lambda _: "0" * 64)
    status, _, err = command("models", "verify", "compact-smear")
    assert status == 1
    assert "DAMAGED" in err


def test_doctor_says_what_it_found(command: Command) -> None:
    status, out, _ = command("doctor")
    lines = out.splitlines()
    assert len(lines) == 8
    assert all(line.startswith(("ok ", "PROBLEM ")) for line in lines)
    # Memory and disk are the machine's; everything else must be well wherever the tests run.
    problems = [line for line in lines if line.startswith("PROBLEM") and "memory" not in line and "disk" not in line]
    assert not problems
    assert status == (1 if any(line.startswith("PROBLEM") for line in lines) else 0)


# Slides --------------------------------------------------------------------------------------------------------------


def test_inspect_as_json(command: Command, slide: Path) -> None:
    status, out, _ = command("inspect", slide, "--json", "--no-calibrate")
    assert status == 0
    about = json.loads(out)
    assert about["specimen"] == "blood_smear"
    assert about["regions_mode"] == "all"
    assert about["regions_area_mm2"] == pytest.approx(600 * 700 * 0.0625e-6, rel=5e-3)
    assert len(about["levels"]) == 1


def test_inspect_as_text(command: Command, slide: Path) -> None:
    status, out, _ = command("inspect", slide, "--config", "trephine", "--no-calibrate")
    assert status == 0
    assert "trephine" in out
    assert "level 0" in out


def test_inspect_of_what_is_no_slide(command: Command, tmp_path: Path) -> None:
    status, _, err = command("inspect", tmp_path / "missing.svs")
    assert status == 2
    assert "missing.svs" in one_sentence(err)
    (tmp_path / "text.svs").write_text("text", encoding="utf-8")
    assert command("inspect", tmp_path / "text.svs")[0] == 2


# Evaluation ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with images of dark discs, their masks and their points."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("labelled")
    for name in ("images", "masks", "points"):
        (folder / name).mkdir()
    y, x = np.mgrid[:256, :320]
    for number in range(2):
        pixels, labels = np.full((256, 320, 3), 238, np.uint8), np.zeros((256, 320), np.uint16)
        centres = [(70, 80), (75, 230), (180, 150 + 20 * number)]
        for k, (cy, cx) in enumerate(centres, 1):
            distance = np.hypot(y - cy, x - cx)
            pixels[distance < 22], pixels[distance < 15] = (190, 170, 215), (95, 50, 140)
            labels[distance < 22] = k
        Image.fromarray(pixels).save(folder / "images" / f"field{number}.png")
        Image.fromarray(labels).save(folder / "masks" / f"field{number}.png")
        text = "".join(f"{cx} {cy} 0\n" for cy, cx in centres)
        (folder / "points" / f"field{number}.txt").write_text(text, encoding="utf-8")
    return folder


def test_segmentation_is_evaluated_on_masks(command: Command, labelled: Path, tmp_path: Path) -> None:
    status, out, err = command(
        "evaluate", "segmentation", "--images", labelled / "images", "--masks", labelled / "masks", "--mpp", "0.25",
        "--kind", "white", "--out", tmp_path,
    )  # fmt: skip
    assert status == 0, err
    metrics = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["model"] == "compact-smear"
    assert metrics["sha256"] == shipped_weights()["compact-smear"].sha256
    assert 0 <= metrics["ap50"] <= 1
    assert "Otsu" in out
    assert str(tmp_path / "metrics.json") in out


def test_segmentation_is_evaluated_on_points(command: Command, labelled: Path, tmp_path: Path) -> None:
    status, _, err = command(
        "evaluate", "segmentation", "--images", labelled / "images", "--points", labelled / "points", "--mpp", "0.25",
        "--out", tmp_path,
    )  # fmt: skip
    assert status == 0, err
    metrics = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert 0 <= metrics["recall"] <= 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "either --masks or --points"),
        (["--masks", "masks", "--points", "points"], "either --masks or --points"),
        (["--masks", "nowhere"], "nowhere"),
        (["--masks", "masks", "--kind", "green"], "green"),
        (["--masks", "masks", "--device", "tpu"], "tpu"),
        (["--masks", "masks", "--set", "segmentation.nothing=1"], "segmentation.nothing"),
    ],
)
def test_bad_usage_of_evaluate(command: Command, labelled: Path, tmp_path: Path, words: list[str], said: str) -> None:
    words = [str(labelled / w) if w in ("masks", "points", "nowhere") else w for w in words]
    status, _, err = command(
        "evaluate", "segmentation", "--images", labelled / "images", "--mpp", "0.25", "--out", tmp_path, *words
    )
    assert status == 2
    assert said in one_sentence(err)
    assert not list(tmp_path.iterdir())


def test_training_needs_data(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WSI_PIPELINE_DATA", raising=False)
    status, _, err = command("train", "segmentation", "--model", "compact-smear", "--out", tmp_path / "out")
    assert status == 2
    assert "WSI_PIPELINE_DATA" in one_sentence(err)
    status, _, err = command("train", "cells", "--data", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert status == 2
    assert "nowhere" in one_sentence(err)
