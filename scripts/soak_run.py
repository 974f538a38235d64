"""Test what signals do to single runs: kill them at random moments, and start them again until they finish.

    python scripts/soak_run.py --kills 200
    python scripts/soak_run.py --kills 40 --methods ewc my_method.py --signals TERM USR1

Each method first runs undisturbed. Then it runs with kills (`soaking.Aim` says when), until it has had its share of
them.

The table, also written to `--output FILE.csv`, has a row for each method and should end in zeros: no context that was
trained twice (see `soaking.py`), no `accuracy.csv` that differs from the undisturbed run's in more than its `run_id`,
which is one for all parts of a run, and no file that is missing, can't be read, or shouldn't be left.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import soaking
from soaking import BEGUN, SMALL, Aim, Command

from clsweep import results
from clsweep.process import INTERRUPTED

STATEFUL = "stateful"
METHODS = ("ewc", "si", "kfac_ewc", "rwalk", "custom", STATEFUL)
# Keeps things in the module, in a closure and on the network, in each case such that a run that forgot them differs.
FILE = """
import copy
import random
from dataclasses import dataclass, field

import torch

COUNT = 0
PYTHON, TORCH = random.Random(5), torch.Generator().manual_seed(3)


@dataclass
class Seen:
    teachers: list = field(default_factory=list)
    noise: dict = field(default_factory=dict)


def counter():
    count = 0

    def add():
        nonlocal count
        count += 1
        return count

    return add


add = counter()


def estimate_importance(model, dataset, prev_params, device):
    global COUNT
    COUNT += 1
    if not hasattr(model, "seen"):
        object.__setattr__(model, "seen", Seen())
    model.seen.teachers.append({n: p.detach().clone() for n, p in model.named_parameters()})
    model.seen.noise[add()] = PYTHON.random() + torch.rand((), generator=TORCH).item()
    model.last = copy.deepcopy(prev_params)
    assert COUNT == len(model.seen.teachers) == len(model.seen.noise)
    return {}


def compute_regularization_loss(model, importance_dict, prev_params_dict):
    loss = 0.0
    for teacher, weight in zip(model.seen.teachers, model.seen.noise.values()):
        loss = loss + weight * sum((p - teacher[n]).square().sum() for n, p in model.named_parameters() if n in teacher)
    return loss * COUNT
"""
ZEROS = ("trained_twice", "different", "missing", "unreadable", "left_over", "wrong_ends")


@dataclass
class Soak:
    """What is counted.

    Attributes:
        method: its name, or that of its file.
        seed: of the moments.
        runs: that were made in spite of it.
        kills: by SIGKILL.
        interrupts: by other signals.
        in_context: of both, those that came while a context was trained, its importance estimated, or evaluated.
        in_writing: kills that left a file which was written just then.
        contexts: see `soaking.Contexts`.
        begun: see there.
        trained_twice: see there.
        different: runs whose accuracies differ from those of the undisturbed one, or that have several ids.
        missing: files that the undisturbed run has, and one of them hasn't.
        unreadable: files that can't be read.
        left_over: files that shouldn't be there.
        wrong_ends: signals after which the command ended in another way.
    """

    method: str
    seed: int
    runs: int = 0
    kills: int = 0
    interrupts: int = 0
    in_context: int = 0
    in_writing: int = 0
    contexts: int = 0
    begun: int = 0
    trained_twice: int = 0
    different: int = 0
    missing: int = 0
    unreadable: int = 0
    left_over: int = 0
    wrong_ends: int = 0


def main() -> int:
    """Soak each method; 1 where something is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help="names or files; default: %(default)s")
    parser.add_argument(
        "--kills", type=int, default=200, help="how many, of all methods together; default: %(default)s"
    )
    parser.add_argument("--signals", nargs="+", default=["KILL"] * 8 + ["TERM", "USR1"], help="default: %(default)s")
    parser.add_argument("--pause", type=float, default=1.0, help="see soaking.Aim; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments; default: %(default)s")
    parser.add_argument("--folder", type=Path, default=Path("outputs/soak_run"), help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("soak_run.csv"), help="default: %(default)s")
    a = parser.parse_args()
    if a.folder.exists():
        parser.error(f"--folder {a.folder}: is there already; expected another one")
    a.folder.mkdir(parents=True)
    soaking.preload()
    rows = []
    for number, method in enumerate(a.methods):
        soak = Soak(Path(method).name, a.seed)
        share = a.kills * (number + 1) // len(a.methods) - a.kills * number // len(a.methods)
        Method(soak, _chosen(method, a.folder), a.folder / soak.method, a).soaked(share)
        rows.append(asdict(soak))
        table = pd.DataFrame(rows)
        table.to_csv(a.output, index=False)
        print(pd.DataFrame([rows[-1]]).T.to_string(header=False), flush=True)
    return int(table[list(ZEROS)].any(axis=None))


