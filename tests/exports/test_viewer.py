"""TIAToolbox's viewer on a run: the folders it is given, and cells over the slide in a real browser."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from make_run import make_run
from PIL import Image

from tests.serve.chromium import Chromium
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.exports.annotation_store import type_colours, types_in, write_annotations
from wsi_pipeline.exports.viewer import view_folders
from wsi_pipeline.exports.viewer_folders import ViewedSlide, can_be_viewed, link_folders
from wsi_pipeline.taxonomies import load_taxonomy

TAXONOMIES = (load_taxonomy("pbc-blast"), load_taxonomy("red-cells"))


@pytest.fixture
def viewed(cells: Path, tmp_path: Path) -> list[ViewedSlide]:
    write_annotations(cells, tmp_path / "annotations.db", taxonomies=TAXONOMIES)
    found = []
    for number, slide_id in enumerate(("a", "ab", "0001", "slides")):
        path = tmp_path / f"place {number}" / "same name.TIFF"
        path.parent.mkdir()
        path.write_bytes(b"pixels")
        found.append(ViewedSlide(slide_id=slide_id, path=path, store=tmp_path / "annotations.db"))
    (tmp_path / "scratch").mkdir()
    return found


def test_an_overlay_belongs_to_one_slide(viewed: list[ViewedSlide], tmp_path: Path) -> None:
    """The viewer takes every overlay whose whole path contains the slide's stem."""
    slides, overlays = link_folders(viewed, tmp_path / "scratch", type_colours(TAXONOMIES))
    names = sorted(slides.iterdir())
    assert [path.resolve() for path in names] == [slide.path for slide in viewed]
    assert {path.suffix for path in names} == {".tiff"}
    for path, slide in zip(names, viewed, strict=True):
        assert slide.slide_id in path.name
        matching = [overlay for overlay in overlays.glob("*.db") if path.stem in str(overlay)]
        assert [overlay.stem for overlay in matching] == [path.stem]


def test_every_type_has_its_colour(viewed: list[ViewedSlide], tmp_path: Path) -> None:
    _, overlays = link_folders(viewed, tmp_path / "scratch", type_colours(TAXONOMIES))
    settings = json.loads((overlays / "config.json").read_text())
    colours = settings["color_dict"]
    assert list(colours) == types_in(viewed[0].store)
    assert colours["eosinophil"] == [*TAXONOMIES[0].get("eosinophil").color, 255]
    assert (settings["default_cprop"], settings["auto_load"]) == ("type", 1)
    assert settings["first_slide"] == "00001=a.tiff"


def test_mrxs_comes_with_its_folder(viewed: list[ViewedSlide], tmp_path: Path) -> None:
    path = tmp_path / "b.mrxs"
    path.write_bytes(b"")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "Slidedat.ini").write_text("x")
    slide = ViewedSlide(slide_id="b", path=path, store=viewed[0].store)
    slides, _ = link_folders([slide], tmp_path / "scratch", {})
    assert (slides / "00001=b" / "Slidedat.ini").read_text() == "x"
    assert (slides / "00001=b.mrxs").is_symlink()


def test_what_the_viewer_does_not_list() -> None:
    assert can_be_viewed(Path("a.SVS"))
    assert not can_be_viewed(Path("a.ome.zarr"))
    assert not can_be_viewed(Path("a.dcm"))


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port}: "):
            view_folders(tmp_path, tmp_path, port=port, log=tmp_path / "log", ready=print)


@pytest.fixture(scope="module")
def viewer(browser: Chromium, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command on a run whose slides have moved to two folders; its process and address."""
    folder = tmp_path_factory.mktemp("view")
    run = make_run(folder / "run", n_cells=200)
    moved = folder / "moved"
    moved.mkdir()
    shutil.move(folder / "run-slides" / "b.tiff", moved / "renamed.tiff")
    (folder / "where.csv").write_text("slide_id,slide\na,run-slides/a.tiff\nb,moved/renamed.tiff\n")
    command = [sys.executable, "-m", "wsi_pipeline.cli.main", "view", str(run), "--port", "0", "--no-browser"]
    process = subprocess.Popen(
        [*command, "--slides", str(folder / "where.csv")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    yield process, address
    process.terminate()
    process.wait(60)
    for pipe in (process.stdout, process.stderr):
        assert pipe is not None
        pipe.close()


def _picture(browser: Chromium, path: Path) -> np.ndarray:
    browser.shoot(path)
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def _near(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    """Count pixels of a colour laid over the slide's light ground, as opaque as the page draws overlays."""
    drawn = 0.75 * np.array(colour) + 0.25 * 235
    return int((np.abs(picture - drawn).max(axis=2) <= 6).sum())


def _status(url: str, **headers: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_cells_are_drawn_over_the_slide_in_a_browser(
    browser: Chromium, viewer: tuple[subprocess.Popen[str], str], tmp_path: Path
) -> None:
    process, address = viewer
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/bokeh_app", address), process.stderr and process.stderr.read()
    browser.resize(1400, 900)
    browser.open(address)
    browser.wait("window.Bokeh && Bokeh.documents.length", 120)
    colours = {name: type_colours(TAXONOMIES)[name] for name in ("eosinophil", "lymphocyte", "red cell")}
    ends = time.monotonic() + 120
    while True:
        seen = {name: _near(_picture(browser, tmp_path / "shot.png"), colour) for name, colour in colours.items()}
        if min(seen.values()) > 100 or time.monotonic() > ends:
            break
        time.sleep(0.5)
    assert min(seen.values()) > 100, seen
    overlays = """[...Bokeh.documents[0]._all_models.values()]
        .filter((model) => model.tile_source && model.tile_source.url.includes("/overlay/"))"""
    assert browser.js(f"{overlays}.length") == 1
    browser.js(f"{overlays}.forEach((model) => {{ model.visible = false }})")
    time.sleep(1)
    slide_alone = _picture(browser, tmp_path / "alone.png")
    assert max(_near(slide_alone, colour) for colour in colours.values()) < 20
    requests = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert all(url.startswith(("http://127.0.0.1:", "data:", "blob:")) for url in requests)

    # The tiles answer this page alone.
    tiles = next(url for url in requests if "/tileserver/layer/overlay/" in url)
    server = re.match(r"http://127\.0\.0\.1:\d+", tiles)
    assert server
    with urllib.request.urlopen(tiles, timeout=60) as answer:
        assert Image.open(io.BytesIO(answer.read())).size == (512, 512)
    health = f"{server[0]}/tileserver/healthcheck"
    assert _status(health) == 200
    assert _status(health, Origin=address.removesuffix("/bokeh_app")) == 200
    assert _status(health, Origin="http://elsewhere.example") == 403
    assert _status(health, Host="elsewhere.example") == 403

    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert process.stdout is not None
    assert process.stdout.read().endswith("ended\n")
    for url in (address, health):
        with pytest.raises(urllib.error.URLError, match="refused"):
            urllib.request.urlopen(url, timeout=10)
