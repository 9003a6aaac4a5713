"""What a run tells of itself: counts, rates, time left, and whether it still lives, whatever the clocks say."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from wsi_pipeline.errors import DataError
from wsi_pipeline.runtime.gpu import gpu_use
from wsi_pipeline.runtime.progress import BothProgress, LineProgress, SilentProgress
from wsi_pipeline.runtime.run_ledger import open_run_ledger
from wsi_pipeline.runtime.status import (
    STATUS_FILE,
    StatusWriter,
    Tally,
    duration,
    overall_text,
    read_status,
    shared_status,
    status_lines,
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run_of_four(clock: Clock) -> Tally:
    """Return what is counted of four slides: one done before, one failed, one half done, one not begun."""
    tally = Tally(4, clock)
    tally.finished("old", "ok (done before)", status="ok", before=True)
    tally.stage("bad", "regions", 1)
    tally.finished("bad", "failed, corrupt-tile: ...", status="failed", reason="corrupt-tile")
    tally.stage("half", "cells", 10)
    for _ in range(5):
        tally.advance("half", cells=100, mm2=0.5)
    clock.now += 30
    return tally


def test_everything_is_counted() -> None:
    found = run_of_four(Clock()).snapshot()
    assert found["slides"] == {"total": 4, "ok": 1, "empty": 0, "failed": 1, "done_before": 1, "running": 1}
    assert (found["blocks"], found["cells"], found["mm2"]) == (5, 500, 2.5)
    assert found["cells_per_s"] == pytest.approx(500 / 30, abs=0.01)
    assert found["mm2_per_s"] == pytest.approx(2.5 / 30, abs=1e-4)
    assert found["reasons"] == {"corrupt-tile": 1}
    assert found["last_failures"] == [{"slide_id": "bad", "reason": "corrupt-tile"}]
    assert found["running"] == [{"slide_id": "half", "stage": "cells", "done": 5, "total": 10}]
    # One and a half slides of this run took 30 s; one and a half are left.
    assert found["seconds_left"] == 30
    assert Tally(3).snapshot()["seconds_left"] is None


def test_a_line_says_it_all() -> None:
    found = {**run_of_four(Clock()).snapshot(), "state": "running"}
    text = overall_text({**found, "gpu": [{"index": "0", "use_percent": 93.0}]})
    assert text == (
        "2 of 4 slides, 1 failed (corrupt-tile 1), 5 blocks, 0.0833 mm2/s, 17 cells/s, GPU 0 at 93 %, 30 s left"
    )
    assert "left" not in overall_text({**found, "state": "finished"})
    assert [duration(s) for s in (5, 600, 7200, 260_000)] == ["5 s", "10 min", "2.0 h", "3.0 days"]


def test_the_file_is_there_from_the_start_and_says_how_it_ended(tmp_path: Path) -> None:
    tally = run_of_four(Clock())
    with StatusWriter(tmp_path / STATUS_FILE, tally, SilentProgress(), lambda: {"dashboard": "http://x"}, every_s=0.05):
        running = read_status(tmp_path)
        first = (tmp_path / STATUS_FILE).stat().st_mtime_ns
        deadline = time.monotonic() + 20
        while (tmp_path / STATUS_FILE).stat().st_mtime_ns == first:
            assert time.monotonic() < deadline, "the file is not rewritten"
            time.sleep(0.01)
    assert running["state"] == "running"
    assert running["dashboard"] == "http://x"
    assert any("half: cells, 5 of 10" in line for line in status_lines(running))
    ended = read_status(tmp_path)
    assert (ended["state"], ended["last_heard_s"]) == ("finished", None)
    assert not list(tmp_path.glob(".*")), "the look at the clock left a file"
    with pytest.raises(KeyboardInterrupt), StatusWriter(tmp_path / STATUS_FILE, tally, SilentProgress()):
        raise KeyboardInterrupt
    assert status_lines(read_status(tmp_path))[0].startswith("stopped: interrupted; the same command resumes")


def age(path: Path, seconds: float) -> None:
    now = time.time()
    os.utime(path, (now - seconds, now - seconds))


def elsewhere(path: Path) -> None:
    found = json.loads(path.read_text())
    found["process"] |= {"boot": "another", "host": "node7"}
    path.write_text(json.dumps(found))


def write_running(path: Path) -> None:
    """Write the status of a run that goes on."""
    StatusWriter(path, run_of_four(Clock()), SilentProgress())._write("running")


def test_a_run_elsewhere_is_dead_when_nothing_is_heard_of_it(tmp_path: Path) -> None:
    path = tmp_path / STATUS_FILE
    write_running(path)
    elsewhere(path)
    age(path, 20)
    assert read_status(tmp_path)["state"] == "running"
    age(path, 180)
    found = read_status(tmp_path)
    assert found["state"] == "dead"
    assert status_lines(found)[0].startswith("dead: last heard from 3 min ago; the same command resumes")


def test_a_run_here_is_dead_as_soon_as_its_process_is(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from wsi_pipeline.runtime.status import *\n"
        "from wsi_pipeline.runtime.progress import SilentProgress\n"
        f"writer = StatusWriter(Path({str(tmp_path / STATUS_FILE)!r}), Tally(3), SilentProgress())\n"
        "writer.__enter__(); os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert read_status(tmp_path)["state"] == "dead"


def test_clocks_of_other_machines_do_not_matter(tmp_path: Path) -> None:
    """What the run's machine takes for the time, and what this one does, are in no comparison."""
    path = tmp_path / STATUS_FILE
    write_running(path)
    elsewhere(path)
    found = json.loads(path.read_text())
    for told in ("1999-01-01T00:00:00+00:00", "2077-01-01T00:00:00+00:00"):
        path.write_text(json.dumps({**found, "written": told, "started": told}))
        for clock in (0.0, 4e9):
            assert read_status(tmp_path, clock=lambda clock=clock: clock)["state"] == "running"


