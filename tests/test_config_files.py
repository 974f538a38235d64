"""`--config-dir FOLDER`: one's own benchmarks; with `--config-name best` a setting, and what may be changed of it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from builders import ROOT, command, setting

import clsweep
from clsweep import config as settings
from clsweep.errors import InputError

BEST = ("--config-dir", ".", "--config-name", "best")


def write_best(*overrides: str) -> None:
    config = setting("+benchmark=split_mnist", "budget=quick", "regularizer=ewc", *overrides)
    Path("best.yaml").write_text(settings.rerun_yaml(config))


@pytest.mark.parametrize(
    ("tuned", "overrides", "iters"),
    [
        ((), (), 200),
        ((), ("budget=full",), 2000),
        (("benchmark.iters=33",), (), 33),
        (("benchmark.iters=33",), ("budget=full", "benchmark.iters=2000"), 2000),
    ],
)
def test_another_budget_has_its_own_iterations(
    tuned: tuple[str, ...],
    overrides: tuple[str, ...],
    iters: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_best(*tuned)
    assert command(monkeypatch, *BEST, "--cfg", "job", "--resolve", *overrides) == 0
    assert f"\n  iters: {iters}\n" in capsys.readouterr().out


@pytest.mark.parametrize("again", [(), ("optimizer.lr=0.5",), ("benchmark.lr=0.5",)])
def test_another_optimizer_is_found_again_without_an_argument_of_adams(
    again: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_best("optimizer=sgd", "optimizer.momentum=0.9", "benchmark.lr=0.25")
    assert command(monkeypatch, *BEST, "--cfg", "job", "--resolve", *again) == 0
    composed = yaml.safe_load(capsys.readouterr().out)
    expected = {"name": "sgd", "_target_": "torch.optim.SGD", "lr": 0.5 if again else 0.25, "momentum": 0.9}
    expected |= {"nesterov": False, "weight_decay": 0.0, "reset": False, "schedule": None}
    assert composed["optimizer"] == expected
    assert settings.from_values(composed).benchmark.lr == expected["lr"]


@pytest.mark.parametrize(
    ("tuned", "now", "expected"),
    [
        (None, None, "{}/here/it's mine"),
        (None, "/other", "/other"),
        ("here/it's mine", None, "data"),
        ("here/it's mine", "/other", "/other"),
    ],
)
def test_the_data_is_found_from_anywhere(
    tuned: str | None,
    now: str | None,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where it was, or where CLSWEEP_DATA says; a path that it said then isn't written down."""

    def data_is_in(folder: str | None) -> None:
        monkeypatch.delenv("CLSWEEP_DATA", raising=False)
        if folder is not None:
            monkeypatch.setenv("CLSWEEP_DATA", folder)

    monkeypatch.chdir(tmp_path)
    data_is_in(tuned)
    write_best(*([] if tuned else ['dataset.root="here/it\'s mine"']))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    data_is_in(now)
    arguments = ("--config-dir", "..", *BEST[2:], "--cfg", "job", "--resolve")
    assert command(monkeypatch, *arguments) == 0
    shown = yaml.safe_load(capsys.readouterr().out)  # which breaks long lines
    assert shown["dataset"]["root"] == expected.format(tmp_path)


OLD = ROOT / "tests" / "results" / "files"
OF_A_FILE = {"name": "custom", "reg_strength": 2.0, "gamma": 1.0, "epsilon": 0.1, "module": None, "fisher": None}
OF_A_FILE |= {"file": "${config_dir:}/trial/mine.py", "floor_at_zero": False, "space": {"gamma": "interval(0.1, 1)"}}
OF_A_CNN = {"network": {"name": "cnn", "hidden": [4], "channels": [2, 3]}, "regularizer": OF_A_FILE}


