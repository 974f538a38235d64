"""Measure how much memory a sweep's process holds after each of its trials.

    python scripts/benchmark_memory.py --output outputs/reference/performance/memory.csv

Each method runs a hundred short trials in a process of its own: `ewc`, a file that keeps a copy of the network (a
teacher), and one whose copy is in a reference cycle. Each trial takes over the first context and leaves a checkpoint
after each context. The memory should be the same after the last trials as after the first.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pandas as pd
import psutil

from clsweep.data.context_cache import ContextCache
from clsweep.sweeps import command, storage
from clsweep.sweeps.plan import StudyPlan
from clsweep.sweeps.worker import StudyWorker
from clsweep.training.machine import give_back_memory

SETTING = (
    "benchmark=split_mnist",
    "dataset=mnist_5k",
    "network=mlp_1000",
    "benchmark.contexts=2",
    "benchmark.iters=2",
    "search.final_seeds=0",
    "search.pruner=null",
    "search.sampler=random",
    "device=cpu",
    "threads=1",
)
TEACHER = """
import copy

HYPERPARAMETERS = ("reg_strength",)


def estimate_importance(model, dataset, prev_params, device):
    model.teacher = None
    model.teacher = copy.deepcopy(model)
    {cycle}
    return {{}}


def compute_regularization_loss(model, importance_dict, prev_params_dict):
    own = {{name: p for name, p in model.named_parameters() if not name.startswith("teacher")}}
    return sum((own[name] - p.detach()).square().sum() for name, p in model.teacher.named_parameters() if name in own)
"""
METHODS = {
    "ewc": None,
    "teacher": TEACHER.format(cycle=""),
    "teacher in a cycle": TEACHER.format(cycle="object.__setattr__(model.teacher, 'student', model)"),
}
EARLY = 10  # trials, after which every buffer that is kept for the next trial has its size


def after_each_trial(method: str, trials: int) -> list[float]:
    """Resident memory in MiB after each trial of a study."""
    resident: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        connection = storage.connect(storage.url(None, Path(folder)))
        try:
            study = StudyWorker(_plan(method, trials, Path(folder)), connection, ContextCache())
            while not study.is_done():
                study.work_once()
                give_back_memory()
                resident.append(psutil.Process().memory_info().rss / 2**20)
        finally:
            storage.close(connection)
    return resident


def _plan(method: str, trials: int, folder: Path) -> StudyPlan:
    chosen = ["regularizer=ewc"]
    source = METHODS[method]
    if source is not None:
        file = folder / "method.py"
        file.write_text(source)
        chosen = ["regularizer=custom", f"regularizer.file={file}"]
    (plan,) = command.read([*SETTING, *chosen, f"search.n_trials={trials}"], folder).plans
    return plan


def main() -> None:
    """Measure each method, print what it grew by, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--trials", type=int, default=100, help=f"for each method, more than {EARLY} (default: 100)")
    parser.add_argument("--output", type=Path, help="a CSV file: method, trial, resident_mib")
    arguments = parser.parse_args()
    spawning = multiprocessing.get_context("spawn")
    tables = []
    with ProcessPoolExecutor(max_workers=1, mp_context=spawning, max_tasks_per_child=1) as processes:
        for method in arguments.methods:
            resident = processes.submit(after_each_trial, method, arguments.trials).result()
            a_trial = (resident[-1] - resident[EARLY - 1]) / (len(resident) - EARLY)
            print(
                f"{method:<20} {resident[EARLY - 1]:.0f} MiB after {EARLY} trials, {resident[-1]:.0f} after "
                f"{len(resident)}: {a_trial:+.2f} a trial",
                flush=True,
            )
            numbered = {"trial": range(1, len(resident) + 1), "resident_mib": [round(one, 1) for one in resident]}
            tables.append(pd.DataFrame({"method": method, **numbered}))
    if arguments.output is not None:
        pd.concat(tables).to_csv(arguments.output, index=False)


if __name__ == "__main__":
    main()
