"""Tasks on a real local cluster: errors come back typed, a dying worker is an error and never a hang."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from wsi_pipeline.config import RuntimeConfig
from wsi_pipeline.errors import ConfigError, CorruptTileError
from wsi_pipeline.runtime.executor import Executor, SerialExecutor, open_executor
from wsi_pipeline.runtime.tasks import TaskLostError


@pytest.fixture(scope="module")
def cluster() -> Iterator[Executor]:
    with open_executor("local", RuntimeConfig(workers=2, retries=1)) as executor:
        yield executor


@pytest.fixture(params=["cluster", "serial"])
def executor(request: pytest.FixtureRequest) -> Executor | SerialExecutor:
    return request.getfixturevalue("cluster") if request.param == "cluster" else SerialExecutor()


# Tasks are sent by value: a worker cannot import this file.


def square(x: int) -> int:
    return x * x


def fail(x: int) -> int:
    raise CorruptTileError(f"slide.svs, level 0, tile {x}: cannot be decoded", reason="a-reason-of-its-own")


def fail_at_three(x: int) -> int:
    return fail(x) if x == 3 else x


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def slow(x: int) -> int:
    time.sleep(0.05)
    return x


def die_once(path: str) -> int:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return 7
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


pytestmark = pytest.mark.usefixtures("by_value")


def test_every_task_gives_its_record(executor: Executor | SerialExecutor) -> None:
    assert executor.call(square, 7) == 49
    assert sorted(executor.map(square, ((i,) for i in range(50)))) == [i * i for i in range(50)]
    assert list(executor.map(square, [])) == []


def test_a_typed_error_comes_back_typed(executor: Executor | SerialExecutor) -> None:
    with pytest.raises(CorruptTileError, match="tile 5") as caught:
        executor.call(fail, 5)
    assert caught.value.reason == "a-reason-of-its-own"


def test_the_first_error_ends_the_map_and_not_the_executor(executor: Executor | SerialExecutor) -> None:
    with pytest.raises(CorruptTileError):
        list(executor.map(fail_at_three, ((i,) for i in range(20))))
    assert executor.call(square, 3) == 9


def note_and_fail_at_zero(i: int, folder: str) -> int:
    open(f"{folder}/{i}", "w").close()
    if i == 0:
        return fail(i)
    time.sleep(0.3)
    return i


@pytest.mark.parametrize("ended_by", ["error", "close"])
def test_what_waits_behind_an_error_is_not_computed(tmp_path: Path, ended_by: str) -> None:
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as local:
        with open_executor(local.scheduler_address, RuntimeConfig()) as executor:
            first = 0 if ended_by == "error" else 1
            results = executor.map(note_and_fail_at_zero, ((i, str(tmp_path)) for i in range(first, first + 9)))
            if ended_by == "error":
                with pytest.raises(CorruptTileError):
                    list(results)
            else:
                next(results)
                results.close()  # type: ignore[attr-defined]
            executor.call(square, 2)
            time.sleep(1)
            # Beside the one that ended it, one may have begun.
            assert len(list(tmp_path.iterdir())) <= 2


def test_arguments_are_taken_as_they_are_needed(cluster: Executor) -> None:
    """A slide of a million blocks is never in the scheduler at once."""
    taken = 0

    def arguments() -> Iterator[tuple[int]]:
        nonlocal taken
        for i in range(10_000):
            taken = i + 1
            yield (i,)

    results = cluster.map(square, arguments())
    next(results)
    assert taken <= 5 * cluster.n_workers
    results.close()  # type: ignore[attr-defined]
    assert cluster.call(square, 2) == 4


def test_equal_tasks_are_run_each_time(cluster: Executor) -> None:
    assert cluster.call(time.time_ns) != cluster.call(time.time_ns)


def test_it_knows_its_workers(cluster: Executor) -> None:
    assert cluster.n_workers == 2
    pids = {pid for pid in cluster.map(lambda _: (time.sleep(0.05), os.getpid())[1], ((i,) for i in range(12)))}
    assert os.getpid() not in pids
    assert len(pids) == 2


def test_workers_have_their_threads_fixed(cluster: Executor) -> None:
    assert cluster.call(os.environ.get, "OMP_NUM_THREADS") == "1"


def test_a_worker_that_dies_once_is_forgiven(cluster: Executor, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert cluster.call(die_once, str(tmp_path_factory.mktemp("died") / "once")) == 7


def test_a_task_that_kills_its_workers_is_an_error_and_harms_no_other(cluster: Executor) -> None:
    """Another slide's tasks run meanwhile on the same workers; none of them may be blamed for the deaths."""
    started = time.monotonic()
    with ThreadPoolExecutor(2) as threads:
        others = threads.submit(lambda: sorted(cluster.map(slow, ((i,) for i in range(200)))))
        with pytest.raises(TaskLostError) as caught:
            cluster.call(die)
        assert others.result(timeout=120) == list(range(200))
    assert time.monotonic() - started < 120
    assert caught.value.reason == "out-of-memory"  # it kills itself as the system does for want of memory
    assert "runtime.workers" in str(caught.value)
    assert cluster.call(square, 5) == 25


def test_a_cluster_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="'cloud'"), open_executor("cloud", RuntimeConfig()):
        pass


def test_a_scheduler_can_be_joined_by_its_address() -> None:
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as local:
        with open_executor(local.scheduler_address, RuntimeConfig()) as executor:
            assert executor.call(square, 6) == 36
            assert executor.n_workers == 1
