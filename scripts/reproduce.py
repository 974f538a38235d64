"""Tune the main methods by the same sweep, train them on ten fresh seeds, and compare them in a report.

    python scripts/reproduce.py split_mnist
    python scripts/reproduce.py split_cifar100 --overrides dataset=arrays dataset.train=train.npz dataset.test=test.npz

Stopped and started again, it goes on where it was. To run two trials at once, install `clsweep[parallel]` and add
`--overrides hydra/launcher=joblib hydra.launcher.n_jobs=2 threads=1`.
"""

from __future__ import annotations

import argparse
import itertools
import shlex
import subprocess
import sys
from pathlib import Path

from missing_runs import digest, run_unless_finished

from clsweep.sweeps.plan import FIRST_FINAL_SEED

METHODS = "custom,ewc,online_ewc,si,kfac_ewc,rwalk"

# What differs from the benchmark's own protocol.
SETTINGS: dict[str, list[str]] = {
    "split_mnist": [],
    "perm_mnist": ["precision=bf16"],
    "split_cifar100": ["budget=quick", "precision=bf16"],
}
# The values that a sweep begins with, where those of `conf/tuned` were chosen by such a sweep: it should not begin with
# its own result.
_RWALK = "{reg_strength: 100, gamma: 1, epsilon: 1e-3}"
FIRST: dict[str, dict[str, str]] = {
    "split_mnist": {"custom": "{reg_strength: 1}", "kfac_ewc": "{reg_strength: 1000}", "rwalk": _RWALK},
    "perm_mnist": {"kfac_ewc": "{reg_strength: 250}", "rwalk": _RWALK},
    "split_cifar100": {"kfac_ewc": "{reg_strength: 100}"},
}


def main() -> int:
    """Run the sweeps, the bounds on the sweep's final seeds and the report; the exit code of the first that fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", choices=SETTINGS)
    parser.add_argument("--output", type=Path, default=Path("outputs/reproduced"))
    parser.add_argument("--methods", default=METHODS, help="default: %(default)s")
    parser.add_argument("--trials", type=int, default=15, help="for each method; default: %(default)s")
    parser.add_argument("--seeds", type=int, default=10, help="fresh seeds of the final runs; default: %(default)s")
    parser.add_argument("--dry-run", action="store_true", help="print the sweeps' commands, run nothing")
    parser.add_argument(
        "--overrides", nargs="*", default=[], help="such as dataset.root=PATH; search.* is for the sweep alone"
    )
    a = parser.parse_args()
    setting = [f"+benchmark={a.benchmark}", *SETTINGS[a.benchmark], *a.overrides]
    for method in a.methods.split(","):
        sweep = ["-m", "clsweep", "--multirun", *setting, f"regularizer={method}", *_first(a.benchmark, method)]
        sweep += [f"search.n_trials={a.trials}", f"search.final_seeds={a.seeds}"]
        sweep += [f"hydra.sweep.dir={a.output / a.benchmark / method}"]
        print(shlex.join(["python", *sweep]), flush=True)
        if a.dry_run:
            continue
        if code := subprocess.run([sys.executable, *sweep], check=False).returncode:
            return code
    if a.dry_run:
        return 0
    single = [override for override in setting if not override.lstrip("+").startswith("search.")]
    for stream, seed in itertools.product(["joint", "sequential"], range(FIRST_FINAL_SEED, FIRST_FINAL_SEED + a.seeds)):
        bound = [*single, "regularizer=none", f"stream={stream}", f"seed={seed}"]
        if code := run_unless_finished(a.output / f"{a.benchmark}-bounds" / digest(bound), bound):
            return code
    report = ["-m", "clsweep.report", str(a.output), "--output", str(a.output / "report")]
    return subprocess.run([sys.executable, *report], check=False).returncode


def _first(benchmark: str, method: str) -> list[str]:
    """The override for the values that the sweep begins with."""
    values = FIRST[benchmark].get(method)
    return [] if values is None else [f"regularizer.tuned={values}"]


if __name__ == "__main__":
    raise SystemExit(main())
