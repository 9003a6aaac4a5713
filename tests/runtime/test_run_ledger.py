"""The ledger of a run: two forms that say the same, through kills, torn writes, two writers and full disks."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.errors import OutputError
from wsi_pipeline.runtime.file_systems import file_system_of, is_local
from wsi_pipeline.runtime.run_ledger import (
    AppendLedger,
    Form,
    RunLedger,
    open_run_ledger,
    read_run_ledger,
    remove_run_ledger,
    sweep,
)

FORMS: tuple[Form, ...] = ("sqlite", "append")


@pytest.fixture(params=FORMS)
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> RunLedger:
    return open_run_ledger(tmp_path / "work", request.param, writer="one")


def test_what_was_recorded_comes_back_also_to_another_process(ledger: RunLedger, tmp_path: Path) -> None:
    assert ledger.slide("a") is None
    assert ledger.files("a") == {}
    ledger.begin("a", {"segmentation.mpp": 0.25, "slide": "/é.svs"})
    ledger.add("a", [("work/a/k/blocks/1.parquet", 10), ("slides/a/regions.geojson", 0)])
    ledger.add("a", [("work/a/k/blocks/1.parquet", 11)])
    ledger.begin("b", {})
    ledger.end("a", "failed", "crash")
    for found in (ledger, read_run_ledger(tmp_path / "work")):
        assert found is not None
        assert found.files("a") == {"work/a/k/blocks/1.parquet": 11, "slides/a/regions.geojson": 0}
        assert found.files("b") == {}
        assert [(s.slide_id, s.status, s.reason) for s in found.slides()] == [("a", "failed", "crash"), ("b", "", "")]
        known = found.slide("a")
        assert known is not None
        assert known.asked == {"segmentation.mpp": 0.25, "slide": "/é.svs"}
    ledger.begin("a", {"x": 1})
    again = ledger.slide("a")
    assert again is not None
    assert (again.status, again.asked) == ("", {"x": 1})
    ledger.forget("a")
    assert ledger.slide("a") is None
    assert ledger.files("a") == {}


def test_a_run_keeps_the_form_it_began_with(ledger: RunLedger, tmp_path: Path) -> None:
    ledger.add("a", [("x", 1)])
    other = "append" if ledger.form == "sqlite" else "sqlite"
    again = open_run_ledger(tmp_path / "work", other, writer="two")
    assert again.form == ledger.form
    assert again.files("a") == {"x": 1}
    for one in (ledger, again):
        one.close()
    remove_run_ledger(tmp_path / "work")
    assert read_run_ledger(tmp_path / "work") is None
    assert open_run_ledger(tmp_path / "work", other, writer="two").files("a") == {}


@pytest.mark.parametrize("form", FORMS)
def test_writers_of_one_machine_do_not_lose_each_others_records(form: Form, tmp_path: Path) -> None:
    """Eight processes' worth of ledgers on one run, written at once."""
    work = tmp_path / "work"
    open_run_ledger(work, form, writer="first").close()

    def write(name: int) -> None:
        mine = open_run_ledger(work, form, writer=f"w{name}")
        for i in range(10):
            mine.add("slide", [(f"{name}/{i}", i)])
        mine.close()

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = read_run_ledger(work)
    assert found is not None
    assert found.files("slide") == {f"{n}/{i}": i for n in range(8) for i in range(10)}


