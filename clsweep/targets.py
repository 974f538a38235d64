"""What a configuration names by `_target_`: a class or a function of anyone's, and the arguments that are given to it.

    network:
      _target_: my_nets.Net      # found in the current folder, too
      width: 64

The keys beside `_target_` are its arguments; what clsweep knows by itself, such as a network's `n_outputs`, it gets
where its signature has a parameter of that name. Hydra makes the object, so that a nested `_target_` works, too.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from hydra.utils import instantiate
from omegaconf import OmegaConf

from clsweep import own, paths
from clsweep.errors import ClsweepError, InputError, named

TARGET = "_target_"
_HYDRAS = ("_convert_", "_recursive_", "_partial_", "_args_")


@dataclass(frozen=True)
class Target:
    """A callable and its arguments.

    Attributes:
        key: the node's, as it is typed: `network`.
        path: the dotted path of the callable.
        arguments: by name, as the configuration has them.
        apart: the other keys of the node, which are clsweep's own.
    """

    key: str
    path: str
    arguments: dict[str, Any]
    apart: tuple[str, ...] = ()

    @classmethod
    def of(cls, key: str, node: Mapping[str, Any], apart: Sequence[str] = ()) -> Target:
        """The target of a node.

        Args:
            key: the node's.
            node: its values.
            apart: those that are clsweep's own, no arguments.

        Raises:
            InputError: it has no `_target_`.
        """
        path = node.get(TARGET)
        if not isinstance(path, str) or "." not in path.strip("."):
            raise InputError(
                f"{key}.{TARGET}={_short(path)}: expected the dotted path of a class or a function, as in "
                f"{key}.{TARGET}=my_module.Name."
            )
        arguments = {name: value for name, value in node.items() if name not in (TARGET, *apart)}
        return cls(key, path, arguments, tuple(apart))

    def refuse_main(self) -> None:
        """Refuse what is in `__main__`: no file says what it is, and no other process has it.

        Raises:
            InputError: it is, or what an argument names.
        """
        for path in self.paths:
            if path.startswith("__main__."):
                raise InputError(
                    f"{self.key}.{TARGET}={path}: is in no file that a run could keep; expected it in one, as in "
                    f"{self.key}.{TARGET}=my_module.{path.rpartition('.')[2]}."
                )

    @property
    def described(self) -> str:
        """The path and the arguments, as results show them: `my_nets.Net width=64`."""
        return " ".join([self.path, *(f"{name}={_short(value)}" for name, value in sorted(self.arguments.items()))])

    @property
    def paths(self) -> list[str]:
        """The path, and those that the arguments name by a `_target_` of their own, however deep."""
        return list(dict.fromkeys([self.path, *_targets_in(self.arguments)]))

    def typed(self, name: str) -> str:
        """An argument as it is typed: `network.width=64`."""
        return f"{self.key}.{name}={_short(self.arguments[name])}"

    @property
    def is_written(self) -> bool:
        """Whether a file in `conf` has these arguments for it: then it takes them."""
        written = [values for values in files(self.key).values() if values[TARGET] == self.path]
        return any(set(self.arguments) == set(values) - {TARGET, *self.apart} for values in written)

    def callable(self) -> Callable[..., Any]:
        """The class or the function, imported; the folder of the command is searched last.

        Raises:
            InputError: it isn't there, or importing it raised.
        """
        with own.importable(self.path):
            return _located(self.key, self.path)

    def check(self, *provided: str, leading: int = 0) -> None:
        """Check that the callable takes the arguments, and that it lacks none; one of a file in `conf` isn't imported.

        Args:
            provided: what clsweep gives it by name.
            leading: how many arguments clsweep gives it before those.

        Raises:
            InputError: it does not, or it can't be imported.
        """
        if self.is_written:
            return
        for name in self.arguments:
            if name in _HYDRAS:
                raise InputError(
                    f"{self.key}.{name}: is Hydra's own key, and {self.path} is called with arguments by their names; "
                    f"expected {self.key}.{name} to be left out, and each argument as {self.key}.name=value."
                )
        parameters = _parameters(self.callable())
        if parameters is None:
            return
        parameters = dict(list(parameters.items())[leading:])
        takes_any = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
        names = [name for name, one in parameters.items() if one.kind in _BY_NAME]
        for name in self.arguments:
            if name not in names and not takes_any:
                free = [one for one in names if one not in provided]
                close = difflib.get_close_matches(name, [*free, *self.apart], n=1)
                advice = f"did you mean {self.key}.{close[0]}?" if close else f"expected {_listed(self.key, free)}."
                raise InputError(f"{self.key}.{name}: {self.path} takes no {name}; {advice}")
        for name, one in parameters.items():
            is_needed = one.default is inspect.Parameter.empty and one.kind in _BY_NAME
            if is_needed and name not in self.arguments and name not in provided:
                raise InputError(f"{self.key}.{name}: is missing; {self.path} needs it.")

    def make(self, *leading: Any, **provided: Any) -> Any:
        """Call it.

        Args:
            leading: its first arguments.
            provided: what it gets by name, where it takes a parameter of that name and the configuration doesn't say.

        Raises:
            InputError: it raised.
        """
        called = self.callable()
        parameters = _parameters(called)
        given = provided if parameters is None else {k: v for k, v in provided.items() if k in parameters}
        given = {name: value for name, value in given.items() if name not in self.arguments}
        node = OmegaConf.create({TARGET: self.path, **self.arguments, "_convert_": "all"})
        try:
            with own.importable(*self.paths):
                made = instantiate(node, _partial_=True)
            return made(*leading, **given)
        except ClsweepError:
            raise
        except Exception as error:
            cause = error.__cause__ or error
            raise InputError(f"{self.key}.{TARGET}={self.path}: making it raised {named(cause)}.") from error


@cache
def files(group: str) -> dict[str, dict[str, Any]]:
    """The files of a group in `conf` that name a `_target_`, by their names; interpolations are left as they are."""
    found = {}
    for file in sorted((paths.config_dir() / group).glob("*.yaml")):
        values = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
        if isinstance(values, dict) and values.get(TARGET) is not None:
            found[file.stem] = {str(name): value for name, value in values.items()}
    return found


def _short(value: object) -> str:
    """A value without spaces, as it is typed."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{_short(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_short, value))}]"
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)


