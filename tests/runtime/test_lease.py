"""Leases: one holder at a time, the dead are followed, and who was thought dead notices it."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lease_holder import end, holding_process

from wsi_pipeline.errors import LeaseHeldError, LeaseLostError, OutputError
from wsi_pipeline.runtime import lease as module
from wsi_pipeline.runtime import process
from wsi_pipeline.runtime.lease import Holding, Lease, Leases, read_holding
from wsi_pipeline.runtime.process import ProcessName, process_start, this_process, told_to_end


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "work" / "leases" / "run"


def write_elsewhere(folder: Path, number: int = 1, beats: int = 0, host: str = "node7") -> None:
    """Write a lease as another host's process would."""
    folder.mkdir(parents=True, exist_ok=True)
    holder = ProcessName(host=host, boot="another-boot", namespace="pid:[1]", pid=4242, started="17", job="99_3")
    (folder / f"{number}.json").write_bytes(Holding(number=number, holder=holder, token="t", beats=beats).to_bytes())


def test_a_lease_is_held_until_it_is_given_back(folder: Path) -> None:
    leases = Leases()
    with leases.acquire(folder, "the run") as lease:
        lease.check()
        assert Leases().try_acquire(folder) is None
        with pytest.raises(LeaseHeldError, match=f"the run .* process {os.getpid()} on "):
            Leases().acquire(folder, "the run")
    holding = read_holding(folder)
    assert holding is not None
    assert holding.released
    with leases.acquire(folder, "the run") as again:
        again.check()
        assert sorted(path.name for path in folder.iterdir()) == ["2.json"], "one small file, not one a holder"


def test_a_killed_holder_on_this_host_is_followed_at_once(folder: Path) -> None:
    holder = holding_process(folder)
    with pytest.raises(LeaseHeldError, match=f"process {holder.pid} on "):
        Leases().acquire(folder, "the run")
    holder.send_signal(signal.SIGKILL)
    time.sleep(0.2)  # not waited for: it is a zombie, which still has its number
    started = time.monotonic()
    with Leases().acquire(folder, "the run"):
        assert time.monotonic() - started < 1
    end(holder)


def test_a_stopped_holder_that_wakes_finds_its_lease_gone(folder: Path) -> None:
    holder = holding_process(folder)
    holder.send_signal(signal.SIGSTOP)
    leases = Leases(stale_s=0.4, beat_s=0.05)
    lease = None
    while lease is None:
        lease = leases.try_acquire(folder)
        time.sleep(0.05)
    holder.send_signal(signal.SIGCONT)
    time.sleep(0.3)
    lease.check()  # its heartbeats, if any more came, took nothing away
    assert json.loads((folder / "2.json").read_text())["holder"]["pid"] == os.getpid()
    lease.release()
    end(holder)


def test_the_old_holder_is_told_and_leaves_the_lease_to_the_new_one(folder: Path) -> None:
    old = Leases(beat_s=60).acquire(folder, "the run")
    write_elsewhere(folder, number=2)
    with pytest.raises(LeaseLostError, match=r"taken over by process 4242 on node7 \(Slurm job 99_3\)"):
        old.check()
    old.release()
    holding = read_holding(folder)
    assert holding is not None
    assert holding.number == 2
    assert not holding.released


def test_a_removed_folder_is_a_lost_lease(folder: Path) -> None:
    lease = Leases(beat_s=60).acquire(folder, "the run")
    (folder / "1.json").unlink()
    with pytest.raises(LeaseLostError, match="removed"):
        lease.check()
    lease.release()
    assert list(folder.iterdir()) == []


def test_the_heartbeat_keeps_a_lease_from_observers_elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Leases(beat_s=0.02).acquire(folder, "the run"):
        monkeypatch.setattr(ProcessName, "runs", lambda _self: None)
        observer = Leases(stale_s=0.5)
        until = time.monotonic() + 1.2
        while time.monotonic() < until:
            assert observer.try_acquire(folder) is None
            time.sleep(0.02)


@pytest.mark.parametrize("skew_s", [-3600.0, 0.0, 3600.0])
def test_a_silent_holder_elsewhere_is_followed_by_the_observers_clock(folder: Path, skew_s: float) -> None:
    write_elsewhere(folder)
    os.utime(folder / "1.json", (time.time() + skew_s, time.time() + skew_s))
    clock = Clock()
    leases = Leases(stale_s=90, clock=clock)
    assert leases.try_acquire(folder) is None
    clock.now = 89
    assert leases.try_acquire(folder) is None
    write_elsewhere(folder, beats=1)
    clock.now = 91
    assert leases.try_acquire(folder) is None, "a heartbeat began the time anew"
    clock.now = 180
    assert leases.try_acquire(folder) is None
    clock.now = 181
    lease = leases.try_acquire(folder)
    assert lease is not None
    lease.release()


