"""What goes wrong on a cluster at night, done for real: nothing is lost, and what is at fault is named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from test_pipeline import Dying, Stopped, rows_of

from wsi_pipeline import cohort
from wsi_pipeline.errors import ConfigError, OutputError
from wsi_pipeline.evaluation.identical import first_difference
from wsi_pipeline.runtime.executor import SerialExecutor
from wsi_pipeline.runtime.status import read_status
from wsi_pipeline.simulation import make_virtual_slide

HERE = Path(__file__).resolve().parent
SETTINGS: dict[str, Any] = {
    "cells.classifier": None, "exports.report": False, "tiling.core_px": 256, "runtime.workers": 2,
    "runtime.device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slide") / "good.tiff"
    make_virtual_slide(path, profile="normal", size_px=480, seed=6)
    return path


@pytest.fixture(scope="module")
def undisturbed(slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    run_here([slide], out)
    return out


@pytest.fixture(scope="module")
def limit_s(slide: Path, tmp_path_factory: pytest.TempPathFactory) -> float:
    """A time that no step of a good slide takes, however busy the machine is."""
    started = time.monotonic()
    subprocess.run(
        command([slide], tmp_path_factory.mktemp("timed") / "out", **{"runtime.workers": 1}),
        check=True, capture_output=True, timeout=1800,
    )  # fmt: skip
    return max(20.0, 1.5 * (time.monotonic() - started))


def run_here(slides: list[Path], out: Path, make: Callable[[], SerialExecutor] = SerialExecutor, **options: Any) -> Any:
    """Run a cohort in this process."""

    @contextmanager
    def executor(*_: Any) -> Iterator[SerialExecutor]:
        yield make()

    settings = {**SETTINGS, **options.pop("settings", {})}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cohort, "open_executor", executor)
        return cohort.run_cohort(slides, out, overrides=settings, **options)


def command(slides: list[Path], out: Path, **settings: Any) -> list[str]:
    values = {key: "null" if value is None else str(value).lower() for key, value in {**SETTINGS, **settings}.items()}
    sets = [text for key, value in values.items() for text in ("--set", f"{key}={value}")]
    return [sys.executable, "-m", "wsi_pipeline.cli.main", "run", *map(str, slides), "--out", str(out), *sets]


# Slides ------------------------------------------------------------------------------------------------------------


def test_bad_slides_are_rows_with_their_reason_and_harm_no_other(
    slide: Path, undisturbed: Path, limit_s: float, tmp_path: Path
) -> None:
    """One run on two workers of a slide that ends its process, one that hangs, one that outgrows its memory, one that
    is deleted, and two good ones beside them."""
    names = {
        "crash-a": ("failed", "crash"),
        "hang-b": ("failed", "timeout"),
        "hungry-c": ("failed", "out-of-memory"),
        "fleeting-d": ("failed", "not-found"),
        "good": ("ok", ""),
        "well": ("ok", ""),
    }
    slides = [tmp_path / f"{name}.tiff" for name in names]
    for path in slides:
        shutil.copyfile(slide, path)
    out = tmp_path / "out"
    settings = {"runtime.retries": 0, "runtime.task_timeout_s": limit_s, "runtime.slides_in_flight": 6}
    ended = subprocess.run(
        command(slides, out, **settings),
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE / "faulty"), *filter(None, sys.path)])},
        capture_output=True, text=True, timeout=600 + 20 * limit_s, check=False,
    )  # fmt: skip
    assert ended.returncode == 1, ended.stderr
    rows = rows_of(out)
    found = {name: (row["status"], row["reason"]) for name, row in rows.items()}
    # One that is deleted while it is open may be told by its reader in other words than by its next opening.
    assert found.pop("fleeting-d") in {("failed", "not-found"), ("failed", "internal-error"), ("failed", "unreadable")}
    names.pop("fleeting-d")
    assert found == names
    assert "Traceback" not in ended.stderr
    for name in ("good", "well"):
        assert rows[name]["n_cells"] == rows_of(undisturbed)["good"]["n_cells"]
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert run["slides"] == {"ok": 2, "empty": 0, "failed": 4}
    # Of those that died before their first answer nothing is known.
    assert sum(worker["tasks"] for worker in run["worker_processes"]) > 4
    status = read_status(out)
    assert status["state"] == "finished"
    assert status["reasons"]["crash"] == 1
    # What failed is not tried again, and is when asked for, alone.
    summaries = {name: (out / "slides" / name / "summary.json").stat().st_mtime_ns for name in rows}
    for name in ("hang-b", "hungry-c", "fleeting-d"):
        shutil.copyfile(slide, tmp_path / f"{name}.tiff")
    again = run_here(slides, out, retry_failed=True)
    assert not again.failed
    after = {name: (out / "slides" / name / "summary.json").stat().st_mtime_ns for name in rows}
    assert {name for name in rows if after[name] != summaries[name]} == set(rows) - {"good", "well"}


def test_a_slide_that_vanishes_midway_is_a_row(slide: Path, tmp_path: Path) -> None:
    from wsi_pipeline.runtime import worker

    lost, other = tmp_path / "lost.tiff", tmp_path / "other.tiff"
    shutil.copyfile(slide, lost)
    shutil.copyfile(slide, other)

    class Losing(SerialExecutor):
        def call(self, function: Callable[..., Any], *arguments: Any, timeout_s: float | None = None) -> Any:
            result = super().call(function, *arguments)
            if arguments[0].slide_id == "lost" and function.__name__ == "prepare":
                lost.unlink()
                worker._slides.clear()  # as on a worker that has not opened it yet
            return result

    result = run_here([lost, other], tmp_path / "out", Losing, settings={"runtime.slides_in_flight": 1})
    assert [(s["slide_id"], s["reason"]) for s in result.failed] == [("lost", "not-found")]
    assert rows_of(tmp_path / "out")["other"]["status"] == "ok"


# The output --------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    made = os.geteuid() == 0 and not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, check=False
    ).returncode  # fmt: skip
    if not made:
        pytest.skip("a small file system needs root and mount")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


def remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)


def test_a_full_disk_ends_the_run_and_room_resumes_it(
    slide: Path, undisturbed: Path, tmp_path: Path, small_disk: Path
) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * 700_000)
    ended = subprocess.run(
        command([slide], small_disk / "out"), capture_output=True, text=True, timeout=600, check=False
    )
    assert ended.returncode == 2, ended.stderr
    said = [line for line in ended.stderr.splitlines() if line.startswith("error:")]
    assert len(said) == 1
    assert "full" in said[0]
    assert "resumes" in said[0]
    assert "Traceback" not in ended.stderr
    filler.unlink()
    remount(small_disk, "size=64m")
    run_here([slide], small_disk / "out")
    assert first_difference(undisturbed, small_disk / "out", "good") is None


def test_an_output_that_becomes_read_only_ends_the_run(slide: Path, undisturbed: Path, small_disk: Path) -> None:
    remount(small_disk, "size=64m")

    class Interrupting(SerialExecutor):
        def call(self, function: Callable[..., Any], *arguments: Any, timeout_s: float | None = None) -> Any:
            if function.__name__ == "merge":
                remount(small_disk, "ro")
            return super().call(function, *arguments)

    with pytest.raises(OutputError, match="cannot be written") as caught:
        run_here([slide], small_disk / "out", Interrupting, settings={"runtime.ledger": "append"})
    assert caught.value.reason == "read-only"
    remount(small_disk, "rw")
    run_here([slide], small_disk / "out")
    assert first_difference(undisturbed, small_disk / "out", "good") is None


def test_a_file_that_may_not_grow_is_a_full_disk(tmp_path: Path) -> None:
    """Without a file system of one's own: RLIMIT_FSIZE, in a process of its own."""
    code = (
        "import resource, signal; from pathlib import Path; from wsi_pipeline.atomic import write_bytes\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)); signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"write_bytes(Path({str(tmp_path / 'x')!r}), b'1' * 100)\n"
        f"write_bytes(Path({str(tmp_path / 'y')!r}), b'1' * 100_000)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "OutputError" in ended.stderr
    assert "full" in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


# Two runs, and clocks ----------------------------------------------------------------------------------------------


def test_a_second_run_is_refused_and_takes_over_when_the_first_is_dead(
    slide: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code = (
        "import sys, time; from pathlib import Path\n"
        "from wsi_pipeline.runtime.sharing import run_lease; from wsi_pipeline.runtime.lease import Leases\n"
        f"Leases().acquire(run_lease(Path({str(out)!r})), 'x'); print('held', flush=True); time.sleep(1000)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(OutputError, match=str(holder.pid)) as caught:
            run_here([slide], out)
        assert str(out) in str(caught.value)
        assert not (out / "slides").exists()
    finally:
        holder.kill()
        holder.wait()
    run_here([slide], out)
    assert first_difference(undisturbed, out, "good") is None


dying = partial(Dying, 3)
"""Stops a run after three tasks."""


def parts_of(out: Path) -> dict[Path, int]:
    return {path: path.stat().st_ino for path in out.glob("work/*/*/blocks/*.parquet")}


@pytest.mark.parametrize("when", [0, 4_000_000_000])
@pytest.mark.parametrize("form", ["sqlite", "append"])
def test_times_of_files_decide_nothing(slide: Path, undisturbed: Path, tmp_path: Path, when: int, form: str) -> None:
    """A server's clock that stands at 1970 or in 2096: what is done stays done, what is not is computed."""
    own = tmp_path / "good.tiff"
    shutil.copyfile(slide, own)
    settings = {"runtime.ledger": form}
    with pytest.raises(Stopped):
        run_here([own], tmp_path / "out", dying, settings=settings)
    before = parts_of(tmp_path / "out")
    assert len(before) == 2
    for path in (*tmp_path.rglob("*"), own):
        os.utime(path, (when, when), follow_symlinks=False)
    run_here([own], tmp_path / "out", settings=settings)
    assert parts_of(tmp_path / "out").items() >= before.items(), "finished blocks were computed again"
    assert first_difference(undisturbed, tmp_path / "out", "good") is None


# What is believed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["sqlite", "append"])
def test_a_part_that_is_not_recorded_or_not_whole_is_computed_again(
    slide: Path, undisturbed: Path, tmp_path: Path, form: str
) -> None:
    settings = {"runtime.ledger": form}
    with pytest.raises(Stopped):
        run_here([slide], tmp_path, dying, settings=settings)
    first, second = sorted(parts_of(tmp_path))
    shutil.copyfile(second, second.with_name("00001_00001.parquet"))  # looks like another block's, and is not
    first.write_bytes(first.read_bytes()[:-1])
    run_here([slide], tmp_path, settings=settings)
    assert first_difference(undisturbed, tmp_path, "good") is None


def test_a_change_is_refused_key_by_key(slide: Path, tmp_path: Path) -> None:
    own = tmp_path / "good.tiff"
    shutil.copyfile(slide, own)
    with pytest.raises(Stopped):
        run_here([own], tmp_path / "out", dying)
    # Not even finished; what changes no result may change.
    changed = {"segmentation.flow_threshold": 0.8, "segmentation.niter": 100, "runtime.retries": 5}
    with pytest.raises(ConfigError) as caught:
        run_here([own], tmp_path / "out", settings=changed)
    said = str(caught.value)
    assert "segmentation.flow_threshold 0.4 -> 0.8" in said
    assert "segmentation.niter 200 -> 100" in said
    assert "retries" not in said
    assert "--restart" in said
    run_here([own], tmp_path / "out")
    with own.open("ab") as file:
        file.write(b"x")
    with pytest.raises(ConfigError, match="slide fingerprint [0-9a-f]{12}... -> [0-9a-f]{12}..."):
        run_here([own], tmp_path / "out")
    # The ledger may be removed when all is done; the summary still knows.
    shutil.rmtree(tmp_path / "out" / "work")
    with pytest.raises(ConfigError, match="slide fingerprint"):
        run_here([own], tmp_path / "out")
    assert not run_here([own], tmp_path / "out", restart=True).failed


def test_other_weights_under_the_same_name_are_refused(slide: Path, tmp_path: Path) -> None:
    from wsi_pipeline.weights import shipped_weights

    source = shipped_weights()["compact-smear"]
    mine = tmp_path / "mine.safetensors"
    shutil.copyfile(source.path, mine)
    mine.with_suffix(".json").write_text(json.dumps(source.card), encoding="utf-8")
    settings = {"segmentation.model": str(mine)}
    with pytest.raises(Stopped):
        run_here([slide], tmp_path / "out", dying, settings=settings)
    mine.with_suffix(".json").write_text(json.dumps({**source.card, "sha256": "0" * 64}), encoding="utf-8")
    with pytest.raises(ConfigError, match=f"weights of {mine} {source.sha256[:12]}... -> 000000000000..."):
        run_here([slide], tmp_path / "out", settings=settings)
