"""The command line: Hydra composes the setting, a run follows, errors become one sentence and an exit code.

Nothing here imports torch before a run starts, so that `--help` and wrong input answer at once.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

import clsweep
from clsweep import arguments, config_files, own, passwords, paths, process, running, usage
from clsweep import config as settings
from clsweep.config import Config
from clsweep.errors import ClsweepError, InputError, MachineError, machine_error
from clsweep.methods import new_method
from clsweep.sweeps import launchers

_NAME = "clsweep"
_OUR_SWEEPER = "clsweep_optuna"
_OF_SWEEPS = ("hydra.sweep.", "hydra.sweeper", "hydra/sweeper", "hydra.launcher", "hydra/launcher")
_HYDRA_RAISES = "HYDRA_FULL_ERROR"


class CheckSetting(Callback):
    """Check the setting before Hydra makes the run's folder, so that a typing mistake leaves nothing behind.

    Raises:
        SystemExit: something is wrong, and said; Hydra turns other exceptions of a callback into warnings.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check a single run's setting and folder.

        Args:
            config: the composed configuration.
            kwargs: not used.
        """
        HydraConfig.instance().set_config(config)  # what a file of --config-dir refers to
        from clsweep import resuming  # here, since it imports pandas

        with _exiting():
            config_files.refuse_overruled(config)
            parsed = settings.parse(config)
            _refuse_search(config, "expected --multirun as well")
            _refuse_sweeps(config)
            folder = Path(config.hydra.run.dir)
            resuming.refuse_others(parsed, folder)  # before Hydra writes this setting there
            running.refuse(folder)
            check_writable("hydra.run.dir", folder)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check several runs: their launcher and folder, that none is told how to search, and those of Hydra's sweeper.

        Args:
            config: the configuration that they have in common.
            kwargs: not used.
        """
        with _exiting():
            config_files.refuse_overruled(config)
            if _OUR_SWEEPER not in config.hydra.sweeper._target_:
                _refuse_search(config, "expected the command without it, or without another hydra/sweeper")
            launchers.check(config.hydra.launcher)
            check_writable("hydra.sweep.dir", Path(config.hydra.sweep.dir))
            if config.hydra.sweeper._target_.endswith(".BasicSweeper"):
                _check_jobs(config)


def _check_jobs(config: DictConfig) -> None:
    """Check the setting of every job that Hydra's own sweeper makes, which would find a wrong one between the runs.

    Args:
        config: what the jobs have in common.
    """
    loading = GlobalHydra.instance().config_loader()
    sweeper = config.hydra.sweeper
    typed = [*(f"{key}={value}" for key, value in (sweeper.params or {}).items()), *config.hydra.overrides.task]
    try:
        parsed = OverridesParser.create(config_loader=loading).parse_overrides(typed)
        for one in parsed:
            if one.is_sweep_override() and not one.is_discrete_sweep():
                key = one.key_or_group
                raise InputError(
                    f"{str(one.input_line).lstrip('+')}: is a range, of which hydra/sweeper=basic can make no runs; "
                    f"expected single values, as in {key}=0.1,1, or the command without hydra/sweeper=basic, which "
                    "searches it."
                )
        for job in itertools.chain(*BasicSweeper.split_arguments(parsed, None)):
            made = loading.load_sweep_config(config, job)
            HydraConfig.instance().set_config(made)  # what a file of --config-dir refers to
            settings.parse(made)
    except (HydraException, OmegaConfBaseException) as error:
        raise as_input_error(error) from error


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


def _refuse_sweeps(config: DictConfig) -> None:
    """Refuse what Hydra reads for several runs only."""
    for override in (one.lstrip("+") for one in config.hydra.overrides.hydra):
        if override.startswith(_OF_SWEEPS):
            own = "hydra.run.dir=FOLDER for its folder, or " if override.startswith("hydra.sweep.") else ""
            raise InputError(f"{override}: has no effect on a single run; expected {own}--multirun as well.")


@contextlib.contextmanager
def _exiting() -> Iterator[None]:
    try:
        yield
    except ClsweepError as error:
        raise SystemExit(process.report(_NAME, error)) from error


