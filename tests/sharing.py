"""Ledgers without any training, and processes that share one; imports no torch, so that they start fast."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Sequence

import optuna
from optuna.distributions import FloatDistribution
from optuna.storages import BaseStorage

from clsweep.space import Point, Space
from clsweep.sweeps import storage
from clsweep.sweeps.ledger import Ledger, open_study
from clsweep.sweeps.pruners import pruner

QUEUED: tuple[Point, ...] = tuple({"reg_strength": float(value)} for value in range(1, 21))
opened: list[BaseStorage] = []  # for the tests to close
SPACE: Space = {"reg_strength": FloatDistribution(1.0, 1e6, log=True)}


def ledger(
    url: str,
    n_trials: int,
    first: tuple[Point, ...] = (),
    space: Space | None = None,
    points: Sequence[Point] | None = None,
    timeout: float | None = None,
) -> Ledger:
    """A ledger on a study named `shared`."""
    connection = storage.connect(url)
    opened.append(connection)
    study = open_study(connection, "shared")
    study.sampler = optuna.samplers.RandomSampler()
    return Ledger(study, connection, SPACE if space is None else space, n_trials, list(first), points, timeout)


def take_part(url: str, n_trials: int) -> None:
    """Claim and complete trials until none is left, as one of several processes; print the numbers claimed."""
    shared = ledger(url, n_trials, first=QUEUED)
    while not shared.is_complete():
        trial = shared.claim()
        if trial is None:
            time.sleep(0.05)
            continue
        print(trial.number, flush=True)
        time.sleep(random.uniform(0, 0.02))
        shared.complete(trial, 0.5)


def take_part_in_halving(url: str, n_trials: int) -> None:
    """Claim trials of nine steps, each worse than the last, stop them at rungs, and go on with the best of them."""
    shared = ledger(url, n_trials, first=QUEUED[:n_trials])
    shared.study.pruner = pruner("successive_halving", None, 9)
    while not shared.is_complete():
        trial = shared.claim()
        if trial is None:
            time.sleep(0.05)
            continue
        for step in range(1, 10):
            trial.report(-trial.params["reg_strength"], step)
            if step < 9 and trial.should_prune():
                shared.prune(trial, "stopped")
                break
        else:
            shared.complete(trial, 0.5)


def claim_and_hang(url: str) -> None:
    """Claim a trial, say so, and never end it."""
    trial = ledger(url, 3, first=({"reg_strength": 10.0},)).claim()
    assert trial is not None
    print(trial.number, flush=True)
    time.sleep(600)


if __name__ == "__main__":
    if sys.argv[1] == "claim_and_hang":
        claim_and_hang(sys.argv[2])
    else:
        part = take_part if sys.argv[1] == "take_part" else take_part_in_halving
        part(sys.argv[2], int(sys.argv[3]))
