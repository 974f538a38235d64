from __future__ import annotations

import os
from collections.abc import Iterator

import joblib
import psutil
import pytest
import torch

from clsweep.training import machine
from clsweep.training.machine import bf16_warning, busy_cores_warning, prepare_cpu


@pytest.fixture(autouse=True)
def threads_put_back() -> Iterator[None]:
    before = torch.get_num_threads()
    machine.idle_cores.cache_clear()
    yield
    machine.idle_cores.cache_clear()
    torch.set_num_threads(before)


def test_a_number_of_threads_is_kept() -> None:
    prepare_cpu(3)
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize(
    ("busy", "threads"),
    [
        (
            [3.0, 5.0, 2.0, 0.0, 1.0, 0.0, 90.0, 90.0],
            3,
        ),  # this process may use the first six, which are three of its own
        ([99.0, 99.0, 99.0, 40.0, 0.0, 0.0, 0.0, 0.0], 3),
        ([99.0, 99.0, 99.0, 60.0, 0.0, 0.0, 0.0, 0.0], 2),
        ([99.0, 99.0, 99.0, 99.0, 99.0, 99.0, 0.0, 0.0], 1),
    ],
)
def test_by_default_there_is_a_thread_for_each_core_of_the_process_that_is_idle(
    monkeypatch: pytest.MonkeyPatch, busy: list[float], threads: int
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(joblib, "cpu_count", lambda only_physical_cores: 3 if only_physical_cores else 6)
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval, percpu: busy)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)), raising=False)
    note = prepare_cpu(None)
    assert torch.get_num_threads() == threads
    if threads == 3:
        assert note is None
    else:
        assert note == (
            f"other processes keep {sum(busy[:6]) / 100:.1f} of 6 cores busy: a run takes {threads} of 3 threads "
            "(threads=3 takes all, and is slower now)"
        )


def test_all_runs_of_a_process_have_as_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(joblib, "cpu_count", lambda only_physical_cores: 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval, percpu: [100.0, 0.0])
    first = prepare_cpu(None)
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval, percpu: [0.0, 0.0])
    assert prepare_cpu(None) == first
    assert torch.get_num_threads() == 1


def test_threads_that_are_asked_for_are_taken_on_a_busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval, percpu: [100.0, 100.0])
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert prepare_cpu(3) is None
    assert torch.get_num_threads() == 3
    assert prepare_cpu(None) is None
    assert torch.get_num_threads() == 2


def test_what_a_launcher_says_in_the_environment_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    prepare_cpu(3)
    prepare_cpu(None)
    assert torch.get_num_threads() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "2,1")
    prepare_cpu(None)
    assert torch.get_num_threads() == 2


def test_subnormal_numbers_are_flushed() -> None:
    prepare_cpu(None)
    assert (torch.tensor(1e-38) / 10).item() == 0


@pytest.mark.parametrize(
    ("threads", "busy", "said"),
    [
        (2, [3.0, 5.0, 90.0, 4.0], False),
        (2, [95.0, 90.0, 0.0, 0.0], True),  # this process may use the first two alone
        (2, [40.0, 90.0, 0.0, 0.0], True),
        (2, [30.0, 10.0, 0.0, 0.0], False),
        (1, [99.0, 99.0, 99.0, 99.0], False),
    ],
)
def test_a_machine_that_is_busy_is_said_to_be(
    monkeypatch: pytest.MonkeyPatch, threads: int, busy: list[float], said: bool
) -> None:
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval, percpu: busy)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    torch.set_num_threads(threads)
    sentence = busy_cores_warning()
    assert (sentence is not None) == said
    if sentence is not None:
        assert "of 2 cores busy: threads=1" in sentence


@pytest.mark.parametrize(("bf16_seconds", "said"), [(0.3, False), (1.0, False), (15.0, True)])
def test_a_processor_without_kernels_for_bf16_is_said_to_be_slow(
    monkeypatch: pytest.MonkeyPatch, bf16_seconds: float, said: bool
) -> None:
    seconds = {torch.float32: 1.0, torch.bfloat16: bf16_seconds}
    monkeypatch.setattr(machine, "_product_seconds", seconds.__getitem__)
    sentence = bf16_warning()
    assert (sentence is not None) == said
    if sentence is not None:
        assert "15 times as long" in sentence
        assert "precision=float32" in sentence
