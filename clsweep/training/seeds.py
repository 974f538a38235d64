"""`seeds=N`: one setting trained with several seeds, and what they come to."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pandas as pd

from clsweep import results
from clsweep.config import Config
from clsweep.data.context_cache import ContextCache
from clsweep.errors import InputError
from clsweep.folders import run_in
from clsweep.methods import files as method_files
from clsweep.paths import short
from clsweep.results import Summary
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
    seed. A run that fails or is interrupted ends it; what is finished is averaged.

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
    file = None if config.stream == "joint" else config.regularizer.file
    method_file = None if file is None else method_files.read(file)
    streams = ContextCache()
    summaries: list[Summary] = []
    _write(folder, summaries, len(seeds))  # at once: it tells this folder from that of a run
    try:
        for seed in seeds:
            one, place = replace(config, seed=seed, seeds=None), folder / f"seed-{seed}"
            made = run_in(
                place,
                one,
                None,
                streams,
                method_file,
                rehearsed=bool(summaries),
                part_of=PartOf(folder.name, place.name),
            )
            summaries.append(made.summary)
            _write(folder, summaries, len(seeds))
            finished(one, place, made.places)
            del made  # a network
            give_back_memory()
    except InputError:
        if not summaries:
            shutil.rmtree(place)
            (folder / results.SEEDS_FILE).unlink()
        raise
    finally:
        if summaries:
            _print(folder, summaries, seeds)


def _rows(summaries: Sequence[Summary], of: int) -> list[dict[str, Any]]:
    rows = []
    for metric in _METRICS:
        values = [getattr(one, metric) for one in summaries]
        if values and not any(map(math.isnan, values)):  # joint training forgets nothing; nothing may be held out
            made = estimate(values)
            low, high = made.mean - made.half_width, made.mean + made.half_width
            found = (results.FORMAT_VERSION, metric, made.n, of, made.mean, low, high)
            rows.append(dict(zip(_COLUMNS, found, strict=True)))
    return rows


def _write(folder: Path, summaries: Sequence[Summary], of: int) -> None:
    results.write_csv(pd.DataFrame(_rows(summaries, of), columns=list(_COLUMNS)), folder / results.SEEDS_FILE)


def _print(folder: Path, summaries: Sequence[Summary], seeds: range) -> None:
    numbers = [str(one.seed) for one in summaries]
    shown = numbers[0] if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    print(f"seeds             {len(numbers)} of {len(seeds)} finished: {shown}")
    for row in _rows(summaries, len(seeds)):
        interval = "" if math.isnan(row["low"]) else f" ± {row['mean'] - row['low']:.4f}"
        print(f"{_METRICS[row['metric']]:<18}{row['mean']:.4f}{interval}")
    if len(numbers) > 1:
        print("                  mean and 95 % interval over the seeds")
    print(f"files             {short(folder)}/{results.SEEDS_FILE}, seed-{numbers[0]}/, ...")
