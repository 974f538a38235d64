"""What a study lacks although nothing is left to do in it, as sentences."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import FrozenTrial

from clsweep.sweeps.ledger import MOST_LOST, Ledger
from clsweep.sweeps.marks import ENDED, LOST
from clsweep.sweeps.status import reason, status


def no_best(search: Ledger) -> str | None:
    """Why a search has no best trial.

    Args:
        search: its trials.

    Returns:
        A sentence; None where it has one, and where no trial has ended.
    """
    trials = search.trials()
    now = status(trials)
    ended = {"failed": now.failed, "were lost": now.lost, "were pruned": now.pruned}
    counts = {how: len(trials) for how, trials in ended.items() if trials}
    if now.best is not None:
        return None
    if search.is_out_of_time(trials):
        how = ", ".join(f"{count} {how}" for how, count in counts.items())
        return (
            f"search.timeout={search.timeout:g}: was spent before a trial was complete{f' ({how})' if how else ''}, so "
            "there is no best one; expected a longer time, with which the same command goes on."
        )
    if not counts:
        return None
    listed = ", ".join(f"{count} {how}" for how, count in counts.items())
    what = f"all {listed.replace(' ', ' trials ', 1)}" if len(counts) == 1 else f"no trial ran to its end ({listed})"
    if sum(counts.values()) == 1:
        what = f"the only trial {listed.partition(' ')[2].replace('were', 'was')}"
    what += _why(now.failed or now.lost)
    if not now.pruned:
        return f"{what}."
    more = "other values to be searched" if search.points is not None else f"a search.n_trials above {now.finished}"
    return (
        f"{what}, so there is no best one; expected another search.pruner (null: nothing is pruned), and {more}, since "
        "these trials count."
    )


def missing_finals(finals: Ledger) -> str | None:
    """Why final runs are missing.

    Args:
        finals: their trials; its points are those that were wanted.

    Returns:
        A sentence; None where none is.
    """
    wanted = finals.points or []
    now = status([trial for trial in finals.trials() if trial.params in wanted])  # others may be of another study
    missing = len(wanted) - len(now.complete)
    gone = now.failed or now.lost
    return f"{missing} of {len(wanted)} final runs failed{_why(gone)}." if missing and gone else None


def _why(trials: Sequence[FrozenTrial]) -> str:
    if not trials:
        return ""
    why = f", the last because {reason(trials[-1]).rstrip('.')}"
    if trials[-1].user_attrs.get(ENDED) == LOST:
        why += (
            f"; what is killed {MOST_LOST} times without one more finished context (by lack of memory?) isn't tried "
            "again but by another study: hydra.sweep.dir=, or search.storage= where it was typed"
        )
    return why
