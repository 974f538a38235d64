"""From a setting to a method: its code, and the values of its hyperparameters."""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from clsweep import sources, space
from clsweep.config import RegularizerConfig
from clsweep.data.identity import DIGEST
from clsweep.errors import InputError
from clsweep.hyperparameters import DEFAULT, GIVEN, PRESET, Declared, Resolved, instance, names, of_class, resolve
from clsweep.methods.base import BuiltIn, Method
from clsweep.methods.contract import FileMethod
from clsweep.methods.files import MethodFile, read
from clsweep.methods.functions import Functions
from clsweep.methods.instances import Instance
from clsweep.optimizers import KEY, OptimizerSetting
from clsweep.paths import config_dir
from clsweep.seeding import GlobalStream
from clsweep.targets import TARGET, Target, files

_KEY = "regularizer"
_SPACE = "space"


@dataclass(frozen=True)
class Loaded:
    """A method that is ready to be used.

    Attributes:
        method: the method.
        config: its setting, with a value for each hyperparameter.
        declared: its hyperparameters.
        resolved: their values, and where these are from.
        spaces: what a sweep searches by default, by hyperparameter, in Hydra's syntax.
    """

    method: Method
    config: RegularizerConfig
    declared: Declared
    resolved: Resolved
    spaces: dict[str, str]

    @property
    def hyperparameters(self) -> tuple[str, ...]:
        """Those that the method says it uses."""
        return names(self.declared)

    @property
    def options(self) -> str:
        """Its other options, as they are typed on the command line: those of a group, and others where they are set."""
        shown = {
            name: self.resolved.values[name]
            for name, one in self.declared.items()
            if name in self.resolved.values
            and one.is_option
            and ("." in name or self.resolved.values[name] != one.default)
        }
        return " ".join(f"{name}={'null' if value is None else value}" for name, value in shown.items())

    @property
    def code_digest(self) -> str:
        """The digest of the files of a class of one's own; empty for a built-in method and a file."""
        return code_digest(self.config)

    def described(self) -> list[str]:
        """Its hyperparameters with their values, and where these are from unless they were given.

        One that a file doesn't declare is among them where its value was chosen: the file may read it, and
        `reg_strength` multiplies every penalty.
        """
        origins = self.resolved.origins
        chosen = [name for name, one in self.declared.items() if not one.is_declared and origins[name] != DEFAULT]
        names = [*chosen, *self.hyperparameters]
        return [f"{name}={_shown(self.resolved.values[name])}{self._origin(name)}" for name in names]

    def _origin(self, name: str) -> str:
        """Where a value is from, in brackets; empty where it was given."""
        origin = self.resolved.origins[name]
        if origin == PRESET and self.config.preset is not None:
            origin = self.config.preset.name
        return "" if origin == GIVEN else f" ({origin})"

    def notes(self) -> list[str]:
        """What the user should know of the values, in sentences; see `cautions`."""
        unused = [
            f"{_KEY}.{name}={_shown(self.config.values[name])}: {self.method.source} "
            + (f"doesn't mention {name}" if name in self.declared else f"has no {name}")
            for name in self.resolved.unused
        ]
        return unused + self.cautions()

    def cautions(self) -> list[str]:
        """What the method says of some values of its own."""
        values = self.resolved.values
        noted = [one.notes[values[name]] for name, one in self.declared.items() if values.get(name) in one.notes]
        return noted + [
            f"{_KEY}.{name}={values[name]}: is none of those that {self.method.source} declares, {', '.join(texts)}"
            for name, one in self.declared.items()
            if isinstance(one.default, str) and one.space is not None
            if (texts := space.texts(name, one.space)) and values[name] not in (one.default, *texts)
        ]

    def steps_note(self, optimizer: OptimizerSetting) -> list[str]:
        """What the user should know of the method with an optimizer, in sentences."""
        if optimizer.is_plain or not self.method.needs_plain_steps:
            return []
        anew = "" if optimizer.reset else f"; {KEY}.reset=true leaves the momentum of earlier contexts behind"
        return [
            f"{KEY}={optimizer.described}: {self.config.name} decides where a step may go by the gradient, which these "
            f"steps don't follow alone; its authors' steps are those of {KEY}=sgd {KEY}.lr=0.1{anew}"
        ]


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def code_digest(config: RegularizerConfig) -> str:
    """The digest of the files that a class of one's own stands in; empty for a built-in method and a file."""
    return "" if config._target_ is None else sources.digest([Target.of(_KEY, {TARGET: config._target_})])


def _refuse_borrowed(config: RegularizerConfig) -> None:
    """Refuse a class of one's own that goes by the name, and with the values, of a method that ships."""
    shipped = config_dir() / "regularizer" / f"{config.name}.yaml"
    if shipped.is_file() and OmegaConf.select(OmegaConf.load(shipped), TARGET) != config._target_:
        raise InputError(
            f"{_KEY}.{TARGET}={config._target_}: is another method than {config.name}; expected a name of its own as "
            f"well, {_KEY}.name=NAME."
        )


