"""Sharing a run: each item once, the dead are followed, who was taken for dead is of no account, one finishes."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from lease_holder import end, holding_process

from wsi_pipeline.errors import LeaseHeldError, LeaseLostError
from wsi_pipeline.runtime.lease import Lease, Leases
from wsi_pipeline.runtime.progress import SilentProgress
from wsi_pipeline.runtime.sharing import (
    Shared,
    WatchfulProgress,
    alone,
    finish_once,
    joined,
    leases_folder,
    run_lease,
)

ITEMS = [f"slide {i}" for i in range(20)]


def sharer(out: Path, done: Counter[str], work: Callable[[str, Lease], None] | None = None) -> Shared[str]:
    """Return one of several that share ``ITEMS``; what is done is a file, as a summary is."""
    results = out / "results"
    results.mkdir(parents=True, exist_ok=True)

    def do(item: str, lease: Lease) -> None:
        if work is not None:
            work(item, lease)
        time.sleep(0.01)
        lease.check()
        done[item] += 1
        (results / item).write_text("")

    return Shared[str](
        out=out, name_of=lambda item: item, is_done=lambda item: (results / item).is_file(), work=do,
        leases=Leases(stale_s=0.5, beat_s=0.05), look_s=0.05,
    )  # fmt: skip


def test_each_item_is_done_once_and_all_see_the_end(tmp_path: Path) -> None:
    done: Counter[str] = Counter()
    complete: list[bool] = []

    def share() -> None:
        complete.append(sharer(tmp_path, done).run(ITEMS, threads=3))

    threads = [threading.Thread(target=share) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert complete == [True] * 4
    assert done == dict.fromkeys(ITEMS, 1)


def test_what_a_dead_one_held_is_done_by_another(tmp_path: Path) -> None:
    holder = holding_process(leases_folder(tmp_path) / "slides" / ITEMS[7])
    done: Counter[str] = Counter()
    found: list[bool] = []
    waiting = threading.Thread(target=lambda: found.append(sharer(tmp_path, done).run(ITEMS, threads=2)))
    waiting.start()
    while len(done) < len(ITEMS) - 1:
        time.sleep(0.02)
    time.sleep(0.3)
    assert waiting.is_alive(), "it stays while another one is at work"
    assert ITEMS[7] not in done
    end(holder)
    waiting.join(10)
    assert found == [True]
    assert done == dict.fromkeys(ITEMS, 1)


def test_who_may_leave_does_while_the_others_live(tmp_path: Path) -> None:
    holder = holding_process(leases_folder(tmp_path) / "slides" / ITEMS[7])
    done: Counter[str] = Counter()
    assert not sharer(tmp_path, done).run(ITEMS, threads=2, wait=False)
    assert set(ITEMS) - set(done) == {ITEMS[7]}
    end(holder)
    assert sharer(tmp_path, done).run(ITEMS, threads=2, wait=False)
    assert done == dict.fromkeys(ITEMS, 1)


def test_an_error_of_one_whose_item_was_taken_over_is_of_no_account(tmp_path: Path) -> None:
    done: Counter[str] = Counter()
    lost: list[str] = []

    def lose(item: str, lease: Lease) -> None:
        if item == ITEMS[3] and not lost:
            lost.append(item)
            # Another process takes it for dead, does it and ends.
            other = Lease._take(lease.folder, 2, Leases())
            assert other is not None
            (tmp_path / "results" / item).write_text("")
            other.release()
            WatchfulProgress(SilentProgress(), lease).stage(item, "cells", 1)

    assert sharer(tmp_path, done, lose).run(ITEMS, threads=2)
    assert set(ITEMS) - set(done) == {ITEMS[3]}


def test_an_error_ends_the_sharing(tmp_path: Path) -> None:
    def fail(item: str, _lease: Lease) -> None:
        if item == ITEMS[5]:
            raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="the disk is full"):
        sharer(tmp_path, Counter(), fail).run(ITEMS, threads=3)


def test_progress_of_a_lost_slide_raises(tmp_path: Path) -> None:
    lease = Leases(beat_s=0.02).acquire(tmp_path / "lease", "it")
    progress = WatchfulProgress(SilentProgress(), lease)
    progress.stage("s", "cells", 2)
    progress.advance("s")
    other = Lease._take(lease.folder, 2, Leases())
    assert other is not None
    time.sleep(0.1)
    with pytest.raises(LeaseLostError, match="taken over"):
        progress.advance("s")
    lease.release()
    other.release()


def test_runs_alone_and_shared_do_not_mix(tmp_path: Path) -> None:
    leases = Leases(stale_s=0.5, beat_s=0.05)
    with alone(tmp_path, leases):
        with pytest.raises(LeaseHeldError, match="is being worked on by process"), alone(tmp_path, Leases()):
            pass
    holder = holding_process(run_lease(tmp_path))
    with pytest.raises(LeaseHeldError, match=f"process {holder.pid} .*--share"), joined(tmp_path, leases):
        pass
    end(holder)
    with joined(tmp_path, leases):
        pass
    assert not list((leases_folder(tmp_path) / "members").iterdir())
    member = leases_folder(tmp_path) / "members" / "other"
    holder = holding_process(member)
    with joined(tmp_path, leases):
        assert len(list(member.parent.iterdir())) == 2
    with pytest.raises(LeaseHeldError, match=f"process {holder.pid} .*--share"), alone(tmp_path, leases):
        pass
    end(holder)
    with alone(tmp_path, leases):
        assert not list(member.parent.iterdir())


def test_one_of_many_finishes_and_again_when_something_changed(tmp_path: Path) -> None:
    inputs = [tmp_path / "a.json", tmp_path / "b.json"]
    for path in inputs:
        path.write_text("1")
    (tmp_path / "work").mkdir()
    product = tmp_path / "slides.csv"
    finished: list[int] = []

    def finish() -> None:
        time.sleep(0.05)
        finished.append(1)
        product.write_text(f"{len(finished)}")

    def all_finish() -> None:
        def one() -> None:
            finish_once(tmp_path, Leases(beat_s=0.05), inputs=inputs, product=product, finish=finish)

        threads = [threading.Thread(target=one) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    all_finish()
    all_finish()
    assert len(finished) == 1
    inputs[1].write_text("2")
    all_finish()
    assert len(finished) == 2
    product.write_text("of another run")
    all_finish()
    assert len(finished) == 3
