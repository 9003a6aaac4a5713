"""A folder for QuPath: what is in it, and what its scripts do with the calls of QuPath's classes."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import shapely
from make_run import SIZE_PX0, change_row, make_run
from qupath_run import add_regions
from qupath_stub import write_stub

from wsi_pipeline.cli import main as cli
from wsi_pipeline.errors import DataError, SlideError
from wsi_pipeline.exports.finished_run import read_finished_run
from wsi_pipeline.exports.qupath import write_qupath
from wsi_pipeline.exports.qupath_project import export_slide, write_project
from wsi_pipeline.exports.qupath_validator import validate_qupath
from wsi_pipeline.slides import Slide
from wsi_pipeline.units import Box

HOSTILE = "a'$(x)\"\\${1+1}"
"""A name that is code, were it ever part of a script."""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = make_run(tmp_path / "run", n_cells=150)
    add_regions(folder)
    return folder


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["wsi-pipeline", *map(str, arguments)])
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    return int(leaving.value.code or 0)


def features(path: Path) -> list[dict[str, Any]]:
    return json.loads(gzip.decompress(path.read_bytes()))["features"]


def test_a_run_becomes_a_folder(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(monkeypatch, "export", "qupath", run) == 0
    out = run / "qupath"
    listed = json.loads((out / "slides.json").read_text())
    slide = listed["slides"][0]
    assert [one["slide_id"] for one in listed["slides"]] == ["a", "b"]
    assert (slide["width"], slide["height"]) == SIZE_PX0
    assert slide["files"] == ["a/qupath.geojson.gz"]
    assert slide["objects"] == 151
    assert slide["metadata"]["Answer: aml"] == "blasts in AML range, myeloid blasts 31.0 % (25.0-37.5 %)"
    assert slide["metadata"]["Answer: apl"] == "no answer: no-real-training-data"
    assert "31.0 % (25.0-37.5 %), 62 of 200" in slide["description"]
    names = {one["name"] for one in listed["classes"]}
    assert {"red cell", "monocyte"} <= names
    assert validate_qupath(out / "a" / "qupath.geojson.gz") == []
    region, *cells = features(out / "a" / "qupath.geojson.gz")
    assert region["properties"]["isLocked"] is True
    assert region["properties"]["metadata"]["fingerprint"] == slide["fingerprint"]
    assert [cell["id"] for cell in cells] == pq.read_table(run / "slides" / "a" / "cells.parquet")[
        "cell_id"
    ].to_pylist()


def test_twice_gives_the_same_bytes(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(monkeypatch, "export", "qupath", run, "--out", tmp_path / "q") == 0
    first = {p: p.read_bytes() for p in (tmp_path / "q").rglob("*") if p.is_file()}
    assert call(monkeypatch, "export", "qupath", run, "--out", tmp_path / "q") == 0
    assert {p: p.read_bytes() for p in (tmp_path / "q").rglob("*") if p.is_file()} == first


@pytest.mark.parametrize("most", [40, 75, 76, 151])
def test_shards_hold_every_object_once_and_old_ones_go(run: Path, tmp_path: Path, most: int) -> None:
    slide = read_finished_run(run).slides[0]
    out = tmp_path / "q"
    whole = export_slide(slide, slide.path, out)
    expected = features(out / "a" / "qupath.geojson.gz")
    cut = export_slide(slide, slide.path, out, shard_objects=most)
    found = [feature for name in cut.files for feature in features(out / name)]
    assert found == expected
    assert cut.objects == whole.objects == 151
    assert all(len(features(out / name)) <= most for name in cut.files)
    assert sorted(p.name for p in (out / "a").iterdir()) == sorted(Path(name).name for name in cut.files)
    assert [problem for name in cut.files for problem in validate_qupath(out / name)] == []


def test_the_file_of_the_run_is_taken_with_what_was_added_to_it(run: Path, tmp_path: Path) -> None:
    slide = read_finished_run(run).slides[0]
    export_slide(slide, slide.path, tmp_path / "encoded")
    expected = features(tmp_path / "encoded" / "a" / "qupath.geojson.gz")
    own = run / "slides" / "a" / "qupath.geojson.gz"
    first, also = slide.taxonomies()
    write_qupath(slide.cells, own, offset_px0=(0, 0), taxonomy=first, also=also, specimen="blood_smear")
    export_slide(slide, slide.path, tmp_path / "own")
    assert features(tmp_path / "own" / "a" / "qupath.geojson.gz") == expected
    text = gzip.decompress(own.read_bytes()).decode()
    own.write_bytes(gzip.compress(text.replace('"measurements":{', '"measurements":{"Attention m":2.5,').encode()))
    export_slide(slide, slide.path, tmp_path / "more", shard_objects=60)
    added = [f for path in sorted((tmp_path / "more" / "a").iterdir()) for f in features(path)]
    assert all(f["properties"]["measurements"]["Attention m"] == 2.5 for f in added[1:])
    for damaged, match in ((text[:-4], "cut off"), ("{}", "not written by this package")):
        own.write_bytes(gzip.compress(damaged.encode()))
        with pytest.raises(DataError, match=match):
            export_slide(slide, slide.path, tmp_path / "damaged")
    own.write_bytes(gzip.compress(text.encode())[:-20])
    with pytest.raises(DataError, match="cannot be read"):
        export_slide(slide, slide.path, tmp_path / "damaged")


def test_objects_lie_where_qupath_crops(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slide = read_finished_run(run).slides[0]
    export_slide(slide, slide.path, tmp_path / "whole")
    started = Slide.__init__

    def cropped(self: Slide, **values: Any) -> None:
        started(self, **{**values, "bounds": Box(x0=100, y0=50, x1=1200, y1=1000)})

    monkeypatch.setattr(Slide, "__init__", cropped)
    listed = export_slide(slide, slide.path, tmp_path / "cropped")
    assert (listed.width, listed.height) == (1100, 950)
    _, first, *_ = features(tmp_path / "whole" / "a" / "qupath.geojson.gz")
    _, moved, *_ = features(tmp_path / "cropped" / "a" / "qupath.geojson.gz")
    there = shapely.geometry.shape(moved["geometry"])
    back = shapely.transform(there, lambda xy: xy + (100, 50))
    assert back.normalize().equals_exact(shapely.geometry.shape(first["geometry"]).normalize(), 0.011)


def test_half_written_and_moved_slides(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (run / "slides" / "a" / "summary.json").unlink()
    assert call(monkeypatch, "export", "qupath", run) == 1
    assert "left out: a: " in capsys.readouterr().err
    assert [s["slide_id"] for s in json.loads((run / "qupath" / "slides.json").read_text())["slides"]] == ["b"]
    shutil.move(tmp_path / "run-slides", tmp_path / "moved")
    assert call(monkeypatch, "export", "qupath", run) == 2
    assert "say where the slides are with --slides" in capsys.readouterr().err
    assert call(monkeypatch, "export", "qupath", run, "--slides", tmp_path / "moved") == 1
    listed = json.loads((run / "qupath" / "slides.json").read_text())
    assert listed["slides"][0]["uri"] == (tmp_path / "moved" / "b.tiff").as_uri()
    (run / "run.json").unlink()
    assert call(monkeypatch, "export", "qupath", run) == 2
    assert "not finished (run.json is missing)" in capsys.readouterr().err


def test_a_slide_behind_a_url_is_refused(run: Path, tmp_path: Path) -> None:
    change_row(run, "a", path="https://example.org/a.tiff")
    slide = read_finished_run(run).slides[0]
    with pytest.raises(SlideError, match="QuPath opens files only"):
        export_slide(slide, slide.path, tmp_path)


# The scripts ---------------------------------------------------------------------------------------------------------


def run_groovy(program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    found, java = shutil.which(program), shutil.which("java")
    if found is None or java is None:
        pytest.skip(f"{program} is not installed; the scripts for QuPath are not run")
    return subprocess.run(
        [found, *map(str, arguments)],
        env={**os.environ, "JAVA_HOME": str(Path(java).resolve().parents[1])},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


@pytest.fixture(scope="session", params=["0.5", "0.6"])
def stub(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a class path with what the scripts call of QuPath, in the form of a version."""
    folder = tmp_path_factory.mktemp("stub")
    sources = sorted(write_stub(folder / "sources", request.param).rglob("*.groovy"))
    compiled = run_groovy("groovyc", "-d", folder / "classes", *sources)
    assert compiled.returncode == 0, compiled.stdout + compiled.stderr
    return folder / "classes"


