"""A method's hyperparameters: what declares them, which values they get, and where these are from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builders import CONF, ROOT, setting
from omegaconf import OmegaConf
from tiny import file_method, method, network, regularizer, trained, write

from clsweep import space as spaces
from clsweep.config import RegularizerConfig
from clsweep.errors import InputError
from clsweep.hyperparameters import STANDARD, TUNED
from clsweep.methods import files
from clsweep.methods.loading import Loaded, load
from clsweep.training.run import run

SYNTAX, SMALLER = spaces._SYNTAX, "the smaller one first"
SHIPPED = ROOT / "custom_regularization.py"
SOURCE = """
import torch

def estimate_importance(model, dataset, prev_params, device):
    return {key: torch.full_like(value, NAME) for key, value in prev_params.items()}

def compute_regularization_loss(model, importance_dict, prev_params_dict):
    named = {n.replace(".", "__"): p for n, p in model.named_parameters()}
    return sum((importance_dict[key] * (p - prev_params_dict[key]) ** 2).sum() for key, p in named.items())
"""


def declaring(declaration: str, reads: str = "1.0") -> str:
    """A file with these HYPERPARAMETERS, whose importance is what it reads."""
    return f"HYPERPARAMETERS = {declaration}\n{SOURCE.replace('NAME', reads)}"


def of_file(folder: Path, declaration: str, **values: Any) -> Loaded:
    return load(RegularizerConfig("custom", file=str(write(folder, declaring(declaration))), values=values))


def built_in(name: str, **values: Any) -> RegularizerConfig:
    """A built-in method with these values and no others."""
    return RegularizerConfig(name, method(name)._target_, values=values)


# ---- what a file declares

TEMPERATURE = '{"temperature": {"default": 2.0, "space": "interval(0.1, 10)"}}'


def test_a_file_declares_hyperparameters_of_its_own(tmp_path: Path) -> None:
    loaded = of_file(tmp_path, TEMPERATURE)
    assert loaded.hyperparameters == ("temperature",)
    assert loaded.spaces == {"temperature": "interval(0.1, 10)"}
    assert loaded.described() == ["temperature=2 (default)"]
    given = of_file(tmp_path, TEMPERATURE, temperature=3)
    assert given.described() == ["temperature=3"]
    stronger = of_file(tmp_path, TEMPERATURE, reg_strength=10.0)  # which multiplies every penalty
    assert stronger.described() == ["reg_strength=10", "temperature=2 (default)"]
    assert given.notes() == []
    assert given.config.values["temperature"] == 3


def test_its_values_are_attributes_of_the_model(tmp_path: Path) -> None:
    declaration = """{
        "temperature": {"default": 2.0},
        "mode": {"default": "soft"},
        "centred": {"default": True},
        "gamma": {"default": 0.25},
    }"""
    made = regularizer(tmp_path, declaring(declaration))  # gamma=0.8 is given
    model = made.model
    assert [getattr(model, name) for name in ("temperature", "mode", "centred")] == [2.0, "soft", True]
    assert (model.gamma, model.reg_strength, model.epsilon) == (0.8, 1.0, 0.1)
    assert of_file(tmp_path, declaration).resolved.values["gamma"] == 0.25
    file = write(tmp_path, declaring(TEMPERATURE, "model.temperature"))
    importance = trained(file_method(file, temperature=3.0))._custom_importance
    assert importance["head__bias"].tolist() == [9.0] * 6  # of three contexts


def test_a_standard_one_in_a_dict_keeps_what_is_not_said_of_it(tmp_path: Path) -> None:
    loaded = of_file(tmp_path, '{"gamma": {}, "epsilon": {"space": "1,2"}, "reg_strength": {"default": 3}}')
    assert set(loaded.hyperparameters) == set(STANDARD)
    spaces = {name: STANDARD[name].space for name in ("gamma", "reg_strength")}
    assert loaded.spaces == {**spaces, "epsilon": "1,2"}
    assert loaded.resolved.values == {"gamma": 1.0, "epsilon": 0.1, "reg_strength": 3.0}


@pytest.mark.parametrize("declaration", ['("gamma",)', '["gamma"]'])
def test_a_tuple_of_names_is_what_a_sweep_searches(tmp_path: Path, declaration: str) -> None:
    loaded = of_file(tmp_path, declaration)
    assert loaded.hyperparameters == ("gamma",)
    assert set(loaded.spaces) == {"gamma"}
    assert set(loaded.resolved.values) == set(STANDARD)  # it may read the others


def test_what_is_searched_may_be_said_by_the_setting(tmp_path: Path) -> None:
    file = str(write(tmp_path, declaring(TEMPERATURE)))
    digest = files.read(file).digest("sha256")[:12]
    tuned = {"space": {"temperature": "interval(1, 2)", "gamma": "0.1,1"}}
    config = RegularizerConfig("custom", file=file, tuned=tuned, tuned_for=digest)
    assert load(config).spaces == {"temperature": "interval(1, 2)"}
    config.space = {"temperature": "1,2"}
    assert load(config).spaces == {"temperature": "1,2"}


TUPLE = (
    "expected a tuple of some of reg_strength, gamma, epsilon, or a dict such as "
    '{"temperature": {"default": 2.0, "space": "interval(0.1, 10)"}}.'
)
ENTRY = 'expected a dict of "default" and "space", such as {"default": 2.0}.'
OTHER = "expected another name."
NAME = "expected a name such as temperature, and none of name, file, space, tuned, tuned_for, preset, values, fisher."
UNDERSCORE = "expected a name that doesn't begin with an underscore, such as temperature."


@pytest.mark.parametrize(
    ("declaration", "said"),
    [
        ("{'_custom_W': {'default': 0.5}}", f"['_custom_W']: {UNDERSCORE}"),
        ("{'_target_': {'default': 0.5}}", f"['_target_']: {UNDERSCORE}"),
        ("3", f"=3; {TUPLE}"),
        ("None", f"=None; {TUPLE}"),
        ("'gamma'", f"='gamma'; {TUPLE}"),
        ("{'gamma'}", f"={{'gamma'}}; {TUPLE}"),
        ("('temperature',)", f"=('temperature',); {TUPLE}"),
        ("('gamma', 3)", f"=('gamma', 3); {TUPLE}"),
        ("{'temperature': 2.0}", f"['temperature']=2.0; {ENTRY}"),
        ("{'temperature': None}", f"['temperature']=None; {ENTRY}"),
        ("{'temperature': {}}", f"['temperature']={{}}; {ENTRY}"),
        ("{'temperature': {'space': '1,2'}}", f"['temperature']={{'space': '1,2'}}; {ENTRY}"),
        (
            "{'temperature': {'default': 2.0, 'low': 1}}",
            f"['temperature']={{'default': 2.0, 'low': 1}}; {ENTRY}",
        ),
        *(
            (
                f"{{'temperature': {{'default': {default}}}}}",
                f"['temperature']: default={shown}; expected a finite number, a text or a truth value.",
            )
            for default, shown in (("None", "None"), ("float('inf')", "inf"), ("float('nan')", "nan"), ("[1]", "[1]"))
        ),
        ("{'gamma': {'default': 2.0}}", "['gamma']: default=2.0; expected a number above 0 and at most 1."),
        ("{'epsilon': {'default': 0}}", "['epsilon']: default=0; expected a finite number above 0."),
        ("{'gamma': {'default': '1'}}", "['gamma']: default='1'; expected a number above 0 and at most 1."),
        (
            "{'temperature': {'default': 2.0, 'space': 3}}",
            "['temperature']: space=3; expected a text in Hydra's syntax, such as \"interval(0.1, 10)\".",
        ),
        ("{'two words': {'default': 2.0}}", f"['two words']: {NAME}"),
        ("{'fisher.labels': {'default': 'exact'}}", f"['fisher.labels']: {NAME}"),
        ("{3: {'default': 2.0}}", f"[3]: {NAME}"),
        *(
            (f"{{'{name}': {{'default': 2.0}}}}", f"['{name}']: is the name of another column of the results; {OTHER}")
            for name in ("lr", "seed", "state", "validation_after_1")
        ),
        ("{'file': {'default': 2.0}}", f"['file']: {NAME}"),
        ("{'space': {'default': 2.0}}", f"['space']: {NAME}"),
    ],
)
def test_a_wrong_declaration_is_refused(tmp_path: Path, declaration: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        of_file(tmp_path, declaration)
    assert str(caught.value) == f"{tmp_path / 'method.py'}: HYPERPARAMETERS{said}"


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ("interval(10, 1)", f"x=interval(10, 1): expected two numbers, {SMALLER}."),
        (
            "tag(log, interval(0, 1))",
            "x=tag(log, interval(0, 1)): expected two numbers above 0, the smaller one first.",
        ),
        ("3", f"x=3: expected {SYNTAX}."),
        (
            "interval(low, high)",
            "x=interval(low, high): mismatch type argument start: str is incompatible with Union[int, float]; expected "
            f"{SYNTAX}.",
        ),
        ("normal(0, 1)", f"x=normal(0, 1): Unknown function 'normal'; expected {SYNTAX}."),
        ("interval(0, 1", f"x=interval(0, 1: expected {SYNTAX}."),
        ("choice(a, b)", "x=a: expected a finite number."),
    ],
)
def test_what_a_sweep_could_not_search_is_refused_in_a_single_run(tmp_path: Path, space: str, said: str) -> None:
    file = write(tmp_path, declaring(f"{{'x': {{'default': 2.0, 'space': {space!r}}}}}"))
    config = setting("+benchmark=split_mnist", f"regularizer.file={file}", "dataset=mnist_5k")
    with pytest.raises(InputError) as caught:
        run(config, tmp_path)
    assert str(caught.value) == f"{file}: HYPERPARAMETERS: regularizer.{said}"


@pytest.mark.parametrize("name", ["head", "param_list", "training", "forward"])
def test_a_hyperparameter_called_as_something_of_the_network_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError) as caught:
        regularizer(tmp_path, declaring(f"{{{name!r}: {{'default': 2.0}}}}"), network())
    assert str(caught.value) == (
        f"{tmp_path / 'method.py'}: HYPERPARAMETERS has {name!r}, which the network has, too; expected another name."
    )


# ---- values and where they are from


def test_a_value_is_given_tuned_or_the_default() -> None:
    config = built_in("rwalk", reg_strength=2.0)
    config.tuned = {"reg_strength": 7.0, "gamma": 0.5, "space": {"gamma": "0.5,1"}}
    loaded = load(config)
    assert loaded.described() == ["reg_strength=2", "gamma=0.5 (default, tuned before)", "epsilon=0.001 (default)"]
    assert loaded.resolved.origins == {
        "reg_strength": "given",
        "gamma": TUNED,
        "epsilon": "default",
        "fisher.labels": "default",
        "fisher.examples": "default",
    }
    assert loaded.spaces["gamma"] == "0.5,1"
    assert loaded.config.values == loaded.resolved.values


def test_null_is_not_given_but_where_it_is_a_value() -> None:
    config = built_in("rwalk", gamma=None, **{"fisher.examples": None})
    config.tuned = {"gamma": 0.5, "fisher.examples": 3}
    loaded = load(config)
    assert (loaded.resolved.values["gamma"], loaded.resolved.origins["gamma"]) == (0.5, TUNED)
    assert (loaded.resolved.values["fisher.examples"], loaded.resolved.origins["fisher.examples"]) == (None, "given")


def test_a_standard_one_that_a_method_has_not_is_noted() -> None:
    loaded = load(built_in("ewc", gamma=0.6, reg_strength=3.0))
    assert loaded.notes() == ["regularizer.gamma=0.6: regularizer=ewc has no gamma"]
    assert loaded.described() == ["reg_strength=3"]
    assert load(built_in("ewc", reg_strength=3.0)).notes() == []


@pytest.mark.parametrize(
    ("reads", "notes"),
    [
        ("1.0", ["regularizer.epsilon=0.5: {file} doesn't mention epsilon"]),
        ("model.epsilon", []),
        ('getattr(model, "epsilon")', []),
    ],
)
def test_a_standard_one_that_a_file_neither_declares_nor_mentions_is_noted(
    tmp_path: Path, reads: str, notes: list[str]
) -> None:
    file = write(tmp_path, f"# epsilon\n{declaring(TEMPERATURE, reads)}")
    values = {"epsilon": 0.5, "reg_strength": 3.0, "temperature": 1.0}  # the strength acts without being read
    loaded = load(RegularizerConfig("custom", file=str(file), values=values))
    assert loaded.notes() == [note.format(file=loaded.method.source) for note in notes]
    assert load(RegularizerConfig("custom", file=str(file))).notes() == []


def test_a_text_that_is_none_of_the_declared_choices_is_noted(tmp_path: Path) -> None:
    norm = '{"norm": {"default": "l2", "space": "choice(l1, \'a b\')"}}'
    for value in ("l1", "l2", "a b"):
        assert of_file(tmp_path, norm, norm=value).notes() == []
    loaded = of_file(tmp_path, norm, norm="l3")
    assert loaded.notes() == [f"regularizer.norm=l3: is none of those that {loaded.method.source} declares, l1, a b"]
    assert of_file(tmp_path, '{"norm": {"default": "l2"}}', norm="l3").notes() == []


def test_a_hyperparameter_may_refer_to_another_key(tmp_path: Path) -> None:
    file = write(tmp_path, declaring(TEMPERATURE))
    refers = "regularizer.temperature='${optimizer.lr}'"
    config = setting("+benchmark=split_mnist", f"regularizer.file={file}", refers, "optimizer.lr=3")
    assert load(config.regularizer).resolved.values["temperature"] == 3


def test_one_that_no_method_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        of_file(tmp_path, TEMPERATURE, temprature=3.0)
    assert str(caught.value) == (
        f"regularizer.temprature: {tmp_path / 'method.py'} has no such hyperparameter; did you mean "
        "regularizer.temperature?"
    )
    with pytest.raises(InputError, match=r"; expected one of its own: regularizer\.gamma\.$"):
        of_file(tmp_path, '("gamma",)', sharpness=2.0)
    with pytest.raises(InputError) as caught:
        load(built_in("ewc", temperature=3.0))
    assert str(caught.value) == (
        "regularizer.temperature: ewc has no such hyperparameter; expected one of its own: regularizer.reg_strength, "
        "regularizer.fisher.labels, regularizer.fisher.examples, regularizer.fisher.batch_size."
    )


@pytest.mark.parametrize(
    ("name", "key", "value", "said"),
    [
        ("online_ewc", "gamma", 0, "gamma=0: expected a number above 0 and at most 1."),
        ("online_ewc", "gamma", True, "gamma=true: expected a number above 0 and at most 1."),
        ("ewc", "reg_strength", -1.0, "reg_strength=-1.0: expected a finite number of 0 or more."),
        ("ewc", "reg_strength", "much", "reg_strength=much: expected a finite number of 0 or more."),
        ("si", "epsilon", 0.0, "epsilon=0.0: expected a finite number above 0."),
        ("si", "floor_at_zero", 1, "floor_at_zero=1: expected true or false."),
        ("ewc", "fisher.labels", "true", "fisher.labels=true: expected one of exact, sampled, empirical, batched."),
        (
            "kfac_ewc",
            "fisher.labels",
            "batched",
            "fisher.labels=batched: expected one of exact, sampled, empirical (batched is for a diagonal: a batch's "
            "gradient has no factors).",
        ),
        ("ewc", "fisher.batch_size", 0, "fisher.batch_size=0: expected 1 or more, or null for 128."),
        (
            "rwalk",
            "fisher.batch_size",
            64,
            "fisher.batch_size=64: with fisher.labels=exact each example has a gradient of its own; expected "
            "fisher.labels=batched as well, or no batch size.",
        ),
        ("ewc", "fisher.examples", 0, "fisher.examples=0: expected 1 or more, or null for all."),
    ],
)
def test_a_wrong_value_is_refused(name: str, key: str, value: object, said: str) -> None:
    with pytest.raises(InputError) as caught:
        load(built_in(name, **{key: value}))
    assert str(caught.value) == f"regularizer.{said}"


@pytest.mark.parametrize(
    ("default", "given", "said"),
    [
        ("2.0", "soft", "temperature=soft: expected a finite number."),
        ("'soft'", 2.0, "temperature=2.0: expected a text."),
        ("False", 1, "temperature=1: expected true or false."),
    ],
)
def test_a_value_of_a_file_is_of_its_defaults_kind(tmp_path: Path, default: str, given: object, said: str) -> None:
    with pytest.raises(InputError) as caught:
        of_file(tmp_path, f"{{'temperature': {{'default': {default}}}}}", temperature=given)
    assert str(caught.value) == f"regularizer.{said}"


def test_an_option_that_came_later_is_named_where_it_is_set() -> None:
    """Runs and studies from before it go by the same names."""
    for values in ({}, {"fisher.batch_size": None}):
        usual = load(built_in("ewc", **values))
        assert usual.options == "fisher.labels=exact fisher.examples=null"
        assert "fisher.batch_size" not in usual.config.values
        assert usual.notes() == []
    batched = load(built_in("ewc", **{"fisher.labels": "batched", "fisher.batch_size": 64}))
    assert batched.options == "fisher.labels=batched fisher.examples=null fisher.batch_size=64"
    assert batched.config.values["fisher.batch_size"] == 64
    (note,) = batched.notes()
    assert note.startswith("regularizer.fisher.labels=batched: a batch's mean gradient, squared, isn't the Fisher")


def test_options_are_shown_where_they_are_set() -> None:
    assert load(built_in("si")).options == ""
    assert load(built_in("si", floor_at_zero=True)).options == "floor_at_zero=True"
    shown = load(built_in("ewc", **{"fisher.labels": "sampled"})).options
    assert shown == "fisher.labels=sampled fisher.examples=null"


# ---- what was tuned for the file that ships


def test_the_tuned_values_are_for_the_file_that_ships() -> None:
    """After a change of custom_regularization.py: tune it anew, and write the new digest into the YAML file."""
    tuned_for = OmegaConf.load(CONF / "regularizer" / "custom.yaml").tuned_for
    assert tuned_for == files.read(str(SHIPPED)).digest("sha256")[:12]


def test_an_edited_copy_of_the_file_that_ships_is_not_tuned(tmp_path: Path) -> None:
    same, edited = (
        write(tmp_path, SHIPPED.read_text() + more, name) for name, more in (("same.py", ""), ("own.py", "#"))
    )
    tuned = OmegaConf.load(CONF / "tuned" / "split_mnist" / "custom.yaml").reg_strength
    found = [
        load(setting("+benchmark=split_mnist", f"regularizer.file={file}").regularizer)
        for file in (SHIPPED, same, edited)
    ]
    assert [one.resolved.values["reg_strength"] for one in found] == [tuned, tuned, 1.0]
    assert [one.resolved.origins["reg_strength"] for one in found] == [TUNED, TUNED, "default"]
    given = load(
        setting("+benchmark=split_mnist", f"regularizer.file={SHIPPED}", "regularizer.reg_strength=3").regularizer
    )
    assert given.described() == ["reg_strength=3"]


# ---- classes


@pytest.mark.parametrize(
    "target", ["clsweep.methods.base.Anchored", "clsweep.methods.base.Finished", "torch.nn.Linear"]
)
def test_a_target_that_is_no_method_is_refused(target: str) -> None:
    with pytest.raises(InputError) as caught:
        load(RegularizerConfig("mine", target))
    assert str(caught.value) == (
        f"regularizer._target_={target}: expected a dataclass that is derived from clsweep.methods.base.BuiltIn (a "
        "file with the two functions goes to regularizer.file)."
    )


OWN = """
from dataclasses import dataclass
from clsweep.methods.ewc import EWC

