"""Record what every method measures in short runs, and compare recordings, for changes that should change nothing.

    python scripts/same_results.py record before.csv
    python scripts/same_results.py record after.csv
    python scripts/same_results.py compare before.csv after.csv

It runs every method and the shipped file, on all three benchmarks in all three scenarios, with both kinds of update
where there is a compiler. Make both recordings on the same machine: other processors round differently.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from clsweep import methods

METHODS = ",".join([*methods.names(), "custom"])
COMMON = ["device=cpu", "threads=1", "figures=false", "seed=3", "benchmark.contexts=3", "benchmark.batch_size=16"]
BENCHMARKS = {
    "split_mnist": ["dataset=mnist_5k", "benchmark.iters=12", "network.hidden=[50,40]"],
    "perm_mnist": ["dataset=mnist_5k", "benchmark.iters=12", "network.hidden=[40,30]", "benchmark.lr=1e-3"],
    "split_cifar100": ["dataset=arrays", "benchmark.iters=6", "network.hidden=[30]", "network.channels=[4,6,8]"],
}
CASE = ["benchmark", "scenario", "method", "update"]


def main() -> int:
    """Record, or compare: 1 where two recordings differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("record").add_argument("file", type=Path)
    compared = commands.add_parser("compare")
    compared.add_argument("before", type=Path)
    compared.add_argument("after", type=Path)
    a = parser.parse_args()
    if a.command == "record":
        record().to_csv(a.file, index=False)
        return 0
    return compare(pd.read_csv(a.before), pd.read_csv(a.after))


def record() -> pd.DataFrame:
    """A row for each case: its average accuracy, and a digest of all that was measured."""
    without_compiler = dict(os.environ) | {"PATH": ""}
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _write_images(folder)
        for environment, name in ((dict(os.environ), "as it is"), (without_compiler, "without a compiler")):
            for benchmark, values in BENCHMARKS.items():
                runs = folder / f"{benchmark} {name}"
                _run([f"+benchmark={benchmark}", *values], runs, folder, environment)
                rows += [_row(file.parent) for file in sorted(runs.rglob("summary.csv"))]
    return pd.DataFrame(rows).drop_duplicates(CASE).sort_values(CASE)


def _run(values: list[str], runs: Path, folder: Path, environment: dict[str, str]) -> None:
    images = [f"dataset.train={folder / 'train.npz'}", f"dataset.test={folder / 'test.npz'}"]
    grid = [f"regularizer={METHODS}", "benchmark.scenario=task,domain,class", f"hydra.sweep.dir={runs}"]
    given = [*COMMON, *values, *(images if "dataset=arrays" in values else [])]
    command = [sys.executable, "-m", "clsweep", "--multirun", "hydra/sweeper=basic", *given, *grid]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)


def _write_images(folder: Path) -> None:
    """Noise of CIFAR-100's shape, a little of it for each class."""
    source = np.random.default_rng(0)
    for name, each in (("train", 8), ("test", 3)):
        labels = np.arange(100).repeat(each)
        images = source.integers(0, 256, (len(labels), 32, 32, 3), dtype=np.uint8)
        np.savez(folder / f"{name}.npz", images=images, labels=labels)


def _row(folder: Path) -> dict[str, object]:
    summary = pd.read_csv(folder / "summary.csv").iloc[0]
    lines = (folder / "accuracy.csv").read_bytes().splitlines()
    measured = b"\n".join(line.partition(b",")[2] for line in lines)  # without the run_id
    return {
        "benchmark": summary["benchmark"],
        "scenario": summary["scenario"],
        "method": summary["regularizer"],
        "update": summary["update"],
        "average_accuracy": summary["average_accuracy"],
        "digest": hashlib.sha256(measured).hexdigest()[:16],
    }


def compare(before: pd.DataFrame, after: pd.DataFrame) -> int:
    """Print the cases that differ, or are in one recording only; 1 where there is any."""
    both = before.merge(after, on=CASE, how="outer", suffixes=("_before", "_after"))
    differing = both[both["digest_before"] != both["digest_after"]]
    if len(differing):
        print(differing.drop(columns=["digest_before", "digest_after"]).to_string(index=False))
    print(f"{len(both) - len(differing)} of {len(both)} cases are the same")
    return int(len(differing) > 0)


if __name__ == "__main__":
    raise SystemExit(main())
