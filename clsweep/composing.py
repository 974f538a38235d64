"""Composes settings as the command line does, outside of one. Hydra's state, which may be another program's, stays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra.version import VersionBase, setbase
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from clsweep import arguments, config_files
from clsweep.cli import as_input_error
from clsweep.errors import InputError
from clsweep.paths import config_dir

_SEARCH_PATH = "hydra.searchpath"


def composed(overrides: Sequence[str]) -> DictConfig:
    """The configuration of a single run, as Hydra composes it.

    Args:
        overrides: as they are typed.

    Raises:
        InputError: one can't be read, names what isn't there, or is for the command line alone.
    """
    refuse_hydras(overrides)
    with translating_errors(), loader() as loading:
        made = loading.load_configuration("config", arguments.for_hydra(overrides), RunMode.RUN, from_shell=False)
        config_files.refuse_overruled(made)
    with open_dict(made):
        del made["hydra"]
    return made


def values(overrides: Sequence[str]) -> dict[str, Any]:
    """What overrides change, by key, read by Hydra's grammar.

    Args:
        overrides: as they are typed.

    Raises:
        InputError: one can't be read.
    """
    with translating_errors():
        parsed = OverridesParser.create().parse_overrides(arguments.for_hydra(overrides))
        return {one.key_or_group: one.value() for one in parsed}


def refuse_hydras(overrides: Sequence[str]) -> None:
    """Refuse options and what is Hydra's own, which mean nothing outside of a command line.

    Raises:
        InputError: there is one.
    """
    for one in overrides:
        key = one.lstrip("+~").partition("=")[0]
        if one.startswith("-") or (key.startswith("hydra") and key != _SEARCH_PATH):
            raise InputError(f"{one}: is for the command line; expected KEY=VALUE, as in budget=quick.")


@contextmanager
def loader() -> Iterator[ConfigLoader]:
    """What composes clsweep's settings; another program in this process that uses Hydra keeps its own state."""
    base = VersionBase.instance()
    before = base.version_base
    setbase("1.3")
    try:
        Plugins.instance()  # which brings clsweep's own sweeper, that the configuration names
        yield ConfigLoaderImpl(create_config_search_path(str(config_dir())))
    finally:
        base.version_base = before


@contextmanager
def translating_errors() -> Iterator[None]:
    """Hydra's errors as ours.

    Raises:
        InputError: there was one.
    """
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise as_input_error(error) from error
    except (ValueError, OSError, yaml.YAMLError) as error:
        if (wrong := config_files.misread(error)) is None:
            raise
        raise wrong from error


def quoted(value: object) -> str:
    """A value, such as a path, as a text in Hydra's syntax."""
    escaped = str(value).replace("\\'", "\\\\'").replace("'", "\\'")
    return f"'{escaped}'"
