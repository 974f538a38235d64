from __future__ import annotations

import dataclasses
import re
import typing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import setting
from sweeping import TINY, plan, resolved

from clsweep import methods
from clsweep.config import Config, WorkerConfig
from clsweep.errors import InputError
from clsweep.hyperparameters import DEFAULT, TUNED
from clsweep.methods.loading import load
from clsweep.protocol import Protocol
from clsweep.space import Point
from clsweep.sweeps import role
from clsweep.sweeps.plan import StudyPlan, searched, study_name

HERE = Path()
GOOD = """
def estimate_importance(model, dataset, prev_params, device):
    return {}

def compute_regularization_loss(model, importance_dict, prev_params_dict):
    return 0
"""

# Whether a key of the setting is part of what a study is: whoever adds one decides here.
DECIDES = {
    *(f"benchmark.{key}" for key in ("name", "stream", "scenario", "contexts", "classes_per_context", "image_size")),
    *(f"benchmark.{key}" for key in ("normalize", "iters", "epochs", "batch_size", "lr")),
    "dataset.name",
    "network",
    "contract.logits",
    *(f"regularizer.{key}" for key in ("name", "_target_", "file", "values", "space")),
    *("seed_order", "seed_init", "seed_batches"),
    *("optimizer", "search.seeds", "search.space", "seed", "stream", "validation_fraction", "precision"),
    *("first_contexts", "search.tune_on"),
}
DECIDES_NOT = {
    *(f"benchmark.{key}" for key in ("iters_by_budget", "published")),
    # the files and the layout only of one's own arrays, below
    *(f"dataset.{key}" for key in ("source", "train", "test", "layout", "resize", "n_classes", "root")),
    *(f"regularizer.{key}" for key in ("tuned", "tuned_for", "preset")),
    *(f"search.{key}" for key in ("n_trials", "final_seeds", "max_failures", "storage", "sampler", "sampler_options")),
    *(f"search.{key}" for key in ("pruner", "pruner_options", "timeout", "workers", "dry_run", "worker")),
    *("search.share_first_context", "search.first_contexts", "search.data"),  # the last two where they are tuned on
    *(
        "seeds",
        "budget",
        "device",
        "threads",
        "figures",
        "save_model",
        "evaluate_every",
        "resume",
        "keep_checkpoints",
        "tensorboard",
        "logger",
        "callbacks",
    ),  # seeds: of a single run
}


@pytest.mark.parametrize(
    "override",
    [
        "benchmark.iters=5",
        "benchmark.lr=0.01",
        "benchmark.contexts=2",
        "dataset=mnist",
        "network.hidden=[9]",
        "validation_fraction=0.2",
        "precision=bf16",
        "seed=1",
        "search.seeds=2",
        "regularizer.gamma=0.5",  # not searched by ewc, so it is part of the method
        "regularizer.fisher.labels=sampled",
        "regularizer=si",
        "regularizer=online_ewc",
    ],
)
def test_what_changes_results_makes_another_study(override: str) -> None:
    assert plan(HERE, "regularizer=ewc", override).name != plan(HERE, "regularizer=ewc").name