def test_processes_that_share_a_run_are_added_up(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_running(shared_status(tmp_path, name))
    ledger = open_run_ledger(tmp_path / "work", "append", writer="a")
    for slide_id, status in (("old", "ok"), ("bad", "failed"), ("other", "ok"), ("half", "")):
        ledger.begin(slide_id, {})
        if status:
            ledger.end(slide_id, status, "")
    age(shared_status(tmp_path, "b"), 500)
    elsewhere(shared_status(tmp_path, "b"))
    age(shared_status(tmp_path, "b"), 500)
    found = read_status(tmp_path)
    assert found["state"] == "running"
    assert [p["state"] for p in found["processes"]] == ["running", "dead"]
    assert (found["cells"], found["slides"]["total"]) == (1000, 4)
    # The ledger knows each slide once; the processes' own counts need not.
    assert found["slides"]["ok"] == 2
    assert found["slides"]["failed"] == 1
    age(shared_status(tmp_path, "a"), 500)
    elsewhere(shared_status(tmp_path, "a"))
    age(shared_status(tmp_path, "a"), 400)
    assert read_status(tmp_path)["state"] == "dead"


def test_the_command_reads_it_from_outside(tmp_path: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    write_running(tmp_path / STATUS_FILE)
    code, said, _ = command("status", tmp_path)
    assert code == 0
    assert "2 of 4 slides" in said
    code, said, _ = command("status", tmp_path, "--json")
    assert code == 0
    assert json.loads(said)["cells"] == 500


@pytest.mark.parametrize("text", [None, "", "[]", '{"state": "running"}', "{"])
def test_no_run_or_a_damaged_one_is_said(
    tmp_path: Path, text: str | None, command: Callable[..., tuple[int, str, str]]
) -> None:
    if text is not None:
        (tmp_path / STATUS_FILE).write_text(text)
    code, _, said = command("status", tmp_path)
    assert code == 2
    assert str(tmp_path) in said
    assert len(said.strip().splitlines()) == 1
    with pytest.raises(DataError):
        read_status(tmp_path)


def test_a_terminal_without_one_gets_lines(capsys: pytest.CaptureFixture[str]) -> None:
    lines = LineProgress(2, every=0.0)
    both = BothProgress(lines, Tally(2))
    both.say("dashboard: http://127.0.0.1:8787")
    both.stage("a", "cells", 3)
    both.advance("a", cells=5, mm2=0.1)
    both.overall("0 of 2 slides")
    both.finished("a", "failed, crash: it died", status="failed", reason="crash")
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "dashboard: http://127.0.0.1:8787"
    assert "a: cells 1/3" in said[2]
    assert said[3:] == ["0 of 2 slides", "[1/2] a: failed, crash: it died"]


def test_the_use_of_gpus_is_asked_of_their_own_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\necho '0, NVIDIA H100 80GB HBM3, 87, 12345, 81559'\necho '1, NVIDIA H100, [N/A], 1, 2'\n"
        "echo '2, NVIDIA H100, 3, 1, 81559'\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    first, second = gpu_use(str(program))
    assert first == {
        "index": "0", "name": "NVIDIA H100 80GB HBM3", "use_percent": 87.0, "memory_mib": 12345.0,
        "memory_total_mib": 81559.0,
    }  # fmt: skip
    assert second["index"] == "2"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    assert [gpu["index"] for gpu in gpu_use(str(program))] == ["2"]
    assert gpu_use(str(tmp_path / "missing")) == []
    program.write_text("#!/bin/sh\nexit 9\n")
    assert gpu_use(str(program)) == []
