"""`logger=mlflow`: MLflow, by default in `mlflow.db` in the current folder, which `mlflow ui` shows."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from clsweep.results.writing import FAILED, FINISHED
from clsweep.training.loggers import require
from clsweep.training.loggers.scalars import CONTEXTS, Scalars
from clsweep.training.observers import Started

require("mlflow")

_STATUSES: Final = {FINISHED: "FINISHED", FAILED: "FAILED"}
_CUT = "KILLED"  # interrupted or pruned


class MLflow(Scalars):
    """A run of MLflow's for each run; those of a study are an experiment.

    Args:
        experiment: where the runs go; None: the study, in a sweep, else `clsweep`.
        tracking_uri: None: MLFLOW_TRACKING_URI, else MLflow's default. A password belongs in MLFLOW_TRACKING_PASSWORD,
            since the setting of a run is written down.
        tags: for each run, by name.
    """

    def __init__(
        self, experiment: str | None = None, tracking_uri: str | None = None, tags: Mapping[str, str] | None = None
    ) -> None:
        super().__init__()
        self._experiment = experiment
        self._uri = tracking_uri
        self._tags = dict(tags or {})
        self._client: Any = None
        self._run = ""
        self._waiting: list[Any] = []

    def begin(self, run: Started) -> None:
        """Start a run of its own, beside any other of this process."""
        from mlflow import MlflowClient  # here, since it takes seconds
        from mlflow.entities import Param

        with _alone():
            self._client = MlflowClient(tracking_uri=self._uri)
            experiment = _experiment(self._client, self._experiment or run.study or "clsweep")
        tags = {"study": run.study, **self._tags} if run.study else self._tags
        self._run = self._client.create_run(experiment, tags=tags, run_name=run.name).info.run_id
        params = [Param(name, str(value)) for name, value in run.values.items()]
        self._client.log_batch(self._run, params=params)

    def log(self, scalars: Mapping[str, float], axis: str, at: int) -> None:
        """Keep scalars, and write them after each context: each write to a database takes milliseconds."""
        from mlflow.entities import Metric

        now = round(time.time() * 1_000)
        self._waiting += [Metric(name, value, now, at) for name, value in scalars.items()]
        if axis == CONTEXTS:
            self._client.log_batch(self._run, metrics=self._waiting)
            self._waiting = []

    def end(self, status: str) -> None:
        self._client.set_tag(self._run, "status", status)
        self._client.set_terminated(self._run, _STATUSES.get(status, _CUT))


@contextmanager
def _alone() -> Iterator[None]:
    """One process of this machine at a time: two that make a new database's tables at once break them."""
    with (Path(tempfile.gettempdir()) / f"clsweep-mlflow-{os.getuid()}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _experiment(client: Any, name: str) -> str:
    """The id of an experiment, which a worker on another machine may be making at the same moment."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException:
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)