def load(config: RegularizerConfig, seed: int = 0, file: MethodFile | Functions | None = None) -> Loaded:
    """Load a built-in method, a class of one's own, a file, or an object that has the functions.

    Args:
        config: says where the code is, and what is given of its hyperparameters.
        seed: where the random numbers start that the method draws, from its import on.
        file: the method's, as it was read, or the object; by default the file is read now.

    Raises:
        InputError: it can't be imported, doesn't keep the contract, or a value isn't allowed.
    """
    stream = GlobalStream(seed)
    if isinstance(file, Functions):
        return _of_functions(file.functions, file.shown, config, stream, {})
    if config.file is not None:
        file = file or read(config.file)
        with stream.active():
            made = Instance(file)
        loaded = _of_functions(made.module, file.shown, config, stream, tuned_for(config, file), made)
        unused = (*loaded.resolved.unused, *_unread(loaded, file))
        return dataclasses.replace(loaded, resolved=dataclasses.replace(loaded.resolved, unused=unused))
    if config._target_ is None:
        raise InputError(f"{_KEY}.file is missing: expected the path of a Python file.")
    return _of_class(config, stream)


def _unread(loaded: Loaded, file: MethodFile) -> list[str]:
    """The values given that a file neither declares nor mentions; the strength acts without being read."""
    undeclared = [name for name, one in loaded.declared.items() if not one.is_declared and name != "reg_strength"]
    return [name for name in undeclared if loaded.resolved.origins[name] == GIVEN and not file.mentions(name)]


def tuned_for(config: RegularizerConfig, file: MethodFile | None) -> dict[str, Any]:
    """What was tuned for the benchmark, if it is for this method: `config.tuned`, or nothing.

    Args:
        config: the method's.
        file: the method's, as it was read; None: it is a class.
    """
    return config.tuned if file is None or config.tuned_for == file.digest("sha256")[:DIGEST] else {}


def _of_functions(
    functions: Any,
    source: str,
    config: RegularizerConfig,
    stream: GlobalStream,
    tuned: dict[str, Any],
    made: Instance | None = None,
) -> Loaded:
    method = FileMethod(functions, source, made)
    resolved = resolve(method.declared, config.values, _values(tuned), source, config.preset_values)
    method.values, method.stream = resolved.values, stream
    return _loaded(method, method.declared, config, tuned, resolved)


def _of_class(config: RegularizerConfig, stream: GlobalStream) -> Loaded:
    _refuse_borrowed(config)
    target = Target.of(_KEY, {TARGET: config._target_})
    found = target.callable()
    if (
        not (isinstance(found, type) and issubclass(found, BuiltIn) and dataclasses.is_dataclass(found))
        or inspect.isabstract(found)  # one of the base classes
    ):
        raise InputError(
            f"{_KEY}._target_={target.path}: expected a dataclass that is derived from {BuiltIn.__module__}."
            f"{BuiltIn.__name__} (a file with the two functions goes to {_KEY}.file)."
        )
    declared = of_class(found)
    resolved = resolve(declared, config.values, _values(config.tuned), config.name, config.preset_values)
    method = instance(found, resolved.values)
    method.source, method.stream = _typed(config), stream
    return _loaded(method, declared, config, config.tuned, resolved)


def _typed(config: RegularizerConfig) -> str:
    """What chooses a built-in method, or a class of one's own, as it is typed."""
    is_ours = config.name in files(_KEY)
    return f"{_KEY}={config.name}" if is_ours else f"{_KEY}.{TARGET}={config._target_}"


def _loaded(
    method: Method, declared: Declared, config: RegularizerConfig, tuned: dict[str, Any], resolved: Resolved
) -> Loaded:
    own = {name: one.space for name, one in declared.items() if one.space is not None}
    _check_spaces(own, declared, method.source if config._target_ else f"{method.source}: HYPERPARAMETERS")
    given = {name: text for name, text in (tuned.get(_SPACE, {}) | config.space).items() if name in own}
    _check_spaces(given, declared)
    others = {name: value for name, value in config.values.items() if name not in declared}
    whole = dataclasses.replace(config, values=others | resolved.values)
    return Loaded(method, whole, declared, resolved, own | given)


def _check_spaces(spaces: dict[str, str], declared: Declared, where: str = "") -> None:
    """Check what a sweep would search: a single run says at once what is wrong with it.

    Args:
        spaces: by hyperparameter, in Hydra's syntax.
        declared: the method's hyperparameters.
        where: who says so, for the error; empty where the user does.

    Raises:
        InputError: it can't be searched.
    """
    try:
        space.check(spaces, declared)
    except InputError as error:
        raise InputError(f"{where}: {error}" if where else str(error)) from error


def _values(tuned: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in tuned.items() if name != _SPACE}