@pytest.mark.parametrize("form", FORMS)
def test_a_kill_loses_no_record_that_was_returned(form: Form, tmp_path: Path) -> None:
    """The writer says each record after it was made, and is killed while it writes."""
    code = (
        "import sys; from pathlib import Path\n"
        "from wsi_pipeline.runtime.run_ledger import open_run_ledger\n"
        f"ledger = open_run_ledger(Path({str(tmp_path / 'work')!r}), {form!r}, writer='killed')\n"
        "for i in range(1_000_000):\n"
        "    ledger.add('a', [(f'part-{i}', i)]); print(i, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = [int(process.stdout.readline()) for _ in range(25)]
    process.send_signal(signal.SIGKILL)
    said += [int(line) for line in process.stdout.read().split()]
    process.wait()
    found = open_run_ledger(tmp_path / "work", "auto", writer="next")
    files = found.files("a")
    assert {f"part-{i}": i for i in said}.items() <= files.items()
    assert len(files) <= len(said) + 1
    found.add("a", [("after", 1)])
    assert found.files("a")["after"] == 1


@given(cut=st.integers(0, 400), garbage=st.binary(max_size=40))
def test_a_torn_line_counts_as_not_written(tmp_path_factory: pytest.TempPathFactory, cut: int, garbage: bytes) -> None:
    work = tmp_path_factory.mktemp("torn") / "work"
    AppendLedger(work, "a").add("s", [(f"part-{i}", i) for i in range(5)])
    (path,) = (work / "s").glob(".ledger-*.log")
    whole = path.read_bytes()
    path.write_bytes(whole[:cut] + garbage)
    AppendLedger(work, "a").add("s", [("later", 7)])
    files = AppendLedger(work, "b").files("s")
    assert files.pop("later") == 7
    lines = whole[:cut].count(b"\n") - 1
    assert {f"part-{i}": i for i in range(max(0, lines))}.items() <= files.items()
    assert files.items() <= {f"part-{i}": i for i in range(5)}.items()


def test_a_damaged_ledger_is_said(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / ".ledger.sqlite").write_bytes(b"this is not a database, and long enough to be looked at" * 100)
    (work / ".ledger-form").write_text("sqlite\n")
    with pytest.raises(OutputError, match="--restart"):
        open_run_ledger(work, writer="x")
    (work / ".ledger-form").write_text("stone\n")
    with pytest.raises(OutputError, match="stone"):
        open_run_ledger(work, writer="x")


def test_one_that_is_not_made_yet_is_none(tmp_path: Path) -> None:
    assert read_run_ledger(tmp_path) is None
    (tmp_path / ".ledger-form").write_text("sqlite\n")
    assert read_run_ledger(tmp_path) is None
    sqlite3.connect(tmp_path / ".ledger.sqlite").close()
    assert read_run_ledger(tmp_path) is None


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    ledger = open_run_ledger(tmp_path / "work", "sqlite", writer="x")
    db = sqlite3.connect(tmp_path / "work" / ".ledger.sqlite")
    pages = db.execute("pragma page_count").fetchone()[0]
    db.close()
    ledger._db.execute(f"pragma max_page_count = {pages}")  # type: ignore[attr-defined]
    with pytest.raises(OutputError) as caught:
        ledger.add("a", [(f"{'long' * 50}-{i}", i) for i in range(2000)])
    assert caught.value.reason == "disk-full"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_named_by_the_appending_form(tmp_path: Path) -> None:
    ledger = AppendLedger(tmp_path / "work", "x")
    (tmp_path / "work" / "a").mkdir(parents=True)
    (tmp_path / "work" / "a" / ".ledger-x.log").symlink_to("/dev/full")
    with pytest.raises(OutputError) as caught:
        ledger.add("a", [("part", 1)])
    assert caught.value.reason == "disk-full"


def test_only_what_is_recorded_and_whole_is_believed(tmp_path: Path) -> None:
    names = ("work/s/key/blocks/1.parquet", "work/s/key/blocks/2.parquet", "work/s/key/blocks/3.parquet")
    for name in (
        *names,
        "work/s/key/plan/slide.json",
        "work/s/error.txt",
        "slides/s/regions.geojson",
        "slides/s/my.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    (tmp_path / "work/s/.ledger-x.log").write_bytes(b"")
    recorded = {names[0]: 5, names[1]: 6, "work/s/key/plan/slide.json": 5, "work/s/key/gone": 3}
    assert sweep(tmp_path, "s", recorded) == 3
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {
        names[0], "work/s/key/plan/slide.json", "work/s/error.txt", "slides/s/my.txt", "work/s/.ledger-x.log",
    }  # fmt: skip


def test_the_file_system_is_that_of_the_innermost_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    spaced = str(tmp_path / "with\\040space")
    mounts.write_text(
        f"/dev/a / ext4 rw 0 0\nserver:/x {tmp_path} nfs4 rw 0 0\n/dev/b {spaced} xfs rw 0 0\nbad line\n",
        encoding="utf-8",
    )
    assert file_system_of(Path("/"), mounts) == "ext4"
    assert file_system_of(tmp_path / "run", mounts) == "nfs4"
    assert file_system_of(tmp_path / "with space" / "run", mounts) == "xfs"
    assert is_local(Path("/"), mounts)
    assert not is_local(tmp_path, mounts)
    assert not is_local(tmp_path, tmp_path / "there is no such table")
