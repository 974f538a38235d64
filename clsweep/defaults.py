"""The usual setting of each benchmark that ships, with which others are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from clsweep import config as settings
from clsweep.config import Config
from clsweep.paths import config_dir
from clsweep.protocol import Protocol

_NO_METHOD = {"regularizer": "none"}  # a method decides no protocol, and a file of one may not be there


def names() -> list[str]:
    """The benchmarks that ship."""
    return sorted(file.stem for file in (config_dir() / "benchmark").glob("*.yaml"))


@cache
def usual(benchmark: str) -> Config:
    """The setting of `benchmark=NAME` with nothing else said.

    Args:
        benchmark: one of `names`.
    """
    return settings.parse(_composed(config_dir() / "benchmark" / f"{benchmark}.yaml"))


def _composed(benchmark: Path) -> DictConfig:
    """As Hydra composes it: the files that `conf/config.yaml` and the benchmark's own choose."""
    conf = config_dir()
    top, own = _loaded(conf / "config.yaml"), _loaded(benchmark)
    chosen = _chosen(top) | _chosen(own) | _NO_METHOD
    groups = {group: _loaded(conf / group / f"{name}.yaml") for group, name in chosen.items()}
    return _without_hydra(OmegaConf.merge(top, groups, own))


def _without_hydra(values: Any) -> DictConfig:
    return OmegaConf.masked_copy(values, [str(key) for key in values if key not in ("defaults", "hydra")])


@cache
def _loaded(path: Path) -> DictConfig:
    values = OmegaConf.load(path)
    assert isinstance(values, DictConfig)
    return values


def _chosen(file: DictConfig) -> dict[str, str]:
    """The file of each group that a defaults list names."""
    values: Any = OmegaConf.to_container(file, resolve=False)
    entries = values["defaults"]
    pairs = [(key, name) for entry in entries if isinstance(entry, dict) for key, name in entry.items()]
    groups = settings.groups()
    named = [(key.removeprefix("override").strip(" /"), name) for key, name in pairs if isinstance(name, str)]
    return {group: name for group, name in named if group in groups}


def completed(values: Mapping[str, Any]) -> Config:
    """A setting of which a part was written down; the rest is what `conf` has, without a method.

    Args:
        values: by key, as `clsweep.config.as_values` gives them.

    Raises:
        InputError: see `clsweep.config.parse`.
    """
    conf = config_dir()
    top = _loaded(conf / "config.yaml")
    chosen = {group: name for group, name in (_chosen(top) | _NO_METHOD).items() if group not in values}
    groups = {group: _loaded(conf / group / f"{name}.yaml") for group, name in chosen.items()}
    return settings.parse(_without_hydra(OmegaConf.merge(top, groups, OmegaConf.create(dict(values)))))


def protocol(config: Config) -> Protocol:
    """The usual protocol of a setting's benchmark; for a benchmark of one's own, its own values at full budget."""
    if config.benchmark.name in names():
        return Protocol.of(usual(config.benchmark.name))
    later = {one.name: one.default for one in fields(Protocol) if one.default is not MISSING}
    full = config.benchmark.iters_by_budget.get("full", config.benchmark.iters)
    return replace(Protocol.of(config), iters=full, precision="float32", validation_fraction=0.0, **later)
