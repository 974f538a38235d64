"""What SIGKILL does to a sweep: processes of it are killed at random moments, and what is left at the end is counted.

    python scripts/soak.py --kills 60
    python scripts/soak.py --kills 40 --storage journal:outputs/soak/journal.log
    python scripts/soak.py --kills 40 --storage postgresql+psycopg://USER@HOST/DATABASE

A sweep over a grid of points runs once undisturbed, in `FOLDER/undisturbed` (one that is there is not made again).
The same sweep then runs in `FOLDER/killed`, on the given storage, with a study and folders of its own: again and
again one of its processes is killed, the sweep itself or a worker, and where none is left the same command is typed
again. Hydra's overrides go to both. The table, also written to `--output FILE.csv`, should end in zeros: no point
that is missing, finished twice or trained twice, and no result that differs from the undisturbed sweep's.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import psutil

from clsweep import results

SETTING = [
    *("--multirun", "+benchmark=split_mnist", "dataset=mnist_5k", "budget=smoke", "threads=1"),
    *("benchmark.iters=5", "benchmark.contexts=2", "regularizer=ewc", "search.final_seeds=2", "search.pruner=null"),
]
AT_WORK = 0.8  # of the kills wait until a run was begun, the others may hit any moment
COUNTED = ("COMPLETE", "PRUNED")
POINT = ["reg_strength", "gamma", "epsilon", "seed", "validation_fraction"]


@dataclass
class Soak:
    """What is counted.

    Attributes:
        storage: the kind of storage.
        workers: how many.
        points: that the sweep has to try.
        kills: processes that were killed.
        starts: of the sweep.
        seconds: from the first start to the end.
        finished: trials that are finished in the end.
        lost: trials that were marked as lost.
        missing: points without a finished trial.
        repeated: points with more than one finished trial.
        trained_twice: runs, of the search or final, that were finished more than once.
        different: runs whose accuracies are not those of the undisturbed sweep, or which only one of the two has.
        unreadable: files that can't be read.
    """

    storage: str
    workers: int
    points: int
    kills: int = 0
    starts: int = 0
    seconds: float = 0.0
    finished: int = 0
    lost: int = 0
    missing: int = 0
    repeated: int = 0
    trained_twice: int = 0
    different: int = 0
    unreadable: int = 0


def command(folder: Path, storage: str | None, points: int, workers: int, overrides: Sequence[str]) -> list[str]:
    """The sweep: a grid of strengths, so that both sweeps try the same ones."""
    strengths = ",".join(f"{10 ** (6 * number / max(1, points - 1)):.6g}" for number in range(points))
    made = [
        *(sys.executable, "-m", "clsweep", *SETTING, f"hydra.sweep.dir={folder}"),
        *(f"regularizer.reg_strength=choice({strengths})", f"search.n_trials={points}"),
    ]
    if storage is not None:
        made.append(f"search.storage='{storage}'")  # quoted for Hydra
    return [*made, f"search.workers={workers}", *overrides]


def main() -> int:
    """Run both sweeps and count; 1 where something is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60, help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--points", type=int, default=60, help="trials of the sweep; default: %(default)s")
    parser.add_argument("--storage", help="default: SQLite in the sweep folder")
    parser.add_argument(
        "--pause", type=float, default=4.0, help="most seconds from a run to a kill; default: %(default)s"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments; default: %(default)s")
    parser.add_argument("--folder", type=Path, default=Path("outputs/soak"), help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("soak.csv"), help="default: %(default)s")
    a, overrides = parser.parse_known_args()
    kind = "sqlite" if a.storage is None else a.storage.partition(":")[0].partition("+")[0]
    soak = Soak(kind, a.workers, a.points)
    killed, undisturbed = a.folder / "killed", a.folder / "undisturbed"
    if killed.exists():
        parser.error(f"--folder {a.folder}: {killed} is there already; expected another one, and an empty storage")
    subprocess.run(command(undisturbed, None, a.points, a.workers, overrides), check=True, stdout=subprocess.DEVNULL)
    arguments = command(killed, a.storage, a.points, a.workers, overrides)
    disturb(arguments, killed, soak, a.kills, a.pause, random.Random(a.seed))
    count(killed, undisturbed, soak)
    table = pd.DataFrame([asdict(soak)])
    table.to_csv(a.output, index=False)
    print(table.T.to_string(header=False))
    return int(any((soak.missing, soak.repeated, soak.trained_twice, soak.different, soak.unreadable)))


def disturb(
    arguments: Sequence[str], folder: Path, soak: Soak, kills: int, pause: float, moments: random.Random
) -> None:
    """Start the sweep until it ends by itself, and kill some of its processes meanwhile.

    Raises:
        RuntimeError: it ended with an error that no kill was the reason of.
    """
    began = time.monotonic()
    while True:
        soak.starts += 1
        with tempfile.TemporaryFile("w+") as said:
            with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=said) as process:
                hit = kill_some(process, folder, soak, kills, pause, moments)
            if process.returncode == 0:
                break
            if not hit:
                said.seek(0)
                raise RuntimeError(f"the sweep ended with {process.returncode}: {said.read()}")
    soak.seconds = round(time.monotonic() - began, 1)
    if soak.kills < kills:
        print(f"done after {soak.kills} kills; for more: more --points, or a shorter --pause", file=sys.stderr)