@pytest.mark.parametrize(
    "override",
    [
        "search.n_trials=7",
        "search.timeout=3600",
        "search.final_seeds=1",
        "search.pruner=null",
        "search.workers=2",
        "regularizer.reg_strength=3",
    ],
)
def test_what_does_not_finds_the_study_again(override: str) -> None:
    assert plan(HERE, "regularizer=ewc", override).name == plan(HERE, "regularizer=ewc").name


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ("regularizer=si", "split_mnist-si"),
        ("regularizer=si benchmark.lr=3e-4", "split_mnist-si-lr3e-4"),
        ("regularizer=ewc budget=quick precision=bf16 seed=7", "split_mnist-ewc-quick-bf16-seed7"),
        ("regularizer=ewc benchmark.iters=200", "split_mnist-ewc-quick"),  # which is the same
        ("regularizer=ewc benchmark.scenario=class benchmark.iters=400", "split_mnist-ewc-class-iters400"),
        ("regularizer=ewc network.hidden=[50,40] search.seeds=3", "split_mnist-ewc-mlp50x40-seeds3"),
        (
            "dataset=cifar100 network=cnn network.channels=[8,16] network.hidden=[40]",
            "split_mnist-custom-cifar100-cnn8x16-40",
        ),
        ("regularizer=ewc optimizer=sgd optimizer.momentum=0.9", "split_mnist-ewc-sgd-momentum0.9"),
        ("stream=joint validation_fraction=0.2", "split_mnist-joint-held0.2"),
        ("", "split_mnist-custom"),
    ],
)
def test_a_study_is_named_after_benchmark_method_and_what_differs(overrides: str, name: str) -> None:
    made = study_name(setting("+benchmark=split_mnist", *overrides.split()))
    assert re.fullmatch(re.escape(name) + "-[0-9a-f]{8}", made)


def test_a_file_of_ones_own_gives_a_study_its_name_and_few_words_do(tmp_path: Path) -> None:
    file = tmp_path / "my method.py"
    file.write_text("a = 1")
    several = "benchmark.scenario=class benchmark.contexts=2 budget=smoke benchmark.lr=0.01 benchmark.batch_size=9"
    made = study_name(setting("+benchmark=split_mnist", f"regularizer.file='{file}'", *several.split()))
    assert re.fullmatch("split_mnist-my_method-class-contexts2-smoke-lr0.01-[0-9a-f]{8}", made)


def _changed(value: Any, hint: Any) -> Any:
    """Another value of a field's kind."""
    if value is None:
        kind = next(kind for kind in (*typing.get_args(hint), hint) if kind is not type(None))
        return _changed({int: 0, str: ""}.get(kind, {}), kind)
    if isinstance(value, list):
        return [*value, 5]
    if isinstance(value, dict):
        return {**value, "gamma": "interval(0.1, 1)"}
    if isinstance(value, str):
        return {"sequential": "joint", "active": "all", "stream": "defaults"}.get(value, f"{value}x")
    return not value if isinstance(value, bool) else value + 1


def _others(of: Any, prefix: str = "") -> typing.Iterator[tuple[str, Any]]:
    """The setting with one field changed at a time, by the field's key."""
    for name, hint in typing.get_type_hints(type(of)).items():
        value = getattr(of, name)
        if dataclasses.is_dataclass(value) and name != "published":
            for key, inner in _others(value, f"{prefix}{name}."):
                yield key, dataclasses.replace(of, **{name: inner})
        else:
            new = (
                {"published": {}, "file": __file__}.get(name)
                if name in ("published", "file")
                else _changed(value, hint)
            )
            yield f"{prefix}{name}", dataclasses.replace(of, **{name: new})


def test_every_key_of_the_setting_is_part_of_a_study_or_is_not() -> None:
    config = plan(HERE, "regularizer=ewc").config
    name = study_name(config)
    changes = {key: study_name(other) != name for key, other in _others(config)}
    assert changes == dict.fromkeys(DECIDES, True) | dict.fromkeys(DECIDES_NOT, False)


def test_a_key_more_in_the_configuration_leaves_every_study_its_name() -> None:
    def grown(of: Any) -> Any:
        """The same setting, where every part of it has a field more."""
        values = {name: getattr(of, name) for name in typing.get_type_hints(type(of))}
        values = {name: grown(one) if dataclasses.is_dataclass(one) else one for name, one in values.items()}
        more = dataclasses.make_dataclass("More", [("made_up", str, "new")], bases=(type(of),))
        return more(**values)

    for method in ("custom", "ewc", "si"):
        for stream in ("sequential", "joint"):
            config = plan(HERE, f"regularizer={method}", f"stream={stream}").config
            larger = grown(config)
            assert larger.made_up == larger.benchmark.made_up == larger.search.made_up == "new"
            assert study_name(larger) == study_name(config)


