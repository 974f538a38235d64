"""The update as one loop in C, compiled at its first use where there is a compiler.

PyTorch's wheels have no operation that fuses a spring, Adam and a path integral, and `torch.compile`, which could make
one, takes many seconds and the same C compiler. This file of C takes a quarter of a second, once: the compiled library
is kept in the user's cache folder, under a name made of everything that it was made from. Its threads are PyTorch's:
both use the same OpenMP library.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache as once
from pathlib import Path

import torch
from torch import nn

from clsweep import cache
from clsweep.update.base import BETAS, EPSILON, ParameterUpdate

log = logging.getLogger(__name__)

_SOURCE = Path(__file__).with_name("native.c")
# errno and traps are what keeps a compiler from making the square root and the division vectors.
_FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC")
_COMPILER_SECONDS = 60


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
    """For float32 on a CPU; the same formulas as `ForeachUpdate`, rounded differently in the last place."""

    name = "native"

    def __init__(self, parameters: Sequence[nn.Parameter], lr: float) -> None:
        super().__init__(parameters, lr)
        compiled = library()
        assert compiled is not None
        self._function = compiled.update
        self._adam = _Adam(lr, *BETAS, EPSILON)
        self._steps = torch.zeros(len(self._parameters), dtype=torch.float64)

    @staticmethod
    def takes(parameters: Sequence[nn.Parameter]) -> bool:
        """Whether these parameters are of the kind that the C loop reads."""
        return all(p.device.type == "cpu" and p.dtype == torch.float32 and p.is_contiguous() for p in parameters)

    def _lay_out(self, p: nn.Parameter) -> None:
        if not p.is_contiguous():
            p.data = p.data.contiguous()

    def _arrange(self, numbers: list[int]) -> None:
        self._moved = [self._parameters[number] for number in numbers]
        self._table = (_Parameter * len(numbers))(*map(self._row, numbers))
        self._pointers = ctypes.c_void_p * len(numbers)

    def _row(self, number: int) -> _Parameter:
        p = self._parameters[number]
        spring, path = self._springs.get(p), self._path_integrals.get(p)
        return _Parameter(
            size=p.numel(),
            steps=self._steps[number].data_ptr(),
            value=p.data_ptr(),
            average=self._averages[number].data_ptr(),
            square_average=self._square_averages[number].data_ptr(),
            doubled_stiffness=None if spring is None else spring.doubled_stiffness.data_ptr(),
            centre=None if spring is None else spring.centre.data_ptr(),
            total=None if path is None else path.total.data_ptr(),
            position=None if path is None or path.position is None else path.position.data_ptr(),
        )

    def _update(self) -> None:
        pointers = self._pointers(*[p.grad.data_ptr() for p in self._moved if p.grad is not None])
        self._function(self._table, pointers, len(self._moved), ctypes.byref(self._adam))


@once
def library() -> ctypes.CDLL | None:
    """The compiled loop; None where it can't be had, and the log says why."""
    compiler = shutil.which("gcc")
    if compiler is None:
        log.info("no gcc on the PATH: penalties and path integrals use PyTorch's operations, which are slower.")
        return None
    try:
        compiled = ctypes.CDLL(str(_compiled(compiler)))
        compiled.update.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
        compiled.update.restype = None
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or b""
        log.info("no compiled %s, PyTorch's slower operations are used: %s %s", _SOURCE.name, error, said.decode())
        return None
    return compiled


def _compiled(compiler: str) -> Path:
    """The library in the cache folder, made if it isn't there."""
    made_from = (_SOURCE.read_text(encoding="utf-8"), *_FLAGS, compiler, _processor())
    name = hashlib.sha256("\n".join(made_from).encode()).hexdigest()[:16]
    folder = cache.folder()
    path = folder / f"update-{name}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            new = Path(scratch) / path.name
            command = [compiler, *_FLAGS, str(_SOURCE), "-o", str(new), "-lm"]
            subprocess.run(command, check=True, capture_output=True, timeout=_COMPILER_SECONDS)
            new.replace(path)  # whole or not at all, whoever else compiles it meanwhile
    return path


def _processor() -> str:
    """What `-march=native` depends on: a cache folder may be shared by different machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())
