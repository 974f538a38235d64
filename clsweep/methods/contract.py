"""The contract between the training loop and a method that is a file of one's own.

It has two functions:

- `estimate_importance(model, dataset, prev_params, device) -> dict[str, Tensor]`, called once after each context;
- `compute_regularization_loss(model, importance_dict, prev_params_dict) -> scalar Tensor`, called at every training
  step from the second context on.

Optional attributes of the file:

- `CONFIG_OVERRIDES = {"reg_strength_scale": float}` multiplies `reg_strength`;
- `USES_PATH_INTEGRAL = False` says that the method reads neither `model._custom_W` nor `model._custom_p_old`, which
  are then not kept up to date while a context is trained (`_custom_W` is the path integral of -gradient * update, of
  the total loss, as in van de Ven's code; Zenke et al., 2017, take the task's loss);
- `PENALTY_IS_PURE = True` says that `compute_regularization_loss` draws no random numbers and changes nothing, so that
  nothing has to be put back after each step;
- `quadratic_penalty(model, importance_dict, prev_params_dict) -> (coefficients, centres)`, a function of three
  arguments, `model` the first, beside `compute_regularization_loss`, that returns two dicts of tensors: it says that
  the penalty is sum_i coefficients_i (theta_i - centres_i)^2, plus a constant, until the context ends. It is called
  once a context, and the engine then adds the gradient as it updates the parameters, which costs a step next to
  nothing; `compute_regularization_loss` is called at a context's first two steps and at its end only, to check that
  it agrees;
- `HYPERPARAMETERS = ("reg_strength", "gamma")` says which of `reg_strength`, `gamma` and `epsilon` the method uses, so
  that a sweep doesn't search the others; without it, it searches all three. A dict names any, with a default and what a
  sweep searches: `{"temperature": {"default": 2.0, "space": "interval(0.1, 10)"}}`; each is an attribute of the model;
- `transform_gradients(model, importance_dict, prev_params_dict)`, a function that is called at every step between
  back-propagation and the update, and may change the parameters' `grad`, that of the total loss. It is called in the
  first context, too, where both dicts are empty.

The model carries `reg_strength`, `gamma`, `epsilon` and what the file declares besides, `param_list`, `_custom_W` and
`_custom_p_old` (the path integral, and the parameters after the last step), `_custom_importance` and
`_custom_prev_params` (what the two dicts of the penalty hold), and `_custom_batch`, the step's `(inputs, labels)`.

`FileMethod` calls the functions, puts back what they disturbed, and checks what they return.
"""

from __future__ import annotations

import difflib
import inspect
import logging
import math
import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from clsweep.checkpoints.packing import Packer, Places, UnpackableError, Unpacker
from clsweep.errors import (
    ClsweepError,
    InputError,
    MethodError,
    NotFiniteError,
    RunError,
    is_machine_error,
    machine_error,
    named,
    place,
)
from clsweep.hyperparameters import NOT_NEGATIVE, STANDARD, of_file
from clsweep.methods.base import Finished, Method, Path, Squares
from clsweep.methods.instances import Instance
from clsweep.methods.spelling import check_spelling
from clsweep.methods.undisturbed import HARMLESS, Network, first_not_finite, settings_put_back
from clsweep.networks.equipment import BATCH
from clsweep.parameters import NamedTensors, contract_parameters, snapshot
from clsweep.seeding import generator_states

log = logging.getLogger(__name__)

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
# How far the gradient of a quadratic penalty may be from autograd's, relative to its norm: float32's rounding only.
_QUADRATIC_TOLERANCE = 1e-3
_CARRIED, _PATH = ("_custom_importance", "_custom_prev_params"), ("_custom_W", "_custom_p_old")  # on the model
_NAMES_SHOWN = 3
_STEPS_LOOKED_AT = 2  # of a context: at the first the parameters are where the penalty is zero, at the second no more
_SCALE = "reg_strength_scale"

