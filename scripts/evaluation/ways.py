"""Tuning on other data than the whole stream's: the same sweeps, judged on different data, and the same final runs."""

from __future__ import annotations

import math
from typing import Final

import pandas as pd

from clsweep.results.statistics import compare
from evaluation.experiment import Experiment, Made, Method, Setting
from evaluation.names import BENCHMARKS, METHODS
from evaluation.tables import interval, markdown, progress

NAME: Final = "tuning"
STREAM: Final = "stream"
# What is typed for each way, the usual one first; None: nothing is searched.
WAYS: Final[dict[str, tuple[str, ...] | None]] = {
    STREAM: (),
    "first_contexts": ("search.tune_on=first_contexts", "search.first_contexts=3"),
    "other_data": ("search.tune_on=other_data", "search.data=mnist_5k"),
    "defaults": None,
}
_CONTEXTS: Final = {"split_mnist": 5, "perm_mnist": 10}


def settings(
    benchmark: str,
    overrides: tuple[str, ...],
    swept: tuple[Method, ...],
    by_default: tuple[Method, ...],
    draws: tuple[tuple[str, ...], ...],
    minutes: float,
    trials: int,
) -> tuple[Setting, ...]:
    """One setting for each way of tuning.

    Args:
        benchmark: its name.
        overrides: what all runs have.
        swept: the methods with what their sweeps have of their own.
        by_default: the same methods with their default values, as they declare them.
        draws: of the final runs.
        minutes: of a core, that a run without a penalty takes.
        trials: of each sweep.
    """
    return tuple(
        Setting(
            f"{benchmark}_{way}",
            (f"benchmark={benchmark}", *overrides),
            by_default if typed is None else swept,
            draws,
            minutes,
            search=typed or (),
            search_part=3 / _CONTEXTS[benchmark] if way == "first_contexts" else 1.0,
            trials=0 if typed is None else trials,
            label=BENCHMARKS[benchmark],
        )
        for way, typed in WAYS.items()
    )


def table(experiment: Experiment, made: Made) -> str:
    """For each benchmark and method, what each way of tuning chose, reached and lost, and the method's rank."""
    parts = [progress(experiment, made)]
    for benchmark in _CONTEXTS:
        mine = {way: one for one in experiment.settings for way in WAYS if one.name == f"{benchmark}_{way}"}
        told = _of_benchmark(mine, made)
        parts += [f"### {BENCHMARKS[benchmark]}", told] if told else []
    return "\n\n".join(parts)


def _of_benchmark(settings: dict[str, Setting], made: Made) -> str:
    """A row for each method and way whose values are chosen and run; empty where there is none."""
    by_way = {way: _by_seed(setting, made) for way, setting in settings.items()}
    lines = [["method", "tuned on", "tuned values", "seeds", "test accuracy", "lost against `stream`", "rank"]]
    for method in settings[STREAM].methods:
        for way, setting in settings.items():
            known = by_way[way].get(method.name, {})
            if not known:
                continue
            own = next(one for one in setting.methods if one.name == method.name)
            lost = "" if way == STREAM else _lost(by_way[STREAM].get(method.name, {}), known)
            row = [METHODS[method.name], f"`{way}`", _values(setting, own, made)]
            reached = [str(len(known)), interval(list(known.values()))]
            lines.append([*row, *reached, lost, _rank(by_way[way], method.name, len(setting.methods))])
    return markdown(lines) if len(lines) > 1 else ""


def _by_seed(setting: Setting, made: Made) -> dict[str, dict[int, float]]:
    runs = made.of(setting)
    return {str(name): _accuracies(own) for name, own in runs.groupby("method")} if len(runs) else {}


def _accuracies(runs: pd.DataFrame) -> dict[int, float]:
    return {int(seed): float(value) for seed, value in zip(runs["seed"], runs["average_accuracy"], strict=True)}


def _values(setting: Setting, method: Method, made: Made) -> str:
    """What was chosen; of the default values those that are typed, without options such as `fisher.examples`."""
    chosen = setting.chosen(method, made) or {}
    typed = [one.removeprefix("regularizer.").split("=") for one in method.overrides if "regularizer." in one]
    return ", ".join(f"{name} {value:g}" for name, value in chosen.items() if not isinstance(value, str)) or ", ".join(
        f"{name} {value}" for name, value in typed if "." not in name
    )


def _lost(on_stream: dict[int, float], known: dict[int, float]) -> str:
    made = compare(on_stream, known)
    if not made.seeds:
        return ""
    ends = "" if math.isnan(made.low) else f" [{made.low:+.4f}, {made.high:+.4f}]"
    return f"{made.difference:+.4f}{ends}"


def _rank(by_method: dict[str, dict[int, float]], method: str, count: int) -> str:
    """By the mean over the seeds that all methods have; empty until all have one."""
    common = set.intersection(*(set(one) for one in by_method.values())) if by_method else set()
    if len(by_method) < count or not common:
        return ""
    means = {name: sum(one[seed] for seed in common) / len(common) for name, one in by_method.items()}
    return f"{1 + sum(mean > means[method] for mean in means.values())} of {count}"