def _targets_in(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        if isinstance(path := value.get(TARGET), str):
            yield path
        for one in value.values():
            yield from _targets_in(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _targets_in(one)


_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _parameters(called: Callable[..., Any]) -> Mapping[str, inspect.Parameter] | None:
    try:
        return inspect.signature(called).parameters
    except (TypeError, ValueError):  # written in C: it says itself what it doesn't take
        return None


def _located(key: str, path: str) -> Callable[..., Any]:
    module, rest = _imported(key, path)
    found: Any = module
    for name in rest:
        if not hasattr(found, name):
            public = {one.lower(): one for one in sorted(dir(found), reverse=True) if not one.startswith("_")}
            close = [public[one] for one in difflib.get_close_matches(name.lower(), public, n=1)]
            advice = f"did you mean {close[0]}?" if close else "expected the name of a class or a function there."
            where = getattr(found, "__name__", path)
            raise InputError(f"{key}.{TARGET}={path}: {where} has no {name}; {advice}")
        found = getattr(found, name)
    if not callable(found):
        raise InputError(f"{key}.{TARGET}={path}: is {type(found).__name__}; expected a class or a function.")
    return found  # type: ignore[no-any-return]


def _imported(key: str, path: str) -> tuple[Any, list[str]]:
    """The module with the longest path, and the names that follow it."""
    names = path.split(".")
    for count in range(len(names) - 1, 0, -1):
        module = ".".join(names[:count])
        try:
            return importlib.import_module(module), names[count:]
        except ModuleNotFoundError as error:
            if error.name is None or not (module == error.name or module.startswith(f"{error.name}.")):
                raise InputError(
                    f"{key}.{TARGET}={path}: importing {module} raised {named(error)}; expected that package to be "
                    "installed."
                ) from error
        except ClsweepError:
            raise
        except Exception as error:
            raise InputError(f"{key}.{TARGET}={path}: importing {module} raised {named(error)}.") from error
    raise InputError(
        f"{key}.{TARGET}={path}: there is no module {names[0]}; expected one that is installed, or {names[0]}.py in "
        "the current folder or in one that PYTHONPATH names."
    )


def _listed(key: str, names: Sequence[str]) -> str:
    return ", ".join(f"{key}.{name}" for name in names) or f"no argument beside {key}.{TARGET}"