@dataclass(eq=False)
class Mine(EWC):
    factor = {factor}
"""


def test_a_class_of_ones_own_needs_a_name_of_its_own_and_has_a_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"method_of_{tmp_path.name}"
    file = write(tmp_path, OWN.format(factor=0.5), f"{name}.py")
    monkeypatch.chdir(tmp_path)
    borrowed = RegularizerConfig("ewc", f"{name}.Mine", tuned={"reg_strength": 1e6})
    with pytest.raises(InputError) as raised:
        load(borrowed)
    assert str(raised.value) == (
        f"regularizer._target_={name}.Mine: is another method than ewc; expected a name of its own as well, "
        "regularizer.name=NAME."
    )
    own = load(RegularizerConfig("mine", f"{name}.Mine"))
    before = own.code_digest
    assert len(before) == 12
    assert load(method("ewc")).code_digest == ""
    file.write_text(OWN.format(factor=1.0), encoding="utf-8")
    assert own.code_digest != before


@pytest.mark.parametrize(
    ("tuned", "sentence"),
    [
        ({"nope": 3}, "regularizer.tuned.nope: ewc has no such hyperparameter; expected regularizer.reg_strength, "),
        ({"reg_strength": -5}, "regularizer.tuned.reg_strength=-5: expected a finite number of 0 or more."),
    ],
)
def test_what_is_wrong_among_tuned_values_is_named(tuned: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as raised:
        load(RegularizerConfig("ewc", "clsweep.methods.ewc.EWC", tuned=tuned))
    assert str(raised.value).startswith(sentence)
