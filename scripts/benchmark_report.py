"""Time a report and measure its memory, on made-up runs: 20 methods, ten contexts, four benchmarks.

python scripts/benchmark_report.py --runs 2000 --output outputs/reference/performance/report.csv
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

from clsweep import results
from clsweep.results import Summary, metrics
from clsweep.results.metrics import Cell

METHODS = 20
BENCHMARKS = 4
CONTEXTS = 10
_NOTHING = {"str": "", "int": 0, "int | None": None, "float": float("nan"), "bool": False}


def make(folder: Path, runs: int) -> None:
    """Write run folders, the seeds as even as they come."""
    source = np.random.default_rng(0)
    for number in range(runs):
        place, method = divmod(number, METHODS)
        seed, benchmark = divmod(place, BENCHMARKS)
        accuracies = source.uniform(0.5, 1.0, (CONTEXTS + 1, CONTEXTS))
        cells = [Cell(after, one + 1, "test", float(value), 1000) for (after, one), value in np.ndenumerate(accuracies)]
        one = folder / f"benchmark-{benchmark}" / f"method-{method}" / str(seed)
        one.mkdir(parents=True)
        results.write(one, _summary(number, f"benchmark_{benchmark}", f"method_{method}", seed, accuracies), cells)


def _summary(number: int, benchmark: str, method: str, seed: int, accuracies: metrics.Matrix) -> Summary:
    values = {
        field.name: _NOTHING[str(field.type)] for field in dataclasses.fields(Summary) if field.name != "values"
    } | {
        "format_version": results.FORMAT_VERSION,
        "run_id": f"run-{number}",
        "status": results.FINISHED,
        "benchmark": benchmark,
        "regularizer": method,
        "seed": seed,
        "budget": "full",
        "scenario": "domain",
        "stream": "sequential",
        "dataset": "mnist",
        "network": "mlp 400 400",
        "precision": "float32",
        "iters": 2000,
        "batch_size": 128,
        "contexts": CONTEXTS,
        "classes_per_context": 10,
        "n_test": 1000 * CONTEXTS,
        "lr": 1e-3,
        "validation_fraction": 0.0,
        "train_seconds": 1.0,
        "importance_seconds": 1.0,
        "eval_seconds": 1.0,
        "started_at": "2026-11-23T00:00:00+00:00",
    }
    for name in ("average_accuracy", "forgetting", "backward_transfer"):
        values[name] = getattr(metrics, name)(accuracies)
    return Summary(**values)  # type: ignore[arg-type]


def measure(folder: Path, output: Path) -> dict[str, float]:
    """Time one report, with the resident memory of its processes together (pages that they share count in each)."""
    started = time.perf_counter()
    process = psutil.Popen([sys.executable, "-m", "clsweep.report", str(folder), "--output", str(output)])
    peak = 0
    while process.poll() is None:
        peak = max(peak, _resident(process))
        time.sleep(0.3)  # looking takes processor time, too
    if process.returncode:
        raise SystemExit(process.returncode)
    seconds = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": round(seconds, 2),
        "processor_seconds": round(used.ru_utime + used.ru_stime, 2),
        "peak_mib": round(peak / 2**20, 1),
        "page_mib": round((output / "report.html").stat().st_size / 2**20, 2),
    }


def _resident(process: psutil.Process) -> int:
    """Of a process and those it started, in bytes; 0 where one ends meanwhile."""
    try:
        return sum(one.memory_info().rss for one in (process, *process.children(recursive=True)))
    except psutil.NoSuchProcess:
        return 0


def main() -> None:
    """Print, and with `--output` write, one row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--folder", type=Path, help="time a report on these results instead of made-up ones")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = options.folder or Path(name) / "outputs"
        if options.folder is None:
            make(folder, options.runs)
        row = {"runs": len(results.load(folder).runs), **measure(folder, Path(name) / "report")}
    table = pd.DataFrame([row])
    print(table.to_string(index=False))
    if options.output is not None:
        results.write_csv(table, options.output)


if __name__ == "__main__":
    main()
