"""A run's folder as exports read it: whole, half written, moved."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from make_run import change_row, make_run, make_slide

from wsi_pipeline.errors import ConfigError, DataError, UnreadableSlideError
from wsi_pipeline.exports.finished_run import locate_slides, read_finished_run
from wsi_pipeline.slides import open_slide


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", n_cells=5)


def test_what_a_slide_was_run_with(run: Path) -> None:
    found = read_finished_run(run)
    slide, other = found.slides
    assert (slide.slide_id, other.slide_id) == ("a", "b")
    assert slide.size_px0 == (1300, 1100)
    assert slide.frame.scale_x == 2.0
    assert slide.subject_id == "P0"
    assert found.versions == {"wsi-pipeline": "0.1.0"}
    assert not found.without_cells
    assert not found.damaged
    assert {cell.code for taxonomy in slide.taxonomies() for cell in taxonomy.classes} >= {"blast", "red_cell"}
    with slide.spec(slide.path).open() as opened:
        assert opened.dimensions == slide.size_px0
        assert opened.fingerprint == slide.fingerprint


def test_the_resolution_that_was_forced_is_forced_again(run: Path) -> None:
    summary = run / "slides" / "a" / "summary.json"
    told = json.loads(summary.read_text())
    summary.write_text(json.dumps({**told, "mpp": {"x": 0.3, "y": 0.3, "source": "forced"}}))
    slide = read_finished_run(run).slides[0]
    with slide.spec(slide.path).open() as opened:
        assert opened.mpp.x == 0.3


@pytest.mark.parametrize("name", ["summary.json", "cells.parquet"])
def test_a_slide_half_written_is_named_and_the_rest_stands(run: Path, name: str) -> None:
    (run / "slides" / "a" / name).unlink()
    found = read_finished_run(run)
    assert [slide.slide_id for slide in found.slides] == ["b"]
    assert name in found.damaged["a"]
    assert "run the slides again" in found.damaged["a"]


def test_failed_and_empty_slides_are_named(run: Path) -> None:
    change_row(run, "a", status="failed", reason="missing-mpp")
    found = read_finished_run(run)
    assert found.without_cells == {"a": "failed, missing-mpp"}
    change_row(run, "b", status="empty", reason="glass-only")
    with pytest.raises(DataError, match=r"no slide has cells to export.*missing-mpp.*glass-only"):
        read_finished_run(run)


def test_folders_that_are_no_finished_run(run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_finished_run(tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match="not a run's folder"):
        read_finished_run(tmp_path / "other")
    (run / "run.json").unlink()
    with pytest.raises(DataError, match=r"not finished \(run.json is missing\); run it again, it resumes"):
        read_finished_run(run)


def test_a_summary_cut_off_or_of_another_version(run: Path) -> None:
    summary = run / "slides" / "a" / "summary.json"
    told = json.loads(summary.read_text())
    summary.write_text(json.dumps({key: value for key, value in told.items() if key != "seconds"}))
    assert "cut off" in read_finished_run(run).damaged["a"]
    summary.write_text(json.dumps({key: value for key, value in told.items() if key != "working_mpp"}))
    assert "another version" in read_finished_run(run).damaged["a"]
    summary.write_text("{")
    assert "cannot be read" in read_finished_run(run).damaged["a"]


def test_an_id_that_leads_out_of_the_folder_is_refused(run: Path) -> None:
    change_row(run, "a", slide_id="../a")
    with pytest.raises(DataError, match="not the name of a folder"):
        read_finished_run(run)


def test_slides_where_they_were(run: Path, tmp_path: Path) -> None:
    slides = read_finished_run(run).slides
    assert locate_slides(slides)["b"] == tmp_path / "run-slides" / "b.tiff"


def test_slides_that_moved_are_asked_for_and_checked(run: Path, tmp_path: Path) -> None:
    slides = read_finished_run(run).slides
    moved = tmp_path / "moved"
    shutil.move(tmp_path / "run-slides", moved)
    with pytest.raises(ConfigError, match=r"slide a is not at .*a\.tiff any more; say where the slides are"):
        locate_slides(slides)
    by_name = [(path.stem, path) for path in sorted(moved.iterdir())]
    assert locate_slides(slides, by_name) == {"a": moved / "a.tiff", "b": moved / "b.tiff"}
    renamed = (moved / "a.tiff").rename(moved / "scan 7.tiff")
    assert locate_slides(slides, [("a", renamed), ("b", moved / "b.tiff")])["a"] == renamed
    with pytest.raises(ConfigError, match=r"the list has no slide a \(file a\.tiff\)"):
        locate_slides(slides, [("scan 7", renamed)], given="the list")
    with pytest.raises(ConfigError, match=r"b\.tiff is not the slide a of the run: its fingerprint differs"):
        locate_slides(slides, [("a", moved / "b.tiff")])


def test_another_slide_at_the_old_place_is_refused_when_opened(run: Path, tmp_path: Path) -> None:
    slide = read_finished_run(run).slides[0]
    make_slide(tmp_path / "run-slides" / "a.tiff", seed=9)
    open_slide(slide.path).close()
    with pytest.raises(UnreadableSlideError, match="has changed"):
        slide.spec(slide.path).open()
