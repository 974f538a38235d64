"""The contract between the training loop and a method that is a file of one's own.

It has two functions:

- `estimate_importance(model, dataset, prev_params, device) -> dict[str, Tensor]`, called once after each context;
- `compute_regularization_loss(model, importance_dict, prev_params_dict) -> scalar Tensor`, called at every training
  step from the second context on.

Optional attributes of the file:

- `CONFIG_OVERRIDES = {"reg_strength_scale": float}` multiplies `reg_strength`;
- `USES_PATH_INTEGRAL = False` says that the method reads neither `model._custom_W` nor `model._custom_p_old`, which
  are then not kept up to date while a context is trained (`_custom_W` is the path integral of -gradient * update, of
  the total loss, as the optimizer gets it and as in van de Ven's code; Zenke et al., 2017, take the task's loss);
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

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from clsweep.checkpoints.packing import Packer, Places, UnpackableError, Unpacker
from clsweep.errors import ClsweepError, InputError, MethodError, kind_of, named, place
from clsweep.hyperparameters import STANDARD
from clsweep.methods.base import Finished, Method, Path, Squares
from clsweep.methods.calls import CARRIED, DIFFERENTIABLE, IN_LOG, PATH, Calls, carried, log
from clsweep.methods.declarations import ESTIMATE, PENALTY, QUADRATIC, TRANSFORM, Declarations, listed
from clsweep.methods.instances import Instance
from clsweep.methods.undisturbed import HARMLESS, Network, first_not_finite, settings_put_back
from clsweep.networks.equipment import BATCH
from clsweep.parameters import NamedTensors, contract_parameters, snapshot
from clsweep.seeding import generator_states

# How far the gradient of a quadratic penalty may be from autograd's, relative to its norm: float32's rounding only.
_QUADRATIC_TOLERANCE = 1e-3
_STEPS_LOOKED_AT = 2  # of a context: at the first the parameters are where the penalty is zero, at the second no more


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
        self._file: str | None = getattr(functions, "__file__", None)
        self._has = Declarations.of(functions, source)
        self.declared = self._has.hyperparameters
        self.values = {name: one.default for name, one in self.declared.items()}
        self.transforms_gradients = self._has.transform is not None
        # A transform sees whole gradients, the penalty's among them.
        self.is_quadratic = self._has.quadratic is not None and not self.transforms_gradients
        self.reg_strength_scale = self._has.reg_strength_scale
        self.uses_path_integral = self._has.uses_path_integral
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
        reads_path = self.uses_path_integral
        self._calls = Calls(self.source, self._file, network, self.stream, uses_path_integral=reads_path)
        for name, value in self.values.items():
            if name not in STANDARD and hasattr(model, name):
                raise InputError(
                    f"{self.source}: HYPERPARAMETERS has {name!r}, which the network has, too; expected another name."
                )
            setattr(model, name, value)
        for name in (*CARRIED, *PATH):
            setattr(model, name, {})

    def start_context(self, path: Path) -> None:
        """Put the context's path integral on the model."""
        self._steps = 0
        self.model._custom_W, self.model._custom_p_old = path.totals, path.positions

    @property
    def path(self) -> Path:
        """What is on the model: the file may have put other tensors there, or removed what it doesn't use."""
        return Path(*(getattr(self.model, name, {}) for name in PATH))

    def check_path(self) -> None:
        """Check the shapes of the path, in whose tensors every step writes; see `Method`."""
        parameters = contract_parameters(self.model)
        for name, kept in zip(PATH, self.path, strict=True):
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

    def end_context(self, finished: Finished) -> None:
        """Add the importance of a context, and move the anchor.

        Raises:
            MethodError: `estimate_importance` raised, or returned what it shouldn't.
        """
        model = self.model
        new = self.importance(finished.dataset, finished.start, finished.device)
        for key, value in new.items():
            before = model._custom_importance.get(key)
            if before is not None and before.shape != value.shape:
                raise self._calls.broken(
                    ESTIMATE,
                    f"left shape {tuple(before.shape)} in model._custom_importance[{key!r}]; expected "
                    f"{tuple(value.shape)}, the parameter's",
                )
            model._custom_importance[key] = value if before is None else before + value
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
        with self._calls.unwritten(TRANSFORM):
            self._call_transform()
        broken = self.network.not_finite_gradient() if was_finite else None
        if broken is not None:
            raise self._calls.not_finite(
                TRANSFORM,
                f"left NaN or infinity in the gradient of {broken}, which was finite before; expected finite numbers "
                "(a division by a norm or a sum that may be zero: norm + 1e-12)",
            )

    def _call_transform(self) -> None:
        assert self._has.transform is not None
        with (
            self.network.undisturbed(gradients=False),
            self.stream.active(),
            settings_put_back(),
            self._calls.naming(TRANSFORM),
        ):
            returned = self._has.transform(self.model, *carried(self.model))
        self._calls.check_left(TRANSFORM)
        self.network.make_gradients_dense()
        if returned is not None:  # which would be dropped
            raise self._calls.broken(
                TRANSFORM,
                f"returned {kind_of(returned)}; expected no value: what it changes are the parameters' "
                "grad (p.grad.mul_(0.5))",
            )

    def additions(self) -> list[str]:
        """What its author may take for something else: what it has added to the network, and what has no effect."""
        network = self.network
        parameters, hooked = network.added_parameters(), network.hooked()
        notes = [f"{self.source}: {one}" for one in (*self._has.passed_over, *self._about_importance())]
        if parameters:
            notes.append(f"{self.source} adds parameters to the network, which are not trained: {listed(parameters)}")
        if hooked:
            notes.append(f"{self.source} leaves hooks on the network, which every step calls: {listed(hooked)}")
        return notes

    def _about_importance(self) -> Iterator[str]:
        """What is said of the importance so far, which a method may mean as it is."""
        importance = self.model._custom_importance
        if importance and not any(value.any() for value in importance.values()):
            yield f"the importance that {ESTIMATE} gives is zero everywhere, so that a penalty may hold nothing"
        negative = next((key for key, value in importance.items() if (value < 0).any()), None)
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
        with self._calls.calling(ESTIMATE):
            returned = self._has.estimate(self.model, dataset, prev_params, device)
        broken = self.network.not_finite()
        if broken is not None:
            raise self._calls.not_finite(
                ESTIMATE, f"left NaN or infinity in the network's {broken}; expected finite numbers"
            )
        return self._calls.tensors(ESTIMATE, returned, contract_parameters(self.model))

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
        with self._calls.naming(PENALTY) if self._has.penalty_is_pure else self._calls.calling(PENALTY):
            penalty = self._has.penalty(self.model, *carried(self.model))
        if self._has.penalty_is_pure:  # else it has been checked
            self._calls.check_strength(PENALTY)
        checked = self._calls.scalar(penalty)
        if self._steps == _STEPS_LOOKED_AT and not checked.requires_grad:
            self._check_value(checked)
        return checked

    def _thoroughly_checked_penalty(self) -> Tensor:
        with self._calls.unwritten(PENALTY), self._calls.calling(PENALTY) as changed:
            before = generator_states()
            with warnings.catch_warnings():  # a float is refused in a sentence below
                warnings.filterwarnings("ignore", "Converting a tensor with requires_grad=True to a scalar")
                penalty = self._has.penalty(self.model, *carried(self.model))
            if generator_states() != before:
                changed.append("random number generators")
        changed = [one for one in changed if one not in HARMLESS]
        if self._has.penalty_is_pure and changed:
            raise self._calls.broken(
                PENALTY,
                f"changed {' and '.join(changed)}, though PENALTY_IS_PURE says that it changes nothing; expected the "
                "file without PENALTY_IS_PURE",
            )
        checked = self._calls.scalar(penalty)
        self._check_value(checked)
        return checked

    def _check_value(self, penalty: Tensor) -> None:
        value = penalty.item()
        if not math.isfinite(value):
            raise self._calls.not_finite(PENALTY, f"returned {value}; expected a finite number")
        if not penalty.requires_grad and value != 0:
            raise self._calls.broken(PENALTY, f"returned the constant {value}; {DIFFERENTIABLE}")

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
            raise self._calls.not_finite(
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
        with self._calls.unwritten(PENALTY):
            penalty = self.penalty(is_first=False)
        trained = [p for p in self.network.parameters if p.requires_grad]
        if penalty.item() != 0 and all(g is None for g in self._gradients(penalty, trained)):
            raise self._calls.broken(
                PENALTY, f"returned a tensor that depends on none of the network's parameters; {DIFFERENTIABLE}"
            )

    def squares(self) -> Squares:
        """Call `quadratic_penalty`; only where `is_quadratic`.

        Raises:
            MethodError: the function raised or returned something else.
        """
        assert self._has.quadratic is not None
        with self._calls.unwritten(QUADRATIC), self._calls.calling(QUADRATIC):
            returned = self._has.quadratic(self.model, *carried(self.model))
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise self._calls.broken(
                QUADRATIC, f"returned {kind_of(returned)}; expected two dicts (coefficients, centres)"
            )
        parameters = contract_parameters(self.model)
        coefficients, centres = (self._calls.tensors(QUADRATIC, part, parameters) for part in returned)
        missing = coefficients.keys() - centres.keys()
        if missing:
            raise self._calls.broken(QUADRATIC, f"returned no centre for {', '.join(sorted(missing))}")
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
            raise self._calls.broken(QUADRATIC, f"does not describe the gradient of {PENALTY}; expected both to agree")

    def _changed_strength(self, declared: float, now: float) -> MethodError:
        """The error for a strength that changes within a context, which a declared penalty can't follow."""
        return self._calls.broken(
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
            raise self._calls.broken(PENALTY, f"returned what cannot be back-propagated ({named(error)})") from error

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
            raise self._calls.broken(
                PENALTY, f"returned a loss that cannot be back-propagated ({named(error)})"
            ) from error

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
