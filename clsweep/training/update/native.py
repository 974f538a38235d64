"""The update as one loop in C, compiled at its first use where there is a compiler.

PyTorch's wheels have no operation that fuses a spring, Adam and a path integral, and `torch.compile`, which could make
one, takes many seconds and the same C compiler. This file of C takes a quarter of a second, once: the compiled library
is kept in the user's cache folder, under a name made of everything that it was made from and of its own content. What
is loaded runs, so it is loaded only where nobody else can have written it and where it is whole. Its threads are
PyTorch's: both use the same OpenMP library.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache as once
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clsweep import cache
from clsweep.training.update.adam import Adam, AdamState
from clsweep.training.update.base import ParameterUpdate

log = logging.getLogger(__name__)

_SOURCE = Path(__file__).with_name("native.c")
# errno and traps are what keeps a compiler from making the square root and the division vectors.
_FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC")
_COMPILER_SECONDS = 60
_DIGEST = 32  # characters


class _Parameter(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_int64),
        ("steps", ctypes.c_void_p),
        ("value", ctypes.c_void_p),
        ("average", ctypes.c_void_p),
        ("square_average", ctypes.c_void_p),
        ("doubled_stiffness", ctypes.c_void_p),
        ("centre", ctypes.c_void_p),
        ("total", ctypes.c_void_p),
        ("position", ctypes.c_void_p),
    )


class _Adam(ctypes.Structure):
    _fields_ = (
        ("lr", ctypes.c_double),
        ("beta1", ctypes.c_double),
        ("beta2", ctypes.c_double),
        ("epsilon", ctypes.c_double),
    )


class NativeUpdate(ParameterUpdate):
    """Adam for float32 on a CPU; the same formulas as `FusedAdam`, rounded differently in the last place.

    Args:
        parameters: what is trained.
        adam: its values.
    """

    name = "native"

    def __init__(self, parameters: Sequence[nn.Parameter], adam: Adam) -> None:
        super().__init__(parameters)
        loop = library().loop
        assert loop is not None
        self._function = loop.update
        self._adam = _Adam(adam.lr, *adam.betas, adam.eps)
        self._reset = adam.reset
        self._state = AdamState(parameters, torch.zeros(len(self._parameters), dtype=torch.float64))

    @staticmethod
    def takes(parameters: Sequence[nn.Parameter]) -> bool:
        """Whether these parameters are of the kind that the C loop reads."""
        return all(p.device.type == "cpu" and p.dtype == torch.float32 and p.is_contiguous() for p in parameters)

    def start_context(self, iterations: int | None) -> None:
        if self._reset:
            self._state.reset()

    def state(self) -> dict[str, Any]:
        return self._state.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._state.load_state(state)

    def _arrange(self, numbers: list[int]) -> None:
        self._moved = [self._parameters[number] for number in numbers]
        self._table = (_Parameter * len(numbers))(*map(self._row, numbers))
        self._pointers = ctypes.c_void_p * len(numbers)

    def _row(self, number: int) -> _Parameter:
        p = self._parameters[number]
        spring, path = self._springs.get(p), self._path_integrals.get(p)
        return _Parameter(
            size=p.numel(),
            steps=self._state.steps[number].data_ptr(),
            value=p.data_ptr(),
            average=self._state.averages[number].data_ptr(),
            square_average=self._state.square_averages[number].data_ptr(),
            doubled_stiffness=None if spring is None else spring.doubled_stiffness.data_ptr(),
            centre=None if spring is None else spring.centre.data_ptr(),
            total=None if path is None else path.total.data_ptr(),
            position=None if path is None or path.position is None else path.position.data_ptr(),
        )

    def _update(self) -> None:
        pointers = self._pointers(*[p.grad.data_ptr() for p in self._moved if p.grad is not None])
        self._function(self._table, pointers, len(self._moved), ctypes.byref(self._adam))


@dataclass(frozen=True)
class Library:
    """The compiled loop.

    Attributes:
        loop: None where it can't be had.
        note: why it can't, or why it is compiled in every process; one sentence for the user, None where all is well.
    """

    loop: ctypes.CDLL | None
    note: str | None = None


@once
def library() -> Library:
    """Load the compiled loop, made where it isn't there, once in a process."""
    compiler = shutil.which("gcc")
    if compiler is None:
        return _without("no gcc on the PATH")
    try:
        return _loaded(compiler)
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip()
        log.info("%s %s", error, said)
        return _without(f"gcc can't compile {_SOURCE.name} ({(said or str(error)).splitlines()[0]})")


def _without(reason: str) -> Library:
    note = f"{reason}: PyTorch's operations update the parameters, and penalties cost up to half a step"
    log.info("%s", note)
    return Library(None, note)


def _loaded(compiler: str) -> Library:
    """The library from the cache folder, or a private one where that can't be used or trusted."""
    try:
        cache.refuse_foreign(cache.folder())
        kept = _kept(compiler)
        return Library(_load(kept) if kept is not None else _made(compiler))
    except OSError as error:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
            loop = _load(_built(compiler, Path(scratch)))
        note = f"the compiled update is not kept, and made anew by every process: {error}"
        log.info("%s", note)
        return Library(loop, note)


def _kept(compiler: str) -> Path | None:
    """The library in the cache folder; what stands there in its place is removed."""
    for path in cache.folder().glob(f"{_name(compiler)}-*.so"):
        try:
            cache.refuse_foreign(path)
            if path.stem.endswith(f"-{_digest(path)}"):
                return path
            log.info("%s is damaged: made anew.", path)
        except PermissionError as error:
            log.info("%s: made anew.", error)
        path.unlink(missing_ok=True)
    return None


def _made(compiler: str) -> ctypes.CDLL:
    """Compile the library into the cache folder."""
    with cache.scratch() as place:
        new = _built(compiler, place)
        loop = _load(new)  # first: what can't be loaded isn't kept
        new.chmod(0o755)  # whatever the umask says
        new.replace(cache.folder() / f"{_name(compiler)}-{_digest(new)}.so")  # whole, whoever else compiles it
    return loop


def _built(compiler: str, place: Path) -> Path:
    path = place / "update.so"
    command = [compiler, *_FLAGS, str(_SOURCE), "-o", str(path), "-lm"]
    subprocess.run(command, check=True, capture_output=True, timeout=_COMPILER_SECONDS)
    return path


def _load(path: Path) -> ctypes.CDLL:
    loop = ctypes.CDLL(str(path))
    loop.update.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    loop.update.restype = None
    return loop


def _name(compiler: str) -> str:
    """The file's name up to its digest: what it is made from."""
    made_from = (_SOURCE.read_text(encoding="utf-8"), *_FLAGS, compiler, _processor())
    return f"update-{hashlib.sha256(chr(10).join(made_from).encode()).hexdigest()[:_DIGEST]}"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:_DIGEST]


def _processor() -> str:
    """What `-march=native` depends on: a cache folder may be shared by different machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())
