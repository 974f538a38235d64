"""A setting written down: as plain values, and as YAML that repeats a run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from omegaconf import OmegaConf

from clsweep.config.schema import ITERS, ON_STREAM, OPEN_GROUPS, OWN_FILE, Config
from clsweep.paths import absolute

_DATA = "CLSWEEP_DATA"


def as_values(config: Config) -> dict[str, Any]:
    """The whole setting in plain dicts, as YAML and the command line have it; `from_values` reads it again."""
    values = asdict(config)
    regularizer = values["regularizer"]
    for name, value in regularizer.pop("values").items():
        *groups, last = name.split(".")
        node = regularizer
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = value
    return values


def to_yaml(config: Config) -> str:
    """The whole setting as YAML, every value in it; `parse` reads it again."""
    return OmegaConf.to_yaml(OmegaConf.create(as_values(config)))


def rerun_yaml(config: Config) -> str:
    """What repeats a run, wherever it is started, as YAML: the setting, and what was searched.

    Iterations that follow the budget refer to it, so that another `budget=` brings its own. The data sets' folder is
    CLSWEEP_DATA's, where that is set, else this run's. Groups that take arguments of anyone's classes begin with their
    file `own`, so that no argument of another class is left in them.
    """
    defaults = ["config", "_self_", *({f"override /{group}": OWN_FILE} for group in OPEN_GROUPS)]
    values = {"defaults": defaults, **as_values(config)}
    values["search"] = {"space": config.search.space, **_tuned_on(values["search"])}
    del values["dataset"]["root"]
    if config.dataset.root is not None:
        values["dataset"]["root"] = _root(config.dataset.root)
    if config.follows_budget:
        values["benchmark"]["iters"] = ITERS
    return OmegaConf.to_yaml(OmegaConf.create(values))


def _tuned_on(search: Mapping[str, Any]) -> dict[str, Any]:
    """What was tuned on, where it isn't the usual."""
    said = {name: search[name] for name in ("tune_on", "first_contexts", "data") if search[name] is not None}
    return {} if search["tune_on"] == ON_STREAM else said


def _root(root: str) -> str:
    folder = os.environ.get(_DATA)
    is_from_there = folder is not None and root == str(absolute(folder))
    quoted = root.replace("\\", "\\\\").replace("'", "\\'")
    return f"${{oc.env:{_DATA},data}}" if is_from_there else f"${{oc.env:{_DATA},'{quoted}'}}"
