from __future__ import annotations

import dataclasses
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from builders import CONF, GROUPS, ROOT, compose, composed_once, setting
from omegaconf import OmegaConf

from clsweep import config as settings
from clsweep import paths, published
from clsweep.config import Config
from clsweep.errors import InputError
from clsweep.hyperparameters import DEFAULT, TUNED
from clsweep.methods.loading import load

BENCHMARKS = ("split_mnist", "perm_mnist", "split_cifar100")
FILES = sorted(path.relative_to(CONF).with_suffix("").as_posix() for path in CONF.glob("*/*.yaml"))
_IN_TORCH = {"network/own": "torch.nn.Identity", "optimizer/own": "torch.optim.RMSprop"}
NEEDED = {file: {"_target_": path} for file, path in _IN_TORCH.items()}  # which the file leaves to the command line


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # regularizer=custom, the default, names a file there


def plain_values(node: Any) -> Any:
    """The values of a YAML file without its interpolations."""
    if not isinstance(node, dict):
        return node
    return {key: plain_values(value) for key, value in node.items() if not str(value).startswith("${")}


def assert_within(part: Any, whole: Any) -> None:
    """Every value of `part` is in `whole`, under the same keys."""
    if isinstance(part, dict):
        for key, value in part.items():
            assert_within(value, whole[key])
    else:
        assert part == whole


def test_each_group_has_files() -> None:
    assert {file.split("/")[0] for file in FILES} == set(GROUPS)