@pytest.mark.parametrize("field", [one.name for one in dataclasses.fields(Protocol)])
def test_every_part_of_the_protocol_makes_another_study(field: str) -> None:
    first, second = plan(HERE, "regularizer=ewc"), plan(HERE, "regularizer=ewc")
    changed: dict[str, Any] = {field: "other" if isinstance(getattr(first.protocol, field), str) else 7}
    second.__dict__["protocol"] = dataclasses.replace(second.protocol, **changed)
    assert second.name.rpartition("-")[2] != first.name.rpartition("-")[2]


def test_the_layout_that_arrays_are_read_in_makes_another_study(tmp_path: Path) -> None:
    def name(shape: tuple[int, ...], *overrides: str) -> str:
        files = [f"dataset.{part}={tmp_path}/{part}.npz" for part in ("train", "test")]
        for part in ("train", "test"):
            np.savez(tmp_path / f"{part}.npz", images=np.zeros(shape, np.uint8), labels=np.arange(4))
        return plan(HERE, "dataset=arrays", *files, *overrides).name

    last, first, either = (4, 5, 6, 3), (4, 3, 5, 6), (4, 3, 5, 3)
    # What is given where the shape says it already changes nothing, and studies of before keep their names.
    assert name(last) == name(last, "dataset.layout=hwc") != name(last, "dataset.layout=chw")
    assert name(first) == name(first, "dataset.layout=chw") != name(first, "dataset.layout=hwc")
    assert name(either, "dataset.layout=hwc") != name(either, "dataset.layout=chw")


