"""Making the runs of an experiment that are missing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from missing_runs import run_unless_finished, sweep_alone

from evaluation import keeping
from evaluation.experiment import Experiment, Made, Run

NOT_DECIDING = ("threads=1", "figures=false")
OF_SWEEPS = ("search.workers=1", "search.final_seeds=0")  # final runs are declared, on seeds that are the same for all
_FAILED = 1  # a run's exit code; with another one nothing else would go better


@dataclass(frozen=True)
class Part:
    """The part of an experiment that is asked for.

    Attributes:
        experiment: the whole.
        setting: the name of one of its settings; None: all.
        methods: their names; None: all.
    """

    experiment: Experiment
    setting: str | None = None
    methods: Sequence[str] | None = None

    def missing(self, made: Made) -> list[Run]:
        """Its runs that aren't kept, in the order that they are to be made in."""
        return [
            run
            for run in self.experiment.missing(made)
            if self.setting in (None, run.setting) and (self.methods is None or run.method in self.methods)
        ]


def make(part: Part, until: float | None = None, source: Path | None = None) -> int:
    """Make the missing runs one after the other, and keep each that is finished.

    Args:
        part: what is to be made.
        until: no run is started after that, by `time.monotonic`.
        source: a folder whose finished runs are taken over first.

    Returns:
        0, or the exit code of the first run that failed; the others were made nevertheless.
    """
    experiment, tried, first = part.experiment, set[str](), 0
    made = keeping.keep(experiment, experiment.runs(keeping.kept(experiment)))  # what a stopped process left
    if source is not None:
        taken = keeping.take(experiment, part.missing(made), source)
        print(f"{experiment.name}: {len(taken)} runs taken over from {source}", flush=True)
        made = keeping.keep(experiment, taken)
    while open_runs := [run for run in part.missing(made) if not run.waits and run.name not in tried]:
        if until is not None and time.monotonic() >= until:
            break
        run = open_runs[0]
        tried.add(run.name)
        code = _make(keeping.MADE_HERE / experiment.name / run.name, run)
        if code not in (0, _FAILED):
            return code
        first = first or code
        made = keeping.keep(experiment, [run])
    print(f"{experiment.name}: {len(part.missing(made))} runs are missing", flush=True)
    return first


def _make(folder: Path, run: Run) -> int:
    """Make a run or a sweep, unless another process is at it; the exit code."""
    if run.trials:
        return sweep_alone(folder, [*run.overrides, *NOT_DECIDING, *OF_SWEEPS])
    return run_unless_finished(folder, [*run.overrides, *NOT_DECIDING])
