"""Pack the results of a folder, runs and studies at any depth, into five or six compressed tables.

    python scripts/pack_results.py outputs/ paper/results

`clsweep.results.load` and `python -m clsweep.report` read the tables like the folder, which stays as it is.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from clsweep.errors import InputError
from clsweep.results.packed import CURVES_TABLE, TABLES
from clsweep.results.packing import pack


def main() -> int:
    """Pack, and say what was left out; 2 where there is nothing to be packed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="such as outputs/")
    parser.add_argument("target", type=Path, help="the folder for the tables")
    a = parser.parse_args()
    try:
        found = pack(a.source, a.target)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    for problem in found.problems:
        print(f"left out: {problem.path}: {problem.message}")
    written = [a.target / name for name in (*TABLES.values(), CURVES_TABLE)]
    size = sum(file.stat().st_size for file in written if file.exists())
    print(f"{len(found.runs)} runs, {len(found.studies)} studies: {size:,} bytes in {a.target}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
