"""`python -m clsweep.report`. Slow imports wait until interrupts are handled."""

import os
import sys

import clsweep


def _command() -> int:
    from clsweep.report.command import main

    return main()


if __name__ == "__main__":
    # `-m` puts the current folder first. It comes last here, so that a glob.py in it doesn't hide Python's own.
    if not sys.flags.safe_path and not clsweep.__file__.startswith(f"{sys.path[0]}{os.sep}"):
        sys.path.append(sys.path.pop(0))
    from clsweep import process

    sys.exit(process.run_last("clsweep-report", _command))
