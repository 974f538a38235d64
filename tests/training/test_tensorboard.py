from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest
from builders import setting
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_cli import TINY

from clsweep.errors import InputError
from clsweep.training.observers import Silent
from clsweep.training.run import run


def test_scalars_are_the_accuracies_and_the_final_metrics(tmp_path: Path) -> None:
    summary = run(setting(*TINY, "regularizer=l2", "validation_fraction=0.1", "tensorboard=true"), tmp_path, Silent())
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    cells = pd.read_csv(tmp_path / "accuracy.csv").set_index(["split", "context", "after_context"])["accuracy"]
    for split in ("test", "validation"):
        second = events.Scalars(f"{split}/context_02")
        assert [(one.step, one.value) for one in second] == [(2, pytest.approx(cells[split, 2, 2]))]
        means = [(one.step, one.value) for one in events.Scalars(f"{split}/mean_of_learned")]
        both = (cells[split, 1, 2] + cells[split, 2, 2]) / 2
        assert means == [(1, pytest.approx(cells[split, 1, 1])), (2, pytest.approx(both))]
    (final,) = events.Scalars("final/average_accuracy")
    assert final.value == pytest.approx(summary.average_accuracy)
    (forgetting,) = events.Scalars("final/forgetting")
    assert forgetting.value == pytest.approx(summary.forgetting)


def test_without_the_package_nothing_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "clsweep.training.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(
        InputError, match=r"tensorboard=true: .* not installed; expected pip install 'clsweep\[tensorboard\]'"
    ):
        run(setting(*TINY, "tensorboard=true"), tmp_path, Silent())
    assert list(tmp_path.iterdir()) == []
