from __future__ import annotations

from collections.abc import Iterator

import joblib
import pytest
import torch

from clsweep.machine import prepare_cpu


@pytest.fixture(autouse=True)
def threads_put_back() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_number_of_threads_is_kept() -> None:
    prepare_cpu(3)
    assert torch.get_num_threads() == 3


def test_by_default_there_is_a_thread_for_each_physical_core_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(joblib, "cpu_count", lambda only_physical_cores: 5 if only_physical_cores else 10)
    prepare_cpu(None)
    assert torch.get_num_threads() == 5


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
