"""The notebooks run from top to bottom, and what is committed of them is small, whole and of no one's machine."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

_FOLDER = Path(__file__).parents[1] / "notebooks"
_NOTEBOOKS = sorted(_FOLDER.glob("*.ipynb"))
_MOST_KB = 500
_MOST_CELL_S = 300


def test_there_are_some_and_the_readme_names_them() -> None:
    readme = (_FOLDER / "README.md").read_text(encoding="utf-8")
    assert [path.name[:2] for path in _NOTEBOOKS] == ["01", "02", "03", "04", "05"]
    assert all(f"]({path.name})" in readme for path in _NOTEBOOKS)


@pytest.mark.parametrize("path", _NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_committed(path: Path) -> None:
    assert path.stat().st_size < 1024 * _MOST_KB
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.-])/(home|root|work|Users)/", text), "a path of someone's machine"
    assert "simulated" in text.lower()
    assert "Research use only" in text
    cells = [cell for cell in nbformat.reads(text, 4).cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert all(cell.execution_count for cell in cells), "not run from top to bottom"
    assert not [o for o in outputs if o.output_type == "error" or (o.output_type == "stream" and o.name == "stderr")]
    assert any("image/jpeg" in o.get("data", {}) or "image/png" in o.get("data", {}) for o in outputs), "no picture"


@pytest.mark.parametrize("path", _NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "cluster slurm" in path.read_text(encoding="utf-8") and not importlib.util.find_spec("dask_jobqueue"):
        pytest.skip("dask-jobqueue is not installed")
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = nbformat.read(path, 4)
    where = {"metadata": {"path": str(_FOLDER)}}
    # A command in a `%%bash` cell that fails raises, as any other error does. A cell that waits for ever ends here, and
    # with it all processes that the notebook started: left alone, they would take the machine from the tests to come.
    NotebookClient(
        notebook,
        timeout=_MOST_CELL_S,
        startup_timeout=120,
        kernel_name="python3",
        resources=where,
        shutdown_kernel="immediate",
    ).execute()