@pytest.mark.parametrize("file", [one for one in FILES if not one.startswith("protocol/")])  # values of other groups
def test_every_value_of_every_file_reaches_the_typed_setting(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clsweep.training.loggers.find_spec", lambda package: "as if it were installed")
    group, name = file.split("/")
    choice = [f"+benchmark={name}"] if group == "benchmark" else ["+benchmark=split_mnist", f"{group}={name}"]
    needed = NEEDED.get(file, {})
    choice += [f"{group}.{key}={value}" for key, value in needed.items()]
    written = OmegaConf.to_container(OmegaConf.load(CONF / f"{file}.yaml"), resolve=False)
    assert isinstance(written, dict)
    values = plain_values(written["benchmark"] if group == "benchmark" else written)
    values |= needed | {key: str(Path.cwd() / value) for key, value in values.items() if key == "file"}
    assert_within(values, dataclasses.asdict(setting(*choice))[group])
    assert group in ("logger", "network", "optimizer", "search") or values["name"] == name


# dataset, scenario, contexts, classes per context, image size, normalized, batch, lr, iterations, hidden, channels
PROTOCOLS: dict[str, tuple[Any, ...]] = {
    "split_mnist": ("mnist", "task", 5, 2, None, False, 128, 1e-3, 2000, [400, 400], []),
    "perm_mnist": ("mnist", "domain", 10, 10, 32, False, 128, 1e-4, 5000, [1000, 1000], []),
    "split_cifar100": (
        "cifar100", "task", 10, 10, None, True, 256, 1e-4, 5000, [2000, 2000], [16, 32, 64, 128, 256],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_full_budget_is_the_published_protocol(name: str) -> None:
    config = setting(f"+benchmark={name}", "budget=full")
    benchmark, network = config.benchmark, config.network
    assert PROTOCOLS[name] == (
        config.dataset.name,
        benchmark.scenario,
        benchmark.contexts,
        benchmark.classes_per_context,
        benchmark.image_size,
        benchmark.normalize,
        benchmark.batch_size,
        benchmark.lr,
        benchmark.iters,
        network["hidden"],
        network.get("channels", []),
    )
    assert network["name"] == ("cnn" if "channels" in network else "mlp")
    kind = "permuted" if name == "perm_mnist" else "split"
    assert benchmark.stream == {"_target_": f"clsweep.data.streams.{kind}"}


@pytest.mark.parametrize(("kind", "name"), [("split", "split_cifar100"), ("permuted", "perm_mnist")])
def test_a_setting_of_before_streams_were_functions_is_read(kind: str, name: str) -> None:
    composed = deepcopy(composed_once(f"+benchmark={name}", "regularizer=ewc"))
    expected = settings.parse(composed)
    del composed.benchmark.stream
    OmegaConf.update(composed, "benchmark.kind", kind, force_add=True)
    assert settings.parse(composed) == settings.parse(composed) == expected


def test_a_module_is_read_where_it_is_what_was_written_down_and_refused_where_it_was_typed() -> None:
    composed = deepcopy(composed_once("+benchmark=split_mnist", "regularizer=ewc"))
    expected = settings.parse(composed)
    OmegaConf.update(composed, "regularizer.module", "clsweep.regularizers.ewc", force_add=True)
    assert settings.parse(composed) == expected
    OmegaConf.update(composed, "regularizer.module", "my_method", force_add=True)
    with pytest.raises(InputError, match=r"^regularizer\.module=my_method: .* expected .*regularizer\._target_="):
        settings.parse(composed)


@pytest.mark.parametrize(
    ("name", "like", "stream", "dataset", "contexts"),
    [
        ("rotated_mnist", "perm_mnist", "rotated", "mnist", 10),
        ("split_fashion_mnist", "split_mnist", "split", "fashion_mnist", 5),
        ("split_cifar10", "split_cifar100", "split", "cifar10", 5),
    ],
)
def test_a_benchmark_without_published_figures(name: str, like: str, stream: str, dataset: str, contexts: int) -> None:
    config, other = (setting(f"+benchmark={one}", "regularizer=ewc") for one in (name, like))
    benchmark = config.benchmark
    assert (benchmark.name, config.dataset.name, benchmark.contexts) == (name, dataset, contexts)
    assert benchmark.stream == {"_target_": f"clsweep.data.streams.{stream}"}
    assert benchmark.classes_per_context * (1 if stream == "rotated" else contexts) == config.dataset.n_classes
    for key in ("scenario", "image_size", "normalize", "iters_by_budget", "batch_size", "lr"):
        assert getattr(benchmark, key) == getattr(other.benchmark, key)
    assert config.network == other.network


SHORT = {
    "name": "mine",
    "stream": {"_target_": "clsweep.data.streams.split"},
    "contexts": 2,
    "classes_per_context": 5,
    "iters": 300,
}


def short(budget: str, **values: Any) -> Config:
    composed = deepcopy(composed_once("+benchmark=split_mnist", "regularizer=ewc"))
    composed.benchmark = {key: value for key, value in (SHORT | values).items() if value is not None}
    composed.budget = budget
    return settings.parse(composed)


def test_a_benchmark_of_five_lines_is_whole() -> None:
    config = short("full")
    benchmark = config.benchmark
    assert (benchmark.scenario, benchmark.image_size, benchmark.normalize) == ("task", None, False)
    assert (benchmark.iters, benchmark.batch_size, benchmark.lr) == (300, 128, 1e-3)
    assert config.effective_budget == "full"
    assert published.figure(config) is None
    assert short("quick", iters=None, iters_by_budget={"full": 50, "quick": 5}).benchmark.iters == 5


@pytest.mark.parametrize(
    ("budget", "values", "said"),
    [
        ("quick", {}, "budget=quick: expected one of full, or benchmark.iters=N, since benchmark=mine has no other."),
        (
            "full",
            {"iters": None},
            "benchmark.iters: is missing; expected an integer, or benchmark.iters_by_budget, as in '{full: 2000, "
            "quick: 200, smoke: 20}'.",
        ),
        ("full", {"name": None}, "benchmark.name: is missing; expected a text."),
        (
            "full",
            {"benchmark": SHORT},
            "benchmark.benchmark: expected '# @package _global_' as the first line of the benchmark's YAML file.",
        ),
    ],
)
def test_what_a_short_benchmark_lacks_is_said(budget: str, values: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        short(budget, **values)
    assert str(caught.value) == said


def test_the_full_protocol_is_the_default() -> None:
    config = setting("+benchmark=split_mnist")
    assert (config.budget, config.benchmark.iters) == ("full", 2000)
    assert (config.stream, config.validation_fraction, config.precision) == ("sequential", 0, "float32")
    assert config.regularizer.name == "custom"


@pytest.mark.parametrize("name", BENCHMARKS)
def test_quick_is_a_tenth_and_smoke_twenty_iterations(name: str) -> None:
    full = PROTOCOLS[name][8]
    assert setting(f"+benchmark={name}", "budget=quick").benchmark.iters == full // 10
    assert setting(f"+benchmark={name}", "budget=smoke").benchmark.iters == 20


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_tuned_values_reach_the_method(name: str) -> None:
    read = {file.stem: OmegaConf.to_container(OmegaConf.load(file)) for file in (CONF / "tuned" / name).glob("*.yaml")}
    files: dict[str, Any] = {str(method): values for method, values in read.items()}
    assert {"ewc", "online_ewc", "si", "custom"} <= set(files)
    for method, tuned in files.items():
        loaded = load(setting(f"+benchmark={name}", f"regularizer={method}").regularizer)
        values = {key: value for key, value in tuned.items() if key != "space"}
        assert {key: loaded.resolved.values[key] for key in values} == values
        assert set(loaded.resolved.origins.values()) <= {TUNED, DEFAULT}
        assert loaded.spaces.items() >= dict(tuned.get("space", {})).items()


def test_a_value_on_the_command_line_beats_the_tuned_one() -> None:
    command = ["+benchmark=split_mnist", "regularizer=rwalk"]
    tuned, given = (load(setting(*command, *more).regularizer) for more in ([], ["regularizer.gamma=0.75"]))
    assert (tuned.resolved.values["gamma"], tuned.resolved.origins["gamma"]) == (0.14, TUNED)
    assert (given.resolved.values["gamma"], given.resolved.origins["gamma"]) == (0.75, "given")
    assert given.resolved.values["reg_strength"] == tuned.resolved.values["reg_strength"] == 1.3
    untuned = load(setting(*command, "~tuned").regularizer)
    assert untuned.resolved.values["gamma"] == 1.0


@pytest.mark.parametrize("first", ["dataset=mnist_5k", "+benchmark=split_cifar100"])
def test_a_data_set_on_the_command_line_beats_the_benchmarks_own(first: str) -> None:
    others = {"dataset=mnist_5k", "+benchmark=split_cifar100"} - {first}
    config = settings.parse(compose(first, *others, "benchmark.contexts=1"))
    assert (config.dataset.name, config.benchmark.name, config.network["name"]) == ("mnist_5k", "split_cifar100", "cnn")


@pytest.mark.parametrize(
    ("override", "key", "expected"),
    [
        ("benchmark.iters=300", "iters", 300),
        ("benchmark.contexts=3", "contexts", 3),
        ("benchmark.batch_size=7", "batch_size", 7),
        ("benchmark.lr=0.5", "lr", 0.5),
        ("benchmark.scenario=class", "scenario", "class"),
    ],
)
def test_every_value_of_a_benchmark_can_be_changed(override: str, key: str, expected: object) -> None:
    assert getattr(setting("+benchmark=split_mnist", override).benchmark, key) == expected


def test_the_root_of_the_data_sets_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLSWEEP_DATA", "elsewhere")
    here = Path.cwd()
    assert setting("+benchmark=split_mnist").dataset.root == str(here / "elsewhere")
    monkeypatch.delenv("CLSWEEP_DATA")
    assert setting("+benchmark=split_mnist").dataset.root == str(here / "data")
    assert setting("+benchmark=split_mnist", "dataset.root=here").dataset.root == str(here / "here")


def test_paths_are_made_absolute_when_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From where the command was typed, even if Hydra or a method has gone elsewhere meanwhile."""
    (tmp_path / "mine.py").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    given = ["regularizer.file=mine.py", "dataset=arrays", "dataset.train=a.npz", "dataset.test='~/b.npz'"]
    with paths.typed_in(tmp_path):
        config = setting("+benchmark=split_mnist", *given)
    assert config.regularizer.file == str(tmp_path / "mine.py")
    assert config.dataset.train == str(tmp_path / "a.npz")
    assert config.dataset.test == str(tmp_path / "home" / "b.npz")


def test_paths_are_shown_from_where_the_command_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with paths.typed_in(tmp_path / "work"):
        monkeypatch.chdir(tmp_path)
        typed = ["outputs/run", "../elsewhere/mine.py", "/data/a.npz", "."]
        assert [str(paths.short(paths.absolute(one))) for one in typed] == typed
    assert paths.here() == tmp_path
    assert paths.short(tmp_path / "x") == Path("x")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("regularizer.reg_strength", "-1"),
        ("regularizer.reg_strength", "inf"),
        ("regularizer.reg_strength", "nan"),
        ("regularizer.reg_strength", "strong"),
        ("regularizer.gamma", "0"),
        ("regularizer.gamma", "1.1"),
        ("regularizer.gamma", "nan"),
        ("regularizer.epsilon", "0"),
        ("regularizer.epsilon", "-0.5"),
        ("regularizer.epsilon", "inf"),
        ("regularizer.file", "nowhere.py"),
        ("benchmark.contexts", "6"),
        ("benchmark.contexts", "0"),
        ("benchmark.classes_per_context", "11"),
        ("benchmark.iters", "0"),
        ("benchmark.iters", "many"),
        ("benchmark.iters", "2.5"),
        ("benchmark.batch_size", "-3"),
        ("benchmark.lr", "0"),
        ("benchmark.lr", "nan"),
        ("benchmark.scenario", "domains"),
        ("benchmark.image_size", "0"),
        ("network.name", "transformer"),
        ("network.hidden", "[0]"),
        ("device", "tpu"),
        ("device", "cuda:x"),
        ("threads", "0"),
        ("threads", "many"),
        ("stream", "backwards"),
        ("precision", "float8"),
        ("budget", "huge"),
        ("seed", "-1"),
        ("seed", "1.5"),
        ("seed", "1000000000000000000"),
        ("seed_order", "99999999999999999999999"),
        ("seed_init", "99999999999999999999999"),
        ("seed_batches", "99999999999999999999999"),
        ("benchmark.batch_size", "1000000000000000000"),
        ("benchmark.name", "''"),
        ("benchmark.name", "../b"),
        ("benchmark.name", ".."),
        ("dataset.name", "' '"),
        ("regularizer.name", "../b"),
        ("validation_fraction", "1"),
        ("validation_fraction", "-0.1"),
        ("validation_fraction", "nan"),
    ],
)
def test_a_wrong_value_is_refused_with_its_key_and_value(key: str, value: str) -> None:
    with pytest.raises(InputError) as caught:
        setting("+benchmark=split_mnist", f"{key}={value}")
    message = str(caught.value)
    assert key in message
    assert value.strip("'") in message.replace(key, "")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("method", "key", "value"),
    [("ewc", "fisher.labels", "guessed"), ("ewc", "fisher.examples", "0"), ("si", "floor_at_zero", "perhaps")],
)
def test_a_wrong_option_of_a_method_is_refused(method: str, key: str, value: str) -> None:
    with pytest.raises(InputError, match=rf"^regularizer\.{key}\b.*\b{value}\b"):
        setting("+benchmark=split_mnist", f"regularizer={method}", f"regularizer.{key}={value}")


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("network.hidden=400", "a list of integers, as in network.hidden=[400]"),
        ("network.hidden=[a]", "a list of integers, as in network.hidden=[400,400]"),
        ("seed=1.5", "an integer"),
        ("seed=null", "an integer"),
        ("threads=many", "an integer, or null"),
        ("benchmark.lr=[1]", "a number"),
        ("figures=perhaps", "true or false"),
        ("dataset.root=[a]", "a text, or null"),
        ("benchmark.iters_by_budget=3", "values by name"),
    ],
)
def test_a_value_of_another_type_is_refused_with_what_is_expected(typed: str, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        settings.parse(compose("+benchmark=split_mnist", "regularizer=ewc", typed))
    assert str(caught.value) == f"{typed}: expected {expected}."


def test_a_list_is_told_by_what_is_in_it() -> None:
    with pytest.raises(
        InputError, match=r"^search\.worker\.arguments=1: expected a list in brackets, each of them a text"
    ):
        settings.parse(compose("+benchmark=split_mnist", "regularizer=ewc", "++search.worker={arguments: 1}"))


@pytest.mark.parametrize(
    ("removed", "sentence"),
    [
        ("benchmark.contexts", "benchmark.contexts: is missing; expected an integer."),
        (
            "benchmark.stream",
            "benchmark.stream._target_=null: expected the dotted path of a class or a function, as in "
            "benchmark.stream._target_=my_module.Name.",
        ),
        ("network", f"network: is missing; expected one of {settings.choices('network')}."),
    ],
)
def test_a_key_that_was_removed_is_named(removed: str, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        settings.parse(compose("+benchmark=split_mnist", "regularizer=ewc", f"~{removed}"))
    assert str(caught.value) == sentence


def test_the_largest_seeds_are_those_that_results_can_hold() -> None:
    largest = 10**18 - 1
    assert setting("+benchmark=split_mnist", f"seed={largest}", "seeds=1").seed == largest
    with pytest.raises(InputError, match=f"^seeds=2: expected at most 1, since they count from seed={largest}"):
        setting("+benchmark=split_mnist", f"seed={largest}", "seeds=2")


def test_a_permuted_benchmark_needs_all_classes_in_each_context() -> None:
    with pytest.raises(InputError, match=r"^benchmark\.classes_per_context=5: expected 10"):
        setting("+benchmark=perm_mnist", "benchmark.classes_per_context=5")


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("+benchmark.itres=3", "itres"),
        ("~benchmark.name", "name"),
        ("~benchmark.iters_by_budget", "iters_by_budget"),
        ("benchmark.iters_by_budget=3", "iters_by_budget"),
        ("~budget", "budget"),
        ("regularizer.gamma='${nowhere}'", "nowhere"),
    ],
)
def test_an_unknown_missing_or_misshapen_key_is_wrong_input(override: str, named: str) -> None:
    composed = compose("+benchmark=split_mnist", override)
    with pytest.raises(InputError, match=named) as caught:
        settings.parse(composed)
    assert "\n" not in str(caught.value)


def test_a_missing_benchmark_lists_the_choices() -> None:
    with pytest.raises(InputError) as caught:
        setting()
    assert f"choose one with +benchmark=..., one of {settings.choices('benchmark')}." in str(caught.value)


def test_joint_training_needs_no_regularizer_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = setting("+benchmark=split_mnist", "stream=joint")
    assert config.method == "joint"
    with pytest.raises(InputError, match=r"regularizer\.file=custom_regularization\.py"):
        setting("+benchmark=split_mnist")


@pytest.mark.parametrize(
    ("overrides", "budget"),
    [
        ([], "full"),
        (["budget=quick"], "quick"),
        (["budget=smoke", "benchmark.contexts=2"], "smoke"),
        (["budget=smoke", "benchmark.iters=20"], "smoke"),
        (["benchmark.iters=300"], "custom"),
        (["budget=smoke", "benchmark.iters=21"], "custom"),
    ],
)
def test_the_effective_budget_is_custom_where_the_iterations_are(overrides: list[str], budget: str) -> None:
    assert setting("+benchmark=split_mnist", *overrides).effective_budget == budget


def test_a_data_sets_name_has_one_source() -> None:
    with pytest.raises(InputError) as caught:
        setting("+benchmark=split_mnist", "dataset=mnist_5k", "dataset.source=torchvision.KMNIST")
    assert str(caught.value) == (
        "dataset.source=torchvision.KMNIST: dataset=mnist_5k is mnist_5k; expected another dataset.name=... as well, "
        "which results have."
    )
    typed = ("dataset=mnist_5k", "dataset.source=torchvision.KMNIST", "dataset.name=kmnist")
    assert setting("+benchmark=split_mnist", *typed).dataset.name == "kmnist"


def test_training_images_are_no_test_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        setting(
            "+benchmark=split_mnist", "regularizer=si", "dataset=arrays", "dataset.train=a.npz", "dataset.test=./a.npz"
        )
    assert str(caught.value) == (
        f"dataset.test={tmp_path}/a.npz: is dataset.train, too; expected images that training hasn't seen."
    )
