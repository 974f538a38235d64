"""Pack the results of a folder, runs and studies at any depth, into five or six compressed tables.

    python -m clsweep.pack outputs paper/results

`clsweep.results.load` and `python -m clsweep.report` read the tables like the folder, which stays as it is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from clsweep import process
from clsweep.results.packed import CURVES_TABLE, TABLES
from clsweep.results.packing import pack


def main(arguments: Sequence[str] | None = None) -> int:
    """Pack, and say what was left out.

    Args:
        arguments: by default those of the command line.

    Returns:
        0 done, 1 failed, 2 nothing is there to be packed.
    """
    return process.run("clsweep.pack", lambda: _pack(arguments))


def _pack(arguments: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m clsweep.pack", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, metavar="FOLDER", help="such as outputs")
    parser.add_argument("target", type=Path, metavar="TARGET", help="the folder for the tables")
    a = parser.parse_args(arguments)
    found = pack(a.source, a.target)
    for problem in found.problems:
        print(f"left out: {problem.path}: {problem.message}")
    written = [a.target / name for name in (*TABLES.values(), CURVES_TABLE)]
    size = sum(file.stat().st_size for file in written if file.exists())
    print(f"{len(found.runs)} runs, {len(found.studies)} studies: {size:,} bytes in {a.target}")
    return process.DONE


if __name__ == "__main__":
    sys.exit(main())