@pytest.mark.parametrize(
    ("version", "changed", "network", "method", "strength"),
    [
        (1, {}, "mlp 400 400", "si", 93632.61442963673),
        (2, {}, "mlp 400 400", "rwalk", 1.265323636172028),
        (2, OF_A_CNN, "cnn 2 3 / 4", "custom", 2.0),
    ],
)
def test_a_file_of_an_earlier_version_runs(
    version: int,
    changed: dict[str, Any],
    network: str,
    method: str,
    strength: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    values = yaml.safe_load((OLD / f"format_{version}" / "study" / "best.yaml").read_text())
    Path("best.yaml").write_text(yaml.safe_dump(values | changed))
    Path("trial").mkdir()
    shutil.copy(ROOT / "custom_regularization.py", "trial/mine.py")
    small = ("dataset.name=mnist_5k", "dataset.source=mnist_5k", "benchmark.contexts=1", "benchmark.iters=1")
    plain = ("threads=1", "device=cpu", "figures=false", "hydra.run.dir=run")
    assert command(monkeypatch, *BEST, *small, *plain) == 0
    (row,) = pd.read_csv("run/summary.csv").to_dict("records")
    assert (row["network"], row["regularizer"]) == (network, method)
    assert (row["reg_strength"], row["validation_fraction"]) == (strength, 0.1)


WHOLE = "best.yaml has a whole {0} of its own, which comes after it; expected values of that, {0}.KEY=VALUE, or a "
WHOLE += "command without --config-name best."
GIVEN = "best.yaml has benchmark.iters=33, which was given for it and follows no budget; expected benchmark.iters=2000 "
SWEEPERS: tuple[tuple[str, ...], ...] = (("--multirun",), ("--multirun", "hydra/sweeper=basic"))


@pytest.mark.parametrize("name", ["best", "best.yaml"])  # Hydra takes both
@pytest.mark.parametrize(
    ("multirun", "override", "said"),
    [
        ((), "regularizer=si", WHOLE.format("regularizer")),
        ((), "+benchmark=perm_mnist", WHOLE.format("benchmark")),
        ((), "network=mlp_1000", WHOLE.format("network")),
        ((), "budget=full", f"{GIVEN}as well."),
        *((sweeper, "regularizer=si,ewc", WHOLE.format("regularizer")) for sweeper in SWEEPERS),
    ],
)
def test_what_the_file_overrules_is_refused(
    name: str,
    multirun: tuple[str, ...],
    override: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_best("benchmark.iters=33")
    with pytest.raises(SystemExit) as exited:
        command(monkeypatch, *BEST[:-1], name, *multirun, override)
    assert exited.value.code == 2
    assert capsys.readouterr().err == f"clsweep: {override.removeprefix('+')}: {said}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["best.yaml"]


# ---- a benchmark of one's own


OWN = """
# @package _global_
defaults:
  - override /dataset: mnist_5k
benchmark:
  name: mine
  stream: {_target_: own_streams_of_mine.halves, first: 3}
  contexts: 2
  classes_per_context: 5
  iters: 2
"""
HALVES = """
import torch
from clsweep.data.streams import ContextData

def halves(data, first):
    for classes in (range(first), range(first, data.n_classes)):
        chosen = torch.tensor(classes)
        yield ContextData(classes, *(torch.isin(part.labels, chosen) for part in (data.train, data.test)))
"""
BASE = ("--config-dir", "own", "benchmark=mine", "regularizer=si", "threads=1", "device=cpu", "figures=false")
TINY = (*BASE, "network.hidden=[5]", "benchmark.batch_size=8")


def write_own(source: str = OWN) -> None:
    Path("own/benchmark").mkdir(parents=True)
    Path("own/benchmark/mine.yaml").write_text(source)
    Path("own_streams_of_mine.py").write_text(HALVES)


def test_a_benchmark_and_a_stream_of_ones_own_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_own()
    assert command(monkeypatch, *TINY, "benchmark.scenario=class", "hydra.run.dir=run") == 0
    (row,) = pd.read_csv("run/summary.csv").to_dict("records")
    assert (row["benchmark"], row["scenario"], row["iters"], row["budget"]) == ("mine", "class", 2, "full")
    assert row["benchmark_stream"] == "own_streams_of_mine.halves first=3"
    assert Path("run/own_streams_of_mine.py").read_text() == HALVES
    accuracy = pd.read_csv("run/accuracy.csv")
    assert accuracy.query("after_context == 2")["n"].tolist() == [300, 700]


@pytest.mark.slow
def test_they_are_searched_as_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_own()
    search = ("search.n_trials=1", "search.final_seeds=0", "hydra.sweep.dir=sweep")
    assert command(monkeypatch, "--multirun", *TINY, "benchmark.stream.first=4", *search) == 0
    best = yaml.safe_load(next(Path("sweep").rglob("best.yaml")).read_text())
    assert best["benchmark"]["stream"] == {"_target_": "own_streams_of_mine.halves", "first": 4}
    assert best["benchmark"]["iters_by_budget"] == {"full": 2}


@pytest.mark.slow
def test_ones_own_are_known_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_own()
    with pytest.raises(SystemExit, match="2"):  # from one of Hydra's callbacks
        command(monkeypatch, "--config-dir", "own")
    assert "choose one with +benchmark=..., one of mine, perm_mnist, " in capsys.readouterr().err
    Path("own/dataset").mkdir()
    Path("own/dataset/other.yaml").write_text("name: other\nsource: mnist_5k\nn_classes: 10\n")
    search = ("--multirun", *BASE, "search.tune_on=other_data", "search.dry_run=true")
    assert command(monkeypatch, *search, "search.data=other") == 0
    assert "tuned on   other_data other\n" in capsys.readouterr().out
    assert command(monkeypatch, *search, "search.data=another") == 2
    assert "search.data=another: expected one of arrays, " in (said := capsys.readouterr().err)
    assert ", other, or values" in said
    with pytest.raises(SystemExit, match="2"):
        command(monkeypatch, *BASE, "dataset=other", "dataset.source=folder")
    expected = "dataset.source=folder: dataset=other is mnist_5k; expected another dataset.name=... as well"
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    ("removed", "typed", "said"),
    [
        ("  name: mine\n", (), "benchmark.name: is missing; expected a text."),
        ("  contexts: 2\n", (), "benchmark.contexts: is missing; expected an integer."),
        (
            "",
            ("budget=quick",),
            "budget=quick: expected one of full, or benchmark.iters=N, since benchmark=mine has no other.",
        ),
        ("", ("benchmark.itres=3",), "benchmark.itres: no such key here; did you mean benchmark.iters?"),
        (
            "",
            ("benchmark.stream.frist=3",),
            "benchmark.stream.frist: own_streams_of_mine.halves takes no frist; did you mean benchmark.stream.first?",
        ),
        (
            "# @package _global_\n",
            (),
            "In 'benchmark/mine': expected '# @package _global_' as the first line of the benchmark's YAML file.",
        ),
        (", first: 3", (), "benchmark.stream.first: is missing; own_streams_of_mine.halves needs it."),
    ],
)
def test_what_is_wrong_with_a_benchmark_of_ones_own_is_one_sentence(
    removed: str,
    typed: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_own(OWN.replace(removed, ""))
    try:
        code: object = command(monkeypatch, *BASE, *typed)
    except SystemExit as ended:  # of Hydra's callback
        code = ended.code
    assert code == 2
    assert capsys.readouterr().err == f"clsweep: {said}\n"


@pytest.mark.parametrize(
    ("name", "written", "said"),
    [
        ("benchmark/mine", b"a: [1,2\n", "benchmark/mine.yaml, line 2: expected ',' or ']', but got '<stream end>'; "),
        ("benchmark/mine", b"a: 1\n\tb: 2\n", "benchmark/mine.yaml, line 2: found character '\\t' that cannot start"),
        ("benchmark/mine", b"a: 1\na: 2\n", "benchmark/mine.yaml, line 2: found duplicate key a; "),
        ("benchmark/mine", b"# ok\n# \xe9\n", "benchmark/mine.yaml, line 2: isn't UTF-8; "),
        ("benchmark/mine", b"5\n", "benchmark/mine.yaml: can't be read (OSError: Invalid loaded object type: int); "),
        (
            "benchmark/mine",
            b"defaults:\n  a: b\n",
            "Invalid defaults list in 'benchmark/mine', defaults must be a list",
        ),
        ("benchmark/mine", b"- 1\n", "benchmark=mine: its YAML file is a list; expected KEY: VALUE on each line"),
        ("tuned/mine/ewc", b"reg_strength: 3\n", "tuned: expected '# @package regularizer.tuned' as the first line"),
        (
            "benchmark/mine",
            b"# @package _global_\nbenchmark: {name: mine, iters_by_budget: [3, 2, 1]}\n",
            "benchmark.iters_by_budget=[3,2,1]: expected values by name.",
        ),
        ("best", b"a: [1,2\n", "best.yaml, line 2: expected ',' or ']'"),
    ],
)
@pytest.mark.parametrize("options", [(), ("--multirun",), None])
def test_a_file_that_cannot_be_read_is_one_sentence_with_its_line(
    name: str,
    written: bytes,
    said: str,
    options: tuple[str, ...] | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_own()
    file = Path(BASE[1], f"{name}.yaml")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(written)
    if options is None:
        if name != "best":  # which is for the command line
            with pytest.raises(InputError, match=re.escape(said)):
                clsweep.run("mine", "ewc", [f"hydra.searchpath=[file://{file.parents[name.count('/')].absolute()}]"])
        return
    try:
        code: object = command(
            monkeypatch, *BASE, "regularizer=ewc", *options, *(("--config-name", "best") if name == "best" else ())
        )
    except SystemExit as ended:  # of Hydra's callback
        code = ended.code
    told = capsys.readouterr().err
    assert code == 2
    assert said in told
    assert told.startswith("clsweep: ")
    assert told.count("\n") == 1
