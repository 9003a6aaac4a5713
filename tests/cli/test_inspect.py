"""``wsi-pipeline inspect``: areas, blocks, the picture of the regions, the estimate, and what cannot be used."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import shapely
import tifffile
from PIL import Image
from test_cli import Command, one_sentence

from wsi_pipeline.config import load_config
from wsi_pipeline.exports.region_map import OverviewFrame
from wsi_pipeline.one_slide import estimate
from wsi_pipeline.one_slide.estimate import choose_windows, stain_cover
from wsi_pipeline.one_slide.inspection import span
from wsi_pipeline.one_slide.job import SlideJob
from wsi_pipeline.one_slide.prepare import prepare
from wsi_pipeline.runtime.executor import SerialExecutor
from wsi_pipeline.slides import SlideSpec, open_slide
from wsi_pipeline.tiling import plan_blocks
from wsi_pipeline.units import Box, FrameTransform

WIDTH, HEIGHT = 1400, 1100
QUICK = ("--set", "regions.all_below_mm2=0")


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a slide of 2.8 x 2.2 mm with a stained area, a speck too small, ink and a part that was not scanned."""
    rng = np.random.default_rng(0)
    pixels = np.clip(rng.normal(238, 3, (HEIGHT, WIDTH, 3)), 0, 255).astype(np.uint8)
    stained = pixels[200:700, 250:900]
    stained[rng.random(stained.shape[:2]) < 0.5] = (150, 80, 160)
    pixels[900:920, 300:320] = (150, 80, 160)
    pixels[780:900, 1000:1200] = (20, 140, 60)
    pixels[:150, 1000:] = 0
    path = tmp_path_factory.mktemp("slide") / "a & b <i>'$(touch x)'\x1b[31m.tiff"
    tifffile.imwrite(
        path, pixels, tile=(256, 256), photometric="rgb", resolution=(5_000, 5_000), resolutionunit="CENTIMETER"
    )
    return path


def test_areas_by_reason_add_up(command: Command, slide: Path) -> None:
    status, out, _ = command("inspect", slide, *QUICK, "--json", "--no-calibrate")
    assert status == 0
    about = json.loads(out)
    excluded = about["regions_excluded"]
    assert {"glass", "pen", "no-data", "too-small"} == set(excluded)
    assert about["regions_area_mm2"] == pytest.approx(500 * 650 * 4e-6, rel=0.15)
    assert excluded["no-data"]["area_mm2"] == pytest.approx(150 * 400 * 4e-6, rel=0.1)
    total = about["regions_area_mm2"] + sum(row["area_mm2"] for row in excluded.values())
    assert total == pytest.approx(about["area_mm2"], rel=1e-3)
    assert (about["regions_pieces"], about["no_estimate"], about["estimate"]) == (1, "not asked for", None)


@pytest.mark.parametrize("core", [256, 1024])
def test_blocks_are_those_a_run_cuts(command: Command, slide: Path, tmp_path: Path, core: int) -> None:
    sets = {"regions.all_below_mm2": 0, "tiling.core_px": core, "tiling.halo_um": 90, "segmentation.mpp": 2.0}
    words = [word for key, value in sets.items() for word in ("--set", f"{key}={value}")]
    status, out, _ = command("inspect", slide, *words, "--json", "--no-calibrate")
    assert status == 0
    config = load_config(None, sets)
    prepared = prepare(SlideJob(slide_id="s", spec=SlideSpec(path=slide), config=config, out=tmp_path / "run"))
    assert json.loads(out)["expected_blocks"] == len(prepared.blocks) > 0


def test_picture_shows_every_reason(command: Command, slide: Path, tmp_path: Path) -> None:
    before = sorted(slide.parent.iterdir())
    status, out, _ = command("inspect", slide, *QUICK, "--no-calibrate", "--thumbnail", tmp_path)
    assert status == 0
    assert "\x1b" not in out
    for words in ("not looked at, pen", "not looked at, too small", "estimated_time"):
        assert words in out
    (png,) = tmp_path.iterdir()
    assert png.suffix == ".png"
    assert not set(png.name) & set("<>&$'()\x1b ")
    assert sorted(slide.parent.iterdir()) == before, "nothing is written beside the slide"
    drawn = np.asarray(Image.open(png).convert("RGB")).astype(int)
    with open_slide(slide) as opened:
        where = OverviewFrame.of(opened)
        plain = opened.read(where.box, where.mpp).astype(int)
    changed = np.abs(drawn[: where.box.height, : where.box.width] - plain).sum(axis=2) > 6

    def share(x0: int, y0: int, x1: int, y1: int) -> float:
        (a, b), (c, d) = where.to_picture([(x0, y0), (x1, y1)]).astype(int)
        return float(changed[b:d, a:c].mean())

    assert share(300, 250, 850, 650) < 0.02, "what is looked at stays as it is"
    assert share(1050, 10, 1350, 100) > 0.1, "parts that were not scanned are hatched"
    assert share(1020, 800, 1180, 880) > 0.9, "ink is tinted"
    assert share(50, 850, 200, 1050) > 0.9, "glass is tinted"


