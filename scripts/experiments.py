"""Make the runs of the project's experiments that are missing, and write their pages.

    python scripts/experiments.py list
    python scripts/experiments.py run few_examples narrow/split_mnist --for 90
    python scripts/experiments.py run reference_split_mnist --take outputs/by_hand
    python scripts/experiments.py tables

Finished runs are kept in `outputs/reference/experiments/` and not made again. A run that was stopped goes on. Several
processes may run at once. Data is read from CLSWEEP_DATA, or data/.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from evaluation import keeping, pages
from evaluation.declared import EXPERIMENTS
from evaluation.experiment import ROOT
from evaluation.making import Part, make

from clsweep.errors import InputError


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is asked for; the exit code is that of the first run that failed, or 2 for an unknown name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="what is declared, what is made, and how long the rest takes")
    run = commands.add_parser("run", help="make the missing runs, one after the other, with one thread each")
    run.add_argument("names", nargs="+", metavar="NAME", help="an experiment, or a setting of it: NAME/SETTING")
    run.add_argument("--for", dest="minutes", type=float, metavar="MINUTES", help="start no run after so many minutes")
    run.add_argument("--methods", nargs="+", metavar="METHOD", help="only these; default: all")
    run.add_argument(
        "--take",
        type=lambda folder: Path(folder).absolute(),
        metavar="FOLDER",
        help="first add the finished runs below a folder",
    )
    tables = commands.add_parser("tables", help="write the tables and figures of docs/experiments/")
    tables.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    a = parser.parse_args(arguments)
    try:
        if a.command == "list":
            show()
        elif a.command == "tables":
            pages.write([_part(name).experiment for name in a.names] or EXPERIMENTS.values())
        else:
            os.chdir(ROOT)  # where runs look for the shipped file and the streams
            until = None if a.minutes is None else time.monotonic() + 60 * a.minutes
            codes = [make(part, until, a.take) for part in [_part(name, a.methods) for name in a.names]]
            return next((code for code in codes if code), 0)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def show() -> None:
    """Print for each method how many runs are made, and the core minutes that one takes and that the rest takes."""
    print(f"{'experiment':50} {'runs':>9} {'min each':>9} {'min left':>9}")
    for experiment in EXPERIMENTS.values():
        made = keeping.kept(experiment)
        for setting in experiment.settings:
            for method in setting.methods:
                runs = [run for run in setting.runs(made) if run.method == method.name]
                missing = [run for run in runs if run.waits or not made.has(run)]
                left = sum(run.minutes for run in missing)
                name = f"{experiment.name}/{setting.name} {method.name}"
                each = setting.minutes * method.cost
                print(f"{name:50} {len(runs) - len(missing):4}/{len(runs):4} {each:9.1f} {left:9.0f}")


def _part(name: str, methods: Sequence[str] | None = None) -> Part:
    """What a name on the command line is.

    Raises:
        InputError: nothing is called so.
    """
    first, _, setting = name.partition("/")
    if first not in EXPERIMENTS:
        raise InputError(f"{name}: no such experiment; expected one of {', '.join(EXPERIMENTS)}.")
    known = {one.name: one for one in EXPERIMENTS[first].settings}
    if setting and setting not in known:
        raise InputError(f"{name}: no such setting of {first}; expected one of {', '.join(known)}.")
    has = {method.name for one in known.values() for method in one.methods}
    for method in methods or []:
        if method not in has:
            raise InputError(
                f"--methods {method}: {first} has no such method; expected some of {', '.join(sorted(has))}."
            )
    return Part(EXPERIMENTS[first], setting or None, methods)


if __name__ == "__main__":
    raise SystemExit(main())
