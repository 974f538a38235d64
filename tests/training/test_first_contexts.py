"""`first_contexts`: a run that learns the beginning of a stream alone, as a run of the whole stream begins."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from builders import setting
from test_cli import TINY

import clsweep
from clsweep import results
from clsweep.config import Config
from clsweep.errors import InputError
from clsweep.training.observers import Observer
from clsweep.training.run import run

SHORT = (*TINY, "benchmark.contexts=4", "benchmark.iters=5", "figures=false", "threads=1", "device=cpu")
BEGINNING = "first_contexts=2"
SPLIT = ("+benchmark=split_mnist", "validation_fraction=0.2")
OF_CLASSES = ("+benchmark=split_mnist", "benchmark.scenario=class", "seed=3")
BENCHMARKS = [
    SPLIT,
    OF_CLASSES,
    ("+benchmark=split_mnist", "benchmark.scenario=domain", "benchmark.normalize=true"),
    ("+benchmark=perm_mnist", "network=mlp", "seed=7"),
    pytest.param(("+benchmark=rotated_mnist", "network=mlp"), marks=pytest.mark.slow),
]


def short(*overrides: str) -> Config:
    others = [one for one in SHORT if not one.startswith("+benchmark")]
    return setting(*overrides[:1], *others, *overrides[1:])


def measured(config: Config, folder: Path, shared: Path | None = None) -> pd.DataFrame:
    """The accuracies of a run that may share its first context."""
    folder.mkdir(parents=True)
    run(config, folder, Observer(), rehearsed=True, first_contexts=shared)
    return pd.read_csv(folder / "accuracy.csv").drop(columns="run_id")


def beginning(whole: pd.DataFrame) -> pd.DataFrame:
    return whole[(whole.after_context <= 2) & (whole.context <= 2)].reset_index(drop=True)


@pytest.mark.parametrize("overrides", BENCHMARKS)
def test_it_begins_as_the_whole_stream_does(overrides: tuple[str, ...], tmp_path: Path) -> None:
    whole = measured(short(*overrides, "regularizer=si"), tmp_path / "whole")
    first = measured(short(*overrides, "regularizer=si", BEGINNING), tmp_path / "first")
    pd.testing.assert_frame_equal(first, beginning(whole), check_exact=True)
    last = first[(first.after_context == 2) & (first.split == "test")]
    row = pd.read_csv(tmp_path / "first" / "summary.csv").iloc[0]
    assert row.average_accuracy == pytest.approx(last.accuracy.mean(), abs=1e-12)
    assert (row.contexts, row.first_contexts) == (4, 2)


def test_as_many_contexts_of_another_stream_are_no_beginning(tmp_path: Path) -> None:
    whole = measured(short(*OF_CLASSES), tmp_path / "whole")
    other = measured(short(*OF_CLASSES, "benchmark.contexts=2"), tmp_path / "other")
    assert not other.equals(beginning(whole))  # fewer outputs, and other parameters to begin with


@pytest.mark.parametrize("first_is_whole", [True, False])
def test_the_first_context_is_shared_with_the_whole_stream(first_is_whole: bool, tmp_path: Path) -> None:
    settings = {name: short(*SPLIT, *more) for name, more in (("whole", ()), ("first", (BEGINNING,)))}
    names = ["whole", "first"] if first_is_whole else ["first", "whole"]
    for name in [*names, "first"]:
        place = tmp_path / name / str(len(list(tmp_path.glob(f"{name}/*"))))
        made = measured(settings[name], place, tmp_path / "shared")
        pd.testing.assert_frame_equal(made, measured(settings[name], tmp_path / "alone" / name / place.name))
    seconds = [pd.read_csv(tmp_path / name / "0" / "summary.csv").shared_seconds[0] for name in names]
    assert seconds[0] == 0
    assert bool(seconds[1] > 0) == first_is_whole  # what was measured on fewer contexts is made anew, and then kept
    assert pd.read_csv(tmp_path / "first" / "1" / "summary.csv").shared_seconds[0] > 0


def test_its_results_are_read_and_stand_apart(tmp_path: Path) -> None:
    for name, more in (("whole", ()), ("first", (BEGINNING,))):
        measured(short(*SPLIT, *more), tmp_path / name)
    found = results.load(tmp_path)
    assert not found.problems
    counts = dict(
        zip(found.runs.folder.map(lambda one: Path(one).name), found.runs.first_contexts.fillna(0), strict=True)
    )
    assert counts == {"whole": 0, "first": 2}
    assert found.runs.protocol.nunique() == 2


def test_joint_training_and_saved_networks_have_the_first_contexts_alone(tmp_path: Path) -> None:
    joint = measured(short(*SPLIT, BEGINNING, "stream=joint"), tmp_path / "joint")
    assert sorted(joint.context.unique()) == [1, 2]
    kept = measured(short(*OF_CLASSES, BEGINNING, "save_model=true"), tmp_path / "kept")
    again = clsweep.evaluate(tmp_path / "kept")
    last = kept[kept.after_context == 2].reset_index(drop=True)
    pd.testing.assert_frame_equal(again, last, check_exact=True)


@pytest.mark.parametrize("count", [4, 5])
def test_all_contexts_are_no_first_ones(count: int) -> None:
    with pytest.raises(InputError) as caught:
        short(*SPLIT, f"first_contexts={count}")
    told = f"first_contexts={count}: expected fewer than benchmark.contexts=4, or null for all of them."
    assert str(caught.value) == told