def test_the_picture_never_replaces_the_slide(command: Command, tmp_path: Path) -> None:
    picture = tmp_path / "field.png"
    Image.fromarray(np.full((300, 300, 3), 230, np.uint8)).save(picture)
    whole = picture.read_bytes()
    status, _, err = command("inspect", picture, "--mpp", "0.25", "--no-calibrate", "--thumbnail", picture)
    assert status == 2
    assert "the slide itself" in one_sentence(err)
    assert picture.read_bytes() == whole


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--thumbnail", "a.jpg"], ".png"),
        (["--thumbnail", "FILE/a.png"], "cannot be written"),
        (["--regions", "missing.geojson"], "missing.geojson"),
        (["--force-mpp"], "--mpp"),
        (["--config", "urine"], "urine"),
        (["--device", "tpu"], "tpu"),
    ],
)
def test_bad_usage_is_one_sentence(command: Command, slide: Path, tmp_path: Path, words: list[str], said: str) -> None:
    (tmp_path / "file").write_text("text", encoding="utf-8")
    words = [word.replace("FILE", str(tmp_path / "file")) for word in words]
    status, _, err = command("inspect", slide, "--no-calibrate", *words)
    assert status == 2
    assert said in one_sentence(err)


def test_drawn_regions(command: Command, slide: Path, tmp_path: Path) -> None:
    drawn = tmp_path / "drawn.geojson"
    ring = [[100, 100], [600, 100], [600, 500], [100, 500], [100, 100]]
    drawn.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}), encoding="utf-8")
    status, out, _ = command("inspect", slide, "--regions", drawn, "--json", "--no-calibrate")
    assert status == 0
    about = json.loads(out)
    assert about["regions_mode"] == "file"
    assert about["regions_area_mm2"] == pytest.approx(500 * 400 * 4e-6)
    assert list(about["regions_excluded"]) == ["outside-drawn"]


def test_nothing_to_look_at(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "glass.tiff"
    pixels = np.full((1100, 1100, 3), 240, np.uint8)
    tifffile.imwrite(
        path, pixels, tile=(256, 256), photometric="rgb", resolution=(5_000, 5_000), resolutionunit="CENTIMETER"
    )
    status, out, _ = command("inspect", path, *QUICK, "--thumbnail", tmp_path)
    assert status == 0
    assert "no stained area found" in out
    assert "none: nothing to look at" in out
    assert (tmp_path / "glass-regions.png").is_file()


@contextmanager
def _in_this_process(*_: object) -> Iterator[SerialExecutor]:
    yield SerialExecutor()


def test_a_model_that_is_missing_costs_the_estimate_alone(
    command: Command, slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "open_executor", _in_this_process)
    status, out, _ = command("inspect", slide, *QUICK, "--set", "segmentation.model=no-such-model", "--json")
    assert status == 0
    about = json.loads(out)
    assert about["estimate"] is None
    assert "no-such-model" in about["no_estimate"]


def test_estimate(command: Command, slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real weights; at 4 um per pixel the slide is a batch of tiles. The worker of a run is this process."""
    monkeypatch.setattr(estimate, "open_executor", _in_this_process)
    words = [*QUICK, "--set", "segmentation.mpp=4", "--set", "segmentation.precision=fp32", "--json"]
    status, out, err = command("inspect", slide, *words, "--set", "runtime.workers=1", "--device", "cpu")
    assert status == 0
    assert "--no-calibrate" in err
    about = json.loads(out)
    found = about["estimate"]
    assert 0 < found["low_s"] < found["high_s"]
    assert (found["device"], found["workers"], about["no_estimate"]) == ("cpu", 1, "")
    assert 1 <= found["n_windows"] <= 3
    assert 0 < found["cpu_share"] <= 1
    assert found["s_per_mm2"] > 0


def test_windows_are_chosen_by_stain() -> None:
    size, side = (2048, 1024), 512
    region = shapely.box(0, 0, 2048, 1024)
    blocks = plan_blocks(size, region, core_px=side, halo=16)
    pixels = np.full((64, 128, 3), 255, np.uint8)
    for number, block in enumerate(blocks):
        core = block.core
        pixels[core.y0 // 16 : core.y1 // 16, core.x0 // 16 : core.x1 // 16] = 250 - 10 * number
    where = OverviewFrame(mpp=4.0, box=Box(x0=0, y0=0, x1=128, y1=64), frame=FrameTransform(scale_x=16.0, scale_y=16.0))
    covers = stain_cover(blocks, where, pixels, 1 / 16)
    assert covers == [1000 * (5 + 10 * number) for number in range(8)]
    chosen = choose_windows(blocks, region, covers)
    assert [blocks.index(block) for block in chosen] == [4, 2, 5]
    assert choose_windows(blocks[:1], region, covers[:1]) == blocks[:1]


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (3.2, 8.1, "3 to 9 seconds"),
        (70, 250, "1 to 4.5 minutes"),
        (700, 1500, "11 to 25 minutes"),
        (5000, 9000, "1 to 2.5 hours"),
    ],
)
def test_span(low: float, high: float, text: str) -> None:
    assert span(low, high) == text
