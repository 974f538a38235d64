"""The account of contexts that the soaks count by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from builders import setting
from test_cli import TINY

from clsweep.config import Config
from clsweep.results.metrics import Cell
from clsweep.training.observers import Observer
from clsweep.training.run import run


class Stops(Observer):
    """Ends a run after its second context."""

    def context_done(self, cells: Sequence[Cell]) -> None:
        if cells[0].after_context == 2:
            raise KeyboardInterrupt


def stopped(folder: Path, accounting: Sequence[str]) -> Config:
    """The setting of a run that was stopped after its second context."""
    short = (*TINY, "benchmark.contexts=3", "benchmark.iters=4", "figures=false", "threads=1", "regularizer=ewc")
    config = setting(*short, *accounting)
    folder.mkdir()
    with pytest.raises(KeyboardInterrupt):
        run(config, folder, Stops())
    return config


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_context_that_is_trained_again_is_counted(lost: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).resolve().parent.parent.parent / "scripts")
    import soaking

    account, folder = tmp_path / "account.jsonl", tmp_path / "run"
    config = stopped(folder, soaking.override(account))
    for path in sorted(folder.glob("checkpoints/*"))[2 - lost :]:
        path.unlink()
    run(config, folder, Observer())
    found = soaking.contexts(account)
    assert (found.contexts, found.begun, found.trained_twice) == (3, 3 + lost, lost)
    assert list(soaking.left_over(folder)) == []


def test_a_context_whose_checkpoint_is_there_is_finished_though_no_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).resolve().parent.parent.parent / "scripts")
    import soaking

    account, folder = tmp_path / "account.jsonl", tmp_path / "run"
    config = stopped(folder, soaking.override(account))
    account.unlink()
    kept = {path: path.read_bytes() for path in folder.glob("checkpoints/*")}
    for path in kept:
        path.unlink()

    class PutsBack(Observer):
        def setting(self, started: object) -> None:
            for path, content in kept.items():
                path.write_bytes(content)

    run(config, folder, PutsBack())
    assert soaking.contexts(account).trained_twice == 2
