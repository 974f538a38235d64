"""`python -m clsweep.report`."""

import sys

from clsweep.report.command import main

if __name__ == "__main__":
    sys.exit(main())
