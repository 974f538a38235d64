from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import pandas as pd
import pytest
from builders import ROOT
from trees import write_run, write_study

from clsweep import pack as pack_command
from clsweep import results
from clsweep.errors import InputError, RunError
from clsweep.report import regret
from clsweep.report.selection import select
from clsweep.results import Results, packing
from clsweep.results.packed import TABLES
from clsweep.results.packing import pack
from clsweep.results.writing import csv_text

FILES = Path(__file__).parent / "files"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Runs and studies of all formats, finished or not, one with a hyperparameter of its own."""
    folder = tmp_path / "source"
    shutil.copytree(FILES, folder)
    write_run(folder / "own", hyperparameters="temperature", values={"temperature": 0.1 + 0.2})
    write_run(folder / "failed", status="failed", reason="=a formula,\nand a line")
    (folder / "own" / ".hydra").mkdir()
    (folder / "own" / ".hydra" / "overrides.yaml").write_text("- +benchmark=split_mnist\n- regularizer.lr=3\n")
    write_study(folder / "sweeps" / "one")
    return folder


def assert_same(first: Results, second: Results, folders: tuple[Path, Path]) -> None:
    for name in TABLES:
        one, other = getattr(first, name), getattr(second, name)
        assert len(one) > 0
        for frame, folder in ((one, folders[0]), (other, folders[1])):
            for place in {"folder", "study"} & set(frame):
                frame[place] = frame[place].str.removeprefix(f"{folder}/")
            texts = [column for column in frame if frame[column].dtype in ("str", "object")]
            frame[texts] = frame[texts].fillna("")
        pd.testing.assert_frame_equal(one, other[list(one)], check_exact=True)


def test_packed_results_are_read_as_they_were(source: Path, tmp_path: Path) -> None:
    pack(source, tmp_path / "packed")
    assert sorted(one.name for one in (tmp_path / "packed").iterdir()) == sorted(TABLES.values())
    found = results.load(tmp_path / "packed")
    assert found.problems == []
    assert set(found.runs.loc[found.runs["role"] == "final", "study"]) == {str(tmp_path / "packed" / "sweeps" / "one")}
    said = found.runs.set_index("folder").loc[str(tmp_path / "packed" / "own"), "overrides"]
    assert said == "+benchmark=split_mnist regularizer.lr=3"
    assert_same(results.load(source), found, (source, tmp_path / "packed"))


def test_the_command_says_what_is_packed(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pack_command.main([str(source), str(tmp_path / "packed")]) == 0
    found = results.load(tmp_path / "packed")
    assert f"{len(found.runs)} runs, {len(found.studies)} studies: " in capsys.readouterr().out
    assert pack_command.main([str(tmp_path / "nothing"), str(tmp_path / "packed")]) == 2
    assert capsys.readouterr().err.startswith(f"clsweep.pack: {tmp_path / 'nothing'}: ")


def test_packing_into_a_file_is_refused(source: Path, tmp_path: Path) -> None:
    file = tmp_path / "nets.py"
    file.touch()
    for target in (file, file / "below"):
        with pytest.raises(InputError, match=r"nets\.py.*; expected a folder that can be made and written to\.$"):
            pack(source, target)


def test_packing_twice_makes_the_same_files_and_new_runs_may_lie_beside_them(source: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    pack(source, packed)
    before = {name: (packed / name).read_bytes() for name in TABLES.values()}
    pack(packed, packed)
    assert {name: (packed / name).read_bytes() for name in TABLES.values()} == before
    write_run(packed / "later", seed=5)
    (packed / "later" / "overrides.yaml").write_text("- seed=5\n")
    pack(packed, packed)
    shutil.rmtree(packed / "later")
    assert {"seed=5", "+benchmark=split_mnist regularizer.lr=3"} <= set(results.load(packed).runs["overrides"])
    assert len(results.load(packed).runs) == len(results.load(source).runs) + 1
    best = pd.read_csv(packed / TABLES["studies"])["best"]
    assert (source / "format_1" / "study" / "best.yaml").read_text() in list(best)


@pytest.mark.parametrize("below", [".", "packed"])
def test_packing_into_what_is_packed_counts_nothing_twice(source: Path, below: str) -> None:
    before = results.load(source)
    pack(source, source / below)
    found = results.load(source)
    assert [len(getattr(found, name)) for name in TABLES] == [len(getattr(before, name)) for name in TABLES]
    assert set(found.studies["study"]) == set(before.studies["study"])
    told = {one.path for one in found.problems} - {one.path for one in before.problems}
    assert {path.removeprefix(f"{source}/").partition("/")[0] for path in told} == ({below} - {"."})


def stopped_early(folder: Path) -> None:
    """What a run leaves that was stopped before its first row."""
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").touch()


def test_a_run_that_was_stopped_before_its_first_row_is_packed_as_it_is(source: Path, tmp_path: Path) -> None:
    stopped_early(source / "stopped")
    pack(source, tmp_path / "packed")
    found = results.load(tmp_path / "packed")
    assert found.problems == []
    assert_same(results.load(source), found, (source, tmp_path / "packed"))
    stopped = found.runs.set_index("folder").loc["stopped"]
    assert (stopped["status"], stopped["run_id"]) == ("unfinished", "")
    pack(source, source)
    assert results.load(source).runs["folder"].is_unique


def test_tables_that_cannot_be_read_back_are_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(source, tmp_path / "before")
    before = {file.name: file.read_bytes() for file in (tmp_path / "before").iterdir()}
    (source / "own" / "summary.csv").unlink()
    for written, said in (
        (lambda text: text.replace(",3,", ",,", 1), r"runs\.csv\.gz: format_version=; expected a number"),
        (lambda text: text.replace("finished", "pruned", 1), r"runs\.csv\.gz: \d+ rows, which aren't the \d+"),
    ):
        monkeypatch.setattr(packing, "csv_text", lambda table, change=written: change(csv_text(table)))
        for target in (tmp_path / "before", tmp_path / "new" / "packed"):
            with pytest.raises(RunError, match=said):
                pack(source, target)
    assert {file.name: file.read_bytes() for file in (tmp_path / "before").iterdir()} == before
    assert not (tmp_path / "new").exists()


def test_studies_whose_first_trial_is_not_done_are_not_taken_for_one(tmp_path: Path) -> None:
    for sweep in ("first", "second"):
        study = write_study(tmp_path / sweep / "same")
        header, trial, *_ = (study / "trials.csv").read_text().splitlines()
        (study / "trials.csv").write_text(f"{header}\n{trial.replace(',0.8,0.79,0.9,0.8,3.5,', ',,,,,,')}\n")
    found = results.load(tmp_path)
    assert len(found.studies) == 2
    assert found.trials["seconds"].isna().all()


def test_a_study_that_others_have_joined_is_counted_once(tmp_path: Path) -> None:
    study = write_study(tmp_path / "sweep")  # it was alone there
    (joined := tmp_path / "sweep" / "split_mnist-ewc").mkdir()
    shutil.copy(study / "trials.csv", joined)
    found = results.load(tmp_path)
    assert found.studies["study"].tolist() == [str(study)]
    assert [one.path for one in found.problems] == [str(joined)]


def test_packed_runs_without_a_study_make_a_report(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / "runs" / str(seed), seed=seed)
    pack(tmp_path / "runs", tmp_path / "packed")
    found = results.load(tmp_path / "packed")
    assert found.problems == []
    assert regret.rows(found).empty
    assert select(found).runs["seed"].tolist() == [0, 1]


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no runs and no studies; expected a folder with results, such as outputs/"):
        pack(tmp_path, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cells", None, "cells.csv.gz: cannot be read as CSV"),
        ("trials", b"not packed", "trials.csv.gz: cannot be read as CSV"),
        (
            "studies",
            gzip.compress(b"a,b\n1,2\n", mtime=0),
            "studies.csv.gz: not a table of packed results",
        ),
        ("runs", gzip.compress(b"folder,format_version\na,9\n", mtime=0), "runs.csv.gz: it lacks the column run_id"),
    ],
)
def test_damaged_tables_are_named(source: Path, tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    pack(source, tmp_path / "packed")
    table = tmp_path / "packed" / TABLES[name]
    table.unlink()
    if content is not None:
        table.write_bytes(content)
    found = results.load(tmp_path / "packed")
    assert any(message in problem.message for problem in found.problems)
    assert found.runs.empty


def test_the_projects_own_results_are_there() -> None:
    found = results.load(ROOT / "outputs" / "reference")
    assert (len(found.runs), len(found.cells), len(found.studies)) == (293, 26_185, 33)
    assert {problem.message for problem in found.problems} == {"not a file of a run or a study"}