def _chosen(method: str, folder: Path) -> str:
    if method == STATEFUL:
        file = folder / f"{STATEFUL}.py"
        file.write_text(FILE)
        return f"regularizer.file={file}"
    return f"regularizer.file={method}" if method.endswith(".py") else f"regularizer={method}"


class Method:
    """The runs of one method.

    Args:
        soak: is counted in.
        chosen: the argument that chooses it.
        folder: where its runs go.
        asked: how it was asked for.
    """

    def __init__(self, soak: Soak, chosen: str, folder: Path, asked: argparse.Namespace) -> None:
        self._soak = soak
        self._chosen = chosen
        self._folder = folder
        self._signals = [signal.Signals[f"SIG{name}"] for name in asked.signals]
        self._pause: float = asked.pause
        self._moments = random.Random(f"{asked.seed} {soak.method}")

    def soaked(self, hits: int) -> None:
        """Make the undisturbed run, then others, until so many signals have hit.

        Raises:
            RuntimeError: one ended with an error that no signal was the reason of.
        """
        soak = self._soak
        self._folder.mkdir()
        self._typed("whole", hits=0)
        while soak.kills + soak.interrupts < hits:
            name = f"run-{soak.runs}"
            self._typed(name, hits - soak.kills - soak.interrupts)
            soak.runs += 1
            self._compare(name)

    def _typed(self, name: str, hits: int) -> None:
        """Type one run until it is finished."""
        account = self._folder / f"{name}.jsonl"
        log = self._folder / f"{name}.log"
        typed = [*SMALL, self._chosen, f"hydra.run.dir={self._folder / name}", *soaking.override(account)]
        while True:
            seen = len(soaking.lines(account))
            command = Command(soaking.run(typed), log)
            hit = self._hit(command, account, seen) if hits else None
            code = command.wait()
            if code == 0:
                break
            if hit is None:
                raise RuntimeError(f"a run ended with {code}: see {log}")
            # A signal before the command has said what it does with it ends it, too.
            self._soak.wrong_ends += code not in ((-hit,) if hit == signal.SIGKILL else (-hit, INTERRUPTED))
            hits -= 1
        found = soaking.contexts(account)
        if name != "whole":
            self._soak.contexts += found.contexts
            self._soak.begun += found.begun
            self._soak.trained_twice += found.trained_twice

    def _hit(self, command: Command, account: Path, seen: int) -> signal.Signals | None:
        """Wait for the moment, and hit; None where the run was done before."""
        aim = Aim(self._moments, self._pause, from_start=True)
        lines: list[dict[str, Any]] = []
        while command.poll() is None:
            lines += soaking.lines(account, after=seen + len(lines))
            if aim.is_due(command, bool(lines)):
                chosen = self._moments.choice(self._signals)
                before = soaking.half_written(self._folder)
                os.kill(command.pid, chosen)
                if chosen == signal.SIGKILL:
                    self._soak.kills += 1
                    command.wait()
                    self._soak.in_writing += len(soaking.half_written(self._folder) - before) > 0
                else:
                    self._soak.interrupts += 1
                self._soak.in_context += bool(lines) and lines[-1]["what"] == BEGUN
                return chosen
            time.sleep(0.002)
        return None

    def _compare(self, name: str) -> None:
        soak, whole, mine = self._soak, self._folder / "whole", self._folder / name
        expected, made = (pd.read_csv(one / results.ACCURACY_FILE) for one in (whole, mine))
        same = expected.drop(columns="run_id").equals(made.drop(columns="run_id"))
        soak.different += not same or made["run_id"].nunique() != 1
        names = [{path.relative_to(one) for path in one.rglob("*") if path.is_file()} for one in (whole, mine)]
        soak.missing += len(names[0] - names[1])
        soak.unreadable += len(results.load(mine).problems)
        soak.left_over += len(list(soaking.left_over(mine)))


if __name__ == "__main__":
    sys.exit(main())
