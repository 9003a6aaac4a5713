"""A worker's threads: one computes while the others read ahead, and a death beside a task is not the task's fault."""

from __future__ import annotations

import os
import threading
import time
from itertools import pairwise
from typing import Any

import pytest

from wsi_pipeline.config import RuntimeConfig
from wsi_pipeline.runtime.executor import open_executor
from wsi_pipeline.runtime.tasks import TaskLostError
from wsi_pipeline.runtime.worker import computing

READ_S, COMPUTE_S = 0.15, 0.3


def block(number: int) -> tuple[float, float, float, float]:
    """Return when the block was read, and when computed, from and to."""
    started = time.monotonic()
    time.sleep(READ_S)
    read = time.monotonic()
    with computing():
        computed = time.monotonic()
        time.sleep(COMPUTE_S)
        return started, read, computed, time.monotonic()


def lethal(_: int) -> None:
    os._exit(1)


def harmless(number: int) -> int:
    time.sleep(0.5)
    return number


@pytest.mark.parametrize("prefetch", [0, 1, 2])
def test_as_many_blocks_are_read_ahead_as_asked_while_one_is_computed(prefetch: int) -> None:
    with open_executor("local", RuntimeConfig(device="cpu", workers=1, prefetch=prefetch)) as executor:
        spans = sorted(executor.map(block, [(n,) for n in range(6)]), key=lambda span: span[2])
    computed = [span[2:] for span in spans]
    assert all(before[1] <= after[0] for before, after in pairwise(computed)), "two blocks were computed at once"
    # Blocks already read, or being read, when a block's computing ended; the first ones find nothing ahead of them.
    ahead = [sum(1 for later in spans[n + 1 :] if later[0] < span[3]) for n, span in enumerate(spans)]
    assert max(ahead) == prefetch
    if prefetch:
        assert sum(ahead) >= 3


def test_a_task_that_kills_its_worker_takes_no_other_slide_down() -> None:
    """Two slides share one worker with two threads; a task of one of them kills it every time."""
    done: dict[str, Any] = {}

    def slide(name: str, function: Any, count: int) -> None:
        try:
            done[name] = sorted(executor.map(function, [(n,) for n in range(count)]))
        except TaskLostError as error:
            done[name] = error

    with open_executor("local", RuntimeConfig(device="cpu", workers=1, prefetch=1, retries=1)) as executor:
        threads = [
            threading.Thread(target=slide, args=("bad", lethal, 1)),
            threading.Thread(target=slide, args=("good", harmless, 12)),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=120)
    assert isinstance(done["bad"], TaskLostError)
    assert done["good"] == list(range(12))