def test_another_content_of_a_file_makes_another_study(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(GOOD)
    (tmp_path / "elsewhere").mkdir()
    before = plan(HERE, f"regularizer.file={file}").name
    moved = file.rename(tmp_path / "elsewhere" / "mine.py")
    assert plan(HERE, f"regularizer.file={moved}").name == before
    moved.write_text(f"{GOOD}A = 2")
    assert plan(HERE, f"regularizer.file={moved}").name != before


def test_an_interval_may_move_but_not_become_a_choice() -> None:
    def named(text: str) -> str:
        return plan(HERE, "regularizer=mas", space={"reg_strength": text}).name

    assert named("tag(log, interval(1, 10))") == named("tag(log, interval(1, 100))")
    others = ("tag(log, interval(1, 10))", "interval(1, 10)", "1,2", "1,3", "int(interval(1, 10))")
    assert len({named(text) for text in (*others, "tag(log, int(interval(1, 10)))")}) == 6
    assert named("int(interval(1, 10))") == named("int(interval(1, 20))")


def test_default_values_and_seeds() -> None:
    made = plan(HERE, "regularizer=si", "seed=5", "search.seeds=2", "search.final_seeds=3")
    assert made.default == {"reg_strength": 10.0, "epsilon": 0.1}
    assert made.seeds == [5, 6]
    assert not set(made.seeds) & set(made.final_seeds)
    assert len(made.final_seeds) == 3


def test_a_trial_holds_validation_data_out_and_a_final_run_does_not() -> None:
    made = plan(HERE, "regularizer=si", "validation_fraction=0")
    point = {"reg_strength": 3.0, "epsilon": 0.5}
    trial, final = made.trial_config(point, 7), made.final_config(point, 1007)
    assert trial.validation_fraction == 0.1
    assert final.validation_fraction == 0
    assert (trial.seed, final.seed) == (7, 1007)
    assert trial.regularizer.values["reg_strength"] == final.regularizer.values["reg_strength"] == 3.0
    assert trial.regularizer.values["epsilon"] == final.regularizer.values["epsilon"] == 0.5
    assert made.config.regularizer.values["reg_strength"] == 10.0


def test_a_finite_space_limits_the_budget() -> None:
    assert plan(HERE, "regularizer=none").n_trials == 1
    three = {"reg_strength": "1,2,3"}
    assert plan(HERE, "regularizer=ewc", space=three).n_trials == 3
    assert plan(HERE, "regularizer=ewc", "search.n_trials=2", space=three).n_trials == 2
    assert plan(HERE, "regularizer=ewc").n_trials == 40


def test_what_is_searched() -> None:
    config = plan(HERE, "regularizer=rwalk").config
    every, one = load(config.regularizer), load(plan(HERE, "regularizer=ewc").config.regularizer)
    assert list(searched(config, every, {}, set())) == ["reg_strength", "gamma", "epsilon"]
    assert list(searched(config, one, {}, set())) == ["reg_strength"]
    assert list(searched(config, every, {}, {"gamma"})) == ["reg_strength", "epsilon"]
    both = searched(config, every, {"gamma": "0.5,1"}, {"reg_strength", "epsilon"})
    assert both == {"gamma": "0.5,1"}
    with pytest.raises(InputError, match=r"^regularizer\.gamma=2\.0: expected a number above 0 and at most 1\.$"):
        searched(config, every, {"gamma": "0.5,2"}, set())
    joint = plan(HERE, "stream=joint").config
    assert searched(joint, every, {}, set()) == {}


@pytest.mark.parametrize("method", [*(name for name in methods.names() if name != "none"), "custom"])
@pytest.mark.parametrize("benchmark", ["split_mnist", "perm_mnist", "split_cifar100"])
def test_good_values_lie_in_the_space(method: str, benchmark: str) -> None:
    from clsweep.space import contains

    made = StudyPlan(resolved(setting(f"+benchmark={benchmark}", f"regularizer={method}")), HERE)
    assert made.space
    assert contains(made.space, made.default)


def wide(*overrides: str, **ranges: str) -> StudyPlan:
    """A study that searches other keys than hyperparameters, with their dots as two underscores."""
    config = plan(HERE, "regularizer=ewc", *overrides).config
    space = {name.replace("__", "."): text for name, text in ranges.items()}
    return StudyPlan(replace(config, search=replace(config.search, space=space)), HERE)


RATES, WIDTHS = "tag(log, interval(1e-5, 1e-2))", "tag(search, choice([9], [8,8]))"


def test_what_any_searched_key_is_by_default_does_not_change_the_study() -> None:
    name = wide(optimizer__lr=RATES, network__hidden=WIDTHS).name
    assert wide("benchmark.lr=0.5", "network.hidden=[7]", optimizer__lr=RATES, network__hidden=WIDTHS).name == name
    assert wide(optimizer__lr="tag(log, interval(1e-6, 1))", network__hidden=WIDTHS).name == name  # may be moved
    assert "iters" not in wide(benchmark__epochs="range(1, 5)").name
    assert "lr" not in name
    assert "mlp" not in name
    others = [
        wide(optimizer__lr="interval(1e-5, 1e-2)", network__hidden=WIDTHS),
        wide(optimizer__lr=RATES),
        wide(optimizer__lr=RATES, network__hidden="tag(search, choice([9], [8]))"),
        wide("benchmark.batch_size=9", optimizer__lr=RATES, network__hidden=WIDTHS),
        wide("benchmark.lr=1"),
    ]
    assert len({name, *(one.name for one in others)}) == 6
    labels = "tag(search, choice(exact, sampled))"
    made = [
        wide(f"regularizer.fisher.labels={one}", regularizer__fisher__labels=labels) for one in ("exact", "sampled")
    ]
    assert made[0].name == made[1].name


def test_final_runs_of_methods_that_search_alike_have_one_protocol() -> None:
    """Whatever each search comes to, and another one than runs where the value was typed."""
    ewc, si = (wide(f"regularizer={name}", optimizer__lr=RATES) for name in ("ewc", "si"))
    assert ewc.searched_fields == si.searched_fields == {"lr"}
    assert ewc.final_protocol == si.final_protocol
    others = [
        wide("optimizer=sgd", optimizer__lr=RATES).final_protocol,
        wide(optimizer__lr=RATES, network__hidden=WIDTHS).final_protocol,
        *(wide(f"benchmark.lr={rate}").final_protocol for rate in (0.001, 1, 2)),
    ]
    assert len({ewc.final_protocol, *others}) == 6
    fixed = wide(reg_strength="interval(1, 9)")
    assert fixed.final_protocol == Protocol.of(fixed.final_config({"reg_strength": 3}, 5)).digest


def test_a_trial_has_the_values_of_any_key() -> None:
    made = wide(optimizer__lr=RATES, network__hidden=WIDTHS, reg_strength="interval(1, 9)")
    assert made.default == {"optimizer.lr": 0.001, "network.hidden": "[8]", "reg_strength": 4.1e5}
    config = made.trial_config({"optimizer.lr": 0.01, "network.hidden": "[8,8]", "reg_strength": 3}, 7)
    assert config.benchmark.lr == 0.01
    assert config.network["hidden"] == [8, 8]
    assert config.regularizer.values["reg_strength"] == 3.0
    assert type(config.regularizer.values["reg_strength"]) is float
    assert made.config.network["hidden"] == [8]


def test_the_protocol_of_trials_that_differ_in_their_method_is_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = wide(optimizer__lr=RATES, network__hidden=WIDTHS, reg_strength="interval(1, 9)")
    made_of: list[Config] = []
    of = Protocol.of

    def counted(config: Config, dataset_digest: str | None = None) -> Protocol:
        made_of.append(config)
        return of(config, dataset_digest)

    trained: list[Point] = [{"optimizer.lr": lr, "network.hidden": w} for lr in (0.1, 0.2) for w in ("[9]", "[8,8]")]
    points = [{**one, "reg_strength": strength} for one in trained for strength in (1.0, 2.0, 3.0)]
    expected = [of(made.trial_config(point, 0)).digest for point in points]
    assert made.protocol  # found before
    monkeypatch.setattr(Protocol, "of", counted)
    assert [made.trial_protocol(point) for point in points] == expected
    assert len(set(expected)) == len(made_of) == 4


def test_a_worker_that_finds_an_edited_network_names_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "net_of_a_sweep.py"
    file.write_text("from torch import nn\ndef made(n_outputs): return nn.Sequential(nn.Flatten(), nn.LazyLinear(4))\n")
    others = [one for one in TINY if not one.startswith("network")]
    config = resolved(setting(*others, "regularizer=si", "network=own", "network._target_=net_of_a_sweep.made"))
    name = StudyPlan(config, tmp_path).name
    part = WorkerConfig(number=1, studies=[name])
    role.check(part, [StudyPlan(config, tmp_path)])
    file.write_text(file.read_text().replace("4", "n_outputs"))
    with pytest.raises(InputError) as caught:
        role.check(part, [StudyPlan(config, tmp_path)])
    assert str(caught.value) == (
        f"{file.name}: has changed since the sweep began, which makes it another study than {name}; expected the same "
        "command once more."
    )


@pytest.mark.parametrize(
    ("overrides", "origin"),
    [
        (("regularizer=ewc",), TUNED),
        (("regularizer=ewc", "regularizer.reg_strength=3"), DEFAULT),
        (("regularizer=ewc", "~tuned"), DEFAULT),
        (("regularizer=ewc", "search.space={optimizer.lr: 'interval(1e-4, 1e-2)'}"), TUNED),
    ],
)
def test_default_values_that_were_tuned_before_are_known(
    tmp_path: Path, overrides: tuple[str, ...], origin: str
) -> None:
    assert plan(tmp_path, *overrides).default_origin == origin
