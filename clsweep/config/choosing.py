"""The groups of YAML files that a run chooses from: clsweep's own, and those in `--config-dir`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from hydra.core.hydra_config import HydraConfig

from clsweep.config.schema import PRESETS, Config
from clsweep.paths import config_dir, group_files


def typed_config_dir(hydra: Any) -> Path | None:
    """The folder of `--config-dir`, by Hydra's own part of the configuration."""
    sources = hydra.runtime.config_sources
    return next((Path(source.path) for source in sources if source.provider == "command-line"), None)


def file_of(group: str, name: object) -> Path | None:
    """The file of a group with that name, if any."""
    return next((file for file in _files(group) if file.stem == name), None)


def _files(group: str) -> list[Path]:
    return group_files(group, typed_config_dir(HydraConfig.get()) if HydraConfig.initialized() else None)


def choices(group: str) -> str:
    """The names of a group's files, of those in `--config-dir`, too, with commas between them."""
    return ", ".join(sorted({file.stem for file in _files(group)}))


@cache
def groups() -> tuple[str, ...]:
    """The groups that a run chooses files from: of `logger` any number, of the others one."""
    return (*(name for name in get_type_hints(Config) if (config_dir() / name).is_dir()), PRESETS)
