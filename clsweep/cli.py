"""The command line: Hydra composes the setting, `clsweep.run` runs it, errors become one sentence and an exit code.

Nothing here imports torch before a run starts, so that `--help` and wrong input answer at once.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

from clsweep import config as settings
from clsweep import config_files, new_method, passwords, paths
from clsweep.config import Config
from clsweep.errors import ClsweepError, InputError, is_machines, machine_error

DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130
_OUR_SWEEPER = "clsweep_optuna"
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
        HydraConfig.instance().set_config(config)  # what a file of --config-dir refers to
        try:
            config_files.refuse_overruled(config)
            settings.parse(config)
            _refuse_search(config, "expected --multirun as well")
            _check_folder(Path(config.hydra.run.dir))
        except InputError as error:
            raise SystemExit(_report(error)) from error

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Exit with one sentence if an override has no effect, as how to search for a sweeper that doesn't.

        Args:
            config: the configuration that the runs have in common.
            kwargs: not used.

        Raises:
            SystemExit: as above.
        """
        try:
            config_files.refuse_overruled(config)
            if _OUR_SWEEPER not in config.hydra.sweeper._target_:
                _refuse_search(config, "expected the command without it, or without another hydra/sweeper")
        except InputError as error:
            raise SystemExit(_report(error)) from error


def _refuse_search(config: DictConfig, advice: str) -> None:
    """Refuse what says how to search where nothing is searched.

    A storage that a configuration file names is left out instead, since Hydra writes the setting down.
    """
    for override in (one.lstrip("+") for one in config.hydra.overrides.task):
        if override.startswith("search."):
            raise InputError(f"{override}: is for a sweep that tunes; {advice}.")
    if OmegaConf.select(config, "search.storage") is not None:
        config.search.storage = None
        with read_write(config.hydra):
            config.hydra.overrides.task.append("search.storage=null")  # which another sweeper hands to its jobs


def _check_folder(folder: Path) -> None:
    """Check the run's folder before Hydra writes the new setting into it."""
    from clsweep.results import refuse_used  # here, since it imports pandas

    refuse_used(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"hydra.run.dir={folder}: {error.strerror}; expected a folder that can be made.") from error


def _task(composed: DictConfig) -> None:
    """One run, inside the folder that Hydra made for it."""
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    with paths.typed_in(Path(hydra_config.runtime.cwd)):
        problem = _attempt(composed, folder)
    if problem is None:
        return
    if hydra_config.mode == RunMode.MULTIRUN:
        raise problem  # the sweeper hands it on to main
    if isinstance(problem, InputError):
        _remove_if_unused(folder)
    raise SystemExit(_report(problem))  # Hydra adds lines of its own to other exceptions


def _remove_if_unused(folder: Path) -> None:
    """Nothing was trained: what Hydra wrote there would look like a run that didn't finish."""
    if {path.name for path in folder.iterdir()} != {".hydra"}:
        return
    shutil.rmtree(folder / ".hydra", ignore_errors=True)
    with contextlib.suppress(OSError):  # never the current folder, nor one that holds anything else
        os.removedirs(os.path.relpath(folder))


def _attempt(composed: DictConfig, folder: Path) -> ClsweepError | None:
    """Run; what is wrong comes back as a new error, since a traceback would keep the model and the data in memory."""
    try:
        config = settings.parse(composed)
        if config.search.plan is not None:
            _work(Path(config.search.plan))
        else:
            _run(config, folder)
    except ClsweepError as error:
        if _wants_traceback():
            raise
        return type(error)(str(error))
    except OSError as error:
        if isinstance(error, BrokenPipeError) or _wants_traceback():
            raise
        return machine_error(error)
    return None


def _run(config: Config, folder: Path) -> None:
    from clsweep.run import run  # here, since it imports torch

    run(config, folder)
    if config.tensorboard:
        print(f"tensorboard       tensorboard --logdir {folder}")
    if config.figures:
        _draw(folder)


def _draw(folder: Path) -> None:
    """Draw a finished run; its results are written, so nothing that goes wrong here may look like a failed run."""
    from clsweep.plots.contexts import draw_run  # here, since it imports matplotlib

    try:
        draw_run(folder)
    except Exception as error:
        print(f"clsweep: figures=true: not drawn ({error}); the results are written.", file=sys.stderr)
        return
    print(f"figures           {paths.short(folder)}/accuracy_matrix.png, curves.png")


def _work(task: Path) -> None:
    from clsweep.sweep.workers import work_on  # here, since it imports torch and Optuna

    work_on(task)


def _wants_traceback() -> bool:
    return os.environ.get(_TRACEBACK) == "1"


def _report(error: ClsweepError) -> int:
    """Print one sentence on standard error; return the exit code."""
    print(f"clsweep: {passwords.within(str(error))}", file=sys.stderr)
    return error.exit_code


def _as_input_error(error: HydraException | OmegaConfBaseException) -> InputError:
    """One sentence for what Hydra says over several lines."""
    if isinstance(error, OmegaConfBaseException):
        about_benchmark = error.full_key == "hydra.run.dir" and "'benchmark" in str(error)
        return settings.missing_benchmark() if about_benchmark else InputError(settings.sentence(error))
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return InputError(f"{group}={name}: expected one of {', '.join(error.options)}.")
    unknown = re.match(r"Could not override '(?P<key>[\w.]+)'\.\nTo append to your config", str(error))
    if unknown:
        return settings.unknown_key(unknown["key"])
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return InputError(" ".join(line for line in lines if not line.startswith(("full_key", "object_type"))))


def _with_swept_groups_keys(arguments: list[str]) -> list[str]:
    """Force the keys of a benchmark or method that is swept.

    Hydra composes what a sweep's jobs have in common without the swept groups, and would refuse `benchmark.iters=10` or
    `regularizer.fisher.examples=10` as unknown; with `++` it waits for the jobs' configurations, where the sweeper and
    the schema find what is really unknown. Hydra's basic sweeper has no such check of a method's keys.
    """
    if not {"--multirun", "-m"} & set(arguments):
        return arguments
    groups = {"+benchmark": "benchmark."}
    if "hydra/sweeper=basic" not in arguments:
        groups["regularizer"] = "regularizer."
    chosen = [one.partition("=") for one in arguments]
    swept = tuple(groups[key] for key, _, value in chosen if key in groups and "," in value)
    return [f"++{one}" if swept and one.startswith(swept) else one for one in arguments]


def main() -> int:
    """Run the command line in `sys.argv`.

    Returns:
        0 done, 1 the run failed, 2 wrong input, 130 interrupted.
    """
    os.environ[_HYDRA_RAISES] = "1"  # Hydra then lets exceptions through instead of printing and exiting with 1
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name, or a terminal without our characters
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a cluster's time limit: keep what was measured
    sys.argv[1:] = _with_swept_groups_keys(passwords.hidden(sys.argv[1:]))
    start = hydra.main(version_base="1.3", config_path=str(settings.config_dir()), config_name="config")
    try:
        with paths.typed_in(Path.cwd()):
            if new_method.is_asked_for(sys.argv[1:]):
                print(new_method.command(sys.argv[1:]))
            else:
                start(_task)()
    except KeyboardInterrupt:
        print("clsweep: interrupted.", file=sys.stderr)
        return INTERRUPTED
    except (ClsweepError, HydraException, OmegaConfBaseException) as error:
        if _wants_traceback():
            raise
        return _report(error if isinstance(error, ClsweepError) else _as_input_error(error))
    except OSError as error:  # Hydra's own files, or a sweep's
        if _wants_traceback() or not is_machines(error):
            raise
        return _report(machine_error(error))
    return DONE