def as_images(out: Path, *sizes: str) -> None:
    """Put images of the stub in place of the slides."""
    for slide, text in zip(json.loads((out / "slides.json").read_text())["slides"], sizes, strict=True):
        Path(slide["uri"].removeprefix("file://")).write_text(text)


def test_no_name_becomes_part_of_a_script(run: Path, tmp_path: Path) -> None:
    slides = read_finished_run(run).slides
    out = tmp_path / HOSTILE
    write_project(out, [export_slide(slide, slide.path, out) for slide in slides], slides)
    for name in ("import.groovy", "export.groovy"):
        (line,) = [text for text in (out / name).read_text().splitlines() if "file://" in text]
        inner = line.partition("new File(new URI('file://")[2].partition("'))")[0]
        assert inner
        assert not set(inner) & set("'\"$\\ ()+")


def test_the_scripts_make_a_project_and_bring_objects_back(run: Path, tmp_path: Path, stub: Path) -> None:
    slides = read_finished_run(run).slides
    out = tmp_path / HOSTILE
    write_project(out, [export_slide(slide, slide.path, out) for slide in slides], slides)
    as_images(out, "10 10 1300 1100", "1300 1100")
    ran = run_groovy("groovy", "-cp", stub, out / "import.groovy")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "a: 151 objects added, 0 were there" in ran.stdout
    file = out / "project" / "project.qpproj"
    made = json.loads(file.read_text())
    listed = json.loads((out / "slides.json").read_text())
    assert {name: color & 0xFFFFFF for name, color in made["classes"]} == {
        one["name"]: int.from_bytes(bytes(one["color"]), "big") for one in listed["classes"]
    }
    for entry, slide in zip(made["entries"], listed["slides"], strict=True):
        assert entry["name"] == slide["slide_id"]
        assert entry["metadata"] == slide["metadata"]
        assert entry["description"] == slide["description"]
        assert entry["size"] == [1300, 1100]
        assert entry["mpp"] == [0.25, 0.25]
        assert entry["type"] == "BRIGHTFIELD_OTHER"
        assert entry["features"] == features(out / slide["files"][0])

    # A reader's correction survives a second import, which only puts back what was deleted.
    corrected = made["entries"][0]["features"]
    corrected[5]["properties"]["classification"]["name"] = "mine"
    lost = corrected.pop()
    file.write_text(json.dumps(made))
    again = run_groovy("groovy", "-cp", stub, out / "import.groovy")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "a: 1 objects added, 150 were there" in again.stdout
    twice = json.loads(file.read_text())["entries"]
    assert len(twice) == 2
    assert twice[0]["features"] == [*corrected, lost]

    back = run_groovy("groovy", "-cp", stub, out / "export.groovy")
    assert back.returncode == 0, back.stdout + back.stderr
    assert json.loads((out / "corrected" / "a.geojson").read_text())["features"] == twice[0]["features"]


def test_a_slide_of_another_size_is_refused_and_the_rest_is_added(run: Path, tmp_path: Path, stub: Path) -> None:
    slides = read_finished_run(run).slides
    out = tmp_path / "q"
    write_project(out, [export_slide(slide, slide.path, out) for slide in slides], slides)
    as_images(out, "900 900", "1300 1100")
    ran = run_groovy("groovy", "-cp", stub, out / "import.groovy")
    assert ran.returncode != 0
    assert "a: FAILED, no image of 1300 x 1100 pixels" in ran.stdout
    assert "QuPath reads 900 x 900" in ran.stdout
    assert "1 of 2 slides failed: a" in ran.stderr
    assert [e["name"] for e in json.loads((out / "project" / "project.qpproj").read_text())["entries"]] == ["b"]