def kill_some(
    process: subprocess.Popen[bytes], folder: Path, soak: Soak, kills: int, pause: float, moments: random.Random
) -> bool:
    """Kill processes of one start of the sweep until it ends or `kills` is reached; whether there was any."""
    hit = False
    before = runs(folder)
    while soak.kills < kills and process.poll() is None:
        if moments.random() < AT_WORK:
            while process.poll() is None and runs(folder) == before:
                time.sleep(0.1)
        try:
            process.wait(moments.uniform(0, pause))
        except subprocess.TimeoutExpired:
            with suppress(psutil.NoSuchProcess):  # it ended at this very moment
                main_process = psutil.Process(process.pid)
                moments.choice([main_process, *main_process.children(recursive=True)]).kill()
                soak.kills += 1
                hit = True
            before = runs(folder)
    return hit


def runs(folder: Path) -> int:
    """How many runs were begun."""
    return sum(1 for name in ("trial-*", "final-*") for _ in folder.glob(name))


def count(killed: Path, undisturbed: Path, soak: Soak) -> None:
    """Fill in what is left of the two sweeps."""
    found = results.load(killed)
    trials = found.trials
    finished = trials[trials["state"].isin(COUNTED)]["reg_strength"].value_counts()
    soak.finished = int(finished.sum())
    soak.lost = int(trials["reason"].fillna("").str.startswith("its process ended").sum())
    soak.missing = soak.points - len(finished)
    soak.repeated = int((finished > 1).sum())
    mine, other = accuracies(found), accuracies(results.load(undisturbed))
    soak.trained_twice = sum(len(runs) - 1 for runs in mine.values())
    soak.different = sum(
        any(run != other.get(point, [None])[0] for run in mine.get(point, [()])) for point in mine.keys() | other.keys()
    )
    soak.unreadable = len(found.problems)


def accuracies(found: results.Results) -> dict[tuple[float, ...], list[tuple[float, ...]]]:
    """The accuracies of every finished run, by hyperparameters, seed and held-out fraction."""
    runs = found.runs[found.runs["status"] == results.FINISHED]
    cells = found.cells.groupby("folder")["accuracy"].agg(tuple)
    made: dict[tuple[float, ...], list[tuple[float, ...]]] = {}
    points = runs[POINT].fillna(-1)  # a method has no value of a hyperparameter that it doesn't use
    for folder, *point in points.assign(folder=runs["folder"])[["folder", *POINT]].itertuples(index=False):
        made.setdefault(tuple(map(float, point)), []).append(cells[folder])
    return made


if __name__ == "__main__":
    raise SystemExit(main())
