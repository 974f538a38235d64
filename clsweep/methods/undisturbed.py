"""What code of others may leave behind: settings of the whole process, and the state of a network.

A method's functions run in the middle of training. What they change in passing is put back, so that a run's results
don't depend on whether they tidied up. What can't be put back is reported, for the caller to refuse.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clsweep.networks import Classifier, outputs_of
from clsweep.paths import short

_Kind = tuple[torch.dtype, torch.Size, torch.device]


# Settings that hold for the network's training, too.
DEVICE, DTYPE, GRAD_MODE = "torch's default device", "torch's default dtype", "torch's grad mode"
_FILTERS, _PATH = "the warnings filters", "sys.path"
HARMLESS = (_FILTERS, _PATH)  # what importing a library in a function changes, and no result depends on
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


@dataclass(frozen=True)
class _Setting:
    """A setting of the whole process.

    Attributes:
        name: as it is called in a sentence.
        read: its value, which `==` compares.
        write: sets it to a value that was read.
        at_start: its value in a new process, where results depend on it and no file says what it was; else None.
    """

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]
    at_start: Any = None


def current_folder() -> str | None:
    """The current folder; None where somebody has removed it."""
    with contextlib.suppress(FileNotFoundError):
        return os.getcwd()  # noqa: PTH109 - a Path takes four times as long
    return None


def enter_folder(folder: str | None) -> None:
    """Make a folder the current one, where it is there."""
    with contextlib.suppress(OSError):
        if folder is not None:
            os.chdir(folder)


def _set_filters(filters: list[Any]) -> None:
    warnings.resetwarnings()  # which marks them as changed: warnings shown once per place may be shown again
    warnings.filters[:] = filters  # type: ignore[index]


def _set_path(path: list[str]) -> None:
    sys.path[:] = path


def _set_streams(streams: tuple[Any, Any]) -> None:
    sys.stdout, sys.stderr = streams


def _autocast(device: str) -> tuple[bool, torch.dtype]:
    return torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)


def _set_autocast(device: str, value: tuple[bool, torch.dtype]) -> None:
    torch.set_autocast_enabled(device, value[0])
    torch.set_autocast_dtype(device, value[1])


def _autocast_depth() -> int:
    """How many autocasts have been entered and not left."""
    depth: int = torch.autocast_increment_nesting()
    torch.autocast_decrement_nesting()
    return depth - 1


def _set_autocast_depth(depth: int) -> None:
    """Where one is never left, weights that were cast once are used for ever after, whatever they have become."""
    while _autocast_depth() > depth:
        torch.autocast_decrement_nesting()
    while _autocast_depth() < depth:
        torch.autocast_increment_nesting()
    torch.clear_autocast_cache()


def _set_device(device: torch.device) -> None:
    torch.set_default_device(None if device.type == "cpu" else device)  # None: as it is from the start, which is faster


def _matmul_precision() -> str | None:
    with contextlib.suppress(RuntimeError):  # where it was set for each backend, it has no single value
        return torch.get_float32_matmul_precision()
    return None


def _set_matmul_precision(precision: str | None) -> None:
    if precision is not None:
        torch.set_float32_matmul_precision(precision)


def _backends() -> list[Any]:
    """What computes in float32 with a precision of its own, and in a new process with the whole; before 2.9 none."""
    made = [(torch.backends.cuda, "matmul"), (torch.backends.mkldnn, "matmul"), (torch.backends.mkldnn, "conv")]
    found = [getattr(backend, name, None) for backend, name in made]
    return [one for one in found if hasattr(one, "fp32_precision")]


@contextmanager
def _whole_precision() -> Iterator[None]:
    """Let products of float32 numbers be float32.

    Each backend is set by itself: where they differ, the function for all of them can't put them back.
    """
    backends = _backends()
    before = [one.fp32_precision for one in backends]
    try:
        for one, precision in zip(backends, before, strict=True):
            if precision not in ("none", "ieee"):
                one.fp32_precision = "ieee"
        if not backends:
            torch.set_float32_matmul_precision("highest")
        yield
    finally:
        for one, precision in zip(backends, before, strict=True):
            if one.fp32_precision != precision:
                one.fp32_precision = precision


def _cudnn() -> tuple[bool, bool, bool]:
    flags = torch.backends.cudnn
    return flags.enabled, flags.benchmark, flags.deterministic


def _set_cudnn(flags: tuple[bool, bool, bool]) -> None:
    torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = flags


def _anomalies() -> tuple[bool, bool]:
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


def _handlers() -> list[Any]:
    return [signal.getsignal(number) for number in _SIGNALS]


def _set_handlers(handlers: list[Any]) -> None:
    if threading.current_thread() is threading.main_thread():  # no other one can
        for number, handler in zip(_SIGNALS, handlers, strict=True):
            if handler is not None:  # else it wasn't set from Python
                signal.signal(number, handler)


# All are read before and after each call of a method: together some fifteen microseconds.
_SETTINGS = (
    _Setting(DEVICE, torch.get_default_device, _set_device),
    _Setting(DTYPE, torch.get_default_dtype, torch.set_default_dtype, torch.float32),
    _Setting(GRAD_MODE, torch.is_grad_enabled, torch.set_grad_enabled, True),
    _Setting("torch's number of threads", torch.get_num_threads, torch.set_num_threads),
    _Setting(
        "autocast",
        lambda: _autocast("cpu"),
        lambda value: _set_autocast("cpu", value),
        (False, torch.bfloat16),
    ),
    _Setting(
        "autocast on CUDA",
        lambda: _autocast("cuda"),
        lambda value: _set_autocast("cuda", value),
        (False, torch.float16),
    ),
    _Setting("autocast that was not left", _autocast_depth, _set_autocast_depth, 0),
    _Setting("autocast's cache", torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled, True),
    _Setting("torch's deterministic mode", torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    _Setting("torch's precision of matrix products", _matmul_precision, _set_matmul_precision),
    _Setting("cuDNN's flags", _cudnn, _set_cudnn),
    _Setting("autograd's anomaly detection", _anomalies, lambda value: torch.autograd.set_detect_anomaly(*value)),
    _Setting("NumPy's error handling", np.geterr, lambda value: np.seterr(**value)),
    _Setting(_FILTERS, lambda: list(warnings.filters), _set_filters),
    _Setting("the current folder", current_folder, enter_folder),
    _Setting(_PATH, lambda: list(sys.path), _set_path),
    _Setting("sys.stdout and sys.stderr", lambda: (sys.stdout, sys.stderr), _set_streams),
    _Setting("the signal handlers", _handlers, _set_handlers),
)


@contextmanager
def settings_put_back() -> Iterator[list[str]]:
    """Put the settings of the whole process back, whatever happens inside.

    They are torch's (default dtype and device, grad mode, threads, autocast, determinism, precision), NumPy's error
    handling, the warnings filters, the current folder, `sys.path`, the standard streams and the handlers of the signals
    that end a run. Random number generators are `clsweep.seeding.GlobalStream`'s.

    Yields:
        The names of those that had been changed, filled at the end.
    """
    before = [setting.read() for setting in _SETTINGS]
    changed: list[str] = []
    try:
        yield changed
    finally:
        for setting, value in zip(_SETTINGS, before, strict=True):
            if setting.read() != value:
                setting.write(value)
                changed.append(setting.name)


@contextmanager
def as_at_start() -> Iterator[None]:
    """Let no setting of the program that calls decide a result, and put all of them back as they were.

    The default dtype and device, grad mode, autocast and the precision of matrix products are those of a new process.
    """
    with settings_put_back(), contextlib.ExitStack() as entered:
        for setting in _SETTINGS:
            if setting.at_start is not None and setting.read() != setting.at_start:
                setting.write(setting.at_start)
        entered.enter_context(_whole_precision())
        if torch.get_default_device().type != "cpu":
            entered.enter_context(torch.device("cpu"))
        yield


class Network:
    """What belongs to a network by itself, as it was built; what a method adds to it later does not.

    Args:
        model: the network, before any method has seen it.

    Attributes:
        model: the network.
        parameters: what is trained.
        device: where it is.
    """

    def __init__(self, model: Classifier) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self._outputs = outputs_of(model)
        named = list(model.named_modules())
        self._modules = [module for _, module in named]
        self._hooks = {module: _hooks(module) for module in self._modules}
        self._files = {_file(module) for module in self._modules}
        self._children = [
            (module, name, child, _joined(prefix, name))
            for prefix, module in named
            for name, child in module.named_children()
        ]
        self._named = [
            (module, name, p, _joined(prefix, name), _kind(p))
            for prefix, module in named
            for name, p in module.named_parameters(recurse=False)
        ]
        self._counts = [len(module._modules) for module in self._modules]
        self.parameters = list(model.parameters())
        self._buffers = [
            (module, name, buffer, _joined(prefix, name))
            for prefix, module in named
            for name, buffer in module.named_buffers(recurse=False)
        ]

    @contextmanager
    def undisturbed(self, *, gradients: bool = True) -> Iterator[list[str]]:
        """Put back modes, active outputs, gradients, `requires_grad` and the network's own buffers.

        Args:
            gradients: False where it is the gradients that are to be changed: they stay.

        Yields:
            The names of what had been changed, filled at the end.
        """
        active = self._outputs.active
        modes = [module.training for module in self._modules]
        flags = [p.requires_grad for p in self.parameters]
        saved = [(p, p.grad) for p in self.parameters] if gradients else []
        values = [(buffer._version, buffer.clone()) for _, _, buffer, _ in self._buffers]
        for p, _ in saved:
            p.grad = None  # so that zeroing or accumulating in place cannot reach the saved ones
        changed: list[str] = []
        try:
            yield changed
        finally:
            if self._outputs.active is not active:
                self._outputs.active = active
                changed.append("the active outputs")
            if self._put_modes_back(modes):
                changed.append("train or eval mode")
            if _put_gradients_back(saved):
                changed.append("gradients")
            if self._put_flags_back(flags):
                changed.append("requires_grad")
            if self._put_buffers_back(values):
                changed.append("buffers")

    def _put_modes_back(self, modes: list[bool]) -> bool:
        disturbed = [(m, mode) for m, mode in zip(self._modules, modes, strict=True) if m.training is not mode]
        for module, mode in disturbed:
            module.training = mode
        return bool(disturbed)

    def _put_flags_back(self, flags: list[bool]) -> bool:
        disturbed = [(p, flag) for p, flag in zip(self.parameters, flags, strict=True) if p.requires_grad is not flag]
        for p, flag in disturbed:
            p.requires_grad_(flag)
        return bool(disturbed)

    def _put_buffers_back(self, saved: list[tuple[int, Tensor]]) -> bool:
        """The same tensors, with the values from before; a method may have written to them, or replaced them."""
        changed = False
        for (module, name, buffer, _), (version, value) in zip(self._buffers, saved, strict=True):
            if module._buffers.get(name) is not buffer:
                module._buffers[name] = buffer
                changed = True
            if _kind(buffer) != _kind(value):
                buffer.data = value
            changed = changed or buffer._version != version
        if saved:  # .data: autograd, which may have saved a buffer, must not see a change
            torch._foreach_copy_([buffer.data for _, _, buffer, _ in self._buffers], [value for _, value in saved])
        return changed

    def lost(self) -> str | None:
        """What of the network is no longer there, which nobody can put back: a sentence's predicate, or None."""
        for module, name, child, full in self._children:
            if module._modules.get(name) is not child:
                return (
                    f"left the network without its own layer {full}; expected it to stay (its parameters are trained)"
                )
        for module, name, p, full, kind in self._named:
            if module._parameters.get(name) is not p:
                return (
                    f"left the network without its own parameter {full}; expected it to stay, as it is what is trained "
                    "(copy_() changes its value)"
                )
            if _kind(p) != kind:
                left, expected = _difference(_kind(p), kind)
                return f"left the network's parameter {full} with {left}; expected {expected}, as before the call"
        return self._looped()

    def _looped(self) -> str | None:
        """What somebody has put into itself, which nothing that goes through the layers would survive; see `lost`."""
        counts = [len(module._modules) for module in self._modules]
        if counts == self._counts:  # looked at already, as most times: this is asked for at every step
            return None
        full = _loop(self.model)
        if full is not None:
            return f"left the network inside itself, as model.{full}; expected a copy of it: copy.deepcopy(model)"
        self._counts = counts
        return None

    def added_parameters(self) -> list[str]:
        """The names of parameters that somebody has added, and that would need training."""
        own = set(self.parameters)
        return [name for name, p in self.model.named_parameters() if p not in own and p.requires_grad]

    def hooked(self) -> list[str]:
        """The names of layers with more hooks than at the start, and of parameters with hooks."""
        layers = [
            name or "the whole"
            for name, module in self.model.named_modules()
            if _hooks(module) > self._hooks.get(module, math.inf)
        ]
        hooked = (full for _, _, p, full, _ in self._named if p._backward_hooks or p._post_accumulate_grad_hooks)
        return [*layers, *hooked]

    def place(self, error: Exception) -> str | None:
        """The file and line of the network's own code, where an exception passed through any that isn't clsweep's."""
        frames = traceback.extract_tb(error.__traceback__)
        places = [f"{short(Path(one.filename))}, line {one.lineno}" for one in frames if one.filename in self._files]
        return places[-1] if places else None

    def not_finite(self) -> str | None:
        """The name of the first parameter or buffer that holds NaN or infinity; waits for the device."""
        tensors = {full: p.detach() for _, _, p, full, _ in self._named}
        tensors |= {full: buffer for _, _, buffer, full in self._buffers if buffer.is_floating_point()}
        return first_not_finite(tensors)

    def not_finite_gradient(self) -> str | None:
        """The name of the first parameter whose gradient holds NaN or infinity; waits for the device."""
        return first_not_finite({full: p.grad for _, _, p, full, _ in self._named if p.grad is not None})

    def make_gradients_dense(self) -> None:
        """Replace sparse gradients: an update counts on the memory of dense ones."""
        for p in self.parameters:
            if p.grad is not None and p.grad.layout is not torch.strided:
                p.grad = p.grad.to_dense()

    def train(self) -> None:
        """Set training mode; modules that a method has added, such as a teacher, keep theirs."""
        own = set(self._modules)
        others = [(module, module.training) for module in self.model.modules() if module not in own]
        self.model.train()
        for module, training in others:
            module.training = training


