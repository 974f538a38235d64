from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from builders import refuse_writing
from trees import summary

from clsweep import results, resuming
from clsweep.errors import InputError
from clsweep.results.metrics import Cell
from clsweep.training import first_context

REQUIRED = """
    run_id status benchmark scenario dataset n_train n_test contexts regularizer reg_strength gamma epsilon seed
    budget iters batch_size lr precision device average_accuracy learning_accuracy forgetting backward_transfer
    validation_average_accuracy train_seconds importance_seconds eval_seconds iters_per_second peak_memory_mib
    clsweep_version git_commit torch_version started_at
"""

CELLS = [
    Cell(0, 1, "test", 0.5, 8),
    Cell(0, 2, "test", 0.25, 4),
    Cell(1, 1, "test", 0.1 + 0.2, 8),
    Cell(1, 1, "validation", 2 / 3, 3),
]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_accuracy_csv_holds_one_row_a_cell_in_order(tmp_path: Path) -> None:
    results.write(tmp_path, summary(run_id="r1"), CELLS)
    assert (tmp_path / "accuracy.csv").read_bytes() == (
        b"run_id,after_context,context,split,accuracy,n\n"
        b"r1,0,1,test,0.5,8\n"
        b"r1,0,2,test,0.25,4\n"
        b"r1,1,1,test,0.30000000000000004,8\n"
        b"r1,1,1,validation,0.6666666666666666,3\n"
    )


def test_a_run_without_cells_still_has_a_header(tmp_path: Path) -> None:
    results.write(tmp_path, summary(run_id="r1"), [])
    assert (tmp_path / "accuracy.csv").read_text() == "run_id,after_context,context,split,accuracy,n\n"


def test_summary_csv_has_one_row_with_every_promised_column(tmp_path: Path) -> None:
    results.write(tmp_path, summary(run_id="r1", status="finished", seed=3, average_accuracy=0.75), CELLS)
    table = rows(tmp_path / "summary.csv")
    assert len(table) == 1
    assert set(REQUIRED.split()) <= set(table[0])
    assert {key: table[0][key] for key in ("run_id", "status", "seed", "average_accuracy")} == {
        "run_id": "r1",
        "status": "finished",
        "seed": "3",
        "average_accuracy": "0.75",
    }


def test_what_was_not_reached_is_an_empty_cell(tmp_path: Path) -> None:
    results.write(tmp_path, summary(forgetting=math.nan, reason='it\nfailed, "badly"'), CELLS)
    row = rows(tmp_path / "summary.csv")[0]
    assert row["forgetting"] == ""
    assert row["reason"] == 'it\nfailed, "badly"'


def test_files_are_alone_in_the_folder_once_written(tmp_path: Path) -> None:
    results.write(tmp_path, summary(), CELLS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["accuracy.csv", "summary.csv"]


@pytest.fixture
def disk_full(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every write of the files named in the list stops after a few bytes."""
    broken: list[str] = []
    refuse_writing(monkeypatch, lambda name: any(one in name for one in broken))
    return broken


@pytest.mark.parametrize(("broken", "whole"), [("accuracy.csv", []), ("summary.csv", ["accuracy.csv"])])
def test_a_file_that_was_not_written_whole_does_not_appear(
    broken: str, whole: list[str], disk_full: list[str], tmp_path: Path
) -> None:
    disk_full.append(broken)
    with pytest.raises(OSError, match="No space left"):
        results.write(tmp_path, summary(), CELLS)
    assert [name for name in ("accuracy.csv", "summary.csv") if (tmp_path / name).exists()] == whole
    assert list(tmp_path.iterdir()) == [tmp_path / name for name in whole]  # nothing half written is left either


def test_what_a_killed_process_has_left_is_removed_but_not_what_is_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results.write(tmp_path, summary(), CELLS)
    old, new = tmp_path / ".summary.csv.0000000a.partial", tmp_path / ".summary.csv.0000000b.partial"
    for path in (old, new):
        path.write_bytes(b"")
    os.utime(old, (0, 0))
    results.remove_partial(tmp_path, idle=60)
    assert (old.exists(), new.exists()) == (False, True)
    monkeypatch.setattr("time.time", lambda: new.stat().st_mtime + 3600)  # a file server's clock is another one
    results.remove_partial(tmp_path, idle=60)
    assert new.exists()
    ahead = new.stat().st_mtime + 3600
    os.utime(new, (ahead, ahead))
    results.remove_partial(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["accuracy.csv", "summary.csv"]


def test_folders_that_go_while_what_was_left_is_looked_for_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two commands of one sweep end at the same time, and each tidies up."""
    for name in ("first_contexts", "trial-0000"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".a.csv.0000000a.partial").touch()
    look = os.scandir

    def gone(path: str | os.PathLike[str]) -> Iterator[os.DirEntry[str]]:
        if Path(path).name == "first_contexts":
            raise FileNotFoundError(path)
        return look(path)

    with monkeypatch.context() as patched:
        patched.setattr("os.scandir", gone)
        results.remove_partial(tmp_path)
        first_context.remove(tmp_path / "first_contexts")
    assert [path.parent.name for path in tmp_path.rglob("*.partial")] == ["first_contexts"]


def test_a_failed_write_leaves_the_earlier_file_as_it_was(disk_full: list[str], tmp_path: Path) -> None:
    results.write(tmp_path, summary(run_id="first"), CELLS)
    before = (tmp_path / "summary.csv").read_bytes()
    disk_full.append("summary.csv")
    with pytest.raises(OSError, match="No space left"):
        results.write(tmp_path, summary(run_id="second"), CELLS)
    assert (tmp_path / "summary.csv").read_bytes() == before


@pytest.mark.parametrize("name", ["accuracy.csv", "summary.csv"])
def test_a_folder_with_results_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "clsweep.log").touch()
    resuming.refuse_other(tmp_path, {})  # a log alone is no result
    (tmp_path / name).touch()
    with pytest.raises(InputError) as caught:
        resuming.refuse_other(tmp_path, {})
    assert f"hydra.run.dir={tmp_path}" in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("test", [[0.5, 0.25], [0.1 + 0.2, math.nan], [math.nan, math.nan]]),
        ("validation", [[math.nan, math.nan], [2 / 3, math.nan], [math.nan, math.nan]]),
    ],
)
def test_the_accuracy_matrix_has_a_row_a_learned_context_and_nan_for_the_rest(
    split: str, expected: list[list[float]]
) -> None:
    np.testing.assert_array_equal(results.accuracy_matrix(CELLS, split, contexts=2), np.array(expected))


def test_hyperparameters_of_the_methods_own_are_columns_behind_the_others(tmp_path: Path) -> None:
    own: dict[str, float | str] = {"temperature": 2.0, "mode": "soft"}
    results.write(tmp_path, summary(run_id="r1", hyperparameters="reg_strength temperature mode", values=own), CELLS)
    row = rows(tmp_path / "summary.csv")[0]
    assert list(row)[-3:] == ["reason", "temperature", "mode"]
    assert (row["temperature"], row["mode"]) == ("2.0", "soft")


@pytest.mark.parametrize(
    ("name", "taken"),
    [("seed", True), ("gamma", True), ("state", True), ("validation_after_3", True), ("temperature", False)],
)
def test_a_hyperparameter_may_not_be_called_like_another_column(name: str, taken: bool) -> None:
    assert results.is_taken(name) is taken
