"""Recorded learning curves of dense grids of settings, against which `compare_search.py` replays sweeps."""

from __future__ import annotations

import itertools
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.interpolate import RegularGridInterpolator

from clsweep.space import Point, Space, Value, ends

AFTER = "validation_after_"
Axes = Mapping[str, Sequence[float]]


def decades(low: float, high: float, points: int) -> list[float]:
    """Values evenly spaced from 10^low to 10^high, in three digits."""
    return [float(f"{value:.3g}") for value in np.logspace(low, high, points)]


@dataclass(frozen=True)
class Grid:
    """Runs of one seed at all combinations of a few values.

    Attributes:
        benchmark, method, seed: what is trained, at a tenth of the full budget.
        axes: the values of each hyperparameter.
        other: what else is set.
    """

    benchmark: str
    method: str
    axes: Axes
    seed: int = 0
    other: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.benchmark}-{self.method}-seed{self.seed}"

    @property
    def setting(self) -> list[str]:
        """The setting of a run, but for its hyperparameters."""
        what = [f"benchmark={self.benchmark}", f"regularizer={self.method}", f"seed={self.seed}"]
        return [*what, "budget=quick", *self.other]

    def command(self, folder: Path) -> list[str]:
        """The sweep that makes its runs."""
        values = [f"regularizer.{name}={','.join(f'{one:g}' for one in axis)}" for name, axis in self.axes.items()]
        size = int(np.prod([len(axis) for axis in self.axes.values()]))
        search = [f"search.n_trials={size}", "search.pruner=null", "search.final_seeds=0", "search.workers=1"]
        return ["--multirun", *self.setting, "threads=1", *values, *search, f"hydra.sweep.dir={folder}"]


GRIDS = [
    Grid("split_mnist", "ewc", {"reg_strength": decades(0, 13, 53)}),
    Grid(
        "split_mnist",
        "si",
        {
            "reg_strength": [1e-3, 0.1, 1, 3.16, 10, 31.6, 100, 1e3, 1e4, 1e5],
            "epsilon": [1e-6, 1e-4, 0.01, 0.1, 1, 10],
        },
    ),
    Grid(
        "perm_mnist",
        "ewc",
        {"reg_strength": [1, 10, 31.6, 100, 316, 1e3, 1e4, 1e5]},
        other=("dataset=mnist_5k",),  # of which an importance takes a second instead of half a minute
    ),
]


def record(kept: Path, folder: Path) -> int:
    """Make the tables that are missing; the exit code of the first sweep that failed."""
    for grid in GRIDS:
        file = kept / f"{grid.name}.csv"
        if file.exists():
            continue
        arguments = grid.command(folder / grid.name)
        print(shlex.join(["python", "-m", "clsweep", *arguments]), flush=True)
        if code := subprocess.run([sys.executable, "-m", "clsweep", *arguments], check=False).returncode:
            return code
        keep(grid, folder / grid.name / "trials.csv", file)
    return 0


def keep(grid: Grid, trials: Path, file: Path) -> None:
    """Write a grid's table, of what a replay needs of `trials.csv`."""
    table = pd.read_csv(trials).query("state == 'COMPLETE'")
    after = [str(column) for column in table if str(column).startswith(AFTER)]
    file.parent.mkdir(parents=True, exist_ok=True)
    table[[*grid.axes, "seconds", *after]].sort_values([*grid.axes]).round(6).to_csv(file, index=False)


@dataclass
class Curves:
    """The recorded validation accuracies of a grid, and between its points.

    Args:
        table: a row for each point.
        axes: the names of the hyperparameters.
        is_log: which of them are on a logarithmic scale.
    """

    table: pd.DataFrame
    axes: Sequence[str]
    is_log: Sequence[bool]
    _between: RegularGridInterpolator = field(init=False)

    def __post_init__(self) -> None:
        """Sort the table into an array."""
        after = [str(column) for column in self.table if str(column).startswith(AFTER)]
        sides = [np.unique(self.table[name]) for name in self.axes]
        values = self.table.sort_values([*self.axes])[after].to_numpy().reshape(*map(len, sides), len(after))
        scaled = [np.log(side) if log else side for side, log in zip(sides, self.is_log, strict=True)]
        self._between = RegularGridInterpolator(scaled, values)
        self.contexts = len(after)

    def __call__(self, point: Point) -> np.ndarray:
        """The accuracy over the learned contexts after each of them, [contexts]."""
        at = [np.log(point[name]) if log else point[name] for name, log in zip(self.axes, self.is_log, strict=True)]
        lows, highs = np.array([[side[0], side[-1]] for side in self._between.grid]).T
        curve: np.ndarray = self._between(np.clip(at, lows, highs))[0]  # clipped for the last digit of an end
        return curve

    def best(self, space: Space) -> float:
        """The best last value in a space: at a point of the grid or an end of a range, as the rest lies between."""
        sides = [_side(np.unique(self.table[name]), *ends(space[name])) for name in self.axes]
        points = (dict(zip(self.axes, point, strict=True)) for point in itertools.product(*sides))
        return max(float(self(point)[-1]) for point in points)


def _side(values: np.ndarray, low: Value, high: Value) -> list[float]:
    """A grid's values within a range, and its ends."""
    return [float(low), *(float(one) for one in values if float(low) < one < float(high)), float(high)]
