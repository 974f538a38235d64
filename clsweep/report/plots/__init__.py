"""Figures, drawn with matplotlib from the frames of `clsweep.results.load`; nothing here trains."""

import logging

logging.getLogger("matplotlib").setLevel(logging.ERROR)  # building its font cache is no event of a run
