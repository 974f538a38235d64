"""`search.tune_on`: what hyperparameters are chosen on; final runs are the same, whatever it is."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sweeping
import yaml
from builders import command, image_data, setting
from conftest import Typed
from optuna.storages import BaseStorage
from optuna.trial import TrialState
from rich.console import Console
from sweeping import TINY, finish, plan, random_images, resolved, worker_on

import clsweep
from clsweep import results
from clsweep.config import DatasetConfig, choices
from clsweep.data.context_cache import ContextCache
from clsweep.data.datasets import ImageData
from clsweep.errors import InputError
from clsweep.sweeps import command as sweeps
from clsweep.sweeps import storage, tuning
from clsweep.sweeps.finals import Finals
from clsweep.sweeps.ledger import open_study
from clsweep.sweeps.monitor import outcome, summary
from clsweep.sweeps.overrides import Sweep
from clsweep.sweeps.plan import StudyPlan
from clsweep.sweeps.worker import StudyWorker

ON_FIRST = ("search.tune_on=first_contexts", "search.first_contexts=2")
ON_OTHER = ("search.tune_on=other_data", "search.data=mnist")
DEFAULTS = ("search.tune_on=defaults",)
SHORT = ("search.n_trials=3", "search.final_seeds=2", "search.pruner=null", "regularizer=si", "benchmark.lr=0.05")
WAYS: dict[str, tuple[str, ...]] = {"stream": (), "first": ON_FIRST, "other": ON_OTHER, "defaults": DEFAULTS}
TYPED = ("benchmark=split_mnist", "dataset=mnist_5k", "regularizer=ewc", "device=cpu")


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while sweeping.opened:
        storage.close(sweeping.opened.pop())


def read(*overrides: str, folder: Path = Path("sweep")) -> Sweep:
    return sweeps.read([*TYPED, *overrides], folder)


def refusal(*overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        read(*overrides)
    return str(caught.value)


def images(config: DatasetConfig) -> ImageData:
    """Others for another name."""
    made = image_data(6, train_per_class=20, test_per_class=7)
    if config.name == "mnist_5k":
        return made
    turned = replace(made.train, images=made.train.images.flip(2))
    return replace(made, train=turned)


class Sharing:
    """Studies of one sweep that differ in what they are tuned on, in one storage."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.storage: BaseStorage = storage.connect(storage.url(None, folder))
        sweeping.opened.append(self.storage)

    def study(self, way: str, *overrides: str) -> StudyWorker:
        given = setting(*TINY, *WAYS[way], *SHORT, *overrides)
        method = tuning.way_of(given.search).regularizer(given.regularizer)
        made = StudyPlan(resolved(replace(given, regularizer=method)), self._folder / way)
        return StudyWorker(made, self.storage, ContextCache(images))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study of each way, finished."""
    folder = tmp_path_factory.mktemp("sweep")
    sharing = Sharing(folder)
    for way in WAYS:
        study = sharing.study(way)
        finish(study)
        study.write()  # as the sweep does at its end: others may have made all of its final runs
    return folder


def final(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "final.csv")


def test_final_runs_are_the_same_and_none_is_made_twice(done: Path) -> None:
    tables = {way: final(done / way) for way in WAYS}
    assert len({*(one.protocol.iloc[0] for one in tables.values())}) == 1
    everything = pd.concat(tables.values())
    assert everything.comparable.nunique() == 1
    assert everything.tune_on.unique().tolist() == ["stream", "first_contexts 2", "other_data mnist", "defaults"]
    assert set(everything.seed) == {1000, 1001}
    point = ["reg_strength", "epsilon", "seed"]
    assert (everything.groupby(point).test_average_accuracy.nunique() == 1).all()
    made = list(done.glob("*/final-*"))
    assert len(made) == len(everything.drop_duplicates(point)) < len(everything)
    for _, row in everything.iterrows():  # wherever the run is
        run = pd.read_csv(Path(str(row.folder)) / "summary.csv").iloc[0]
        assert (run.seed, run.average_accuracy) == (row.seed, row.test_average_accuracy)
        assert run.reg_strength == row.reg_strength
        assert (run.dataset, run.contexts, run.validation_fraction) == ("mnist_5k", 3, 0)
        assert np.isnan(run.first_contexts)
    assert set(tables["defaults"].setting) == {"default"}


def test_studies_leave_each_others_final_runs_in_the_queue(tmp_path: Path) -> None:
    sharing = Sharing(tmp_path)
    study = sharing.study("stream", "search.final_seeds=4")
    shared = open_study(sharing.storage, study.plan.name_of_finals)
    ledgers = [
        Finals(study.plan, shared, sharing.storage, {**study.plan.default, "reg_strength": best}, ContextCache()).ledger
        for best in (2.0, 3.0)
    ]
    for ledger in ledgers:
        ledger.queue_points()
    for ledger in reversed(ledgers):
        while (trial := ledger.claim()) is not None:
            ledger.complete(trial, 0.5)
        assert ledger.is_complete()
    assert [trial.state for trial in shared.get_trials()] == [TrialState.COMPLETE] * 12  # the default's are shared


def test_trials_learn_what_is_tuned_on(done: Path) -> None:
    trials = {way: pd.read_csv(done / way / "trials.csv").set_index("number") for way in WAYS if way != "defaults"}
    runs = {way: pd.read_csv(done / way / "trial-0000" / "summary.csv").iloc[0] for way in trials}
    assert [runs[way].dataset for way in trials] == ["mnist_5k", "mnist_5k", "mnist"]
    assert [runs[way].contexts for way in trials] == [3, 3, 3]
    assert "validation_after_3" not in trials["first"]
    cells = [pd.read_csv(done / way / "trial-0000" / "accuracy.csv").accuracy.tolist() for way in ("stream", "other")]
    assert cells[0] != cells[1]
    assert [one.protocol.nunique() for one in trials.values()] == [1, 1, 1]
    assert len({one.protocol.iloc[0] for one in trials.values()}) == 3
    assert {one.protocol.iloc[0] for one in trials.values()} == {run.protocol for run in runs.values()}


def test_a_trial_is_the_beginning_of_the_whole_stream_to_the_last_digit(tmp_path: Path) -> None:
    sharing = Sharing(tmp_path)
    for way in ("stream", "first"):  # with the same values, as there are none
        finish(sharing.study(way, "regularizer=none", "search.final_seeds=0"))
    whole, first = (pd.read_csv(tmp_path / way / "trials.csv").iloc[0] for way in ("stream", "first"))
    assert first.validation_average_accuracy == first.validation_after_2 == whole.validation_after_2
    assert whole.validation_average_accuracy == whole.validation_after_3


def test_the_best_setting_is_the_benchmarks_own(done: Path) -> None:
    for way in WAYS:
        best = yaml.safe_load((done / way / "best.yaml").read_text())
        assert best["dataset"]["name"] == "mnist_5k"
        assert best["first_contexts"] is None
        is_trial = way == "stream"
        assert (best["seed"], best["validation_fraction"]) == ((0, 0.3) if is_trial else (1000, 0.0))
        said = {name: value for name, value in best["search"].items() if name != "space"}
        assert said.get("tune_on", "stream") == {"first": "first_contexts", "other": "other_data"}.get(way, way)
        assert (best["search"]["space"] == {}) is (way == "defaults")
    head = (done / "first" / "best.yaml").read_text().splitlines()[:2]
    assert "tuned on first_contexts 2. To run the benchmark with its values" in head[0]
    assert head[1].endswith("--config-name best seeds=2")


def test_studies_are_read_with_what_they_were_tuned_on(done: Path, tmp_path: Path) -> None:
    found = results.load(done)
    assert not found.problems
    by_name = found.studies.set_index("name")
    expected = {"stream": "stream", "first": "first_contexts 2", "other": "other_data mnist", "defaults": "defaults"}
    assert by_name.tune_on.to_dict() == expected
    assert set(by_name.method) == {"si"}
    shutil.copytree(done / "stream", tmp_path / "stream")
    for one in tmp_path.glob("*/*.csv"):  # as they were before
        pd.read_csv(one).drop(columns=["tune_on", "comparable"], errors="ignore").to_csv(one, index=False)
    earlier = results.load(tmp_path)
    assert set(earlier.trials.tune_on) == set(earlier.finals.tune_on) == set(earlier.studies.tune_on) == {"stream"}


def test_a_study_without_a_search_ends_in_a_summary(tmp_path: Path) -> None:
    study = Sharing(tmp_path).study("defaults", "search.n_trials=40")
    assert finish(study) == []
    assert study.problem() is None
    out = Console(record=True, width=160)
    summary([outcome(study)], out)
    told = out.export_text()
    assert "nothing was searched" in told
    assert "default values   reg_strength=" in told
    assert "best.yaml, final.csv" in told


def test_a_study_on_the_first_contexts_goes_on(tmp_path: Path) -> None:
    first = Sharing(tmp_path).study("first", "search.n_trials=1", "search.final_seeds=0")
    finish(first)
    again = Sharing(tmp_path).study("first", "search.final_seeds=1")
    assert [trial.number for trial in finish(again)] == [0, 1, 2]
    assert final(tmp_path / "first").tune_on.unique().tolist() == ["first_contexts 2"]


def test_pruning_counts_the_contexts_of_a_trial(tmp_path: Path) -> None:
    made = plan(tmp_path, *ON_FIRST, "search.seeds=3", "regularizer=si")
    assert (made.contexts, made.steps) == (2, 6)
    assert plan(tmp_path, "search.seeds=3").steps == 9


def test_each_way_is_a_study_of_its_own_and_the_usual_one_keeps_its_name(tmp_path: Path) -> None:
    made = {way: plan(tmp_path, *overrides, *SHORT) for way, overrides in WAYS.items()}
    made["more"] = plan(tmp_path, *SHORT, "search.tune_on=first_contexts", "search.first_contexts=3")
    assert len({one.name for one in made.values()}) == len(made)
    assert {one.name_on_stream for one in made.values()} == {made["stream"].name}
    assert "-tuned_on_first_2_contexts-" in made["first"].name
    assert "-tuned_on_mnist-" in made["other"].name
    assert "-default_values-" in made["defaults"].name
    unused = plan(tmp_path, *SHORT, "search.first_contexts=2", "search.data=mnist")
    assert unused.name == made["stream"].name


def test_the_content_of_the_other_data_makes_another_study(tmp_path: Path) -> None:
    def name(seed: int) -> str:
        for part in ("train", "test"):
            np.savez(tmp_path / f"{part}.npz", images=np.full((4, 5, 5), seed, np.uint8), labels=np.arange(4))
        data = f"search.data={{name: arrays, train: {tmp_path}/train.npz, test: {tmp_path}/test.npz}}"
        return plan(tmp_path, "search.tune_on=other_data", data).name

    assert name(1) == name(1) != name(2)


def test_no_other_way_knows_what_was_tuned_for_the_benchmark() -> None:
    ways = "search.tune_on=stream,first_contexts,other_data,defaults"
    made = read(ways, "dataset=mnist", "search.data=mnist_5k", "benchmark=perm_mnist").plans
    assert [one.default for one in made] == [{"reg_strength": 250.0}, *[{"reg_strength": 1.0}] * 3]
    assert made[0].ranges == {"reg_strength": "tag(log, interval(25, 2500))"}
    assert made[1].ranges == made[2].ranges == {"reg_strength": "tag(log, interval(1, 1e13))"}
    assert len({one.name_on_stream for one in made}) == 1
    assert made[1].config.search.first_contexts == 3
    given = read(*DEFAULTS, "regularizer.reg_strength=7").plans[0]
    assert (given.config.regularizer.values["reg_strength"], given.space) == (7.0, {})


def test_a_range_and_a_count_are_for_the_ways_that_have_a_use_for_them() -> None:
    swept = "search.tune_on=stream,first_contexts,defaults"
    made = read(swept, "search.first_contexts=2", "regularizer.reg_strength=interval(1, 9)").plans
    assert [one.config.search.first_contexts for one in made] == [None, 2, None]
    assert [one.n_trials for one in made] == [40, 40, 0]
    both = read("search.tune_on=stream,defaults", "search.n_trials=7", "search.sampler=gp").plans
    assert [one.n_trials for one in both] == [7, 0]


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            "search.tune_on=tests",
            "search.tune_on=tests: expected one of stream, first_contexts, other_data, defaults.",
        ),
        (
            "search.first_contexts=3",
            "search.first_contexts=3: is for search.tune_on=first_contexts; expected that as well, or no "
            "search.first_contexts.",
        ),
        (
            "search.tune_on=first_contexts search.first_contexts=5",
            "search.first_contexts=5: isn't a part of the 5 contexts of benchmark=split_mnist; expected 2 to 4.",
        ),
        (
            "search.tune_on=first_contexts search.first_contexts=1",
            "search.first_contexts=1: expected an integer of 2 or more, or null.",
        ),
        (
            "search.tune_on=first_contexts benchmark.contexts=2",
            "search.tune_on=first_contexts: needs a stream of three contexts or more, and this one has 2; expected "
            "another search.tune_on.",
        ),
        (
            "search.data=mnist",
            "search.data=mnist: is for search.tune_on=other_data; expected that as well, or no search.data.",
        ),
        (
            "search.tune_on=other_data",
            "search.tune_on=other_data: needs a data set; expected search.data=NAME as well, or values, as in "
            "search.data='{name: arrays, train: A.npz, test: B.npz}'.",
        ),
        (
            "search.tune_on=other_data search.data=mnist_5k",
            "search.data=mnist_5k: is the benchmark's own data set; expected another one, or search.tune_on=stream.",
        ),
        (
            "search.tune_on=other_data search.data=minst",
            f"search.data=minst: expected one of {choices('dataset')}, or values, as in "
            "search.data='{name: arrays, train: A.npz, test: B.npz}'.",
        ),
        (
            "search.tune_on=other_data search.data={name:mnist,source:arrays}",
            "search.data.source=arrays: dataset=mnist is torchvision.MNIST; expected another search.data.name=... as "
            "well, which results have.",
        ),
        (
            "search.tune_on=other_data search.data=mnist benchmark=split_cifar100 dataset=cifar100",
            "search.data=mnist: has 10 classes; expected 100 or more, for benchmark.contexts=10 of 10 classes each.",
        ),
        (
            "search.tune_on=other_data search.data=cifar100 benchmark=perm_mnist",
            "search.data=cifar100: has 100 classes; expected 10, since every context shows all classes.",
        ),
        (
            "search.tune_on=defaults regularizer.reg_strength=interval(1,9)",
            "regularizer.reg_strength=interval(1,9): would be searched, but search.tune_on=defaults searches nothing; "
            "expected one value, or another search.tune_on.",
        ),
        (
            "search.tune_on=defaults search.final_seeds=0",
            "search.final_seeds=0: leaves nothing to be done, since search.tune_on=defaults makes final runs alone; "
            "expected 1 or more.",
        ),
        *[
            (
                f"search.tune_on=defaults {typed}",
                f"{typed}: is for trials, but search.tune_on=defaults makes final runs alone; expected it left out, or "
                "another search.tune_on.",
            )
            for typed in (
                *("search.n_trials=7", "search.timeout=2", "search.seeds=3", "search.sampler=gp"),
                *("search.sampler_options={n_startup_trials:2}", "search.pruner=null"),
                "search.pruner_options={n_warmup_steps:2}",
            )
        ],
        (
            "search.tune_on=stream,defaults protocol=reference regularizer=none",
            "protocol=reference: gives none values that are not its defaults; expected another search.tune_on than "
            "defaults, or no protocol.",
        ),
    ],
)
def test_what_cannot_be_tuned_so_is_refused(overrides: str, told: str) -> None:
    assert refusal(*overrides.split()) == told


def test_a_preset_that_leaves_nothing_to_search_is_refused_whatever_is_tuned_on() -> None:
    assert refusal("protocol=reference", *ON_FIRST).startswith("protocol=reference: gives reg_strength of ewc a value")


def stored(folder: Path, name: str, shape: tuple[int, ...], n_classes: int) -> str:
    """Ten images of each class in each of two files, as a data set is typed."""
    files = [folder / f"{name}-{part}.npz" for part in ("train", "test")]
    labels = np.arange(n_classes).repeat(10)
    for seed, file in enumerate(files):
        source = np.random.default_rng(seed)
        np.savez(file, images=source.integers(0, 255, (len(labels), *shape), np.uint8), labels=labels)
    return f"search.data={{name: {name}, source: arrays, train: {files[0]}, test: {files[1]}}}"


@pytest.mark.parametrize(
    ("shape", "n_classes", "told"),
    [
        ((4, 4), 5, "search.data=own: has 5 classes; expected 6 or more, for benchmark.contexts=3 of 2 classes each."),
        (
            (5, 4),
            6,
            "search.data=own: its images are 1x5x4 as a network gets them, and those of dataset=mnist_5k are 1x4x4; "
            "expected images of the same shape.",
        ),
    ],
)
def test_other_data_that_does_not_fit_is_refused_before_anything_is_trained(
    shape: tuple[int, ...], n_classes: int, told: str, tmp_path: Path
) -> None:
    from clsweep.data import datasets

    data = stored(tmp_path, "own", shape, n_classes)
    made = plan(tmp_path, "search.tune_on=other_data", data, "regularizer=si")

    def load(config: DatasetConfig) -> ImageData:
        return datasets.load(config) if config.name == "own" else random_images(config)

    with pytest.raises(InputError) as caught:
        worker_on(made, load).work_once()
    assert str(caught.value) == told
    assert not list(tmp_path.glob("trial-*"))


@pytest.mark.parametrize("dry", ["search.dry_run=true", "search.workers=1"])
def test_what_is_wrong_with_the_other_data_is_told_of_its_own_key(dry: str, tmp_path: Path, typed: Typed) -> None:
    files = stored(tmp_path, "own", (28, 28), 4).partition("train: ")[2].removesuffix("}")
    train = files.partition(",")[0]
    sweep = (
        "--multirun",
        *TYPED,
        "budget=smoke",
        "search.tune_on=other_data",
        dry,
        f"hydra.sweep.dir={tmp_path}/sweep",
    )
    cases = {
        f"search.data={{name: arrays, train: {train}}}": "search.data.test is missing: search.data=arrays needs "
        "search.data.train=PATH.npz search.data.test=PATH.npz (its values are typed in one: search.data='{name: "
        "arrays, KEY: VALUE}').",
        f"search.data={{name: arrays, train: {files}}}": "search.data=arrays: has 4 classes; expected 10 or more, for "
        "benchmark.contexts=5 of 2 classes each.",
    }
    for data, told in cases.items():
        done = typed(*sweep, data)
        assert (done.returncode, done.stderr) == (2, f"clsweep: {told}\n")


def test_a_sentence_on_the_benchmarks_data_becomes_one_on_the_other() -> None:
    told = tuning._of_search_data("dataset=cifar10 is not whole in /a/dataset=b: use dataset=mnist_5k.", "cifar10")
    assert told == "search.data=cifar10 is not whole in /a/dataset=b: use search.data=mnist_5k."


def test_a_folder_of_another_way_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = ("budget=smoke", "network.hidden=[4]", "benchmark.contexts=2", "search.final_seeds=1", "search.workers=1")
    arguments = ("--multirun", *TYPED, *typed, "threads=1", f"hydra.sweep.dir={tmp_path}")
    assert command(monkeypatch, *arguments, *DEFAULTS) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.csv")}
    assert command(monkeypatch, *arguments, "search.n_trials=1") == 2
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.csv")} == before
    (tmp_path / "final.csv").write_bytes(before["final.csv"].partition(b"\n")[0] + b"\n3,default\n")  # cut
    assert command(monkeypatch, *arguments, *DEFAULTS) == 0
    assert (tmp_path / "final.csv").read_bytes() == before["final.csv"]


@pytest.mark.slow
def test_python_tells_the_ways_apart(tmp_path: Path) -> None:
    overrides = [
        *("dataset=mnist_5k", "budget=smoke", "network.hidden=[4]", "device=cpu", "threads=1", "search.workers=1"),
        *("benchmark.contexts=3", "benchmark.iters=3", "search.final_seeds=2", "search.first_contexts=2"),
        "search.tune_on=first_contexts,defaults",
    ]
    made = clsweep.sweep("split_mnist", ["l2"], n_trials=2, overrides=overrides, folder=tmp_path, quiet=True)
    assert made.table.tune_on.tolist() == ["first_contexts 2", "defaults"]
    assert made.table.index.tolist() == made.table.study.tolist()
    assert made.table.trials.tolist() == [2, 0]
    assert "first_contexts 2" in repr(made)
    assert made.table.seeds.tolist() == [2, 2]
    for study, row in made.table.iterrows():
        own = made.finals[made.finals.method == study]
        chosen = own[own.setting == ("default" if row.tune_on == "defaults" else "tuned")]
        assert row.test == pytest.approx(chosen.test_average_accuracy.mean(), abs=1e-12)
        assert made.best[str(study)]["reg_strength"] == chosen.reg_strength.iloc[0]
