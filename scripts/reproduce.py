"""Tune every method by the same sweep, train its values on fresh seeds, and compare: the tables of `docs/results.md`.

    python scripts/reproduce.py split_mnist
    python scripts/reproduce.py split_cifar100 --overrides dataset=arrays dataset.train=train.npz dataset.test=test.npz

It runs the commands that `--dry-run` prints, one after the other. The sweeps go on where they were stopped; the bounds
(joint training and no penalty) are left out once their folder is there. Two trials run at once with
`--overrides search.workers=2 threads=1`.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

METHODS = "custom,ewc,online_ewc,si,kfac_ewc,rwalk"
FINAL_SEEDS = 10
FIRST_FINAL_SEED = 1_000  # those of a sweep's final runs

# What differs from the benchmark's own protocol.
SETTINGS: dict[str, list[str]] = {
    "split_mnist": [],
    "perm_mnist": ["precision=bf16"],
    "split_cifar100": ["budget=quick", "precision=bf16"],
}


def commands(benchmark: str, output: Path, methods: str, n_trials: int, overrides: list[str]) -> list[list[str]]:
    """What to run, in this order: the sweeps, the two bounds on the sweeps' final seeds, the report."""
    clsweep = [sys.executable, "-m", "clsweep", "--multirun", f"+benchmark={benchmark}"]
    common = [*SETTINGS[benchmark], *overrides]
    search = [f"regularizer={methods}", f"search.n_trials={n_trials}", f"search.final_seeds={FINAL_SEEDS}"]
    made = [[*clsweep, *search, *common, f"hydra.sweep.dir={output / benchmark}"]]
    seeds = f"seed=range({FIRST_FINAL_SEED},{FIRST_FINAL_SEED + FINAL_SEEDS})"
    for name, stream in (("joint", "joint"), ("none", "sequential")):
        folder = output / f"{benchmark}-{name}"
        if not folder.exists():
            bound = ["hydra/sweeper=basic", "regularizer=none", f"stream={stream}", seeds]
            made.append([*clsweep, *bound, *common, f"hydra.sweep.dir={folder}"])
    return [*made, [sys.executable, "-m", "clsweep.report", str(output), "--output", str(output / "report")]]


def main() -> int:
    """Run the commands until one fails; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", choices=SETTINGS)
    parser.add_argument("--output", type=Path, default=Path("outputs/reproduced"))
    parser.add_argument("--methods", default=METHODS, help="default: %(default)s")
    parser.add_argument("--trials", type=int, default=15, help="for each method; default: %(default)s")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, run nothing")
    parser.add_argument("--overrides", nargs="*", default=[], help="for every run, such as dataset.root=PATH")
    a = parser.parse_args()
    for command in commands(a.benchmark, a.output, a.methods, a.trials, a.overrides):
        print(shlex.join(["python", *command[1:]]), flush=True)
        if not a.dry_run and (code := subprocess.run(command, check=False).returncode):
            return code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
