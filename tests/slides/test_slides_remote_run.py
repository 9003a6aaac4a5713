"""A run over slides behind URLs: the results of the files, and no secret in anything it writes or says."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from storage_server import Storage, serve

from wsi_pipeline import cohort
from wsi_pipeline.cli import main as cli
from wsi_pipeline.runtime.executor import SerialExecutor
from wsi_pipeline.simulation import make_virtual_slide

SECRETS = ("p4ssw0rd", "YW5uYTpwNHNzdzByZA", "5ec2e7c0ffee", "X-Amz-Signature", "t0k3n", "X-Amz-Security-Token")
QUERY = "X-Amz-Security-Token=t0k3n&X-Amz-Signature=5ec2e7c0ffee"
SETTINGS = ["--set", "cells.classifier=null", "--set", "exports.labels=true"]


@pytest.fixture(scope="module")
def virtual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("virtual") / "smear.tiff"
    make_virtual_slide(path, profile="normal", size_px=(420, 400), seed=3)
    return path


@pytest.fixture
def server(virtual: Path) -> Iterator[Storage]:
    files = {"bucket/smear.tiff": virtual.read_bytes(), "bucket/broken.tiff": b"<html>expired</html>"}
    with serve(Storage(files=files, authorization="Basic YW5uYTpwNHNzdzByZA==")) as made:
        yield made


@contextmanager
def in_process(_cluster: str, _config: object) -> Iterator[SerialExecutor]:
    """Run stages here: a cluster takes a minute to start, and what it pickles has a test of its own."""
    yield SerialExecutor()


def command_line(*arguments: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["wsi-pipeline", *arguments])
        patch.setattr(cohort, "open_executor", in_process)
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return int(ended.value.code or 0)


def found_in(folder: Path) -> list[str]:
    """Return the files, unpacked where packed, that hold a secret in their name or content."""
    bad = []
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        if path.suffix == ".gz":
            content += gzip.decompress(content)
        if path.suffix == ".parquet":
            content += str((pq.read_schema(path).metadata, pq.read_table(path).to_pydict())).encode()
        if any(secret.encode() in content or secret in path.name for secret in SECRETS):
            bad.append(str(path))
    return bad


def test_a_run_over_urls_gives_the_file_s_results_and_keeps_secrets(
    server: Storage, virtual: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    base = server.url.replace("//", "//anna:p4ssw0rd@") + "/bucket"
    manifest = tmp_path / "urls.csv"
    manifest.write_text(
        "slide,slide_id\n" + "".join(f"{base}/{name}?{QUERY},{i}\n" for name, i in (
            ("smear.tiff", "far"), ("broken.tiff", "broken"), ("gone.tiff", "gone"),
        ))
    )  # fmt: skip
    out = tmp_path / "out"
    command = ["run", str(manifest), "--out", str(out / "far"), *SETTINGS]
    assert command_line(*command, "--dry-run") == 0
    assert command_line(*command, "--debug") == 1
    assert command_line("inspect", f"{base}/smear.tiff?{QUERY}") == 0
    said = "".join(capfd.readouterr()) + caplog.text
    assert (
        command_line("run", str(virtual), "--out", str(out / "near"), *SETTINGS, "--set", "exports.report=false") == 0
    )

    far, broken, gone = (
        json.loads((out / "far" / "slides" / name / "summary.json").read_text()) for name in ("far", "broken", "gone")
    )
    assert (far["status"], broken["reason"], gone["reason"]) == ("ok", "unsupported-format", "not-found")
    assert far["path"] == f"{server.url}/bucket/smear.tiff"
    near = json.loads((out / "near" / "slides" / "smear" / "summary.json").read_text())
    assert far["key"] == near["key"]
    for name in ("cells.parquet", "regions.geojson", "qupath.geojson.gz"):
        here, there = out / "near" / "slides" / "smear" / name, out / "far" / "slides" / "far" / name
        assert here.read_bytes() == there.read_bytes()

    assert (out / "far" / "report.html").is_file()
    assert f"{server.url}/bucket/smear.tiff" in said
    assert not [secret for secret in SECRETS if secret in said]
    assert not found_in(out)
    renewed = manifest.read_text().replace("5ec2e7c0ffee", "anewone")  # presigned URLs are renewed: the run resumes
    manifest.write_text(renewed)
    written = os.stat(out / "far" / "slides" / "far" / "cells.parquet").st_mtime_ns
    assert command_line(*command) == 1
    assert os.stat(out / "far" / "slides" / "far" / "cells.parquet").st_mtime_ns == written
