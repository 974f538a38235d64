"""`python -m clsweep`, and the command `clsweep`. Slow imports wait until interrupts are handled."""

import os
import sys

import clsweep


def _command() -> int:
    from clsweep import cli

    return cli.main()


def main() -> int:
    """Run the command line in `sys.argv`, as the last thing that this process does; see `clsweep.cli.main`."""
    from clsweep import process

    return process.run_last("clsweep", _command)


if __name__ == "__main__":
    # `-m` puts the current folder first. It comes last here, so that a glob.py in it doesn't hide Python's own.
    if not sys.flags.safe_path and not clsweep.__file__.startswith(f"{sys.path[0]}{os.sep}"):
        sys.path.append(sys.path.pop(0))
    sys.exit(main())