def _loop(module: nn.Module, around: tuple[nn.Module, ...] = (), prefix: str = "") -> str | None:
    """The name of a layer that is one of those around it, if there is one."""
    around = (*around, module)
    for name, child in module.named_children():
        full = _joined(prefix, name)
        if any(child is one for one in around):
            return full
        found = _loop(child, around, full)
        if found is not None:
            return found
    return None


def first_not_finite(tensors: dict[str, Tensor]) -> str | None:
    """The name of the first tensor that holds NaN or infinity, if any does; waits for the device once if none does."""
    finite = [torch.isfinite(tensor).all() for tensor in tensors.values()]
    if not finite or torch.stack(finite).all():
        return None
    return next(name for name, is_finite in zip(tensors, finite, strict=True) if not is_finite)


def _file(module: nn.Module) -> str | None:
    """Of somebody else's layer: PyTorch's call what they hold, and clsweep's raise what is clsweep's to mend."""
    name = type(module).__module__
    is_known = name.partition(".")[0] in ("torch", "clsweep")
    return None if is_known else getattr(sys.modules.get(name), "__file__", None)


def _hooks(module: nn.Module) -> int:
    kinds = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return sum(len(hooks) for hooks in kinds)


def _put_gradients_back(saved: list[tuple[nn.Parameter, Tensor | None]]) -> bool:
    changed = False
    for p, gradient in saved:
        changed = changed or p.grad is not None
        if gradient is None or _kind(gradient) == _kind(p):  # else the parameter is lost, see `Network.lost`
            p.grad = gradient
    return changed


def _kind(tensor: Tensor) -> _Kind:
    return tensor.dtype, tensor.shape, tensor.device


def _difference(now: _Kind, before: _Kind) -> tuple[str, str]:
    """The first property in which two kinds of tensor differ, as each has it."""
    words = ("{}", "shape {}", "device {}")
    return next(
        (word.format(_shown(a)), word.format(_shown(b)))
        for word, a, b in zip(words, now, before, strict=True)
        if a != b
    )


def _shown(value: object) -> object:
    return tuple(value) if isinstance(value, torch.Size) else value


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
