"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.serve.chromium import Chromium, find_chromium

# Examples take as long as the machine's other work lets them. Where a landing is judged they are the same each time.
settings.register_profile("unhurried", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Root of the larger real data; tests that need it are skipped when it is not given."""
    folder = os.environ.get("WSI_PIPELINE_DATA")
    if not folder:
        pytest.skip("WSI_PIPELINE_DATA is not set")
    root = Path(folder)
    if not root.is_dir():
        pytest.fail(f"WSI_PIPELINE_DATA is {folder}, which is not a folder")
    return root


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process; return exit status, standard output and standard error."""
    from wsi_pipeline.cli import main as cli

    def call(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["wsi-pipeline", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        code = ended.value.code
        said = capsys.readouterr()
        return (code if isinstance(code, int) else 0 if code is None else 1), said.out, said.err

    return call


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run tasks of a run here: starting workers takes longer than small slides and patients."""
    from wsi_pipeline import cohort
    from wsi_pipeline.runtime.executor import SerialExecutor

    @contextmanager
    def serial(*_: Any) -> Iterator[SerialExecutor]:
        yield SerialExecutor()

    monkeypatch.setattr(cohort, "open_executor", serial)


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    """A headless Chromium; tests that need it are skipped where it is not installed."""
    program = find_chromium()
    if program is None:
        pytest.skip("no chromium on this machine (Debian: apt-get install chromium)")
    started = Chromium(program)
    yield started
    started.close()
