"""clsweep: train, compare and tune continual-learning regularizers.

    import clsweep

    result = clsweep.run("split_mnist", method="si", overrides=["budget=quick", "dataset=mnist_5k"])
    result.average_accuracy, result.accuracy, result.summary, result.model

    tuned = clsweep.sweep("split_mnist", methods=["ewc", "my_method.py"], n_trials=20)
    tuned.table, tuned.best["ewc"], tuned.trials, tuned.finals

    run = clsweep.run("split_mnist", method="si", overrides=["save_model=true"], folder="si").folder
    clsweep.load_model(run), clsweep.evaluate(run)  # the trained network; its accuracies, measured again

Importing the package is cheap: torch is imported by the modules that compute, when a run starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clsweep.errors import InputError, RunError

if TYPE_CHECKING:
    from clsweep.interface import Result, Tuned, evaluate, load_model, run, sweep

__version__ = "0.2.0"
__all__ = ["InputError", "Result", "RunError", "Tuned", "evaluate", "load_model", "run", "sweep"]


def __getattr__(name: str) -> Any:
    """Import what needs torch or pandas only when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from clsweep import interface

    return getattr(interface, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
