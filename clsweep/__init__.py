"""clsweep: train, compare and tune continual-learning regularizers.

Importing the package is cheap: torch is imported by the modules that compute, when a run starts.
"""

__version__ = "0.1.0"
