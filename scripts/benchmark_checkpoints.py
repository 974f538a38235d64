"""Time what checkpoints cost a run, and what sharing the first context saves a sweep.

    python scripts/benchmark_checkpoints.py --output outputs/search/checkpoints.csv
    python scripts/benchmark_checkpoints.py --sweep outputs/sweeps/...

Without `--sweep`, it makes short runs with the benchmarks' real networks, numbers of examples and contexts, on random
images. They write a checkpoint after each context. `share` is the part of a run's time that checkpoints would take with
as many iterations as the budget has.

With `--sweep`, it reads a sweep that has been run. It compares the time that the trials took with the time they would
have taken without sharing: `ratio` is the first over the second. A first context that was taken over counts at the mean
speed of the other contexts. `an_hour` is the number of trials an hour, pruned ones included, with `--iters`
and `--workers`. `alone_an_hour` is the number of whole runs an hour that share nothing, one after the other on one
thread.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table

from clsweep import results
from clsweep.checkpoints import FOLDER
from clsweep.config import Config, parse
from clsweep.data.context_cache import ContextCache
from clsweep.data.datasets import ImageData, LabelledImages
from clsweep.paths import config_dir
from clsweep.training.checkpoints import Checkpoints
from clsweep.training.observers import Observer
from clsweep.training.run import run

RUNS = {("perm_mnist", "full"): 5_000, ("split_cifar100", "quick"): 500, ("split_mnist", "quick"): 200}
METHODS = ("none", "ewc", "si", "kfac_ewc", "custom")
SHAPES = {"mnist": (1, 28, 28, 10, 60_000), "cifar100": (3, 32, 32, 100, 50_000)}
ITERS, CONTEXTS = 12, 3


def setting(benchmark: str, method: str) -> Config:
    """A run's, with few iterations and contexts."""
    overrides = [f"benchmark={benchmark}", f"regularizer={method}", f"benchmark.iters={ITERS}", "threads=1"]
    overrides += [f"benchmark.contexts={CONTEXTS}", "device=cpu", "figures=false", "keep_checkpoints=true"]
    with initialize_config_dir(version_base="1.3", config_dir=str(config_dir())):
        return parse(compose("config", overrides=overrides))


def images(name: str) -> ImageData:
    """Random images, as many as the data set has."""
    channels, height, width, classes, count = SHAPES[name]
    source = torch.Generator().manual_seed(0)
    shape = (channels, height, width)

    def some(n: int) -> LabelledImages:
        labels = torch.arange(classes).repeat(n // classes)
        return LabelledImages(torch.randint(0, 256, (len(labels), *shape), generator=source, dtype=torch.uint8), labels)

    return ImageData(some(count), some(10_000), classes)


@contextmanager
def timed() -> Iterator[list[float]]:
    """The seconds that each checkpoint takes."""
    seconds: list[float] = []
    save = Checkpoints.save

    def measured(*given: object) -> None:
        start = time.perf_counter()
        save(*given)  # type: ignore[arg-type]
        seconds.append(time.perf_counter() - start)

    Checkpoints.save = measured  # type: ignore[assignment, method-assign]
    try:
        yield seconds
    finally:
        Checkpoints.save = save  # type: ignore[method-assign]


def cost(benchmark: str, budget: str, method: str, streams: ContextCache) -> dict[str, object]:
    """One row: a run of few iterations, and what it comes to at a budget."""
    config = setting(benchmark, method)
    with tempfile.TemporaryDirectory() as place, timed() as seconds:
        row = run(config, Path(place), Observer(), streams, rehearsed=True).summary
        size = max(path.stat().st_size for path in (Path(place) / FOLDER).iterdir()) / 2**20
    step = row.train_seconds / (ITERS * CONTEXTS)
    others = row.importance_seconds / CONTEXTS + row.eval_seconds / (CONTEXTS + 1)
    context = RUNS[benchmark, budget] * step + others
    checkpoint = statistics.median(seconds)
    return {
        "benchmark": benchmark,
        "budget": budget,
        "method": method,
        "checkpoint_mib": round(size, 1),
        "checkpoint_ms": round(1e3 * checkpoint, 1),
        "context_seconds": round(context, 2),
        "share": round(checkpoint / (context + checkpoint), 5),
    }


def costs(benchmarks: list[str], methods: list[str]) -> pd.DataFrame:
    """A row for each benchmark and method."""
    rows = []
    for benchmark, budget in RUNS:
        if benchmark in benchmarks:
            name = setting(benchmark, "none").dataset.name
            data = images(name)
            streams = ContextCache(lambda _, data=data: data)  # type: ignore[misc]
            rows += [cost(benchmark, budget, method, streams) for method in methods]
    return pd.DataFrame(rows)


def savings(folder: Path, iters: int | None, workers: int) -> pd.DataFrame:
    """A row for each study of a sweep."""
    runs = results.load(folder).runs.query("role == 'trial'")
    longer = 1 if iters is None else iters / runs["iters"]
    train, measured = longer * runs["train_seconds"], runs["eval_seconds"]
    own = train + runs["importance_seconds"] + measured
    took = runs["shared_seconds"] > 0
    first = (train + 2 * measured) / (runs["contexts"] - 1)  # trained, and measured before and after
    whole = took & (runs["status"] == results.FINISHED)
    rows = []
    for study, of in runs.groupby("study").groups.items():
        price = first[of][whole[of]].mean()
        rows.append(
            {
                "study": Path(str(study)).name,
                "trials": len(of),
                "pruned": int((runs["status"][of] == results.PRUNED).sum()),
                "ratio": own[of].sum() / (own[of].sum() + price * took[of].sum()),
                "ratio_of_whole_runs": 1 - price / (own[of][whole[of]].mean() + price),
                "an_hour": 3_600 * workers / own[of].mean(),
                "alone_an_hour": 3_600 / (own[of][whole[of]].mean() + price),
            }
        )
    return pd.DataFrame(rows).round(3)


def show(table: pd.DataFrame) -> None:
    shown = Table()
    for name in table.columns:
        shown.add_column(str(name))
    for row in table.itertuples(index=False):
        shown.add_row(*map(str, row))
    Console().print(shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmarks", nargs="+", default=[name for name, _ in RUNS])
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--sweep", type=Path, help="a sweep's folder")
    parser.add_argument("--iters", type=int, help="extrapolate the sweep to so many iterations a context")
    parser.add_argument("--workers", type=int, default=1, help="extrapolate the sweep to so many workers")
    parser.add_argument("--output", type=Path, help="a CSV file")
    given = parser.parse_args()
    table = (
        costs(given.benchmarks, given.methods)
        if given.sweep is None
        else savings(given.sweep, given.iters, given.workers)
    )
    show(table)
    if given.output is not None:
        given.output.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(given.output, index=False)


if __name__ == "__main__":
    main()
