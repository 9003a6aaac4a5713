"""Answers from a table of blood counts: rows a second and peak memory of ``predict counts``, reading included.

``python benchmarks/counts.py [--rows 1000000] [--model NAME|FILE]`` draws rows with replacement from
``acute-leukaemia-counts`` under ``WSI_PIPELINE_DATA``, writes them as CSV, and runs the command in its own process.
There is no peer to run beside it: the published model (AIPAL) is an R object. The shares of rows with a missing value
and with other units are those of the data.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
from _harness import machine, memory_mib


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--model", default="acute-leukaemia-counts")
    asked = parser.parse_args()
    folder = Path(os.environ["WSI_PIPELINE_DATA"]) / "acute-leukaemia-counts"
    real = pd.concat([pd.read_csv(folder / name) for name in ("lyon.csv", "clermont.csv")]).drop(columns="Response")
    with tempfile.TemporaryDirectory() as temporary:
        table, out = Path(temporary) / "rows.csv", Path(temporary) / "answers.csv"
        real.sample(asked.rows, replace=True, random_state=0).to_csv(table, index=False)
        call = [sys.executable, "-m", "wsi_pipeline.cli.main", "predict", "counts", str(table), "--out", str(out)]
        started = time.monotonic()
        process = subprocess.Popen([*call, "--model", asked.model], stdout=subprocess.DEVNULL)
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, memory_mib("VmHWM", process.pid))
            time.sleep(0.05)
        seconds = time.monotonic() - started
        if process.returncode:
            raise SystemExit(f"predict counts ended with {process.returncode}")
    rate = asked.rows / seconds
    print(f"{asked.rows:,} rows in {seconds:.1f} s, {rate:,.0f} rows/s, peak {peak:,.0f} MiB; {machine()}")


if __name__ == "__main__":
    main()
