"""What a sweep would do, and about how long."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from optuna.trial import FrozenTrial
from rich.console import Console

from clsweep.data.context_cache import ContextCache
from clsweep.sweeps import estimate, storage
from clsweep.sweeps.plan import StudyPlan
from clsweep.sweeps.promotion import Promotion
from clsweep.sweeps.pruners import pruner
from clsweep.sweeps.spent import spent
from clsweep.sweeps.status import named, of_budget, of_time, status, untried
from clsweep.training.display import clock


def show(plans: Sequence[StudyPlan], url: str, out: Console) -> None:
    """Print each study's space, first point, budget and time; nothing is trained or made.

    Args:
        plans: the studies.
        url: the storage's; trials that are there already count, and their time is what is expected.
        out: where.

    Raises:
        InputError: the storage or the data cannot be read.
    """
    known = storage.trials_of(url, [plan.name for plan in plans])
    streams = ContextCache()
    for plan in plans:
        plan.way.check_data(plan.final_config(plan.default, plan.seeds[0]), streams, torch.device("cpu"))
        trials = known.get(plan.name, [])
        now = status(trials)
        measured = now.seconds_per_trial
        a_run = (
            measured / len(plan.seeds)
            if measured
            else estimate.run_seconds(plan.trial_config(plan.default, 0), streams)
        )
        to_do, time_left = _left(plan, trials, a_run * len(plan.seeds))
        a_final = a_run * _longer(plan, streams)
        lines = {
            "study": f"{plan.name}: {of_budget(now.finished, plan.n_trials)} are finished",
            "method": plan.config.shown_method,
            "searched": plan.searched or "nothing",
            **({"tuned on": plan.way.shown} if plan.way.identity else {}),
            "first": _first(plan),
            "a run": f"about {clock(a_run)} ({'measured' if measured else 'estimated'})",
            "search": f"{to_do} trials of {len(plan.seeds)} seed(s), about {clock(to_do * len(plan.seeds) * a_run)}",
            **({"time": time_left} if time_left else {}),
            "final": f"{plan.most_final_runs} runs on all training data, about {clock(plan.most_final_runs * a_final)}",
        }
        if not plan.way.searches:
            values = named(plan.default) or "the only ones"
            lines = {**lines, "study": f"{plan.name}: nothing is searched", "values": values}
            lines = {name: line for name, line in lines.items() if name not in ("searched", "first", "search", "time")}
        for name, value in (lines | {"disk": _disk(plan, to_do, streams)}).items():
            out.print(f"{name:<10} {value}", markup=False, soft_wrap=True)
        out.print()
    out.print(f"storage    {storage.shown(url)}", markup=False, soft_wrap=True)
    out.print(
        "Dry run: nothing was trained. An estimate goes by this machine's speed at matrix products, on one worker "
        "and without pruning.",
        soft_wrap=True,
    )
    if any(plan.method_file is not None for plan in plans):
        out.print("It leaves out what a method's file computes: its importance and penalty add to it.", soft_wrap=True)


def _first(plan: StudyPlan) -> str:
    """What is tried first, and why that."""
    if not plan.space:
        return "the only setting"
    if plan.default_is_searched:
        return f"{named(plan.default)}  ({plan.default_origin})"
    points = plan.first_points
    first = f"{named(points[0])}, as typed" if points else "what the sampler proposes"
    return f"{first}; {untried(plan.default)}"


def _longer(plan: StudyPlan, streams: ContextCache) -> float:
    """The steps of a final run, which may learn more contexts, over those of a trial's run."""
    if not plan.way.identity:
        return 1.0
    runs = [plan.final_config(plan.default, 0), plan.trial_config(plan.default, 0)]
    final, trial = (estimate.steps(one, streams) for one in runs)
    return final / trial


def _disk(plan: StudyPlan, to_do: int, streams: ContextCache) -> str:
    """What the study takes on the disk while it works, beside its results."""
    size = estimate.checkpoint_mib(plan.trial_config(plan.default, 0), streams)
    seeds = len(plan.seeds) + len(plan.final_seeds)
    first = f", and {seeds} first contexts," if plan.first_contexts is not None else ""
    search = plan.config.search
    promotion = pruner(search.pruner, search.pruner_options, plan.steps)
    waiting = min(to_do, promotion.most_waiting(plan.n_trials)) if isinstance(promotion, Promotion) else 0
    held = f" and of at most {waiting} trials that wait for their promotion" if waiting else ""
    end = "are kept" if plan.config.keep_checkpoints else "are gone when the study is done"
    return f"a checkpoint has about {size:.0f} MiB; two of each run at work{held}{first} {end}"


def _left(plan: StudyPlan, trials: Sequence[FrozenTrial], a_trial: float) -> tuple[int, str]:
    """How many trials are to come, and where there is a budget of time, what it comes to.

    Args:
        plan: the study's.
        trials: those that are there already.
        a_trial: how long one takes, in seconds.
    """
    by_number = max(0, plan.n_trials - status(trials).finished)
    timeout = plan.config.search.timeout
    if timeout is None:
        return by_number, ""
    so_far = spent(trials)
    by_time = math.ceil(max(0.0, timeout - so_far) / a_trial)  # what runs when it is spent is finished
    ends = f"ends the search {by_number - by_time} trials early" if by_time < by_number else "is not reached"
    return min(by_number, by_time), f"{of_time(so_far, timeout)} are spent (search.timeout={timeout:g}), which {ends}"
