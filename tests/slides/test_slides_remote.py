"""Slides behind URLs: the same pixels and name as on disk, few bytes, bounded memory, and errors that say what to do.

The servers are of this machine. ``s3://`` is read through s3fs from a server that knows the three requests that are
made of it, not from Amazon's; other kinds of storage are represented by fsspec's ``memory://``.
"""

from __future__ import annotations

import json
import pickle
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import fsspec
import numpy as np
import pytest
from storage_server import Storage, serve

from wsi_pipeline.config import SlidesConfig
from wsi_pipeline.errors import (
    ConfigError,
    CorruptTileError,
    MissingMppError,
    NotBrightfieldError,
    SlideChangedError,
    SlideError,
    SlideNotFoundError,
    SlideUnreachableError,
    UnsupportedFormatError,
)
from wsi_pipeline.manifest import list_slides
from wsi_pipeline.slides import (
    RemotePath,
    Slide,
    SlideSpec,
    describe_slide,
    lattice,
    open_slide,
    remote,
    slide_fingerprint,
    slide_path,
    storage,
)
from wsi_pipeline.slides.remote import BLOCK_BYTES, BlockCache, RemoteSource
from wsi_pipeline.slides.sources import LocalSource
from wsi_pipeline.units import Box

SECRET = "X-Amz-Signature=5ec2e7"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry at once, and start each test without blocks and pixels of the last."""
    monkeypatch.setattr(remote, "_FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(remote, "_caches", {})
    monkeypatch.setattr(lattice, "_caches", {})


@pytest.fixture
def server(odd_pyramid: Path) -> Iterator[Storage]:
    with serve(Storage(files={"bucket/odd.tiff": odd_pyramid.read_bytes()})) as made:
        yield made


def noise(n: int) -> bytes:
    return np.random.default_rng(0).integers(0, 256, n, dtype=np.uint8).tobytes()


def everything(slide: Slide) -> list[np.ndarray]:
    width, height = slide.size_at(0.25)
    boxes = [Box(x0=x, y0=y, x1=x + 700, y1=y + 700) for x in (-20, 1500, width - 300) for y in (-20, height - 300)]
    return [slide.read(box, 0.25) for box in boxes] + [slide.read(Box(x0=0, y0=0, x1=900, y1=700), 1.1)]


def test_pixels_and_fingerprint_are_those_of_the_file(server: Storage, odd_pyramid: Path) -> None:
    with open_slide(f"{server.url}/bucket/odd.tiff") as there, open_slide(odd_pyramid) as here:
        assert there.fingerprint == here.fingerprint == slide_fingerprint(there.path)
        assert (there.backend, there.mpp, there.levels, there.bounds) == (
            here.backend,
            here.mpp,
            here.levels,
            here.bounds,
        )
        assert all(np.array_equal(a, b) for a, b in zip(everything(there), everything(here), strict=True))


def test_a_small_region_of_a_large_file_takes_few_bytes(tmp_path: Path, write_pyramid, texture) -> None:
    path = write_pyramid(
        tmp_path / "large.tiff", texture(6000, 6000), sizes=[(1500, 1500), (375, 375)], compression=None
    )
    size = path.stat().st_size
    with serve(Storage(files={"large.tiff": path.read_bytes()})) as server:
        with open_slide(f"{server.url}/large.tiff") as slide:
            opening, requests = server.sent, len(server.log)
            assert opening < 0.06 * size, (opening, size)  # both ends for the fingerprint, index, the coarsest level
            slide.read(Box(x0=2000, y0=2000, x1=2512, y1=2512), 0.25)
            tiles = 3 * 3 * 256 * 256 * 3
            assert server.sent - opening < tiles + 2 * 3 * BLOCK_BYTES
            assert len(server.log) - requests <= 9
            before = server.sent
            slide.read(Box(x0=2000, y0=2000, x1=2512, y1=2512), 0.25)
            assert server.sent == before
        assert all(span for _, _, span in server.log)  # nothing was ever asked for as a whole


def test_blocks_are_bounded_and_adjacent_ones_are_one_request() -> None:
    data = noise(40 * BLOCK_BYTES + 17)
    with serve(Storage(files={"file": data})) as server:
        cache = BlockCache(4 * BLOCK_BYTES)
        source = RemoteSource(RemotePath(f"{server.url}/file"), cache)
        assert source.size == len(data)
        assert source.read(3 * BLOCK_BYTES + 5, 9 * BLOCK_BYTES) == data[3 * BLOCK_BYTES + 5 : 12 * BLOCK_BYTES + 5]
        assert len(server.log) == 2
        assert source.read(len(data) - 10, 100) == data[-10:]
        assert source.read(len(data), 5) == b""
        source.read(20 * BLOCK_BYTES, 1)
        source.read(19 * BLOCK_BYTES, 3 * BLOCK_BYTES)  # the middle one is held: two requests of one block each
        assert [span for _, _, span in server.log[-2:]] == [
            f"bytes={19 * BLOCK_BYTES}-{20 * BLOCK_BYTES - 1}",
            f"bytes={21 * BLOCK_BYTES}-{22 * BLOCK_BYTES - 1}",
        ]
        assert cache.used_bytes <= cache.capacity_bytes
        assert (source.requests, source.fetched_bytes) == (len(server.log), server.sent)
        server.clear()
        assert source.read(0, len(data)) == data
        assert max(stop - start + 1 for start, stop in spans(server)) <= remote.MAX_REQUEST_BYTES
        assert cache.used_bytes <= cache.capacity_bytes
        source.close()


def spans(server: Storage) -> list[tuple[int, int]]:
    return [tuple(map(int, span.removeprefix("bytes=").split("-"))) for _, _, span in server.log]  # type: ignore[misc]


def test_threads_that_want_the_same_block_share_one_request() -> None:
    data = noise(8 * BLOCK_BYTES)
    with serve(Storage(files={"file": data}, delay=0.05)) as server:
        source = RemoteSource(RemotePath(f"{server.url}/file"), BlockCache(2**24))
        server.clear()
        barrier = threading.Barrier(8)

        def read(number: int) -> bool:
            barrier.wait()
            start = (1 + number % 3) * BLOCK_BYTES
            return source.read(start, 3 * BLOCK_BYTES) == data[start : start + 3 * BLOCK_BYTES]

        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(read, range(8)))
        asked = [
            block for start, stop in spans(server) for block in range(start // BLOCK_BYTES, stop // BLOCK_BYTES + 1)
        ]
        assert sorted(asked) == [1, 2, 3, 4, 5]
        server.answer = lambda _n, _path: 503
        barrier.reset()
        with ThreadPoolExecutor(8) as threads:
            failed = [threads.submit(lambda: (barrier.wait(), source.read(7 * BLOCK_BYTES, 9))) for _ in range(8)]
            assert {type(one.exception()) for one in failed} == {SlideUnreachableError}
        server.answer = lambda _n, _path: None
        assert source.read(7 * BLOCK_BYTES, 9) == data[7 * BLOCK_BYTES :][:9]  # a failure is not remembered
        source.close()


def test_passing_failures_are_retried_and_lasting_ones_end(server: Storage) -> None:
    server.answer = lambda number, _path: 503 if number % 3 < 2 else None
    with open_slide(f"{server.url}/bucket/odd.tiff") as slide:
        slide.read(Box(x0=0, y0=0, x1=300, y1=300), 0.25)
    server.clear()
    server.answer = lambda _number, _path: 500
    with pytest.raises(SlideUnreachableError, match=r"odd\.tiff: 4 attempts .* HTTP status 500"):
        open_slide(f"{server.url}/bucket/odd.tiff?{SECRET}")
    assert len(server.log) == remote.ATTEMPTS


def test_a_server_that_falls_silent_is_given_up(server: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "SILENCE_SECONDS", 0.2)
    server.delay = 5
    started = time.monotonic()
    with pytest.raises(SlideUnreachableError, match="attempts"):
        open_slide(f"{server.url}/bucket/odd.tiff")
    assert time.monotonic() - started < 4


def test_what_is_not_there_or_not_allowed_is_said(server: Storage) -> None:
    with pytest.raises(SlideNotFoundError, match="no such object .*404"):
        open_slide(f"{server.url}/bucket/other.tiff?{SECRET}")
    server.answer = lambda _number, _path: 403
    with pytest.raises(SlideNotFoundError, match="no permission .*renew the presigned URL") as caught:
        open_slide(f"{server.url}/bucket/odd.tiff?{SECRET}")
    assert "Amz" not in str(caught.value)
    with pytest.raises(SlideUnreachableError, match="check the address"):
        open_slide(f"http://127.0.0.1:9/odd.tiff?{SECRET}")
    with pytest.raises(UnsupportedFormatError, match=r"fsspec does not know nowhere://"):
        open_slide("nowhere://bucket/odd.tiff")


def test_a_server_without_ranges_is_refused_before_it_sends_the_file(write_pyramid, texture) -> None:
    with serve(Storage(files={"file.tiff": b"II*\0" + noise(64 * 2**20)}, ranges=False)) as server:
        with pytest.raises(SlideUnreachableError, match="ignores range requests"):
            open_slide(f"{server.url}/file.tiff")
        time.sleep(0.2)
        assert server.sent < 16 * 2**20  # what the sockets take before the connection is closed
        assert len(server.log) == 1


def test_a_server_that_sends_more_than_was_asked_is_refused_before_it_does() -> None:
    with serve(Storage(files={"file.tiff": b"II*\0" + noise(64 * 2**20)}, excess=2**30)) as server:
        with pytest.raises(SlideUnreachableError, match="answers a range request with HTTP status 206"):
            open_slide(f"{server.url}/file.tiff")
        time.sleep(0.2)
        assert server.sent < 16 * 2**20
        assert len(server.log) == 1


def test_an_object_that_changes_is_an_error(server: Storage) -> None:
    with open_slide(f"{server.url}/bucket/odd.tiff") as slide:
        remote._caches.clear()
        old = server.files["bucket/odd.tiff"]
        server.files["bucket/odd.tiff"] = old[:-1] + b"?"
        with pytest.raises(SlideChangedError, match="has changed since it was opened"):
            slide.read(Box(x0=2000, y0=1000, x1=2300, y1=1300), 0.25)
        server.files["bucket/odd.tiff"] = old[: len(old) // 4]
        with pytest.raises(SlideChangedError):
            slide.read(Box(x0=3000, y0=2500, x1=3300, y1=2800), 0.25)
    server.files["bucket/odd.tiff"] = old[:-1] + b"?"
    with pytest.raises(SlideError, match="changed since it was first opened"):
        slide.spec.open()


def test_a_failing_storage_is_no_damaged_tile(server: Storage) -> None:
    config = SlidesConfig(on_corrupt="mask")
    with open_slide(f"{server.url}/bucket/odd.tiff", config=config) as slide:
        remote._caches.clear()
        server.answer = lambda _number, _path: 503
        with pytest.raises(SlideUnreachableError) as caught:
            slide.read(Box(x0=2000, y0=1000, x1=2300, y1=1300), 0.25)
        assert not isinstance(caught.value, CorruptTileError)
        assert slide.masked() == ()
        server.answer = lambda _number, _path: None
        slide.read(Box(x0=2000, y0=1000, x1=2300, y1=1300), 0.25)  # the slide is not lost by it


def test_what_is_no_readable_tiff_is_refused_with_advice(tmp_path: Path, write_pyramid, texture) -> None:
    import tifffile

    grey = write_pyramid(tmp_path / "grey.tiff", texture(600, 400)[..., 0])
    deep = write_pyramid(tmp_path / "deep.tiff", texture(600, 400).astype(np.uint16))
    dark = write_pyramid(tmp_path / "dark.tiff", texture(600, 400) // 12)
    bare = write_pyramid(tmp_path / "bare.tiff", texture(600, 400), mpp=None)
    tifffile.imwrite(tmp_path / "strips.tiff", texture(600, 400), photometric="rgb")
    tifffile.imwrite(
        tmp_path / "philips.tiff", texture(600, 400), tile=(256, 256), photometric="rgb", software="Philips DP v1"
    )
    with tifffile.TiffWriter(tmp_path / "pages.tiff") as tiff:
        for _ in range(2):
            tiff.write(texture(600, 400), tile=(256, 256), photometric="rgb", metadata=None)
    names = [*(path.name for path in (grey, deep, dark, bare)), "strips.tiff", "philips.tiff", "pages.tiff"]
    files = {name: (tmp_path / name).read_bytes() for name in names}
    files |= {"page.tiff": b"<html>log in</html>", "empty.tiff": b"", "dicom.dcm": bytes(128) + b"DICM" + bytes(400)}
    files["cut.tiff"] = files["bare.tiff"][:200]
    with serve(Storage(files=files)) as server:
        for name, error, message in (
            ("grey.tiff", NotBrightfieldError, "8-bit RGB"),
            ("deep.tiff", NotBrightfieldError, "uint16"),
            ("dark.tiff", NotBrightfieldError, "dark"),
            ("bare.tiff", MissingMppError, "--mpp"),
            ("strips.tiff", UnsupportedFormatError, "no page is tiled; download it"),
            ("philips.tiff", UnsupportedFormatError, "Philips slides .* download it"),
            ("pages.tiff", UnsupportedFormatError, "no pyramid.* download it"),
            ("page.tiff", UnsupportedFormatError, "a text file found; .*Download it"),
            ("empty.tiff", UnsupportedFormatError, "empty file"),
            ("dicom.dcm", UnsupportedFormatError, "DICOM file found; .*Download it"),
            ("cut.tiff", SlideError, "download it"),
        ):
            with pytest.raises(error, match=message):
                open_slide(f"{server.url}/{name}")
        with open_slide(f"{server.url}/bare.tiff", mpp=0.5) as slide:
            assert (slide.mpp.x, slide.mpp.source) == (0.5, "option")
        for backend in ("openslide", "tiatoolbox"):
            with pytest.raises(UnsupportedFormatError, match=f"{backend}, which reads files on disk only"):
                open_slide(f"{server.url}/bare.tiff", config=SlidesConfig(backend=backend))


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, url in (("aiohttp", "https://example.org/a.svs"), ("s3fs", "s3://bucket/a.svs")):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            patch.setattr(sys.modules["fsspec.registry"], "_registry", {})
            patch.delitem(sys.modules, "fsspec.implementations.http", raising=False)
            with pytest.raises(UnsupportedFormatError, match=r"not installed.*wsi-pipeline\[remote\]"):
                open_slide(url)


def opened_elsewhere(pickled: bytes) -> tuple[str, int]:
    with pickle.loads(pickled).open() as slide:
        return slide.fingerprint, int(slide.read(Box(x0=100, y0=100, x1=300, y1=300), 0.25).sum())


def test_a_spec_opens_in_another_process(server: Storage) -> None:
    server.authorization = "Basic YW5uYTpwYXNz"
    with open_slide(server.url.replace("//", "//anna:pass@") + f"/bucket/odd.tiff?{SECRET}") as slide:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
            found = processes.submit(opened_elsewhere, pickle.dumps(slide.spec)).result()
        assert found == (slide.fingerprint, int(slide.read(Box(x0=100, y0=100, x1=300, y1=300), 0.25).sum()))
        assert all(path.endswith(SECRET) for _, path, _ in server.log)  # sent letter by letter
        shown = [repr(slide.spec), str(slide.spec), repr(slide), json.dumps(describe_slide(slide, mpp=0.25))]
        assert not [text for text in shown if "pass@" in text or "Amz" in text]
    server.authorization = "Basic other"
    with pytest.raises(SlideNotFoundError, match="no permission") as caught:
        slide.spec.open()
    assert "anna" not in str(caught.value)


def test_urls_are_paths_without_secrets() -> None:
    path = slide_path("https://anna:pass@host:8443/a%20b/slide.v1.svs?sig=1#x")
    assert isinstance(path, RemotePath)
    assert (str(path), f"{path}") == ("https://host:8443/a%20b/slide.v1.svs",) * 2
    assert (path.name, path.stem, path.suffix, path.parent.name) == ("slide.v1.svs", "slide.v1", ".svs", "a b")
    assert "pass" not in repr(SlideSpec(path=path))
    assert pickle.loads(pickle.dumps(path)) == path == path.absolute()
    assert len({path, pickle.loads(pickle.dumps(path))}) == 1
    assert slide_path("file:///data/a%20b.svs") == Path("/data/a b.svs")
    assert slide_path("C:/slides/a.svs") == Path("C:/slides/a.svs")
    for url in (
        "https://host/folder/",
        "s3://bucket",
        "simplecache::s3://bucket/a.svs",
        "https://[broken/a.svs",
        Path("https://host/a.svs"),
    ):
        with pytest.raises(ConfigError):
            slide_path(url)


def test_manifests_and_lists_take_urls(tmp_path: Path) -> None:
    manifest = tmp_path / "slides.csv"
    manifest.write_text(f"slide,mpp\nhttps://u:p@host/one/a.svs?{SECRET},0.5\ns3://bucket/two/a.svs,\nlocal.svs,\n")
    entries = list_slides([manifest, f"https://host/b.svs?{SECRET}", f"https://host/b.svs?{SECRET}"])
    assert [entry.slide_id for entry in entries] == ["one_a", "two_a", "local", "b"]
    assert [str(entry.path) for entry in entries] == [
        "https://host/one/a.svs", "s3://bucket/two/a.svs", str(tmp_path / "local.svs"), "https://host/b.svs",
    ]  # fmt: skip
    assert entries[0].mpp == 0.5
    assert "Amz" not in repr(entries)
    with pytest.raises(ConfigError, match="manifest is read from disk"):
        list_slides(["https://host/slides.csv"])


def test_any_fsspec_storage_will_do(odd_pyramid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "RECHECK_SECONDS", 0.0)
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/wsi/odd.tiff", odd_pyramid.read_bytes())
    try:
        with open_slide("memory://wsi/odd.tiff") as there, open_slide(odd_pyramid) as here:
            assert there.fingerprint == here.fingerprint
            assert all(np.array_equal(a, b) for a, b in zip(everything(there), everything(here), strict=True))
        source = RemoteSource(RemotePath("memory://wsi/odd.tiff"), BlockCache(0))
        memory.pipe_file("/wsi/odd.tiff", odd_pyramid.read_bytes()[:-1])
        with pytest.raises(SlideChangedError):
            source.read(0, 9)
        with pytest.raises(SlideNotFoundError, match="no such object"):
            open_slide("memory://wsi/other.tiff")
    finally:
        memory.rm("/wsi", recursive=True)


def test_s3_is_read_through_its_own_protocol(
    server: Storage, odd_pyramid: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    with open_slide("s3://bucket/odd.tiff") as there, open_slide(odd_pyramid) as here:
        assert there.fingerprint == here.fingerprint
        assert np.array_equal(
            there.read(Box(x0=9, y0=9, x1=900, y1=900), 1.0), here.read(Box(x0=9, y0=9, x1=900, y1=900), 1.0)
        )
        assert all(span or method == "HEAD" for method, _, span in server.log)
    server.answer = lambda _number, _path: 403
    with pytest.raises(SlideNotFoundError, match="no permission"):
        open_slide("s3://bucket/odd.tiff")


def test_a_source_reads_as_the_file_does(server: Storage, odd_pyramid: Path) -> None:
    source, local = RemoteSource(RemotePath(f"{server.url}/bucket/odd.tiff")), LocalSource(odd_pyramid)
    rng = np.random.default_rng(1)
    for _ in range(50):
        start, length = int(rng.integers(0, local.size + 10)), int(rng.integers(0, 3 * BLOCK_BYTES))
        assert source.read(start, length) == local.read(start, length)
    source.close()
    remote._caches.clear()
    with pytest.raises(SlideError, match="closed"):
        source.read(0, 1)
