"""`hydra/sweeper=clsweep_optuna`, the default: Optuna studies instead of a grid.

Hydra imports this module at every start, so what is slow to import waits in `clsweep.sweeps` until a sweep begins. It
does so under no name in `sys.modules`, where a dataclass would look its annotations up were they strings.
"""

from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class ClsweepOptunaConfig:
    """The sweeper's setting in Hydra's own part of the configuration; how it searches is in `conf/search`.

    Attributes:
        folder: the default of `hydra.sweep.dir`, below which each study gets a folder.
    """

    _target_: str = "hydra_plugins.clsweep_optuna.sweeper.ClsweepOptunaSweeper"
    folder: str = "outputs/sweeps"


ConfigStore.instance().store(group="hydra/sweeper", name="clsweep_optuna", node=ClsweepOptunaConfig, provider="clsweep")


class ClsweepOptunaSweeper(Sweeper):
    """Tunes each method on each benchmark with an Optuna study of its own.

    Args:
        folder: the default sweep folder, which is read from the configuration.
    """

    def __init__(self, folder: str) -> None:
        pass

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra gives; see `hydra.plugins.sweeper.Sweeper`."""
        from hydra.core.hydra_config import HydraConfig
        from hydra.core.plugins import Plugins

        HydraConfig.instance().set_config(config)  # what a file of --config-dir refers to
        self._loader = hydra_context.config_loader
        self.config: DictConfig = config
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run the sweep, or work on one as a process that it has started.

        Args:
            arguments: the command line's overrides, but for those of Hydra's own keys.

        Raises:
            InputError: the command is wrong; nothing was trained.
            RunError: a study was stopped; what it has is written.
        """
        from clsweep.sweeps import command

        command.multirun(self.config, self._loader, self.launcher, arguments)
