"""``models fetch``: against a real HTTP server on this machine."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from tiny_cellpose import tiny_sam, write_tiny

from wsi_pipeline.cli import main as cli
from wsi_pipeline.segmentation.cellpose_model import import_cellpose
from wsi_pipeline.segmentation.models import load_model
from wsi_pipeline.weights import file_sha256

Fetch = Callable[..., tuple[int, str, str]]


class Server(HTTPServer):
    """Serves one answer to every request.

    Attributes
    ----------
    body, promised
        What is sent, and the length that is promised; None promises none.
    asked
        Paths that were asked for.
    """

    body = b""
    promised: int | None = None
    status = 200
    asked: list[str]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_response(self.server.status)
        if self.server.promised is not None:
            self.send_header("Content-Length", str(self.server.promised))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CELLPOSE_LOCAL_MODELS_PATH", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def server(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Return a server of a tiny network, which ``cellpose``'s address points to."""
    with tiny_sam(), Server(("127.0.0.1", 0), Handler) as server:
        server.asked = []
        server.body = write_tiny(tmp_path / "served").read_bytes()
        server.promised = len(server.body)
        monkeypatch.setattr(import_cellpose("models"), "_MODEL_URL", f"http://127.0.0.1:{server.server_port}/main/")
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def fetch(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Fetch:
    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["wsi-pipeline", "models", "fetch", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        code = ended.value.code
        return (code if isinstance(code, int) else 0), said.out, said.err

    return call


def error_of(answer: tuple[int, str, str]) -> str:
    status, out, err = answer
    assert status == 2
    assert out == ""
    *progress, last = err.strip().splitlines()
    assert last.startswith("error: ")
    assert not any(line.startswith("error: ") for line in progress)
    return last


def test_a_model_is_fetched_checked_and_loads(server: Server, fetch: Fetch, folder: Path, tmp_path: Path) -> None:
    status, out, err = fetch("cpsam_v2", "cpsam")
    assert status == 0, err
    assert server.asked == ["/main/cpsam_v2", "/main/cpsam"]
    assert sorted(p.name for p in folder.iterdir()) == ["cpsam", "cpsam_v2"]
    assert (folder / "cpsam").read_bytes() == server.body
    digest = file_sha256(tmp_path / "served")
    assert out.count(digest) == 2
    assert "CC-BY-NC" in out
    assert "0.9 MiB" in err
    assert load_model("cpsam_v2", specimen="blood_smear", device="cpu").sha256 == digest


def test_what_is_there_is_replaced_only_when_told(server: Server, fetch: Fetch, folder: Path) -> None:
    folder.mkdir()
    (folder / "cpsam").write_bytes(b"mine")
    assert "--force" in error_of(fetch("cpsam_v2", "cpsam"))
    assert (folder / "cpsam").read_bytes() == b"mine"
    assert server.asked == []
    assert fetch("cpsam", "--force")[0] == 0
    assert (folder / "cpsam").read_bytes() == server.body


def test_without_a_length_it_is_fetched_all_the_same(server: Server, fetch: Fetch, folder: Path) -> None:
    server.promised = None
    assert fetch("cpsam")[0] == 0
    assert (folder / "cpsam").read_bytes() == server.body


@pytest.mark.parametrize("before", [None, b"mine"])
@pytest.mark.parametrize("fault", ["cut", "page", "damaged", "missing", "short"])
def test_a_fault_leaves_all_as_it_was(
    server: Server, fetch: Fetch, folder: Path, fault: str, before: bytes | None
) -> None:
    said = {
        "cut": "broke off", "page": "HTML page", "damaged": "checksum", "missing": "404", "short": "cut short",
    }[fault]  # fmt: skip
    if fault == "cut":
        server.body = server.body[:1000]
    elif fault == "short":
        server.body, server.promised = server.body[:-1000], None
    elif fault == "missing":
        server.status = 404
    elif fault == "page":
        server.body = b"<html>Sign in</html>"
        server.promised = len(server.body)
    else:
        body = bytearray(server.body)
        body[len(body) // 2] ^= 1
        server.body = bytes(body)
    folder.mkdir()
    if before is not None:
        (folder / "cpsam").write_bytes(before)
    error = error_of(fetch("cpsam", "--force"))
    assert said in error
    assert f"127.0.0.1:{server.server_port}/main/cpsam" in error
    assert [p.read_bytes() for p in folder.iterdir()] == ([] if before is None else [before])


def test_without_a_network_one_sentence(folder: Path, fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    monkeypatch.setattr(import_cellpose("models"), "_MODEL_URL", f"http://127.0.0.1:{port}/")
    status, out, err = fetch("cpsam_v2")
    assert (status, out, len(err.strip().splitlines())) == (2, "", 1)
    assert "no connection" in err
    assert str(folder / "cpsam_v2") in err
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("name", "said"), [("compact-smear", "shipped"), ("cyto3", "cpsam_v2, cpsam, cpdino"), ("cpdino", "dinov3")]
)
def test_what_cannot_be_fetched_is_said_before(
    server: Server, fetch: Fetch, folder: Path, name: str, said: str
) -> None:
    assert said in error_of(fetch("cpsam", name))
    assert server.asked == []
    assert not folder.exists()
