"""What a worker is: the sweep's own command, with its part in the sweep in the setting (`search.worker`).

A worker is given no plan. It reads the same overrides as the sweep, finds the same studies, and checks that their names
are those that the sweep has; then it works until nothing is left.
"""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString

from clsweep import sources
from clsweep.config import WorkerConfig
from clsweep.errors import InputError
from clsweep.paths import short
from clsweep.protocol import targets
from clsweep.sweeps import owner
from clsweep.sweeps.plan import StudyPlan

KEY = "search.worker"
_SECONDS_BETWEEN_LOOKS = 1.0


def as_override(role: WorkerConfig) -> str:
    """The role as it is typed."""
    return f"++{KEY}={typed(asdict(role))}"


def typed(value: Any) -> str:
    """A value in Hydra's syntax, texts in quotes; what OmegaConf would take for an interpolation is escaped."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{typed(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(typed, value))}]"
    if isinstance(value, str):
        escaped = re.sub(r"(\\*)\$\{", lambda found: f"{found[1] * 2}\\${{", value)
        return QuotedString(escaped, Quote.single).with_quotes()
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)


def without(arguments: Sequence[str]) -> list[str]:
    """The sweep's arguments among a worker's."""
    return [one for one in arguments if not one.lstrip("+").startswith(f"{KEY}=")]


def check(role: WorkerConfig, plans: Sequence[StudyPlan]) -> None:
    """Check that a worker has found the sweep's studies.

    Raises:
        InputError: a file of the method, of the data or of a `_target_` isn't what it was when the sweep began; or
            the command makes another number of studies.
    """
    if len(plans) != len(role.studies):
        raise InputError(
            f"{KEY}.studies: has {len(role.studies)} names, but the command makes {len(plans)} studies; expected the "
            f"command without {KEY}, which a sweep sets for its workers."
        )
    for plan, name in zip(plans, role.studies, strict=True):
        if plan.name != name:
            raise InputError(
                f"{_files_of(plan)}: has changed since the sweep began, which makes it another study than {name}; "
                "expected the same command once more."
            )


def _files_of(plan: StudyPlan) -> str:
    """The files of one's own that a study's name has a digest of, as they are shown."""
    data = [plan.config.dataset, *([] if plan.config.search.data is None else [plan.config.search.data])]
    given = [one for one in (plan.config.regularizer.file, *(one.train for one in data)) if one is not None]
    files = [*map(Path, given), *sources.named(targets(plan.config))]
    return " or ".join(str(short(file)) for file in files) or "the setting"


@contextmanager
def ended_with_its_sweep(role: WorkerConfig) -> Iterator[None]:
    """Interrupt this process, as Ctrl-C would, once the process that it works for is gone.

    It is interrupted again and again until it ends: a launcher's own loop may go on after the work that it called.
    """
    if role.sweep is None:
        yield
        return
    sweep, done = owner.from_json(role.sweep), threading.Event()

    def watch() -> None:
        is_gone = False
        while is_gone or not done.wait(_SECONDS_BETWEEN_LOOKS):
            is_gone = sweep.runs_here() is False
            if is_gone:
                os.kill(os.getpid(), signal.SIGTERM)
                threading.Event().wait(_SECONDS_BETWEEN_LOOKS)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()
