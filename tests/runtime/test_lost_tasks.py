"""Tasks that hang, end their process or outgrow their memory: a typed error with its reason, and harm to no other."""

from __future__ import annotations

import importlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed.comm import CommClosedError

from wsi_pipeline.atomic import write_text
from wsi_pipeline.config import RuntimeConfig
from wsi_pipeline.errors import CorruptTileError
from wsi_pipeline.runtime import kept_workers
from wsi_pipeline.runtime.executor import Executor, RunStoppedError, SerialExecutor, open_executor
from wsi_pipeline.runtime.isolated import run_isolated
from wsi_pipeline.runtime.tasks import TaskLostError, TaskReport, pack, run_task
from wsi_pipeline.runtime.worker import computing

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


pytestmark = pytest.mark.usefixtures("by_value")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Executor]:
    with open_executor("local", RuntimeConfig(workers=1, prefetch=1, retries=0)) as executor:
        yield executor


def who(_: int = 0) -> int:
    time.sleep(0.05)
    return os.getpid()


def hang() -> None:
    time.sleep(100_000)


def abort() -> None:
    os.abort()


def leave() -> None:
    os._exit(7)


def hungry() -> int:
    held = bytearray(600 * 2**20)
    held[::4096] = b"1" * len(held[::4096])
    time.sleep(30)
    return len(held)


def hold(seconds: float) -> str:
    with computing():
        time.sleep(seconds)
    return "held"


def fail() -> None:
    raise CorruptTileError("slide.svs: tile 3", reason="a-reason")


def lose_connection() -> None:
    raise CommClosedError("in <TCP (closed)>: ConnectionResetError")


def write(path: str) -> str:
    write_text(Path(path), "1234")
    return path


def test_a_task_that_hangs_is_given_up_and_its_worker_replaced(cluster: Executor) -> None:
    before = cluster.call(who)
    started = time.monotonic()
    with pytest.raises(TaskLostError, match=r"hang did not end within 3 s \(runtime.task_timeout_s\)") as caught:
        cluster.call(hang, timeout_s=3)
    assert caught.value.reason == "timeout"
    assert time.monotonic() - started < 120
    deadline = time.monotonic() + 120
    while cluster.call(who, timeout_s=300) == before:
        assert time.monotonic() < deadline, "the worker that hangs was not replaced"


def test_a_limit_that_is_kept_costs_nothing(cluster: Executor) -> None:
    assert len(set(cluster.map(who, ((i,) for i in range(6)), timeout_s=300))) == 1
    with pytest.raises(CorruptTileError, match="tile 3"):
        cluster.call(fail, timeout_s=300)


def test_waiting_for_another_task_is_not_a_tasks_own_time() -> None:
    """Two threads of a worker, of which one computes: the other's limit stands still meanwhile."""
    done: list[str] = []
    first = threading.Thread(target=lambda: done.append(run_task(hold, (3.0,), 100.0).result))
    first.start()
    time.sleep(0.5)
    outcome = run_task(hold, (0.1,), 1.5)
    first.join()
    assert not outcome.report.timed_out
    assert outcome.report.seconds > 1.5
    assert done == ["held"]


@pytest.mark.parametrize(("task", "how"), [(abort, "SIGABRT"), (leave, "exit status 7")])
def test_a_task_that_ends_its_process_is_a_crash(cluster: Executor, task: object, how: str) -> None:
    with pytest.raises(TaskLostError, match=how) as caught:
        cluster.call(task)  # type: ignore[arg-type]
    assert caught.value.reason == "crash"
    assert cluster.call(who) > 0


def test_workers_that_die_as_soon_as_they_start_are_replaced(cluster: Executor) -> None:
    """Each death falls into the moment in which Dask's own nanny gives up."""
    for _ in range(3):
        with pytest.raises(TaskLostError) as caught:
            cluster.call(leave)
        assert caught.value.reason == "crash"
    assert cluster.call(who) > 0


def test_a_worker_that_takes_long_to_be_back_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask's cluster forgets it; a run without workers would wait for ever."""
    monkeypatch.setattr(kept_workers, "LOST_AFTER_S", 0.01)
    said: list[int] = []

    def lose_and_ask() -> None:
        with open_executor("local", RuntimeConfig(workers=1, prefetch=0, retries=0)) as executor:
            for _ in range(2):
                with pytest.raises(TaskLostError):
                    executor.call(leave)
            said.append(executor.call(who))

    thread = threading.Thread(target=lose_and_ask, daemon=True)
    thread.start()
    thread.join(300)
    assert len(said) == 1


def test_a_process_of_its_own_tells_how_it_ended(tmp_path: Path) -> None:
    outcome = run_isolated(pack(write, (str(tmp_path / "x"),)), 300)
    assert outcome.result == str(tmp_path / "x")
    assert outcome.report.pid != os.getpid()
    assert outcome.report.written == ((str(tmp_path / "x"), 4),)
    with pytest.raises(CorruptTileError) as failed:
        run_isolated(pack(fail, ()))
    assert failed.value.reason == "a-reason"
    with pytest.raises(TaskLostError) as late:
        run_isolated(pack(hang, ()), 1)
    assert late.value.reason == "timeout"
    with pytest.raises(TaskLostError, match="needs more than the 400 MiB") as large:
        run_isolated(pack(hungry, ()), 300, 400)
    assert large.value.reason == "out-of-memory"


def test_every_task_is_reported_with_what_it_wrote(cluster: Executor, tmp_path: Path) -> None:
    seen: list[TaskReport] = []
    cluster.on_task = seen.append
    try:
        cluster.call(write, str(tmp_path / "a"))
    finally:
        cluster.on_task = lambda _: None
    (report,) = seen
    assert (report.task, report.written) == ("write", ((str(tmp_path / "a"), 4),))
    use = cluster.workers[report.host, report.pid]
    assert use.tasks >= 1
    assert use.peak_rss_mib > 10
    serial = SerialExecutor()
    serial.on_task = seen.append
    serial.call(write, str(tmp_path / "b"))
    assert seen[-1].pid == os.getpid()
    assert seen[-1].written == ((str(tmp_path / "b"), 4),)
    # What is written outside a task is nobody's.
    write_text(tmp_path / "c", "")
    assert run_task(who, ()).report.written == ()


def test_a_lost_connection_that_nobody_noticed_yet_blames_no_slide(cluster: Executor) -> None:
    with pytest.raises(RunStoppedError, match="resumes"):
        cluster.call(lose_connection)
    assert cluster.call(who) > 0


def test_a_scheduler_that_is_gone_ends_the_run_in_a_sentence(tmp_path: Path) -> None:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        processes = importlib.import_module("_dask_processes")
    finally:
        sys.path.remove(str(BENCHMARKS))
    with processes.dask_processes(tmp_path, workers=1) as started:
        with open_executor(started.address, RuntimeConfig()) as executor:
            results = executor.map(who, ((i,) for i in range(10_000)))
            next(results)
            started.scheduler.kill()
            began = time.monotonic()
            with pytest.raises(RunStoppedError, match="resumes"):
                list(results)
            assert time.monotonic() - began < 60
            with pytest.raises(RunStoppedError):
                executor.call(who)