IN_LOG = "the traceback is in the run's log"
_DIFFERENTIABLE = "expected a scalar tensor that depends on the model's parameters"


class FileMethod(Method):
    """The two functions behind the contract's checks.

    Args:
        functions: what has them: a module, or any other object.
        source: what to call it in messages: its file.
        instance: the file's, where it is one.

    Attributes:
        declared: its hyperparameters; see `clsweep.hyperparameters`.
        values: of its hyperparameters, by name, which the model carries.

    Raises:
        InputError: it doesn't keep the contract.
    """

    can_be_wrong = True
    takes_batch = True

    def __init__(self, functions: Any, source: str, instance: Instance | None = None) -> None:
        self.source = source
        self._instance = instance
        check_spelling(functions, (TRANSFORM, QUADRATIC), _DECLARATIONS, source)
        self._penalty_is_pure = _flag(functions, "PENALTY_IS_PURE", source, default=False)
        self._file: str | None = getattr(functions, "__file__", None)
        self._estimate = _function(functions, ESTIMATE, source)
        self._penalty = _function(functions, PENALTY, source)
        self._transform = _function(functions, TRANSFORM, source) if hasattr(functions, TRANSFORM) else None
        quadratic = _quadratic(functions)
        self._quadratic = quadratic if quadratic is not None and _is_declaration(quadratic) else None
        self.transforms_gradients = self._transform is not None
        self.is_quadratic = self._quadratic is not None and not self.transforms_gradients  # which sees whole gradients
        self.reg_strength_scale = _reg_strength_scale(functions, source)
        self.uses_path_integral = _flag(functions, "USES_PATH_INTEGRAL", source, default=True)
        self.declared = of_file(getattr(functions, "HYPERPARAMETERS", tuple(STANDARD)), source)
        self.values = {name: one.default for name, one in self.declared.items()}
        self._passed_over = [*_other_overrides(functions), *_other_quadratic(quadratic)]
        self._steps = 0  # of the context

    @property
    def leaves_first_context_alone(self) -> bool:
        """See `Method`; the batches only lie on the model."""
        return not self.transforms_gradients

    def active(self) -> AbstractContextManager[None]:
        """Let a file's imports find the modules that belong to it, from the start of a run to its end.

        Its functions are not the only code of the file that runs: hooks and gradients of its own do, too.
        """
        return nullcontext() if self._instance is None else self._instance.active()

    def attach(self, network: Network) -> None:
        """Put what the contract promises on the model.

        Raises:
            InputError: a hyperparameter has the name of something that the network has.
        """
        super().attach(network)
        model = network.model
        for name, value in self.values.items():
            if name not in STANDARD and hasattr(model, name):
                raise InputError(
                    f"{self.source}: HYPERPARAMETERS has {name!r}, which the network has, too; expected another name."
                )
            setattr(model, name, value)
        for name in (*_CARRIED, *_PATH):
            setattr(model, name, {})

    def start_context(self, path: Path) -> None:
        """Put the context's path integral on the model."""
        self._steps = 0
        self.model._custom_W, self.model._custom_p_old = path.totals, path.positions

    @property
    def path(self) -> Path:
        """What is on the model: the file may have put other tensors there, or removed what it doesn't use."""
        return Path(*(getattr(self.model, name, {}) for name in _PATH))

    def check_path(self) -> None:
        """Check the shapes of the path, in whose tensors every step writes; see `Method`."""
        parameters = contract_parameters(self.model)
        for name, kept in zip(_PATH, self.path, strict=True):
            for key in kept.keys() & parameters.keys():
                value, parameter = kept[key], parameters[key]
                if (value.shape, value.device) != (parameter.shape, parameter.device):
                    raise MethodError(
                        f"{self.source}: model.{name}[{key!r}] is now of shape {tuple(value.shape)} on {value.device}; "
                        f"expected {tuple(parameter.shape)} on {parameter.device}, as the parameter."
                    )

    def places(self) -> list[Places]:
        """The file's functions and classes, and those of the modules beside it."""
        return [] if self._instance is None else [self._instance.code]

    def pack(self, packer: Packer) -> dict[str, Any]:
        """What the file's modules hold; see `Method`. What it has put on the network is the network's."""
        if self._instance is None:
            raise UnpackableError(f"{self.source} is an object of Python's and no file (method='my_method.py' is one)")
        return {
            "code": self._instance.code.pack(packer),
            "stream": packer.pack(self.stream.packable(self.network.device), "the method's random numbers"),
        }

    def restore(self, packed: Mapping[str, Any], unpacker: Unpacker) -> None:
        assert self._instance is not None
        self._instance.code.restore(packed["code"], unpacker)
        self.stream.restore(unpacker.unpack(packed["stream"]), self.network.device)

    def see(self, inputs: Tensor, labels: Tensor) -> None:
        """Put the step's batch on the model."""
        self._steps += 1
        setattr(self.model, BATCH, (inputs, labels))

    @property
    def strength(self) -> float:
        """`model.reg_strength`, which the file's functions may have overwritten, times the file's scale."""
        return self.model.reg_strength * self.reg_strength_scale

    @property
    def _carried(self) -> tuple[NamedTensors, NamedTensors]:
        return self.model._custom_importance, self.model._custom_prev_params

    def end_context(self, finished: Finished) -> None:
        """Add the importance of a context, and move the anchor.

        Raises:
            MethodError: `estimate_importance` raised, or returned what it shouldn't.
        """
        model = self.model
        new = self.importance(finished.dataset, finished.start, finished.device)
        for key, value in new.items():
            carried = model._custom_importance.get(key)
            if carried is not None and carried.shape != value.shape:
                raise self._broken(
                    ESTIMATE,
                    f"left shape {tuple(carried.shape)} in model._custom_importance[{key!r}]; expected "
                    f"{tuple(value.shape)}, the parameter's",
                )
            model._custom_importance[key] = value if carried is None else carried + value
        model._custom_prev_params = snapshot(model)

    def transform(self) -> None:
        """Call `transform_gradients`; at a context's first steps, look closely at what it does.

        Raises:
            MethodError: it raised, returned a value, or left the network without what is trained; at the first steps:
                it made NaN or infinity of finite gradients, or changed the dicts that it was given.
        """
        if self._steps > _STEPS_LOOKED_AT:
            self._call_transform()
            return
        was_finite = self.network.not_finite_gradient() is None
        with self._unwritten(TRANSFORM):
            self._call_transform()
        broken = self.network.not_finite_gradient() if was_finite else None
        if broken is not None:
            raise self._not_finite(
                TRANSFORM,
                f"left NaN or infinity in the gradient of {broken}, which was finite before; expected finite numbers "
                "(a division by a norm or a sum that may be zero: norm + 1e-12)",
            )

    def _call_transform(self) -> None:
        assert self._transform is not None
        with (
            self.network.undisturbed(gradients=False),
            self.stream.active(),
            settings_put_back(),
            self._naming(TRANSFORM),
        ):
            returned = self._transform(self.model, *self._carried)
        self._check_left(TRANSFORM)
        self.network.make_gradients_dense()
        if returned is not None:  # which would be dropped
            raise self._broken(
                TRANSFORM,
                f"returned {_article(type(returned).__name__)}; expected no value: what it changes are the parameters' "
                "grad (p.grad.mul_(0.5))",
            )

    def additions(self) -> list[str]:
        """What its author may take for something else: what it has added to the network, and what has no effect."""
        network = self.network
        parameters, hooked = network.added_parameters(), network.hooked()
        notes = [f"{self.source}: {one}" for one in (*self._passed_over, *self._about_importance())]
        if parameters:
            notes.append(f"{self.source} adds parameters to the network, which are not trained: {_listed(parameters)}")
        if hooked:
            notes.append(f"{self.source} leaves hooks on the network, which every step calls: {_listed(hooked)}")
        return notes

    def _about_importance(self) -> Iterator[str]:
        """What is said of the importance so far, which a method may mean as it is."""
        carried = self.model._custom_importance
        if carried and not any(value.any() for value in carried.values()):
            yield f"the importance that {ESTIMATE} gives is zero everywhere, so that a penalty may hold nothing"
        negative = next((key for key, value in carried.items() if (value < 0).any()), None)
        if negative is not None:
            yield f"the importance of {negative} has negative numbers, with which a penalty may reward change"

    def importance(self, dataset: TensorDataset, prev_params: NamedTensors, device: torch.device) -> NamedTensors:
        """Call `estimate_importance` and check what it returns.

        Args:
            dataset: the context's training examples.
            prev_params: the parameters at the context's start, by key.
            device: where the model and the data are.

        Returns:
            Tensors by key, each with the shape, type and device of its parameter, finite and detached.

        Raises:
            MethodError: the function raised, or returned something else.
        """
        with self._calling(ESTIMATE):
            returned = self._estimate(self.model, dataset, prev_params, device)
        broken = self.network.not_finite()
        if broken is not None:
            raise self._not_finite(ESTIMATE, f"left NaN or infinity in the network's {broken}; expected finite numbers")
        return self._checked_tensors(ESTIMATE, returned, contract_parameters(self.model))

    def penalty(self, *, is_first: bool) -> Tensor:
        """Call `compute_regularization_loss`.

        The kind of its result is checked at every call; the value, which waits for the device, and what the file
        declares about it only at the first one. A constant is looked at again at the second step: away from the anchor,
        one that was computed from the parameters is no longer zero.

        Args:
            is_first: whether it is a context's first step.

        Returns:
            The penalty, a tensor without dimensions.

        Raises:
            MethodError: the function raised, or returned something other than a differentiable scalar tensor; at the
                first call: it is NaN or infinite, or a constant other than zero; it is declared to be pure and isn't.
        """
        if is_first:
            return self._thoroughly_checked_penalty()
        with self._naming(PENALTY) if self._penalty_is_pure else self._calling(PENALTY):
            penalty = self._penalty(self.model, *self._carried)
        if self._penalty_is_pure:  # else it has been checked
            self._check_strength(PENALTY)
        checked = self._checked_kind(penalty)
        if self._steps == _STEPS_LOOKED_AT and not checked.requires_grad:
            self._check_value(checked)
        return checked

    def _thoroughly_checked_penalty(self) -> Tensor:
        with self._unwritten(PENALTY), self._calling(PENALTY) as changed:
            before = generator_states()
            penalty = self._penalty(self.model, *self._carried)
            if generator_states() != before:
                changed.append("random number generators")
        changed = [one for one in changed if one not in HARMLESS]
        if self._penalty_is_pure and changed:
            raise self._broken(
                PENALTY,
                f"changed {' and '.join(changed)}, though PENALTY_IS_PURE says that it changes nothing; expected the "
                "file without PENALTY_IS_PURE",
            )
        checked = self._checked_kind(penalty)
        self._check_value(checked)
        return checked

    def _check_value(self, penalty: Tensor) -> None:
        value = penalty.item()
        if not math.isfinite(value):
            raise self._not_finite(PENALTY, f"returned {value}; expected a finite number")
        if not penalty.requires_grad and value != 0:
            raise self._broken(PENALTY, f"returned the constant {value}; {_DIFFERENTIABLE}")

    def check_gradient(self) -> None:
        """Check the gradient of the penalty where the network is now, by name; called where the loss's isn't finite.

        Raises:
            MethodError: it holds NaN or infinity.
        """
        parameters = {key: p for key, p in contract_parameters(self.model).items() if p.requires_grad}
        gradients = self._gradients(self.penalty(is_first=False), list(parameters.values()))
        given = {key: g for key, g in zip(parameters, gradients, strict=True) if g is not None}
        broken = first_not_finite(given)
        if broken is not None:
            raise self._not_finite(
                PENALTY,
                f"has a gradient of NaN or infinity for {broken!r} at the context's first step, where the parameters "
                "are those of the end of the last context; expected finite numbers (a square root, a norm or a "
                "division has no gradient at zero: sqrt(x + 1e-12) has one)",
            )

    def check_dependence(self) -> None:
        """Check that the penalty depends on the network's parameters; not called while a run trains, as it takes long.

        Raises:
            MethodError: it has a value, but no gradient for any of them; or it changes the dicts that it is given.
        """
        with self._unwritten(PENALTY):
            penalty = self.penalty(is_first=False)
        trained = [p for p in self.network.parameters if p.requires_grad]
        if penalty.item() != 0 and all(g is None for g in self._gradients(penalty, trained)):
            raise self._broken(
                PENALTY, f"returned a tensor that depends on none of the network's parameters; {_DIFFERENTIABLE}"
            )

    def squares(self) -> Squares:
        """Call `quadratic_penalty`; only where `is_quadratic`.

        Raises:
            MethodError: the function raised or returned something else.
        """
        assert self._quadratic is not None
        with self._unwritten(QUADRATIC), self._calling(QUADRATIC):
            returned = self._quadratic(self.model, *self._carried)
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise self._broken(
                QUADRATIC, f"returned {_article(type(returned).__name__)}; expected two dicts (coefficients, centres)"
            )
        parameters = contract_parameters(self.model)
        coefficients, centres = (self._checked_tensors(QUADRATIC, part, parameters) for part in returned)
        missing = coefficients.keys() - centres.keys()
        if missing:
            raise self._broken(QUADRATIC, f"returned no centre for {', '.join(sorted(missing))}")
        return Squares(coefficients, {key: centres[key] for key in coefficients})

    def check_squares(self, squares: Squares, strength: float) -> None:
        """Check that `quadratic_penalty` describes `compute_regularization_loss`, away from the centres.

        Args:
            squares: what it returned at the context's start.
            strength: what the penalty is multiplied with.

        Raises:
            MethodError: the gradients differ, or the strength has changed.
        """
        penalty = self.penalty(is_first=True)  # first: it may overwrite the strength
        if self.strength != strength:
            raise self._changed_strength(strength, self.strength)
        coefficients, centres, _ = squares
        parameters = {key: p for key, p in contract_parameters(self.model).items() if p.requires_grad}
        gradients = self._gradients(penalty, list(parameters.values()))
        difference, norm = 0.0, 0.0
        for (key, p), gradient in zip(parameters.items(), gradients, strict=True):
            expected = torch.zeros_like(p) if gradient is None else gradient
            given = 2 * coefficients[key] * (p.detach() - centres[key]) if key in coefficients else 0
            difference += (expected - given).square().sum().item()
            norm += expected.square().sum().item()
        if not math.sqrt(difference) <= _QUADRATIC_TOLERANCE * math.sqrt(norm):
            raise self._broken(QUADRATIC, f"does not describe the gradient of {PENALTY}; expected both to agree")

    def _changed_strength(self, declared: float, now: float) -> MethodError:
        """The error for a strength that changes within a context, which a declared penalty can't follow."""
        return self._broken(
            PENALTY,
            f"changed model.reg_strength within a context (from {declared:g} to {now:g}), which "
            f"a penalty that is declared by {QUADRATIC} can't follow; expected one strength a context, or the file "
            f"without {QUADRATIC}",
        )

    def _gradients(self, penalty: Tensor, parameters: list[nn.Parameter]) -> Sequence[Tensor | None]:
        if not penalty.requires_grad:
            return [None] * len(parameters)
        try:
            return torch.autograd.grad(penalty, parameters, allow_unused=True)
        except RuntimeError as error:
            raise self._broken(PENALTY, f"returned what cannot be back-propagated ({named(error)})") from error

    def backward(self, loss: Tensor) -> None:
        """Back-propagate a loss that has the penalty in it.

        Args:
            loss: the total loss, a scalar.

        Raises:
            MethodError: autograd can't, which is the penalty's doing.
        """
        try:
            loss.backward()
        except RuntimeError as error:
            log.exception("%s: back-propagation failed", self.source)
            raise self._broken(PENALTY, f"returned a loss that cannot be back-propagated ({named(error)})") from error

    def _checked_kind(self, penalty: object) -> Tensor:
        """Check all but the value. Without importance there is nothing to penalize: a constant will do."""
        importance, parameter = self.model._custom_importance, self.network.parameters[0]
        if not importance and isinstance(penalty, int) and penalty == 0:  # Python's sum over no parameter
            penalty = parameter.new_zeros(())
        if not isinstance(penalty, Tensor):
            raise self._broken(PENALTY, f"returned {_article(type(penalty).__name__)}; {_DIFFERENTIABLE}")
        if penalty.is_complex():
            raise self._broken(PENALTY, f"returned a complex number ({penalty.dtype}); {_DIFFERENTIABLE}")
        if penalty.device.type not in ("cpu", parameter.device.type):
            raise self._broken(
                PENALTY, f"returned a tensor on {penalty.device}; expected {parameter.device}, the network's"
            )
        if penalty.numel() != 1:
            raise self._broken(PENALTY, f"returned a tensor of shape {tuple(penalty.shape)}; {_DIFFERENTIABLE}")
        if not penalty.requires_grad and importance:
            raise self._broken(
                PENALTY, f"returned a tensor without a gradient (detached, or made with .item()); {_DIFFERENTIABLE}"
            )
        return penalty.reshape(())

    def _checked_tensors(self, function: str, returned: object, parameters: Mapping[str, nn.Parameter]) -> NamedTensors:
        if not isinstance(returned, Mapping):
            raise self._broken(
                function, f"returned {_article(type(returned).__name__)}; expected a dict of tensors by parameter name"
            )
        return {key: self._checked_entry(function, key, value, parameters) for key, value in returned.items()}

    def _checked_entry(
        self, function: str, key: object, value: object, parameters: Mapping[str, nn.Parameter]
    ) -> Tensor:
        if not isinstance(key, str) or key not in parameters:
            shown = repr(key) if isinstance(key, str | int | float | tuple) else f"of type {type(key).__name__}"
            raise self._broken(
                function,
                f"returned the unknown key {shown}; expected parameter names with '.' replaced by '__': "
                f"{', '.join(parameters)}",
            )
        parameter = parameters[key]
        if not isinstance(value, Tensor):
            raise self._broken(function, f"returned {_article(type(value).__name__)} for {key!r}; expected a tensor")
        if value.shape != parameter.shape:
            raise self._broken(
                function,
                f"returned shape {tuple(value.shape)} for {key!r}; expected {tuple(parameter.shape)}, the parameter's",
            )
        if value.device != parameter.device:
            raise self._broken(
                function,
                f"returned a tensor on {value.device} for {key!r}; expected {parameter.device}, the parameter's",
            )
        if value.is_complex():
            raise self._broken(function, f"returned complex numbers ({value.dtype}) for {key!r}; expected real ones")
        value = value.detach()
        if value.layout is not torch.strided:
            value = value.to_dense()
        # A copy, since the method may go on writing to what it returned.
        value = value.to(parameter.dtype, copy=True)
        if not torch.isfinite(value).all():
            raise self._not_finite(
                function, f"returned NaN or infinity for {key!r}; expected numbers that are finite as {parameter.dtype}"
            )
        return value

    def blamed(self, error: Exception) -> MethodError | None:
        """The method's failure, where an exception passed through its file while it wasn't called.

        Args:
            error: what training or evaluation raised, such as in a hook that the method left on a layer.
        """
        where = place(error, self._file)
        if not where or isinstance(error, ClsweepError):
            return None
        log.error("%s: code that it left on the network raised", self.source, exc_info=error)
        return MethodError(
            f"{self.source}{where}: what it left on the network (a hook, a layer) raised {named(error)} while the "
            f"network was used ({IN_LOG})."
        )

    def _broken(self, function: str, what: str) -> MethodError:
        return MethodError(f"{self.source}: {function} {what}.")

    def _not_finite(self, function: str, what: str) -> NotFiniteError:
        return NotFiniteError(f"{self.source}: {function} {what}.")

    @contextmanager
    def _calling(self, function: str) -> Iterator[list[str]]:
        """Around a call: random numbers of the method's own; what it disturbs is put back, what can't be is refused.

        Yields:
            The names of what was put back, filled at the end.
        """
        network = self.network
        changed: list[str] = []
        with (
            network.undisturbed() as state,
            self.stream.active(),
            settings_put_back() as settings,
            self._naming(function),
        ):
            yield changed
        changed += state + settings
        self._check_left(function)

    @contextmanager
    def _unwritten(self, function: str) -> Iterator[None]:
        """Around a call that is looked at closely: it must not write to the dicts that it gets.

        The importance and the anchor would be others from then on, at every step a little more, and no result would
        say so. Whoever means that can say it in `estimate_importance`.

        Raises:
            MethodError: it did.
        """
        carried = zip(("importance_dict", "prev_params_dict"), self._carried, strict=True)
        before = [
            (f"{name}[{key!r}]", given, key, value, value._version, value.clone())
            for name, given in carried
            for key, value in given.items()
        ]
        yield
        for what, given, key, value, version, kept in before:
            if given.get(key) is not value:
                raise self._broken(function, f"{'replaced' if key in given else 'removed'} {what}; expected it to stay")
            # A write to .data leaves the version as it was; a sparse tensor can't be compared.
            is_written = value.layout is torch.strided and not torch.equal(value, kept)
            if is_written or value._version != version:
                raise self._broken(function, f"changed {what} in place; expected a copy ({what}.clone())")

    def _check_left(self, function: str) -> None:
        """Check what a call has left: the network, and what the contract has on the model."""
        lost = self.network.lost()
        if lost is not None:
            raise self._broken(function, lost)
        self._check_strength(function)
        for name in (*_CARRIED, *_PATH) if self.uses_path_integral else _CARRIED:
            self._check_dict(function, name)

    def _check_strength(self, function: str) -> None:
        """Check what a call has left as `model.reg_strength`; not a tensor's value, which would wait for the device."""
        strength = getattr(self.model, "reg_strength", None)
        if isinstance(strength, numbers.Real):  # NumPy's, too
            is_strength = math.isfinite(strength) and float(strength) >= 0
        else:
            is_strength = isinstance(strength, Tensor) and strength.numel() == 1
        if not is_strength:
            raise self._broken(function, f"left model.reg_strength={strength!r}; expected {NOT_NEGATIVE.expected}")

    def _check_dict(self, function: str, name: str) -> None:
        held = getattr(self.model, name, None)
        if not isinstance(held, dict):
            raise self._broken(
                function,
                f"left {_article(type(held).__name__)} in model.{name}; expected a dict of tensors by parameter name",
            )
        for key, value in held.items():
            if not isinstance(value, Tensor):
                raise self._broken(
                    function, f"left {_article(type(value).__name__)} in model.{name}[{key!r}]; expected a tensor"
                )

    @contextmanager
    def _naming(self, function: str) -> Iterator[None]:
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
                f"{self.source}{place(error, self._file)}: {function} raised {named(error)}{self._when(function)} "
                f"({IN_LOG})."
            ) from error

    def _when(self, function: str) -> str:
        """When it is that a function is called which is called sooner than its author may think."""
        is_first = function == TRANSFORM and not self.model._custom_prev_params
        return " in the first context, where both dicts are empty" if is_first else ""


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
        yield f"CONFIG_OVERRIDES has {_listed(others)}, which clsweep doesn't read; it reads {_SCALE!r}"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMES_SHOWN])
    return shown if len(names) <= _NAMES_SHOWN else f"{shown} and {len(names) - _NAMES_SHOWN} more"


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}" if name != "NoneType" else "None"
