"""The commands of ``export`` and ``view``: what they write, say and refuse."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from make_run import change_row, make_run

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", n_cells=20)


def one_sentence(text: str) -> str:
    errors = [line for line in text.strip().splitlines() if line.startswith("error: ")]
    assert "Traceback" not in text
    assert len(errors) == 1
    return errors[0]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["ome-zarr"], "labels.ome.zarr"),
        (["ome-zarr", "--image"], "image.ome.zarr"),
        (["annotations"], "annotations.db"),
    ],
)
def test_every_slide_gets_its_export(command: Command, run: Path, words: list[str], name: str) -> None:
    status, _, err = command("export", words[0], run, *words[1:])
    assert status == 0
    assert sorted(path.parent.name for path in run.glob(f"slides/*/{name}")) == ["a", "b"]
    assert f"[2/2] b: {run / 'slides' / 'b' / name}" in err


def test_one_slide_that_cannot_be_exported_does_not_stop_the_rest(command: Command, run: Path) -> None:
    (run / "slides" / "a" / "cells.parquet").write_bytes(b"PAR1 cut off")
    status, _, err = command("export", "annotations", run)
    assert status == 1
    assert "left out: a: " in err
    assert (run / "slides" / "b" / "annotations.db").is_file()
    change_row(run, "a", status="failed", reason="missing-mpp")
    status, _, err = command("export", "annotations", run)
    assert status == 0
    assert "left out: a: failed, missing-mpp" in err


def test_slides_that_moved_are_asked_for(command: Command, run: Path, tmp_path: Path) -> None:
    shutil.move(tmp_path / "run-slides", tmp_path / "moved")
    status, _, err = command("export", "ome-zarr", run, "--image")
    assert status == 2
    assert "say where the slides are with --slides" in one_sentence(err)
    assert not list(run.glob("slides/*/image.ome.zarr"))
    status, _, _ = command("export", "ome-zarr", run, "--image", "--slides", tmp_path / "moved")
    assert status == 0
    shutil.copy(tmp_path / "moved" / "b.tiff", tmp_path / "moved" / "a.tiff")
    status, _, err = command("export", "ome-zarr", run, "--image", "--slides", tmp_path / "moved")
    assert status == 2
    assert "is not the slide a of the run" in one_sentence(err)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["export", "ome-zarr", "RUN", "--slides", "."], "--slides goes with --image"),
        (["export", "anndata", "RUN", "--out", "x.h5ad", "--kind", "green"], "--kind 'green': use white, red"),
        (["export", "annotations", "nowhere"], "nowhere does not exist"),
        (["view", "nowhere"], "nowhere does not exist"),
    ],
)
def test_bad_usage_is_one_sentence(command: Command, run: Path, words: list[str], said: str) -> None:
    status, _, err = command(*(run if word == "RUN" else word for word in words))
    assert status == 2
    assert said in one_sentence(err)


def test_a_run_that_is_not_finished(command: Command, run: Path) -> None:
    (run / "run.json").unlink()
    for words in (["ome-zarr", run], ["annotations", run], ["anndata", run, "--out", run / "x.h5ad"]):
        status, _, err = command("export", *words)
        assert status == 2
        assert "holds a run that is not finished" in one_sentence(err)


def test_slides_that_the_viewer_cannot_open_are_named(command: Command, run: Path, tmp_path: Path) -> None:
    for slide_id in "ab":
        shutil.move(tmp_path / "run-slides" / f"{slide_id}.tiff", tmp_path / "run-slides" / f"{slide_id}.scn")
        change_row(run, slide_id, path=str(tmp_path / "run-slides" / f"{slide_id}.scn"))
    status, _, err = command("view", run, "--no-browser")
    assert status == 2
    assert "left out: a: a.scn: the viewer opens .svs" in err
    assert "the viewer can open none of its slides" in one_sentence(err)


def test_anndata_says_what_it_wrote(command: Command, run: Path, tmp_path: Path) -> None:
    pytest.importorskip("anndata")
    status, out, _ = command("export", "anndata", run, "--out", tmp_path / "cells.h5ad")
    assert status == 0
    assert out.strip() == f"{tmp_path / 'cells.h5ad'}: 40 cells, 10 features"
