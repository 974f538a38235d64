"""Around each call of a file's functions: what it disturbs is put back, and what it does wrong is one sentence."""

from __future__ import annotations

import logging
import math
import numbers
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from clsweep.errors import MethodError, NotFiniteError, RunError, is_machine_error, kind_of, machine_error, named, place
from clsweep.hyperparameters import NOT_NEGATIVE
from clsweep.methods.declarations import PENALTY, TRANSFORM
from clsweep.methods.undisturbed import Network, settings_put_back
from clsweep.parameters import NamedTensors
from clsweep.seeding import GlobalStream

log = logging.getLogger(__name__)

DIFFERENTIABLE = "expected a scalar tensor that depends on the model's parameters"
IN_LOG = "the traceback is in the run's log"
CARRIED, PATH = ("_custom_importance", "_custom_prev_params"), ("_custom_W", "_custom_p_old")  # on the model


def carried(model: nn.Module) -> tuple[NamedTensors, NamedTensors]:
    """The importance and the anchor that the functions get, which the model carries."""
    importance, anchor = (getattr(model, name) for name in CARRIED)
    return importance, anchor


class Calls:
    """Around each call of a file's functions.

    Args:
        source: what to call the file in messages.
        file: its path, where it has one.
        network: what it is given.
        stream: the random numbers that it draws from.
        uses_path_integral: whether it reads the path on the model.
    """

    def __init__(
        self, source: str, file: str | None, network: Network, stream: GlobalStream, *, uses_path_integral: bool
    ) -> None:
        self.source, self.network = source, network
        self._file, self._stream, self._uses_path_integral = file, stream, uses_path_integral

    def broken(self, function: str, what: str) -> MethodError:
        """The error for what a function did, in words that follow its name."""
        return MethodError(f"{self.source}: {function} {what}.")

    def not_finite(self, function: str, what: str) -> NotFiniteError:
        """The same, where numbers are not finite."""
        return NotFiniteError(f"{self.source}: {function} {what}.")

    @contextmanager
    def calling(self, function: str) -> Iterator[list[str]]:
        """Around a call: random numbers of the method's own; what it disturbs is put back, what can't be is refused.

        Yields:
            The names of what was put back, filled at the end.
        """
        network = self.network
        changed: list[str] = []
        with (
            network.undisturbed() as state,
            self._stream.active(),
            settings_put_back() as settings,
            self.naming(function),
        ):
            yield changed
        changed += state + settings
        self.check_left(function)

    @contextmanager
    def unwritten(self, function: str) -> Iterator[None]:
        """Around a call that is looked at closely: it must not write to the dicts that it gets.

        The importance and the anchor would be others from then on, at every step a little more, and no result would
        say so. Whoever means that can say it in `estimate_importance`.

        Raises:
            MethodError: it did.
        """
        given_to_it = zip(("importance_dict", "prev_params_dict"), carried(self.network.model), strict=True)
        before = [
            (f"{name}[{key!r}]", given, key, value, value._version, value.clone())
            for name, given in given_to_it
            for key, value in given.items()
        ]
        yield
        for what, given, key, value, version, kept in before:
            if given.get(key) is not value:
                raise self.broken(function, f"{'replaced' if key in given else 'removed'} {what}; expected it to stay")
            # A write to .data leaves the version as it was; a sparse tensor can't be compared.
            is_written = value.layout is torch.strided and not torch.equal(value, kept)
            if is_written or value._version != version:
                raise self.broken(function, f"changed {what} in place; expected a copy ({what}.clone())")

    def check_left(self, function: str) -> None:
        """Check what a call has left: the network, and what the contract has on the model."""
        lost = self.network.lost()
        if lost is not None:
            raise self.broken(function, lost)
        self.check_strength(function)
        for name in (*CARRIED, *PATH) if self._uses_path_integral else CARRIED:
            self._check_dict(function, name)

    def check_strength(self, function: str) -> None:
        """Check what a call has left as `model.reg_strength`; not a tensor's value, which would wait for the device."""
        strength = getattr(self.network.model, "reg_strength", None)
        if isinstance(strength, numbers.Real):  # NumPy's, too
            is_strength = math.isfinite(strength) and float(strength) >= 0
        else:
            is_strength = isinstance(strength, Tensor) and strength.numel() == 1
        if not is_strength:
            raise self.broken(function, f"left model.reg_strength={strength!r}; expected {NOT_NEGATIVE.expected}")

    def _check_dict(self, function: str, name: str) -> None:
        held = getattr(self.network.model, name, None)
        if not isinstance(held, dict):
            raise self.broken(
                function,
                f"left {kind_of(held)} in model.{name}; expected a dict of tensors by parameter name",
            )
        for key, value in held.items():
            if not isinstance(value, Tensor):
                raise self.broken(function, f"left {kind_of(value)} in model.{name}[{key!r}]; expected a tensor")

    def scalar(self, penalty: object) -> Tensor:
        """A penalty as it was returned, checked but for its value, as a tensor without dimensions.

        Without importance there is nothing to penalize: a constant will do.

        Raises:
            MethodError: it is something else.
        """
        importance, parameter = self.network.model._custom_importance, self.network.parameters[0]
        if not importance and isinstance(penalty, int) and penalty == 0:  # Python's sum over no parameter
            penalty = parameter.new_zeros(())
        if not isinstance(penalty, Tensor):
            raise self.broken(PENALTY, f"returned {kind_of(penalty)}; {DIFFERENTIABLE}")
        if penalty.is_complex():
            raise self.broken(PENALTY, f"returned a complex number ({penalty.dtype}); {DIFFERENTIABLE}")
        if penalty.device.type not in ("cpu", parameter.device.type):
            raise self.broken(
                PENALTY, f"returned a tensor on {penalty.device}; expected {parameter.device}, the network's"
            )
        if penalty.numel() != 1:
            raise self.broken(PENALTY, f"returned a tensor of shape {tuple(penalty.shape)}; {DIFFERENTIABLE}")
        if not penalty.requires_grad and importance:
            raise self.broken(
                PENALTY, f"returned a tensor without a gradient (detached, or made with .item()); {DIFFERENTIABLE}"
            )
        return penalty.reshape(())

    def tensors(self, function: str, returned: object, parameters: Mapping[str, nn.Parameter]) -> NamedTensors:
        """Copies of the tensors that were returned, by key, each with its parameter's shape, type and device; detached.

        Args:
            function: what returned them.
            returned: what it returned.
            parameters: by key.

        Raises:
            MethodError: it is something else, or holds NaN or infinity.
        """
        if not isinstance(returned, Mapping):
            raise self.broken(function, f"returned {kind_of(returned)}; expected a dict of tensors by parameter name")
        return {key: self._tensor(function, key, value, parameters) for key, value in returned.items()}

    def _tensor(self, function: str, key: object, value: object, parameters: Mapping[str, nn.Parameter]) -> Tensor:
        if not isinstance(key, str) or key not in parameters:
            shown = repr(key) if isinstance(key, str | int | float | tuple) else f"of type {type(key).__name__}"
            raise self.broken(
                function,
                f"returned the unknown key {shown}; expected parameter names with '.' replaced by '__': "
                f"{', '.join(parameters)}",
            )
        parameter = parameters[key]
        if not isinstance(value, Tensor):
            raise self.broken(function, f"returned {kind_of(value)} for {key!r}; expected a tensor")
        if value.shape != parameter.shape:
            raise self.broken(
                function,
                f"returned shape {tuple(value.shape)} for {key!r}; expected {tuple(parameter.shape)}, the parameter's",
            )
        if value.device != parameter.device:
            raise self.broken(
                function,
                f"returned a tensor on {value.device} for {key!r}; expected {parameter.device}, the parameter's",
            )
        if value.is_complex():
            raise self.broken(function, f"returned complex numbers ({value.dtype}) for {key!r}; expected real ones")
        value = value.detach()
        if value.layout is not torch.strided:
            value = value.to_dense()
        # A copy, since the method may go on writing to what it returned.
        value = value.to(parameter.dtype, copy=True)
        if not torch.isfinite(value).all():
            raise self.not_finite(
                function, f"returned NaN or infinity for {key!r}; expected numbers that are finite as {parameter.dtype}"
            )
        return value

    @contextmanager
    def naming(self, function: str) -> Iterator[None]:
        """Turn what a method raises into one sentence with its place; the log gets the traceback."""
        try:
            yield
        except RunError as error:  # a sentence already
            raise MethodError(str(error)) from error
        except (Exception, SystemExit) as error:
            if isinstance(error, OSError) and is_machine_error(error):  # a full disk fails any method that writes
                raise machine_error(error, f"{self.source}{place(error, self._file)}: {function}") from error
            log.exception("%s: %s raised", self.source, function)
            raise MethodError(
                f"{self.source}{place(error, self._file)}: {function}{self._when(function)} raised {named(error)} "
                f"({IN_LOG})."
            ) from error

    def _when(self, function: str) -> str:
        """When it is that a function is called which is called sooner than its author may think."""
        is_first = function == TRANSFORM and not self.network.model._custom_prev_params
        return ", in the first context, where both dicts are empty," if is_first else ""
