"""Figures, drawn with matplotlib from the frames of `clsweep.results.load`; nothing here trains."""