def _is_finished(config: Config, folder: Path) -> bool:
    """Whether the run is there already, finished; says so."""
    from clsweep import resuming  # here, since it imports pandas

    resuming.refuse_others(config, folder)
    row = resuming.taken_over(config, folder)
    if row is None:
        return False
    print(
        f"finished already: average accuracy {float(row['average_accuracy']):.4f}, in {paths.short(folder)}; "
        "resume=false trains it again"
    )
    finish(config, folder, {})  # its process may have been killed before
    return True


def check_writable(key: str, folder: Path) -> None:
    """Check that a folder can be made, or is there and can be written to.

    Args:
        key: what it is given by.
        folder: the folder.

    Raises:
        InputError: neither.
    """
    try:
        there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise InputError(
            f"{key}={folder}: {error.strerror}; expected a folder that can be made and written to."
        ) from error


def _task(composed: DictConfig) -> ClsweepError | None:
    """One run, inside the folder that Hydra made for it, perhaps in a process of its own, such as joblib's.

    Where the setting says that it is a sweep's worker, it works on that instead, and returns what stopped it.
    """
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    process.catch_interrupts()
    with paths.typed_in(Path(hydra_config.runtime.cwd)), own.kept(), process.lasting_output():
        if OmegaConf.select(composed, "search.worker") is not None:
            return _attempt(lambda: _work(composed))
        try:
            problem = _attempt(lambda: _run_alone(settings.parse(composed), folder))
        except KeyboardInterrupt:
            _say_how_to_go_on(hydra_config.mode, folder)
            raise
        if isinstance(problem, MachineError):
            _say_how_to_go_on(hydra_config.mode, folder)
    if problem is None:
        return None
    if hydra_config.mode == RunMode.MULTIRUN:
        raise problem  # the sweeper hands it on to main
    if isinstance(problem, InputError):
        _remove_if_unused(folder)
    raise SystemExit(process.report(_NAME, problem))  # Hydra adds lines of its own to other exceptions


def _say_how_to_go_on(mode: RunMode | None, folder: Path) -> None:
    if mode == RunMode.RUN:
        print(
            f"to go on          the same command with hydra.run.dir={shlex.quote(str(paths.short(folder)))}", flush=True
        )


def _remove_if_unused(folder: Path) -> None:
    """Remove what Hydra wrote where nothing was trained: it would look like a run that didn't finish."""
    if {path.name for path in folder.iterdir()} != {".hydra"}:
        return
    shutil.rmtree(folder / ".hydra", ignore_errors=True)
    with contextlib.suppress(OSError):  # never the current folder, nor one that holds anything else
        os.removedirs(os.path.relpath(folder))


def _attempt(what: Callable[[], None]) -> ClsweepError | None:
    """Do it; what is wrong comes back as a new error, since a traceback would keep the model and the data in memory."""
    try:
        what()
    except ClsweepError as error:
        return error if process.wants_traceback() else type(error)(str(error))
    except OSError as error:
        if process.wants_traceback():
            raise
        return machine_error(error)
    return None


def _run_alone(config: Config, folder: Path) -> None:
    with running.alone(folder):
        _run(config, folder)


def _run(config: Config, folder: Path) -> None:
    if config.seeds is not None:
        from clsweep.training.seeds import run_seeds  # here, since it imports torch

        run_seeds(config, folder, finish)
        return
    if _is_finished(config, folder):
        return
    from clsweep.training.run import run  # as above

    finish(config, folder, run(config, folder).places)


def finish(
    config: Config, folder: Path | None, places: Mapping[str, str], tell: Callable[[str], object] = print
) -> None:
    """Draw a single run's figures, where they aren't there yet, and say where its loggers wrote.

    Args:
        config: its setting.
        folder: its files', where there are any.
        places: where its loggers wrote.
        tell: takes a line for the user.
    """
    from clsweep.results import writing  # here, since it imports pandas

    for key, place in places.items():
        tell(f"{key.partition('.')[2]:<17} {place}")
    figures = [writing.MATRIX_FIGURE, writing.CURVES_FIGURE]
    figures += [] if config.evaluate_every is None else [writing.ITERATIONS_FIGURE]
    if config.figures and folder is not None and not _are_there(folder, figures) and _drawn(folder):
        tell(f"figures           {paths.short(folder)}/{', '.join(figures)}")


