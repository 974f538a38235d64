"""The two updates: against `torch.optim.Adam`, against loops over the formulas in float64, and against each other."""

from __future__ import annotations

import logging
import math
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from clsweep.training.update import (
    Adam,
    ForeachUpdate,
    FusedAdam,
    NativeUpdate,
    ParameterUpdate,
    PathIntegral,
    Spring,
    native,
    parameter_update,
)

LR = 0.01
PLAIN = Adam(LR)
OTHER = Adam(LR, betas=(0.5, 0.9), eps=1e-3, reset=True)
# Around the sizes at which the C loop cuts a tensor and a vector ends; the last has rows that are no multiple of 16.
SHAPES = [(1,), (15,), (4096,), (4097,), (3, 5), (111, 93)]
needs_compiler = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")

Update = Callable[[Sequence[nn.Parameter], Adam], ParameterUpdate]


def foreach(parameters: Sequence[nn.Parameter], adam: Adam) -> ForeachUpdate:
    return ForeachUpdate(parameters, FusedAdam(parameters, adam))


UPDATES = [foreach, pytest.param(NativeUpdate, marks=needs_compiler)]


def normal(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def parameters(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    return [nn.Parameter(normal(shape, seed, dtype)) for seed, shape in enumerate(SHAPES)]


def set_gradients(of: Sequence[nn.Parameter], step: int) -> None:
    for number, p in enumerate(of):
        p.grad = normal(tuple(p.shape), 100 * step + number, p.dtype)


def springs(of: Sequence[nn.Parameter]) -> dict[nn.Parameter, Spring]:
    """On every parameter but the third; some stiffness is negative, as SI's may be."""
    return {
        p: Spring(3 * normal(tuple(p.shape), 50 + n, p.dtype), normal(tuple(p.shape), 60 + n, p.dtype))
        for n, p in enumerate(of)
        if n != 2
    }


def path_integrals(of: Sequence[nn.Parameter]) -> dict[nn.Parameter, PathIntegral]:
    """On every parameter but the fourth; the second's and the last's positions are not kept."""
    return {
        p: PathIntegral(torch.zeros_like(p), None if n in (1, 5) else p.detach().clone())
        for n, p in enumerate(of)
        if n != 3
    }


def trained(update: Update, dtype: torch.dtype = torch.float32, steps: int = 5, adam: Adam = PLAIN) -> list[Tensor]:
    """Two contexts, the second with springs; the parameters and the second context's path integrals."""
    made = parameters(dtype)
    updating = update(made, adam)
    for context in (0, 1):
        paths = path_integrals(made)
        updating.start_context(steps)
        updating.set_springs(springs(made) if context else {})
        updating.set_path_integrals(paths)
        for step in range(steps):
            set_gradients(made, 10 * context + step)
            updating.step()
            for p, path in paths.items():
                assert path.position is None or torch.equal(path.position, p)
    return [p.detach() for p in made] + [path.total for path in paths.values()]


class NaiveUpdate(ParameterUpdate):
    """Element by element, as the papers have it."""

    def __init__(self, parameters: Sequence[nn.Parameter], adam: Adam) -> None:
        super().__init__(parameters)
        self._adam = adam
        self._begin()

    def _begin(self) -> None:
        self.steps = 0
        self._averages = [torch.zeros_like(p) for p in self._parameters]
        self._square_averages = [torch.zeros_like(p) for p in self._parameters]

    def start_context(self, iterations: int | None) -> None:
        if self._adam.reset:
            self._begin()

    def _arrange(self, numbers: list[int]) -> None:
        assert len(numbers) == len(self._parameters)

    def _update(self) -> None:
        self.steps += 1
        beta1, beta2 = self._adam.betas
        for number, p in enumerate(self._parameters):
            spring, path = self._springs.get(p), self._path_integrals.get(p)
            values, averages, squares = p.data.view(-1), self._averages[number], self._square_averages[number]
            assert p.grad is not None
            for i, gradient in enumerate(p.grad.view(-1).tolist()):
                value, average, square = values[i].item(), averages.view(-1)[i].item(), squares.view(-1)[i].item()
                if spring:
                    stiffness, centre = spring.doubled_stiffness.view(-1)[i].item(), spring.centre.view(-1)[i].item()
                    gradient += stiffness * (value - centre)
                average = beta1 * average + (1 - beta1) * gradient
                square = beta2 * square + (1 - beta2) * gradient**2
                corrected = square / (1 - beta2**self.steps)
                step = average / (1 - beta1**self.steps) / (math.sqrt(corrected) + self._adam.eps)
                new = value - self._adam.lr * step
                values[i], averages.view(-1)[i], squares.view(-1)[i] = new, average, square
                if path:
                    before = value if path.position is None else path.position.view(-1)[i].item()
                    path.total.view(-1)[i] -= gradient * (new - before)
                if path and path.position is not None:
                    path.position.view(-1)[i] = new


@pytest.mark.parametrize("adam", [PLAIN, OTHER])
def test_foreach_in_float64_is_the_naive_loop(adam: Adam) -> None:
    naive = trained(NaiveUpdate, torch.float64, steps=2, adam=adam)
    for ours, expected in zip(trained(foreach, torch.float64, steps=2, adam=adam), naive, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("adam", [PLAIN, OTHER])
@pytest.mark.parametrize("update", UPDATES)
def test_every_update_in_float32_is_near_foreach_in_float64(update: Update, adam: Adam) -> None:
    for ours, expected in zip(trained(update, adam=adam), trained(foreach, torch.float64, adam=adam), strict=True):
        assert expected.abs().max() > 0.01
        torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("update", UPDATES)
def test_without_springs_it_is_torchs_adam(update: Update) -> None:
    ours, theirs = parameters(), parameters()
    adam = torch.optim.Adam(theirs, lr=LR, fused=True)
    updating = update(ours, PLAIN)
    for step in range(6):
        for of in (ours, theirs):
            set_gradients(of, step)
            if step in (0, 3):  # comes late, and rests for one step
                of[1].grad = None
        updating.step()
        adam.step()
    for a, b in zip(ours, theirs, strict=True):
        if update is foreach:
            assert torch.equal(a, b)
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("update", UPDATES)
def test_a_parameter_without_a_gradient_rests_unless_a_spring_pulls(update: Update) -> None:
    pulled, free, frozen = (nn.Parameter(torch.ones(3)) for _ in range(3))
    frozen.requires_grad_(False)
    updating = update([pulled, free, frozen], PLAIN)
    updating.set_springs({p: Spring(torch.ones(3), torch.zeros(3)) for p in (pulled, frozen)})
    updating.step()
    assert (pulled < 1).all()
    assert torch.equal(free, torch.ones(3))
    assert torch.equal(frozen, torch.ones(3))


@pytest.mark.parametrize("update", UPDATES)
def test_a_transposed_gradient_is_read_in_its_own_order(update: Update) -> None:
    ours, theirs = (nn.Parameter(normal((5, 7), 0)) for _ in range(2))
    gradient = normal((7, 5), 1)
    for p, given in ((ours, gradient.T), (theirs, gradient.T.contiguous())):
        p.grad = given
        update([p], PLAIN).step()
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("update", UPDATES)
def test_a_parameter_may_get_other_memory(update: Update) -> None:
    p = nn.Parameter(torch.ones(4))
    updating = update([p], PLAIN)
    p.grad = torch.ones(4)
    updating.step()
    p.data = torch.full((4,), 5.0)
    updating.step()
    torch.testing.assert_close(p.detach(), torch.full((4,), 5 - LR))


@pytest.mark.parametrize("update", UPDATES)
def test_nothing_to_do_is_nothing_done(update: Update) -> None:
    p = nn.Parameter(torch.ones(4))
    update([p], PLAIN).step()
    assert torch.equal(p, torch.ones(4))


@needs_compiler
def test_a_parameter_that_becomes_transposed_is_laid_out_anew() -> None:
    ours, theirs = (nn.Parameter(normal((5, 7), 0)) for _ in range(2))
    updates = [NativeUpdate([ours], PLAIN), foreach([theirs], PLAIN)]
    ours.data = ours.data.T.contiguous().T
    for step in range(3):
        for p, updating in zip((ours, theirs), updates, strict=True):
            p.grad = normal((5, 7), step)
            updating.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@needs_compiler
def test_several_threads_do_what_one_does() -> None:
    alone = trained(NativeUpdate)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        together = trained(NativeUpdate)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_types_and_layouts_that_c_does_not_read_are_left_to_pytorch() -> None:
    assert isinstance(parameter_update(parameters(torch.float64), tiny.optimizer()), ForeachUpdate)
    assert isinstance(parameter_update([nn.Parameter(torch.ones(3, 2).T)], tiny.optimizer()), ForeachUpdate)


# ---- the compiled library


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.library.cache_clear()
    yield tmp_path / "clsweep"
    native.library.cache_clear()


@needs_compiler
def test_it_is_compiled_once(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(parameter_update(parameters(), tiny.optimizer()), NativeUpdate)
    (compiled,) = empty_cache.iterdir()
    assert compiled.suffix == ".so"
    native.library.cache_clear()
    monkeypatch.setattr(subprocess, "run", _never)
    assert isinstance(parameter_update(parameters(), tiny.optimizer()), NativeUpdate)


def _never(*_: Any, **__: Any) -> None:
    raise AssertionError("compiled again")


def _compiled_file(folder: Path) -> Path:
    native.library.cache_clear()
    assert native.library().note is None
    (file,) = folder.iterdir()
    return file


def _replace(file: Path, content: bytes, mode: int = 0o755) -> None:
    """Another file in its place: this process still has the old one mapped."""
    file.unlink()
    file.write_bytes(content)
    file.chmod(mode)


@needs_compiler
@pytest.mark.parametrize("damage", ["half", "nothing", "another library", "writable by all", "another's"])
def test_a_kept_library_that_is_not_whole_or_not_ours_alone_is_made_anew(
    empty_cache: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = _compiled_file(empty_cache)
    content = file.read_bytes()
    if damage == "writable by all":
        file.chmod(0o777)
    elif damage == "another's":
        real = Path.stat

        def foreign(path: Path, **options: Any) -> os.stat_result:
            found = list(real(path, **options))
            found[stat.ST_UID] += 4242 if path == file else 0
            return os.stat_result(found)

        monkeypatch.setattr(Path, "stat", foreign)
    else:
        _replace(
            file, {"half": content[: len(content) // 2], "nothing": b"", "another library": content + b"1"}[damage]
        )
    before = file.stat().st_ino
    native.library.cache_clear()
    assert isinstance(parameter_update(parameters(), tiny.optimizer()), NativeUpdate)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(empty_cache.parent))
    (new,) = empty_cache.iterdir()
    assert new.stat().st_ino != before or damage == "another's"
    assert new.read_bytes() == content
    assert new.stat().st_mode & 0o777 == 0o755


@needs_compiler
@pytest.mark.parametrize("wrong", ["writable by its group", "a file"])
def test_a_cache_folder_that_cannot_be_trusted_or_used_costs_a_private_build(
    empty_cache: Path, wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    if wrong == "a file":
        empty_cache.write_text("a file where the folder would be")
    else:
        planted = _compiled_file(empty_cache)
        _replace(planted, b"not to be loaded")
        empty_cache.chmod(0o770)
    native.library.cache_clear()
    with caplog.at_level(logging.INFO):
        assert isinstance(parameter_update(parameters(), tiny.optimizer()), NativeUpdate)
    note = native.library().note
    assert note is not None
    assert note.startswith("the compiled update is not kept, and made anew by every process: ")
    assert note in caplog.text
    if wrong != "a file":
        assert f"chmod go-w {empty_cache}" in note
        assert [file.read_bytes() for file in empty_cache.iterdir()] == [b"not to be loaded"]


@pytest.mark.usefixtures("empty_cache")
def test_without_a_compiler_pytorchs_operations_do_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with caplog.at_level(logging.INFO):
        assert isinstance(parameter_update(parameters(), tiny.optimizer()), ForeachUpdate)
    assert "no gcc" in caplog.text
    assert native.library().note == (
        "no gcc on the PATH: PyTorch's operations update the parameters, and penalties cost up to half a step"
    )


@pytest.mark.usefixtures("empty_cache")
@pytest.mark.parametrize("broken", ["#!/bin/sh\nexit 1\n", "#!/bin/sh\ntouch $(echo $* | sed 's/.*-o //; s/ .*//')\n"])
def test_a_broken_compiler_is_none(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compiler = tmp_path / "gcc"
    compiler.write_text(broken, encoding="utf-8")
    compiler.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda _: str(compiler))
    with caplog.at_level(logging.INFO):
        assert isinstance(parameter_update(parameters(), tiny.optimizer()), ForeachUpdate)
    assert "can't compile native.c" in caplog.text
    assert "can't compile native.c" in str(native.library().note)
    assert list((tmp_path / "clsweep").iterdir()) == []
