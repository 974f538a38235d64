"""`seeds=N`: one setting trained with several seeds, and what they come to."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

from clsweep import results, resuming
from clsweep.config import Config
from clsweep.data.context_cache import ContextCache
from clsweep.errors import InputError
from clsweep.folders import run_in
from clsweep.methods import files as method_files
from clsweep.paths import short
from clsweep.results.statistics import estimate
from clsweep.training.machine import give_back_memory
from clsweep.training.run import PartOf

# The columns of `summary.csv` that are averaged, as they are printed.
_METRICS: Final = {
    "average_accuracy": "average accuracy",
    "validation_average_accuracy": "  on validation",
    "forgetting": "forgetting",
    "backward_transfer": "backward transfer",
}
_COLUMNS: Final = ("format_version", "metric", "seeds", "of", "mean", "low", "high")


def run_seeds(config: Config, folder: Path, finished: Callable[[Config, Path, Mapping[str, str]], None]) -> None:
    """Train with the seeds `seed`, `seed` + 1, ... in turn, each in a folder `seed-N`, and print what they come to.

    Data, and a method's file, are read once. `seeds.csv` is written anew after every seed: a row for each metric with
    the number of finished seeds and of those asked for, the mean, and the ends of the 95 % interval, empty for one
    seed. A run that fails or is interrupted ends it; what is finished is averaged. Typed again, it goes on: a seed that
    is finished isn't trained again, and one that was stopped goes on itself.

    Args:
        config: the setting; its `seeds` says how many.
        folder: where the runs' folders go; must exist.
        finished: is told of every finished run, with its setting, its folder, and where its loggers wrote.

    Raises:
        InputError: the data or the method don't fit; nothing was trained, and nothing is left.
        RunError: see `clsweep.training.run.run`.
        KeyboardInterrupt: likewise.
    """
    assert config.seeds is not None
    seeds = range(config.seed, config.seed + config.seeds)
    resuming.refuse_others(config, folder)
    file = None if config.stream == "joint" else config.regularizer.file
    method_file = None if file is None else method_files.read(file)
    streams = ContextCache()
    rows: list[Mapping[str, Any]] = []
    trained = False
    if not (folder / results.SEEDS_FILE).exists():
        _write(folder, rows, len(seeds))  # at once: it tells this folder from that of a run
    try:
        for one, place in resuming.runs(config, folder):
            is_new = not place.exists()
            row = resuming.taken_over(one, place)
            if row is None:
                part = PartOf(folder.name, place.name)
                made = run_in(place, one, None, streams, method_file, rehearsed=trained, part_of=part)
                row, trained = made.summary.row, True
                finished(one, place, made.places)
                del made  # a network
                give_back_memory()
            else:
                print(f"seed {one.seed}: finished already")
                finished(one, place, {})
            rows.append(row)
            _write(folder, rows, len(seeds))
    except InputError:
        if is_new:
            shutil.rmtree(place)
        if not rows and is_new:
            (folder / results.SEEDS_FILE).unlink()
        raise
    finally:
        if rows:
            _print(folder, rows, seeds)


def _rows(runs: Sequence[Mapping[str, Any]], of: int) -> list[dict[str, Any]]:
    rows = []
    for metric in _METRICS:
        values = [float("nan" if run[metric] == "" else run[metric]) for run in runs]
        if values and not any(map(math.isnan, values)):  # joint training forgets nothing; nothing may be held out
            made = estimate(values)
            low, high = made.mean - made.half_width, made.mean + made.half_width
            found = (results.FORMAT_VERSION, metric, made.n, of, made.mean, low, high)
            rows.append(dict(zip(_COLUMNS, found, strict=True)))
    return rows


def _write(folder: Path, runs: Sequence[Mapping[str, Any]], of: int) -> None:
    results.write_csv(pd.DataFrame(_rows(runs, of), columns=list(_COLUMNS)), folder / results.SEEDS_FILE)


def _print(folder: Path, runs: Sequence[Mapping[str, Any]], seeds: range) -> None:
    numbers = [str(run["seed"]) for run in runs]
    shown = numbers[0] if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    print(f"seeds             {len(numbers)} of {len(seeds)} finished: {shown}")
    for row in _rows(runs, len(seeds)):
        interval = "" if math.isnan(row["low"]) else f" ± {row['mean'] - row['low']:.4f}"
        print(f"{_METRICS[row['metric']]:<18}{row['mean']:z.4f}{interval}")
    if len(numbers) > 1:
        print("                  mean and 95 % interval over the seeds")
    print(f"files             {short(folder)}/{results.SEEDS_FILE}, seed-{numbers[0]}/, ...")
