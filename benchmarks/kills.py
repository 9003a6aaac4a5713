"""Kill workers, schedulers and clients of a run at random moments: does it always end with the same bytes?

    python benchmarks/kills.py                  50 runs: workers, schedulers and clients in turn, seeds 0 to 49
    python benchmarks/kills.py --runs 5         as CI does (tests/runtime/test_kills.py)

A run of two small virtual slides on two workers is timed undisturbed; then, for every seed, the same run is started and
one of its processes is killed with SIGKILL at a moment drawn evenly from that time. A run that loses a worker must end
by itself. One that loses its scheduler, or is killed itself, is given again (with a new scheduler) until it ends. What
it wrote is compared with the undisturbed run by ``wsi_pipeline.evaluation.identical``, bit by bit. Exit status 1 when
one differs.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from pathlib import Path

from _harness import parser, print_table, record, start
from _inputs import virtual_slide
from _kills import WHATS, Killed, kill_one, undisturbed

SETTINGS = {"tiling.core_px": 256, "runtime.workers": 2, "runtime.device": "cpu", "exports.report": False}


def make_slides(folder: Path, scratch: Path) -> list[str]:
    """Link two small virtual slides into a folder; return their ids."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = []
    for seed in (1, 2):
        source = virtual_slide(scratch, profile="normal", size_px=640, seed=seed)
        link = folder / f"slide{seed}.tiff"
        if not link.is_symlink():
            link.symlink_to(source.absolute())
        ids.append(link.stem)
    return ids


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--runs", type=int, default=50)
    chosen = start(options.parse_args())
    slides = chosen.scratch / "kills-slides"
    ids = make_slides(slides, chosen.scratch)
    work = chosen.scratch / "kills"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    seconds = undisturbed(slides, work / "undisturbed", SETTINGS)
    print(f"undisturbed: {seconds:.1f} s")
    done: list[Killed] = []
    for seed in range(chosen.runs):
        scratch = work / f"run-{seed}"
        scratch.mkdir()
        found = kill_one(
            WHATS[seed % len(WHATS)], seed, slides=slides, slide_ids=ids, reference=work / "undisturbed",
            seconds=seconds, settings=SETTINGS, scratch=scratch,
        )  # fmt: skip
        done.append(found)
        print(
            f"{found.what} {found.seed}: at {found.moment_s} s, {found.parts} blocks done, "
            f"{'killed' if found.killed else 'had ended'}, exit {found.statuses}, {found.difference or 'identical'}",
            flush=True,
        )
        if not found.difference:
            shutil.rmtree(scratch, ignore_errors=True)
    rows = []
    for what in WHATS:
        mine = [one for one in done if one.what == what]
        rows.append(
            (what, str(len(mine)), str(sum(one.killed for one in mine)), str(sum(bool(one.difference) for one in mine)))
        )
    print_table(("killed", "runs", "in time", "differing"), rows)
    record(
        chosen.results, "kills", f"{chosen.runs}-runs", {"undisturbed_s": round(seconds, 1), **SETTINGS},
        {
            "killed": dict(Counter(one.what for one in done if one.killed)),
            "differing": [vars(one) for one in done if one.difference],
            "runs": [vars(one) for one in done],
        },
    )  # fmt: skip
    sys.exit(any(one.difference for one in done))


if __name__ == "__main__":
    main()
