"""The command: what it prints, how it ends, and what it says of a port or language it cannot use."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import types
import urllib.request
from collections.abc import Iterator

import pytest

from tests.serve.fakes import FakeModel
from wsi_pipeline.cli import main as cli

STARTED_WITH_THE_FAKE_MODEL = """
import sys, types
from tests.serve.fakes import FakeModel
module = types.ModuleType("wsi_pipeline.predictions.counts.model")
module.load_counts_model = lambda name: FakeModel()
sys.modules[module.__name__] = module
from wsi_pipeline.cli.main import main
main()
"""


@pytest.fixture
def fake_model(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("wsi_pipeline.predictions.counts.model")
    module.load_counts_model = lambda name: FakeModel()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.fixture
def running() -> Iterator[subprocess.Popen[str]]:
    words = ["wsi-pipeline", "serve", "counts", "--port", "0", "--lang", "fr", "--no-browser"]
    command = [sys.executable, "-c", STARTED_WITH_THE_FAKE_MODEL, *words[1:]]
    # Tests that run in the background have Ctrl-C switched off, and would hand that on.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    signal.signal(signal.SIGINT, before)
    yield process
    process.kill()
    process.wait(30)
    for pipe in (process.stdout, process.stderr):
        assert pipe is not None
        pipe.close()


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["wsi-pipeline", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_it_serves_and_ctrl_c_ends_it_cleanly(running: subprocess.Popen[str]) -> None:
    assert running.stdout is not None
    assert running.stderr is not None
    address = re.fullmatch(r"http://127\.0\.0\.1:\d+/\?lang=fr", running.stdout.readline().strip())
    assert address
    with urllib.request.urlopen(address[0], timeout=30) as page:
        assert 'lang="fr"' in page.read().decode()
    running.send_signal(signal.SIGINT)
    assert running.wait(30) == 0
    assert "ended" in running.stdout.read()
    assert running.stderr.read() == ""


@pytest.mark.usefixtures("fake_model")
def test_a_busy_port_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert run(monkeypatch, "serve", "counts", "--port", port, "--no-browser") == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"error: --port {port}: ")
    assert said.err.count("\n") == 1
    assert not said.out


@pytest.mark.usefixtures("fake_model")
@pytest.mark.parametrize("words", [("--port", "65536"), ("--port", "-1"), ("--lang", "de")])
def test_what_cannot_be_used_ends_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, str]
) -> None:
    assert run(monkeypatch, "serve", "counts", "--no-browser", *words) == 2
    assert words[0] in capsys.readouterr().err
