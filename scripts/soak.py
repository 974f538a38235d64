"""Test what SIGKILL does to a sweep: kill its processes at random moments, and count what is wrong at the end.

    python scripts/soak.py --kills 200
    python scripts/soak.py --kills 200 --storage journal:outputs/soak/journal.log
    python scripts/soak.py --kills 200 --storage postgresql+psycopg://USER@HOST/DATABASE
    python scripts/soak.py --kills 60 search.pruner=successive_halving

A sweep over a grid of points first runs undisturbed, in `FOLDER/undisturbed`, unless it is there already. The same
sweep then runs in `FOLDER/killed`, on the given storage. `--commands` commands run it at once, with `--workers`
processes each. Again and again a process is killed (`soaking.Aim` says when), and a command that has ended is started
again.

Both sweeps get the Hydra overrides. Only a pruner goes to the second sweep alone, so that what a stopped trial has
measured can be compared with the undisturbed one.

The table, also written to `--output FILE.csv`, should end in zeros: no context that was trained twice (see
`soaking.py`), no point that is missing or finished twice, no result that differs from the undisturbed sweep's, and no
file that can't be read or shouldn't be left.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd
import psutil
import soaking
from soaking import BEGUN, SMALL, Aim, Command

from clsweep import results

SETTING = [*SMALL, "regularizer=ewc", "search.final_seeds=2"]
NO_PRUNER = "search.pruner=null"
COUNTED = ("COMPLETE", "PRUNED")
POINT = ["reg_strength", "gamma", "epsilon", "seed", "validation_fraction"]
CELL = ["after_context", "context", "split"]
ZEROS = ("trained_twice", "missing", "repeated", "different", "unreadable", "left_over")


@dataclass
class Soak:
    """What is counted.

    Attributes:
        storage: the kind of storage.
        pruner: the sweep's.
        commands: how many were at work at the same time.
        workers: of each.
        points: that the sweep has to try.
        seed: of the moments.
        kills: processes that were killed.
        in_context: of these, those that trained a context, estimated its importance, or evaluated.
        in_writing: those that left a file which was written just then.
        starts: of commands.
        seconds: from the first start to the end.
        trials: that were begun.
        lost: trials that were marked as lost.
        finished: trials that are finished in the end, or stopped for good.
        contexts: see `soaking.Contexts`.
        begun: see there.
        trained_twice: see there.
        missing: points without a finished trial.
        repeated: points with more than one, and runs, of the search or final, that were finished more than once.
        different: runs whose accuracies are not those of the undisturbed sweep, or which only one of the two has.
        unreadable: files that can't be read.
        left_over: files that shouldn't be there.
    """

    storage: str
    pruner: str
    commands: int
    workers: int
    points: int
    seed: int
    kills: int = 0
    in_context: int = 0
    in_writing: int = 0
    starts: int = 0
    seconds: float = 0.0
    trials: int = 0
    lost: int = 0
    finished: int = 0
    contexts: int = 0
    begun: int = 0
    trained_twice: int = 0
    missing: int = 0
    repeated: int = 0
    different: int = 0
    unreadable: int = 0
    left_over: int = 0


def arguments(storage: str | None, points: int, workers: int, overrides: Sequence[str]) -> list[str]:
    """The sweep: a grid of strengths, so that both sweeps try the same ones."""
    strengths = ",".join(f"{10 ** (6 * number / max(1, points - 1)):.6g}" for number in range(points))
    made = [*SETTING, f"regularizer.reg_strength=choice({strengths})", f"search.n_trials={points}"]
    if storage is not None:
        made.append(f"search.storage='{storage}'")  # quoted for Hydra
    return [*made, f"search.workers={workers}", *overrides]


def main() -> int:
    """Run both sweeps and count; 1 where something is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="how many kills; default: %(default)s")
    parser.add_argument("--commands", type=int, default=2, help="commands at the same time; default: %(default)s")
    parser.add_argument("--workers", type=int, default=1, help="workers of each command; default: %(default)s")
    parser.add_argument("--points", type=int, default=80, help="trials of the sweep; default: %(default)s")
    parser.add_argument("--storage", help="default: SQLite in the sweep folder")
    parser.add_argument(
        "--pause",
        type=float,
        default=2.0,
        help="at most so many seconds from the first step to a kill; default: %(default)s",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments; default: %(default)s")
    parser.add_argument("--folder", type=Path, default=Path("outputs/soak"), help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("soak.csv"), help="default: %(default)s")
    a, overrides = parser.parse_known_args()
    kind = "sqlite" if a.storage is None else a.storage.partition(":")[0].partition("+")[0]
    pruner = next((one.partition("=")[2] for one in overrides if one.startswith("search.pruner=")), "null")
    killed, undisturbed = a.folder / "killed", a.folder / "undisturbed"
    if killed.exists():
        parser.error(f"--folder {a.folder}: {killed} is there already; expected another one, and an empty storage")
    a.folder.mkdir(parents=True, exist_ok=True)
    soaking.preload()
    both = [one for one in overrides if not one.startswith("search.pruner")]
    whole = arguments(None, a.points, 2, [NO_PRUNER, *both])
    if (code := Command(soaking.sweep(whole, undisturbed), a.folder / "undisturbed.log").wait()) != 0:
        parser.error(f"the undisturbed sweep ended with {code}: see {a.folder / 'undisturbed.log'}")
    soak = Soak(kind, pruner, a.commands, a.workers, a.points, a.seed)
    account = a.folder / "contexts.jsonl"
    typed = arguments(a.storage, a.points, a.workers, [NO_PRUNER, *soaking.override(account), *overrides])
    work = soaking.sweep(typed, killed)
    Disturbed(work, killed, account, soak, random.Random(a.seed), a.pause).until_done(a.kills)
    count(killed, undisturbed, soak)
    vars(soak).update(asdict(soaking.contexts(account)))
    table = pd.DataFrame([asdict(soak)])
    table.to_csv(a.output, index=False)
    print(table.T.to_string(header=False))
    return int(any(getattr(soak, name) for name in ZEROS))


@dataclass
class Place:
    """Where the command is typed.

    Attributes:
        command: that was typed last.
        aim: when the next kill comes.
        seen: lines of the account when that was decided.
        was_hit: whether a kill is what ended it.
    """

    command: Command
    aim: Aim
    seen: int
    was_hit: bool = False


@dataclass
class Disturbed:
    """The sweep whose processes are killed.

    Attributes:
        work: what a command does.
        folder: the sweep folder.
        account: what its runs write down.
        soak: is counted in.
        moments: random.
        pause: most seconds from the first step to a kill.
    """

    work: Callable[[], int]
    folder: Path
    account: Path
    soak: Soak
    moments: random.Random
    pause: float
    _lines: list[dict[str, object]] = field(default_factory=list)

    def until_done(self, kills: int) -> None:
        """Kill, and type it again, until all commands have ended by themselves.

        Raises:
            RuntimeError: one ended with an error that no kill was the reason of.
        """
        began = time.monotonic()
        places = [self._typed() for _ in range(self.soak.commands)]
        while places:
            time.sleep(0.01)
            self._lines += soaking.lines(self.account, after=len(self._lines))
            for place in list(places):
                code = place.command.poll()
                if code is None:
                    if self.soak.kills < kills and self._is_due(place):
                        self._kill(place)
                    continue
                places.remove(place)
                if code != 0 and not place.was_hit:
                    raise RuntimeError(f"a command ended with {code}: see {self._log}")
                if code != 0:
                    places.append(self._typed())
        self.soak.seconds = round(time.monotonic() - began, 1)
        if self.soak.kills < kills:
            print(f"done after {self.soak.kills} kills; for more: more --points, or a shorter --pause", file=sys.stderr)

    @property
    def _log(self) -> Path:
        return self.folder.with_name("killed.log")

    def _typed(self) -> Place:
        self.soak.starts += 1
        aim = Aim(self.moments, self.pause, from_start=True)
        return Place(Command(self.work, self._log), aim, len(self._lines))

    def _is_due(self, place: Place) -> bool:
        new = self._lines[place.seen :]
        pids = {one.pid for one in processes_of(place)} if new and self.soak.workers > 1 else {place.command.pid}
        return place.aim.is_due(place.command, any(line["pid"] in pids for line in new))

    def _kill(self, place: Place) -> None:
        place.aim, place.seen = Aim(self.moments, self.pause, from_start=False), len(self._lines)
        with suppress(psutil.NoSuchProcess, IndexError):  # it ended at this very moment
            chosen = self.moments.choice(list(processes_of(place)))
            before = soaking.half_written(self.folder)
            chosen.kill()
            if chosen.pid == place.command.pid:
                place.command.wait()  # a process that dies isn't to be killed once more
            else:
                chosen.wait()
            place.was_hit = True
            self.soak.kills += 1
            self.soak.in_writing += len(soaking.half_written(self.folder) - before) > 0
            self._lines += soaking.lines(self.account, after=len(self._lines))
            own = [line for line in self._lines if line["pid"] == chosen.pid]
            self.soak.in_context += bool(own) and own[-1]["what"] == BEGUN


def processes_of(place: Place) -> Iterator[psutil.Process]:
    """A command's processes: its own, and its workers."""
    with suppress(psutil.NoSuchProcess):
        own = psutil.Process(place.command.pid)
        yield own
        yield from (one for one in own.children() if "clsweep" in one.cmdline())


def count(killed: Path, undisturbed: Path, soak: Soak) -> None:
    """Fill in what is left of the two sweeps."""
    found = results.load(killed)
    trials = found.trials
    ended = trials[trials["state"].isin(COUNTED)]
    complete = trials[trials["state"] == "COMPLETE"]["reg_strength"].value_counts()
    soak.trials = len(trials)
    soak.finished = ended["reg_strength"].nunique()
    soak.lost = int(trials["reason"].fillna("").str.startswith("its process ended").sum())
    soak.missing = soak.points - soak.finished
    finished, others = accuracies(found, [results.FINISHED]), accuracies(found, [results.PRUNED])
    whole = accuracies(results.load(undisturbed), [results.FINISHED])
    soak.repeated = int((complete > 1).sum()) + sum(len(runs) - 1 for runs in finished.values())
    both = (
        finished.keys() & whole.keys() if others else finished.keys() | whole.keys()
    )  # another best has finals of its own
    soak.different = sum(run != whole.get(point, [{}])[0] for point in both for run in finished.get(point, [{}]))
    soak.different += sum(not run.items() <= whole[point][0].items() for point, runs in others.items() for run in runs)
    soak.unreadable = len(found.problems)
    soak.left_over = len(list(soaking.left_over(killed)))


Cells = dict[tuple[int | str, ...], float]


def accuracies(found: results.Results, status: Sequence[str]) -> dict[tuple[float, ...], list[Cells]]:
    """What every run that has ended so has measured, by hyperparameters, seed and held-out fraction."""
    runs = found.runs[found.runs["status"].isin(status)]
    cells: dict[str, Cells] = {}
    for folder, accuracy, *cell in found.cells[["folder", "accuracy", *CELL]].itertuples(index=False):
        cells.setdefault(folder, {})[tuple(cell)] = accuracy
    made: dict[tuple[float, ...], list[Cells]] = {}
    points = runs[POINT].fillna(-1)  # a method has no value of a hyperparameter that it doesn't use
    for folder, *point in points.assign(folder=runs["folder"])[["folder", *POINT]].itertuples(index=False):
        made.setdefault(tuple(map(float, point)), []).append(cells[folder])
    return made


if __name__ == "__main__":
    raise SystemExit(main())
