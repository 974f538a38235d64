"""The command line: Hydra composes the setting, `clsweep.run` runs it, errors become one sentence and an exit code.

Nothing here imports torch before a run starts, so that `--help` and wrong input answer at once.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from clsweep import config as settings
from clsweep.errors import ClsweepError, InputError

DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130
_HYDRA_RAISES = "HYDRA_FULL_ERROR"
_TRACEBACK = "CLSWEEP_TRACEBACK"


class CheckSetting(Callback):
    """Check the setting before Hydra makes the run's folder, so that a typing mistake leaves nothing behind."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Exit with one sentence if the setting is wrong.

        Args:
            config: the composed configuration.
            kwargs: not used.

        Raises:
            SystemExit: Hydra turns other exceptions of a callback into warnings.
        """
        try:
            settings.parse(config)
        except InputError as error:
            raise SystemExit(_report(error)) from error


def _task(composed: DictConfig) -> None:
    """One run, inside the folder that Hydra made for it."""
    hydra_config = HydraConfig.get()
    try:
        config = settings.parse(composed)
        from clsweep.run import run  # here, since it imports torch

        run(config, Path(hydra_config.runtime.output_dir))
    except ClsweepError as error:
        if hydra_config.mode == RunMode.MULTIRUN or _wants_traceback():
            raise
        raise SystemExit(_report(error)) from error  # Hydra adds lines of its own to other exceptions


def _wants_traceback() -> bool:
    return os.environ.get(_TRACEBACK) == "1"


def _report(error: ClsweepError) -> int:
    """Print one sentence on standard error; return the exit code."""
    print(f"clsweep: {error}", file=sys.stderr)
    return error.exit_code


def _as_input_error(error: HydraException | OmegaConfBaseException) -> InputError:
    """One sentence for what Hydra says over several lines."""
    if isinstance(error, OmegaConfBaseException):
        return (
            settings.missing_benchmark() if error.full_key == "hydra.run.dir" else InputError(settings.sentence(error))
        )
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return InputError(f"{group}={name}: expected one of {', '.join(error.options)}.")
    unknown = re.match(r"Could not override '(?P<key>[\w.]+)'\.\nTo append to your config", str(error))
    if unknown:
        return settings.unknown_key(unknown["key"])
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return InputError(" ".join(line for line in lines if not line.startswith(("full_key", "object_type"))))


def main() -> int:
    """Run the command line in `sys.argv`.

    Returns:
        0 done, 1 the run failed, 2 wrong input, 130 interrupted.
    """
    os.environ[_HYDRA_RAISES] = "1"  # Hydra then lets exceptions through instead of printing and exiting with 1
    start = hydra.main(version_base="1.3", config_path=str(settings.config_dir()), config_name="config")
    try:
        start(_task)()
    except KeyboardInterrupt:
        print("clsweep: interrupted.", file=sys.stderr)
        return INTERRUPTED
    except (ClsweepError, HydraException, OmegaConfBaseException) as error:
        if _wants_traceback():
            raise
        return _report(error if isinstance(error, ClsweepError) else _as_input_error(error))
    return DONE
