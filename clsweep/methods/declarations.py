"""What a file has of the contract: its functions, and what it declares beside them; read once, and checked.

`clsweep.methods.contract` says what each of them means.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clsweep.errors import InputError
from clsweep.hyperparameters import STANDARD, Declared, of_file
from clsweep.methods.spelling import check_spelling

ESTIMATE = "estimate_importance"
PENALTY = "compute_regularization_loss"
QUADRATIC = "quadratic_penalty"
TRANSFORM = "transform_gradients"
_ARGUMENTS: dict[str, tuple[str, ...]] = {
    ESTIMATE: ("model", "dataset", "prev_params", "device"),
    PENALTY: ("model", "importance_dict", "prev_params_dict"),
    QUADRATIC: ("model", "importance_dict", "prev_params_dict"),
    TRANSFORM: ("model", "importance_dict", "prev_params_dict"),
}
_DECLARATIONS = ("CONFIG_OVERRIDES", "USES_PATH_INTEGRAL", "PENALTY_IS_PURE", "HYPERPARAMETERS")
_NAMES_SHOWN = 3
_SCALE = "reg_strength_scale"


@dataclass(frozen=True)
class Declarations:
    """What a file has.

    Attributes:
        estimate: `estimate_importance`.
        penalty: `compute_regularization_loss`.
        quadratic: `quadratic_penalty`, where it declares the penalty.
        transform: `transform_gradients`, if any.
        uses_path_integral: `USES_PATH_INTEGRAL`.
        penalty_is_pure: `PENALTY_IS_PURE`.
        reg_strength_scale: of `CONFIG_OVERRIDES`.
        hyperparameters: `HYPERPARAMETERS`; see `clsweep.hyperparameters`.
        passed_over: what it has that has no effect, in a sentence each.
    """

    estimate: Callable[..., Any]
    penalty: Callable[..., Any]
    quadratic: Callable[..., Any] | None
    transform: Callable[..., Any] | None
    uses_path_integral: bool
    penalty_is_pure: bool
    reg_strength_scale: float
    hyperparameters: Declared
    passed_over: tuple[str, ...]

    @classmethod
    def of(cls, functions: Any, source: str) -> Declarations:
        """Read them.

        Args:
            functions: what has them: a module, or any other object.
            source: what to call it in messages: its file.

        Raises:
            InputError: it doesn't keep the contract.
        """
        check_spelling(functions, (TRANSFORM, QUADRATIC), _DECLARATIONS, source)
        estimate, penalty = (_function(functions, name, source) for name in (ESTIMATE, PENALTY))
        quadratic = _quadratic(functions)
        return cls(
            estimate=estimate,
            penalty=penalty,
            quadratic=quadratic if quadratic is not None and _is_declaration(quadratic) else None,
            transform=_function(functions, TRANSFORM, source) if hasattr(functions, TRANSFORM) else None,
            uses_path_integral=_flag(functions, "USES_PATH_INTEGRAL", source, default=True),
            penalty_is_pure=_flag(functions, "PENALTY_IS_PURE", source, default=False),
            reg_strength_scale=_reg_strength_scale(functions, source),
            hyperparameters=of_file(getattr(functions, "HYPERPARAMETERS", tuple(STANDARD)), source),
            passed_over=(*_other_overrides(functions), *_other_quadratic(quadratic)),
        )


def _function(functions: Any, name: str, source: str) -> Callable[..., Any]:
    function: Callable[..., Any] | None = getattr(functions, name, None)
    signature = f"{name}({', '.join(_ARGUMENTS[name])})"
    if function is None or not callable(function):
        raise InputError(f"{source}: has no function {name}; expected {signature}.")
    try:
        inspect.signature(function).bind(*_ARGUMENTS[name])
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{source}: {name} cannot be called with {len(_ARGUMENTS[name])} arguments ({error}); expected {signature}."
        ) from error
    return function


def _quadratic(functions: Any) -> Callable[..., Any] | None:
    """The function `quadratic_penalty` that is defined beside the penalty."""
    function = getattr(functions, QUADRATIC, None)
    if not inspect.isfunction(function) and not inspect.ismethod(function):
        return None
    # A file that imports a built-in method's functions and replaces the penalty alone has another penalty.
    same = function.__module__ == getattr(getattr(functions, PENALTY), "__module__", None)
    return function if same else None


def _is_declaration(function: Callable[..., Any]) -> bool:
    """Whether a `quadratic_penalty` is the contract's: a file may have a function of its own by that name."""
    names = list(inspect.signature(function).parameters)
    return len(names) == len(_ARGUMENTS[QUADRATIC]) and names[0] == "model"  # the others' names are free, as everywhere


def _other_quadratic(function: Callable[..., Any] | None) -> Iterator[str]:
    """What is said of a `quadratic_penalty` that is no declaration."""
    if function is not None and not _is_declaration(function):
        yield (
            f"{QUADRATIC}{inspect.signature(function)} is taken for a function of the file's own, which declares "
            f"nothing; one that does is {QUADRATIC}({', '.join(_ARGUMENTS[QUADRATIC])})"
        )


def _flag(functions: Any, name: str, source: str, *, default: bool) -> bool:
    value = getattr(functions, name, default)
    if isinstance(value, bool):
        return value
    raise InputError(f"{source}: {name}={value!r}; expected True or False.")


def _reg_strength_scale(functions: Any, source: str) -> float:
    overrides = getattr(functions, "CONFIG_OVERRIDES", {})
    scale = overrides.get(_SCALE, 1.0) if isinstance(overrides, Mapping) else None
    # Other harnesses' keys are theirs: only what can hardly mean anything else is refused.
    meant = difflib.get_close_matches(_SCALE, map(str, overrides), n=1, cutoff=0.9) if scale is not None else []
    if meant and meant != [_SCALE]:
        raise InputError(f"{source}: CONFIG_OVERRIDES has {meant[0]!r}; expected {_SCALE!r}.")
    if isinstance(scale, int | float) and math.isfinite(scale) and scale >= 0:
        return float(scale)
    raise InputError(
        f"{source}: CONFIG_OVERRIDES={overrides!r}; expected a dict such as {{'reg_strength_scale': 1.0}}, a finite "
        "number of 0 or more."
    )


def _other_overrides(functions: Any) -> Iterator[str]:
    """What is said of keys that may be another harness's, or meant for this one."""
    others = [repr(key) for key in getattr(functions, "CONFIG_OVERRIDES", {}) if key != _SCALE]
    if others:
        yield f"CONFIG_OVERRIDES has {listed(others)}, which clsweep doesn't read; it reads {_SCALE!r}"


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(names[:_NAMES_SHOWN])
    return shown if len(names) <= _NAMES_SHOWN else f"{shown} and {len(names) - _NAMES_SHOWN} more"
