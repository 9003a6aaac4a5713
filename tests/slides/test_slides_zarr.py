"""OME-Zarr folders: read whatever their layout, refused when their metadata is not to be believed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numcodecs import Blosc, Zlib
from zarr.codecs import BloscCodec

from wsi_pipeline.config import SlidesConfig
from wsi_pipeline.errors import (
    ConfigError,
    CorruptTileError,
    MissingMppError,
    NotBrightfieldError,
    SlideError,
    UnreadableSlideError,
    UnsupportedFormatError,
)
from wsi_pipeline.manifest import list_slides
from wsi_pipeline.slides import open_slide, slide_fingerprint
from wsi_pipeline.units import Box

WHOLE = Box(x0=0, y0=0, x1=700, y1=500)
KINDS = {"x": "space", "y": "space", "z": "space", "t": "time", "c": "channel"}


def multiscales(axes: str, mpp: tuple[float, float] | None, paths: list[str], unit: str = "micrometer") -> dict:
    listed = [{"name": a, "type": KINDS[a]} | ({"unit": unit} if a in "xyz" else {}) for a in axes]
    datasets: list[dict[str, Any]] = []
    for level, path in enumerate(paths):
        datasets.append({"path": path})
        if mpp is not None:
            sizes = {"x": mpp[0] * 2**level, "y": mpp[1] * 2**level}
            datasets[-1]["coordinateTransformations"] = [{"type": "scale", "scale": [sizes.get(a, 1.0) for a in axes]}]
    return {"version": "0.4", "axes": listed, "datasets": datasets}


def write_group(folder: Path, zarr_format: int, attributes: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if zarr_format == 2:
        (folder / ".zgroup").write_text('{"zarr_format": 2}')
        (folder / ".zattrs").write_text(json.dumps(attributes))
    else:
        node = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": {"version": "0.5", **attributes}}}
        (folder / "zarr.json").write_text(json.dumps(node))


def write_zarr(
    path: Path,
    image: np.ndarray,
    *,
    axes: str = "tczyx",
    zarr_format: int = 2,
    mpp: tuple[float, float] | None = (0.25, 0.25),
    levels: int = 2,
    chunk: int = 128,
    unit: str = "micrometer",
    **options: Any,
) -> Path:
    """Write ``image`` (axes zyxc or yxc) as an OME-Zarr folder with levels halved by striding."""
    stack = image if image.ndim == 4 else image[None]
    paths = [str(level) for level in range(levels)]
    write_group(path, zarr_format, {"multiscales": [multiscales(axes, mpp, paths, unit)]})
    for level, name in enumerate(paths):
        small = stack[None, :, :: 2**level, :: 2**level]  # tzyxc
        array = small.transpose(
            [*("tzyxc".index(a) for a in axes), *("tzyxc".index(a) for a in "tzyxc" if a not in axes)]
        )
        array = array.reshape(array.shape[: len(axes)])
        chunks = tuple(min(n, chunk) if a in "xy" else 1 for a, n in zip(axes, array.shape, strict=True))
        made = zarr.create_array(
            path / name, shape=array.shape, chunks=chunks, dtype=array.dtype, zarr_format=zarr_format, **options
        )
        made[...] = array
    return path


@pytest.fixture
def image(texture) -> np.ndarray:
    return texture(700, 500)


def attributes_of(path: Path) -> dict[str, Any]:
    return json.loads((path / ".zattrs").read_text())


def edit(file: Path, change: Any) -> None:
    found = json.loads(file.read_text())
    change(found)
    file.write_text(json.dumps(found))


LAYOUTS = {
    "0.4, blosc": ({"zarr_format": 2, "compressors": Blosc()}, "tczyx"),
    "0.4, zlib, nested": (
        {"zarr_format": 2, "compressors": Zlib(), "chunk_key_encoding": {"name": "v2", "separator": "/"}},
        "czyx",
    ),
    "0.4, uncompressed": ({"zarr_format": 2, "compressors": None}, "cyx"),
    "0.4, channels last": ({"zarr_format": 2}, "yxc"),
    "0.5": ({"zarr_format": 3}, "tczyx"),
    "0.5, blosc, sharded": ({"zarr_format": 3, "compressors": BloscCodec(), "shards": (3, 512, 768)}, "cyx"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_its_pixels(tmp_path: Path, image: np.ndarray, layout: str) -> None:
    options, axes = LAYOUTS[layout]
    path = write_zarr(tmp_path / "slide.ome.zarr", image, axes=axes, levels=1 if "shards" in options else 2, **options)
    with open_slide(path) as slide:
        assert (slide.backend_requested, slide.backend, slide.slide_format) == ("auto", "zarr", "ome-zarr")
        assert (slide.mpp.x, slide.mpp.y, slide.mpp.source) == (0.25, 0.25, "slide")
        assert slide.plane == ""
        assert np.array_equal(slide.read(WHOLE, 0.25), image)
        if len(slide.levels) > 1:
            assert np.array_equal(slide.read(Box(x0=0, y0=0, x1=350, y1=250), 0.5), image[::2, ::2])
        part = Box(x0=101, y0=77, x1=333, y1=402)
        assert np.array_equal(slide.read(WHOLE, 0.37)[77:300, 101:333], slide.read(part, 0.37)[:223])
        assert len(slide.fingerprint) == 64
        again = slide.spec.open()
        assert np.array_equal(again.read(part, 0.25), image[77:402, 101:333])
        again.close()


def test_transparent_pixels_are_over_white(tmp_path: Path, image: np.ndarray) -> None:
    clear = np.concatenate([image, np.full((500, 700, 1), 255, np.uint8)], axis=2)
    clear[:100, :, 3] = 0
    with open_slide(write_zarr(tmp_path / "s.zarr", clear)) as slide:
        read = slide.read(WHOLE, 0.25)
    assert (read[:100] == 255).all()
    assert np.array_equal(read[100:], image[100:])


@pytest.mark.parametrize(("unit", "factor"), [("nanometer", 1e-3), ("millimeter", 1e3), ("micrometer", 1)])
def test_units_and_both_axes_count(tmp_path: Path, image: np.ndarray, unit: str, factor: float) -> None:
    path = write_zarr(tmp_path / "s.zarr", image, mpp=(0.25 / factor, 0.5 / factor), unit=unit)
    edit(path / ".zattrs", lambda a: a["multiscales"][0].update(
        coordinateTransformations=[{"type": "scale", "scale": [1, 1, 1, 2, 2]}]
    ))  # fmt: skip
    with open_slide(path) as slide:
        assert (slide.mpp.x, slide.mpp.y) == (pytest.approx(0.5), pytest.approx(1.0))


@pytest.mark.parametrize("case", ["no scale", "no unit", "pixel"])
def test_no_microns_per_pixel_is_missing_mpp(tmp_path: Path, image: np.ndarray, case: str) -> None:
    path = write_zarr(tmp_path / "s.zarr", image, mpp=None if case == "no scale" else (0.25, 0.25))
    unit = {"no unit": None, "pixel": "pixel"}.get(case, "micrometer")
    edit(path / ".zattrs", lambda a: [axis.update(unit=unit) for axis in a["multiscales"][0]["axes"]])
    with pytest.raises(MissingMppError):
        open_slide(path)
    with open_slide(path, mpp=0.3) as slide:
        assert (slide.mpp.x, slide.mpp.source) == (0.3, "option")


def test_focal_plane_is_chosen_and_recorded(tmp_path: Path, image: np.ndarray) -> None:
    stack = np.stack([image, image // 2 + 60, image // 3 + 90])
    path = write_zarr(tmp_path / "s.zarr", stack)
    with open_slide(path) as slide:
        assert slide.plane == "z 1 of 3"
        assert np.array_equal(slide.read(WHOLE, 0.25), stack[1])
    with open_slide(path, config=SlidesConfig(z_plane=2)) as slide:
        assert np.array_equal(slide.read(WHOLE, 0.25), stack[2])
    with pytest.raises(ConfigError, match=r"slides.z_plane is 3, and the file has 3"):
        open_slide(path, config=SlidesConfig(z_plane=3))


@pytest.mark.parametrize("listed", [True, False])
def test_of_bioformats2raw_the_largest_series_is_read(tmp_path: Path, image: np.ndarray, listed: bool) -> None:
    path = tmp_path / "s.zarr"
    write_group(path, 2, {"bioformats2raw.layout": 3})
    if listed:
        write_group(path / "OME", 2, {"series": ["0", "1"]})
    write_zarr(path / "0", image[:200, :300])
    write_zarr(path / "1", image)
    with open_slide(path) as slide:
        assert (slide.dimensions, slide.plane) == ((700, 500), "scene 1 of 2")
        assert np.array_equal(slide.read(WHOLE, 0.25), image)
    with open_slide(path, config=SlidesConfig(scene=0)) as slide:
        assert slide.dimensions == (300, 200)
    with pytest.raises(ConfigError, match="slides.scene is 2"):
        open_slide(path, config=SlidesConfig(scene=2))


def test_what_the_folder_leaves_out_is_the_fill_value(tmp_path: Path, image: np.ndarray) -> None:
    path = write_zarr(tmp_path / "s.zarr", image, fill_value=255)
    for channel in range(3):
        (path / "0" / f"0.{channel}.0.1.2").unlink()
    with open_slide(path) as slide:
        read = slide.read(WHOLE, 0.25)
    assert (read[128:256, 256:384] == 255).all()
    assert np.array_equal(read[256:], image[256:])


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_damaged_chunk_is_named(tmp_path: Path, image: np.ndarray, zarr_format: int) -> None:
    path = write_zarr(tmp_path / "s.zarr", image, zarr_format=zarr_format)
    chunk = path / "0" / ("0.1.0.1.2" if zarr_format == 2 else "c/0/1/0/1/2")
    chunk.write_bytes(chunk.read_bytes()[:40])
    with open_slide(path) as slide:
        assert np.array_equal(slide.read(Box(x0=0, y0=300, x1=200, y1=400), 0.25), image[300:400, :200])
        with pytest.raises(CorruptTileError, match=r"s\.zarr: level 0, chunk 2, 1 \(pixels x 256-384, y 128-256\)"):
            slide.read(WHOLE, 0.25)
    with open_slide(path, config=SlidesConfig(on_corrupt="mask")) as slide:
        slide.read(WHOLE, 0.25)
        assert slide.masked() == (Box(x0=256, y0=0, x1=512, y1=256),)


def test_metadata_that_nobody_reads_is_bounded_too(tmp_path: Path, image: np.ndarray) -> None:
    path = write_zarr(tmp_path / "s.zarr", image, zarr_format=3)
    with (path / ".zgroup").open("wb") as file:  # beside zarr.json it is not looked at, but it is fingerprinted
        file.truncate(2**40)
    with pytest.raises(UnreadableSlideError, match=r"\.zgroup is no metadata file of at most 16 MiB"):
        open_slide(path)


def test_fingerprint_is_of_the_content(tmp_path: Path, image: np.ndarray) -> None:
    path = write_zarr(tmp_path / "s.zarr", image)
    first = slide_fingerprint(path)
    copy = Path(shutil.copytree(path, tmp_path / "copy.zarr"))
    assert slide_fingerprint(copy) == first
    write_group(copy / "labels", 2, {"labels": ["cells"]})
    assert slide_fingerprint(copy) == first
    chunk = copy / "0/0.0.0.3.5"
    held = bytearray(chunk.read_bytes())
    held[-1] ^= 1
    chunk.write_bytes(held)
    assert slide_fingerprint(copy) != first
    chunk.unlink()
    assert slide_fingerprint(copy) != first
    with open_slide(path) as slide:
        spec = slide.spec
    (path / "0/0.0.0.0.0").unlink()
    with pytest.raises(UnreadableSlideError, match="changed"):
        spec.open()


@pytest.mark.parametrize("backend", ["openslide", "tiff", "tiatoolbox"])
def test_another_backend_is_not_silently_replaced(tmp_path: Path, image: np.ndarray, backend: Any) -> None:
    path = write_zarr(tmp_path / "s.zarr", image)
    with pytest.raises(UnsupportedFormatError, match=r"slides\.backend"):
        open_slide(path, config=SlidesConfig(backend=backend))


def test_folders_and_manifests_list_it(tmp_path: Path, image: np.ndarray) -> None:
    path = write_zarr(tmp_path / "slides" / "a.ome.zarr", image)
    assert [entry.path for entry in list_slides([path.parent])] == [path]
    assert [entry.path for entry in list_slides([path])] == [path]
    manifest = tmp_path / "slides.csv"
    manifest.write_text("slide\nslides/a.ome.zarr\n")
    assert [entry.path for entry in list_slides([manifest])] == [path]


def refused(folder: Path, image: np.ndarray, kind: str) -> Path:
    """Write a folder that must not be read as a slide."""
    path = folder / f"{kind.replace(' ', '-')}.zarr"
    if kind == "grey":
        return write_zarr(path, image[..., :1])
    if kind == "no channels":
        return write_zarr(path, image[..., :1], axes="zyx")
    if kind == "two channels":
        return write_zarr(path, image[..., :2])
    if kind == "five channels":
        return write_zarr(path, np.concatenate([image, image[..., :2]], axis=2))
    if kind == "16 bit":
        return write_zarr(path, image.astype(np.uint16))
    if kind == "fluorescence":
        return write_zarr(path, image // 8)
    if kind == "no metadata":
        path.mkdir()
        return path
    if kind == "array alone":
        zarr.create_array(path, shape=(8, 8), chunks=(8, 8), dtype="u1", zarr_format=2)
        return path
    write_zarr(path, image)
    array, attributes = path / "0/.zarray", path / ".zattrs"
    dataset = attributes_of(path)["multiscales"][0]["datasets"][0]
    changes: dict[str, tuple[Path, Any]] = {
        "label": (attributes, lambda a: a.update({"image-label": {}})),
        "plate": (attributes, lambda a: a.update(plate={})),
        "times": (array, lambda a: a.update(shape=[4, 3, 1, 500, 700])),
        "axes": (attributes, lambda a: a["multiscales"][0].update(axes=["q", "c", "z", "y", "x"])),
        "huge": (array, lambda a: a.update(shape=[1, 3, 1, 10**12, 10**12])),
        "negative": (array, lambda a: a.update(shape=[1, 3, 1, -5, 700])),
        "not numbers": (array, lambda a: a.update(shape=[1, 3, 1, "500", 7e2])),
        "huge chunks": (array, lambda a: a.update(chunks=[1, 3, 1, 100_000, 100_000])),
        "tiny chunks": (array, lambda a: a.update(chunks=[1, 1, 1, 1, 1])),
        "fewer axes": (array, lambda a: a.update(shape=[500, 700], chunks=[128, 128])),
        "coarse first": (array, lambda a: a.update(shape=[1, 3, 1, 50, 70])),
        "pickle": (array, lambda a: a.update(filters=[{"id": "pickle"}])),
        "parent": (attributes, lambda a: a["multiscales"][0]["datasets"].__setitem__(0, dataset | {"path": "../x/0"})),
        "absolute": (attributes, lambda a: a["multiscales"][0]["datasets"].__setitem__(0, dataset | {"path": "/etc"})),
        "missing level": (attributes, lambda a: a["multiscales"][0]["datasets"].append({"path": "7"})),
        "many levels": (attributes, lambda a: a["multiscales"][0].update(datasets=[dataset] * 100)),
        "no datasets": (attributes, lambda a: a["multiscales"][0].pop("datasets")),
    }
    if kind in changes:
        edit(*changes[kind])
    elif kind == "not json":
        attributes.write_text("{")
    elif kind == "deep json":
        attributes.write_text("[" * 200_000)
    elif kind in ("linked level", "linked chunk"):
        target = folder / "elsewhere"
        source = path / "0" if kind == "linked level" else path / "0/0.0.0.0.0"
        shutil.move(source, target)
        source.symlink_to(target)
    elif kind == "looped folder":
        (path / "0/again").symlink_to(path / "0")
    elif kind == "pipe for metadata":
        attributes.unlink()
        os.mkfifo(attributes)
    return path


@pytest.mark.parametrize(
    ("kind", "error", "says"),
    [
        ("grey", NotBrightfieldError, "1 channel"),
        ("no channels", NotBrightfieldError, "1 channel"),
        ("two channels", NotBrightfieldError, "2 channel"),
        ("five channels", NotBrightfieldError, "5 channel"),
        ("16 bit", NotBrightfieldError, "<u2"),
        ("fluorescence", NotBrightfieldError, "dark"),
        ("no metadata", UnsupportedFormatError, "a folder and no OME-Zarr"),
        ("array alone", UnsupportedFormatError, "without"),
        ("label", UnsupportedFormatError, "label image"),
        ("plate", UnsupportedFormatError, "plate"),
        ("times", UnsupportedFormatError, "4 points in time"),
        ("axes", UnsupportedFormatError, "axes"),
        ("huge", UnreadableSlideError, "claims shape"),
        ("negative", UnreadableSlideError, "claims shape"),
        ("not numbers", UnreadableSlideError, "claims shape"),
        ("huge chunks", UnreadableSlideError, "1 GiB"),
        ("tiny chunks", UnreadableSlideError, "1 x 1 pixels"),
        ("fewer axes", UnsupportedFormatError, "axes"),
        ("coarse first", UnreadableSlideError, "finest must come first"),
        ("pickle", UnsupportedFormatError, "'pickle'"),
        ("parent", UnreadableSlideError, "out of the slide's folder"),
        ("absolute", UnreadableSlideError, "out of the slide's folder"),
        ("missing level", UnreadableSlideError, "is not there"),
        ("many levels", UnreadableSlideError, "1 to 64"),
        ("no datasets", UnreadableSlideError, "datasets"),
        ("not json", UnreadableSlideError, "JSON"),
        ("deep json", UnreadableSlideError, "JSON"),
        ("linked level", UnreadableSlideError, "out of the slide's folder"),
        ("linked chunk", UnreadableSlideError, "out of the slide's folder"),
        ("looped folder", UnreadableSlideError, "link to a folder"),
        ("pipe for metadata", UnreadableSlideError, "no metadata file"),
    ],
)
def test_what_is_refused_and_why(tmp_path: Path, image: np.ndarray, kind: str, error: Any, says: str) -> None:
    path = refused(tmp_path, image, kind)
    with pytest.raises(error, match=says) as caught:
        open_slide(path, mpp=0.25)
    assert path.name in str(caught.value)


ODD = (None, True, -1, 10**30, float("nan"), "", "\ud800", "../..", "a" * 5000, [], [[1]], {}, {"id": "blosc"})


@pytest.mark.parametrize(
    ("zarr_format", "name"), [(2, ".zattrs"), (2, "0/.zarray"), (3, "zarr.json"), (3, "0/zarr.json")]
)
def test_whatever_its_metadata_says_it_opens_or_has_a_reason(
    tmp_path: Path, texture, zarr_format: int, name: str
) -> None:
    """Every value of the metadata in turn is something else (one odd value each, by turns)."""
    path = write_zarr(tmp_path / "s.zarr", texture(60, 50), zarr_format=zarr_format, levels=1)
    document = json.loads((path / name).read_text())
    for number, place in enumerate(places_in(document)):
        changed = json.loads(json.dumps(document))
        holder = changed
        for step in place[:-1]:
            holder = holder[step]
        holder[place[-1]] = ODD[number % len(ODD)]
        (path / name).write_text(json.dumps(changed))
        try:
            with open_slide(path, mpp=0.25, force_mpp=True) as slide:
                slide.read(Box(x0=0, y0=0, x1=60, y1=50), 0.25)
        except SlideError as error:
            assert "s.zarr" in str(error)


def places_in(document: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to every value of a JSON document."""
    inside = (
        document.items() if isinstance(document, dict) else enumerate(document if isinstance(document, list) else ())
    )
    own = [place] if place else []
    return own + [way for key, value in inside for way in places_in(value, (*place, key))]