def _are_there(folder: Path, names: Sequence[str]) -> bool:
    """Whether a finished run's figures are those of its results."""
    from clsweep import results  # here, since it imports pandas

    figures, measured = [folder / name for name in names], folder / results.ACCURACY_FILE
    return all(one.exists() and one.stat().st_mtime_ns >= measured.stat().st_mtime_ns for one in figures)


def _drawn(folder: Path) -> bool:
    """Draw a finished run; its results are written, so nothing that goes wrong here may look like a failed run."""
    from clsweep.report.plots import contexts, iterations  # here, since they import matplotlib

    try:
        contexts.draw_run(folder)
        iterations.draw_run(folder)
    except Exception as error:
        process.say(_NAME, f"figures=true: not drawn ({error}); the results are written.")
        return False
    return True


def _work(composed: DictConfig) -> None:
    from clsweep.sweeps.command import work_as_job  # here, since it imports torch and Optuna

    work_as_job(composed)


def as_input_error(error: HydraException | OmegaConfBaseException) -> InputError:
    """One sentence for what Hydra says over several lines."""
    if isinstance(error, OmegaConfBaseException):
        if listed := settings.listed(error.parent_node):
            return listed
        about_benchmark = error.full_key == "hydra.run.dir" and "'benchmark" in str(error)
        return settings.missing_benchmark() if about_benchmark else InputError(settings.sentence(error))
    if isinstance(error, MissingConfigException) and "primary config" in str(error):
        return InputError(
            f"--config-name {error.missing_cfg_file}: there is no such file; expected the name of one in the folder of "
            "--config-dir, without its .yaml."
        )
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, name = error.missing_cfg_file.rpartition("/")
        if group == "hydra/launcher" and name in launchers.PACKAGES:
            return InputError(
                f"{group}={name}: isn't installed; expected pip install {launchers.PACKAGES[name]} before it."
            )
        return InputError(f"{group}={name}: expected one of {', '.join(error.options)}{_meant(group, name)}.")
    misplaced = re.match(r"(In 'benchmark/\S+'): Could not override '\w+@benchmark\.", str(error))
    if misplaced:
        return settings.without_package(misplaced[1])
    unknown = re.match(r"Could not override '(?P<key>[\w.]+)'\.\nTo append to your config", str(error))
    if unknown and unknown["key"].startswith("hydra.launcher."):
        return InputError(f"{unknown['key']}: not a key of the chosen launcher; expected another hydra/launcher=...")
    if unknown:
        return settings.unknown_key(unknown["key"])
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return InputError(" ".join(line for line in lines if not line.startswith(("full_key", "object_type"))))


def _meant(group: str, name: str) -> str:
    """What was meant by a name that a group doesn't have, where that is clear; it continues a sentence."""
    if group == "regularizer" and name.endswith(".py"):
        return f", or {group}={settings.OWN} {group}.file={name} for a file of one's own"
    if (group, name) == ("regularizer", "joint"):  # as results call it
        return ", or stream=joint for joint training"
    return ""


def main() -> int:
    """Run the command line in `sys.argv`.

    Returns:
        0 done, 1 the run failed, 2 wrong input, 130 interrupted.
    """
    return process.run(_NAME, _command)


def _command() -> int:
    os.environ[_HYDRA_RAISES] = "1"  # Hydra then lets exceptions through instead of printing and exiting with 1
    if "--version" in sys.argv[1:]:
        print(f"clsweep {clsweep.__version__}")
        return process.DONE
    if new_method.is_asked_for(sys.argv[1:]):
        print(new_method.command(sys.argv[1:]))
        return process.DONE
    sys.argv[1:] = arguments.for_hydra(passwords.hidden(sys.argv[1:]))
    options = arguments.options_of(sys.argv[1:])
    if options.help:
        print(usage.text(None if options.config_dir is None else Path(options.config_dir)))
        return process.DONE
    start = hydra.main(version_base="1.3", config_path=str(paths.config_dir()), config_name="config")
    try:
        with paths.typed_in(Path.cwd()), own.kept():
            start(_task)()
    except (HydraException, OmegaConfBaseException) as error:
        raise as_input_error(error) from error
    except (ValueError, OSError, yaml.YAMLError) as error:
        if (wrong := config_files.misread(error)) is None:
            raise
        raise wrong from error
    return process.DONE