def test_acquire_waits_for_a_silent_holder_and_refuses_one_that_beats(folder: Path) -> None:
    write_elsewhere(folder)
    clock = Clock()
    Leases(stale_s=90, clock=clock, sleep=clock.sleep).acquire(folder, "the run").release()
    assert 90 <= clock.now <= 92

    write_elsewhere(folder, number=3)
    clock = Clock()

    def beat(seconds: float) -> None:
        clock.sleep(seconds)
        write_elsewhere(folder, number=3, beats=int(clock.now))

    with pytest.raises(LeaseHeldError, match="process 4242 on node7"):
        Leases(stale_s=90, clock=clock, sleep=beat).acquire(folder, "the run")
    assert clock.now < 5


def test_another_container_of_this_host_is_elsewhere(folder: Path) -> None:
    other = replace(this_process(), namespace="pid:[1]", pid=2**22 - 1)
    assert other.runs() is None
    assert replace(this_process(), pid=2**22 - 1).runs() is False


def test_a_process_id_used_again_is_another_process() -> None:
    assert this_process().runs() is True
    assert replace(this_process(), started="1").runs() is False
    assert process_start(2**22 - 1) is None


def test_without_proc_the_same_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    class Absent:
        def __init__(self, *_: object) -> None: ...

        def read_text(self, **_: str) -> str:
            raise FileNotFoundError

        def exists(self) -> bool:
            return False

    monkeypatch.setattr(process, "Path", Absent)
    started = process_start(os.getpid())
    assert started is not None
    assert process_start(os.getpid()) == started
    assert process_start(2**22 - 1) is None
    assert process._boot()


def test_a_process_that_is_told_to_end_gives_its_leases_back(folder: Path) -> None:
    def work() -> None:
        with told_to_end(), Leases().acquire(folder, "the run"):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        work()
    holding = read_holding(folder)
    assert holding is not None
    assert holding.released
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("links", [True, False])
def test_of_many_at_once_one_holds(folder: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not links:

        def refuse(*_: object) -> None:
            raise OSError(errno.EPERM, "no hard links here")

        monkeypatch.setattr(os, "link", refuse)
    inside: list[int] = []
    most: list[int] = []
    barrier = threading.Barrier(8)

    def fight() -> None:
        leases = Leases(beat_s=0.01)
        barrier.wait()
        for _ in range(10):
            lease = None
            while lease is None:
                lease = leases.try_acquire(folder)
            inside.append(1)
            most.append(len(inside))
            lease.check()
            inside.pop()
            lease.release()

    threads = [threading.Thread(target=fight) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 80
    assert [path.name for path in folder.iterdir()] == ["80.json"]


def test_two_who_saw_the_same_dead_holder_do_not_both_follow(folder: Path) -> None:
    write_elsewhere(folder)
    first = Lease._take(folder, 2, Leases())
    assert first is not None
    assert Lease._take(folder, 2, Leases()) is None, "it looked before the first one took over"
    first.check()
    first.release()
    assert Lease._take(folder, 2, Leases()) is None, "also when the first one has ended since"
    with Leases().acquire(folder, "the run") as third:
        assert Lease._take(folder, 2, Leases()) is None, "also when its number is free again"
        third.check()


@given(st.binary(max_size=80) | st.from_regex(rb'\{"holder": \{"pid": [0-9]{0,3}.{0,20}\}\}'))
def test_whatever_a_file_holds_it_is_a_holder_unknown(content: bytes) -> None:
    holding = Holding.of(3, content)
    assert holding == Holding(number=3)
    assert not holding.released


def test_a_damaged_file_is_followed_after_a_while(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "7.json").write_bytes(b"")
    clock = Clock()
    leases = Leases(stale_s=90, clock=clock)
    assert leases.try_acquire(folder) is None
    clock.now = 90
    lease = leases.try_acquire(folder)
    assert lease is not None
    lease.release()


def test_a_lease_that_cannot_be_renewed_is_given_up_in_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    lease = Leases(stale_s=90, beat_s=600, clock=clock).acquire(folder, "the run")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.os, "replace", full)
    clock.now = 44
    lease.check()
    clock.now = 46
    with pytest.raises(LeaseLostError, match=r"could not be renewed for 45 s \(No space left on device\)"):
        lease.check()
    lease.release()


def test_a_folder_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file/run cannot be written"):
        Leases().acquire(tmp_path / "file" / "run", "the run")
