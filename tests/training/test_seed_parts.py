"""`seed_order`, `seed_init` and `seed_batches`: what each of them decides, and where it is known."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from builders import command, image_data, setting
from sweeping import plan

import clsweep
from clsweep import decisive, resuming
from clsweep.config import Config
from clsweep.data import contexts
from clsweep.data.context_cache import ContextCache
from clsweep.data.contexts import Part, Stream
from clsweep.errors import InputError
from clsweep.protocol import Protocol
from clsweep.seeding import Seeds
from clsweep.sweeps.plan import study_name

PARTS = ("seed_order", "seed_init", "seed_batches")
TINY = [
    "dataset=mnist_5k",
    "benchmark.contexts=2",
    "benchmark.iters=3",
    "network.hidden=[8]",
    "device=cpu",
    "threads=1",
]
ALL_CLASSES = ("benchmark.contexts=3", "benchmark.classes_per_context=6", "benchmark.image_size=null")
BENCHMARKS = {
    "split_mnist": ("benchmark.contexts=3",),
    "perm_mnist": ALL_CLASSES,
    "rotated_mnist": ALL_CLASSES,
}


def stream(benchmark: str, *overrides: str) -> Stream:
    config = setting(f"+benchmark={benchmark}", "dataset=arrays", *BENCHMARKS[benchmark], *overrides)
    return contexts.build(image_data(6, train_per_class=20), config, torch.device("cpu"))


def examples(part: Part | None) -> list[torch.Tensor]:
    assert part is not None
    return list(part.gathered().tensors)


def holds(made: Stream) -> list[torch.Tensor]:
    """All images and labels of a stream, in their order."""
    return [
        tensor for one in made.contexts for part in (one.train, one.validation, one.test) for tensor in examples(part)
    ]


def are_equal(one: Stream, other: Stream) -> bool:
    return all(a.equal(b) for a, b in zip(holds(one), holds(other), strict=True))


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_the_contexts_and_what_is_held_out_come_from_seed_order_alone(benchmark: str) -> None:
    def made(*overrides: str) -> Stream:
        return stream(benchmark, "validation_fraction=0.2", "regularizer=none", *overrides)

    of_seven = made("seed=7")
    assert not are_equal(of_seven, made("seed=8"))
    assert are_equal(of_seven, made("seed=8", "seed_order=7"))
    assert are_equal(of_seven, made("seed=7", "seed_init=8", "seed_batches=9"))
    assert not are_equal(of_seven, made("seed=7", "seed_order=8"))


def run(*overrides: str, method: str = "ewc", folder: Path | None = None) -> clsweep.Result:
    typed = [*TINY, "regularizer.fisher.examples=5", "regularizer.reg_strength=1e4"] if method == "ewc" else TINY
    return clsweep.run("split_mnist", method, [*typed, "figures=false", *overrides], folder, quiet=True)


def accuracies(result: clsweep.Result, *after: int) -> list[float]:
    table = result.accuracy
    return table.loc[table["after_context"].isin(after), "accuracy"].tolist()


def test_each_part_decides_what_is_its_own() -> None:
    whole = run("seed=7")
    for part in PARTS:
        other = run("seed=7", f"{part}=8")
        untrained_is_the_same = accuracies(other, 0) == accuracies(whole, 0)
        assert untrained_is_the_same is (part == "seed_batches"), part
        assert accuracies(other, 1, 2) != accuracies(whole, 1, 2), part


def test_a_run_is_that_of_its_parts_whatever_its_seed() -> None:
    parts = [f"{part}=7" for part in PARTS]
    whole, other = run("seed=7"), run("seed=8", *parts)
    pd.testing.assert_frame_equal(other.accuracy.drop(columns="run_id"), whole.accuracy.drop(columns="run_id"))
    for key, tensor in whole.model.state_dict().items():
        assert tensor.equal(other.model.state_dict()[key]), key
    assert [other.summary[name] for name in ("seed", *PARTS)] == [8, 7, 7, 7]
    assert [whole.summary[name] for name in ("seed", *PARTS)] == [7, None, None, None]


def test_what_a_method_draws_comes_from_seed_batches(tmp_path: Path) -> None:
    drawing = tmp_path / "drawing.py"
    drawing.write_text(
        "import torch\n"
        "AT_IMPORT = torch.rand(1).item()\n"
        "def estimate_importance(model, dataset, prev_params, device):\n"
        "    model.drawn = [*getattr(model, 'drawn', [AT_IMPORT]), torch.rand(1).item()]\n"
        "    return {name: torch.zeros_like(p) for name, p in prev_params.items()}\n"
        "def compute_regularization_loss(model, importance_dict, prev_params_dict):\n"
        "    return 0 * sum(p.sum() for p in model.parameters())\n"
    )

    def drawn(*overrides: str) -> Any:
        return run(*overrides, method=str(drawing)).model.drawn

    of_seven = drawn("seed=7")
    assert len(set(of_seven)) == 3
    assert drawn("seed=8", "seed_batches=7") == of_seven == drawn("seed=7", "seed_order=8", "seed_init=8")
    assert set(drawn("seed=7", "seed_batches=8")).isdisjoint(of_seven)


def test_a_stream_of_ones_own_gets_seed_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_streams_by_seed.py").write_text(
        "import torch\n"
        "from clsweep.data.streams import ContextData\n"
        "def told(data, contexts, seed):\n"
        "    assert seed == 5\n"
        "    everything = torch.arange(len(data.train.labels)), torch.arange(len(data.test.labels))\n"
        "    for _ in range(contexts):\n"
        "        yield ContextData(range(10), *everything)\n"
    )
    monkeypatch.chdir(tmp_path)
    own = ["benchmark.stream._target_=own_streams_by_seed.told", "benchmark.classes_per_context=10"]
    assert run("seed=7", "seed_order=5", *own, method="si").summary["seed_order"] == 5


def test_kept_contexts_are_those_of_the_part_that_they_come_from() -> None:
    streams, cpu = ContextCache(lambda _: image_data(6)), torch.device("cpu")

    def made(*overrides: str) -> Stream:
        return streams(setting("+benchmark=split_mnist", "benchmark.contexts=3", "regularizer=si", *overrides), cpu)

    first = made("seed=1")
    assert made("seed=1", "seed_init=3", "seed_batches=4").contexts is first.contexts
    assert made("seed=1", "seed_order=2").contexts is not first.contexts


def given(*overrides: str) -> Config:
    return setting("+benchmark=split_mnist", "regularizer=si", *overrides)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_of_the_protocol_of_a_study_and_of_what_a_run_goes_on_by(part: str, tmp_path: Path) -> None:
    whole, parted = given("seed=3"), given("seed=3", f"{part}=3")
    assert Seeds.of(parted) == Seeds.of(whole) == Seeds(3, 3, 3)
    assert Protocol.of(parted).differences(Protocol.of(whole)) == {part: (3, None)}
    assert f"{part}=3 whatever the seed" in Protocol.of(parted).sentence()
    assert study_name(parted).startswith(f"split_mnist-si-{part.removeprefix('seed_')}3-seed3-")
    changed: dict[str, Any] = {part: 3}
    of_trial = plan(tmp_path, "regularizer=si").trial_config({}, 9)
    with_part = plan(tmp_path, "regularizer=si", f"{part}=3").trial_config({}, 9)
    assert with_part == dataclasses.replace(of_trial, **changed)
    of_training = [decisive.of_training(decisive.decisive(one)) for one in (whole, parted)]
    assert of_training[0] != of_training[1]  # so that runs of the two share no first context


def test_a_stopped_run_goes_on_with_the_same_parts_only(tmp_path: Path) -> None:
    run("seed_init=4", folder=tmp_path)
    with pytest.raises(InputError) as caught:
        run("seed_init=5", folder=tmp_path)
    assert "holds a run of another setting (seed_init: 4 there, 5 now)" in str(caught.value)
    setting_file = tmp_path / decisive.FILE
    written = json.loads(setting_file.read_text())
    setting_file.write_text(json.dumps({key: value for key, value in written.items() if key not in PARTS}))
    with pytest.raises(InputError, match=r"\(seed_init: nothing there, 5 now\)"):  # as every run of before
        run("seed_init=5", folder=tmp_path)


def test_parts_that_are_not_given_follow_each_of_several_seeds() -> None:
    runs = resuming.runs(given("seed=4", "seeds=2", "seed_init=1"), Path("all"))
    assert [Seeds.of(one) for one, _ in runs] == [Seeds(4, 1, 4), Seeds(5, 1, 5)]


def test_a_saved_network_is_measured_on_the_contexts_of_its_run(tmp_path: Path) -> None:
    made = run("seed=1", "seed_order=6", "seed_init=2", "save_model=true", folder=tmp_path)
    again = clsweep.evaluate(tmp_path)
    assert again["accuracy"].tolist() == accuracies(made, 2)
    description = json.loads((tmp_path / "model.json").read_text())
    for part in PARTS:
        del description["setting"][part]  # as it was written before there were parts: of other contexts, then
    (tmp_path / "model.json").write_text(json.dumps(description))
    assert clsweep.evaluate(tmp_path)["accuracy"].tolist() != accuracies(made, 2)


def test_results_have_them_as_columns(tmp_path: Path) -> None:
    run("seed=1", "seed_order=6", folder=tmp_path / "a")
    run("seed=1", folder=tmp_path / "b")
    runs = clsweep.results.load(tmp_path).runs.set_index("folder").sort_index()
    assert {str(runs[part].dtype) for part in PARTS} == {"Int64"}
    assert runs["seed_order"].fillna(-1).tolist() == [6, -1]
    assert runs["seed_init"].isna().all()
    digests = [Protocol.of_row(row).digest for row in runs.to_dict("records")]
    assert digests == runs["protocol"].tolist()
    assert len(set(digests)) == 2


def test_a_header_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("benchmark=split_mnist", *TINY, "regularizer=si", "figures=false", f"hydra.run.dir={tmp_path}")
    assert command(monkeypatch, *arguments, "seed=2", "seed_order=6", "seed_batches=0") == 0
    assert "\nrun        seed 2 (order 6, batches 0), cpu" in capsys.readouterr().out


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("-1", "an integer of 0 or more, of at most 18 digits, or null"),
        ("two", "an integer, or null"),
        ("1.5", "an integer, or null"),
    ],
)
def test_a_wrong_part_is_refused(part: str, value: str, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        given(f"{part}={value}")
    assert str(caught.value) == f"{part}={value}: expected {expected}."


def test_several_seeds_of_which_no_part_is_left_are_refused() -> None:
    parts = [f"{part}=1" for part in PARTS]
    assert given("seeds=1", *parts).seeds == 1
    with pytest.raises(InputError) as caught:
        given("seeds=3", *parts)
    assert str(caught.value) == (
        "seeds=3: the seed's parts seed_order, seed_init and seed_batches are all given, so that every run would be "
        "the same; expected one of them left out, or seeds=1."
    )


def test_a_sweep_whose_final_runs_would_be_one_and_the_same_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = ("--multirun", "benchmark=split_mnist", *TINY, "regularizer=si", f"hydra.sweep.dir={tmp_path}")
    assert command(monkeypatch, *sweep, *(f"{part}=1" for part in PARTS)) == 2
    assert capsys.readouterr().err == (
        "clsweep: search.final_seeds=3: the seed's parts seed_order, seed_init and seed_batches are all given, so that "
        "every run would be the same; expected one of them left out, or search.final_seeds=1.\n"
    )
