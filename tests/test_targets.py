"""`clsweep.targets`: what is found, what is given, and what is refused."""

from __future__ import annotations

import copy
import importlib
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from clsweep import own
from clsweep.errors import InputError
from clsweep.targets import Target

SOURCE = """
class Net:
    def __init__(self, n_outputs, width=4, *, inner=None):
        if width < 0:
            raise ValueError("width is negative")
        self.given = (n_outputs, width, inner)

def anything(**values):
    return values

NUMBER = 3
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the current folder, with a name that no other test imports."""
    (tmp_path / f"nets_{tmp_path.name}.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    return f"nets_{tmp_path.name}"


def target(path: str, **arguments: Any) -> Target:
    return Target.of("network", {"_target_": path, **arguments})


def test_a_class_in_the_current_folder_gets_its_arguments_and_what_its_signature_asks_for(nets: str) -> None:
    made = target(f"{nets}.Net", width=64)
    made.check("n_outputs", "input_shape")
    assert made.make(n_outputs=10, input_shape=(1, 4, 4)).given == (10, 64, None)
    assert target(f"{nets}.anything", width=1).make(n_outputs=10) == {"width": 1}
    assert Target.of("network", {"_target_": "a.b", "name": "n", "x": 1}, apart=("name",)).arguments == {"x": 1}


def test_it_is_described_as_it_is_typed() -> None:
    made = target("my_nets.Net", width=64, deep=True, sizes=[1, 2], inner={"_target_": "a.b", "p": None})
    assert made.described == "my_nets.Net deep=true inner={_target_:a.b,p:null} sizes=[1,2] width=64"


def test_a_target_within_the_arguments_is_made_too(nets: str) -> None:
    inner = {"_target_": f"{nets}.anything", "depth": 2}
    assert target(f"{nets}.Net", inner=inner).make(n_outputs=1).given == (1, 4, {"depth": 2})


@pytest.mark.parametrize(
    ("path", "arguments", "sentence"),
    [
        ("Net", {}, "network._target_=Net: expected the dotted path of a class or a function"),
        (
            "no_such_module.Net",
            {},
            "network._target_=no_such_module.Net: there is no module no_such_module; expected one that is installed, "
            "or no_such_module.py in the current folder or in one that PYTHONPATH names.",
        ),
        ("{nets}.Nett", {}, "network._target_={nets}.Nett: {nets} has no Nett; did you mean Net?"),
        (
            "torch.optim.Rmsprop",
            {},
            "network._target_=torch.optim.Rmsprop: torch.optim has no Rmsprop; did you mean RMSprop?",
        ),
        ("{nets}.NUMBER", {}, "network._target_={nets}.NUMBER: is int; expected a class or a function."),
        ("{nets}.Net", {"widht": 3}, "network.widht: {nets}.Net takes no widht; did you mean network.width?"),
    ],
)
def test_what_is_not_there_or_not_taken_is_named(
    nets: str, path: str, arguments: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError) as raised:
        target(path.format(nets=nets), **arguments).check("n_outputs")
    assert str(raised.value).startswith(sentence.format(nets=nets))


def test_what_is_missing_and_what_raises_is_named(nets: str) -> None:
    with pytest.raises(InputError, match=r"^network\.n_outputs: is missing; .*Net needs it\.$"):
        target(f"{nets}.Net").check()
    with pytest.raises(InputError, match=r"making it raised ValueError: width is negative\.$"):
        target(f"{nets}.Net", width=-1).make(n_outputs=1)


@pytest.mark.parametrize("name", ["_args_", "_partial_", "_convert_", "_recursive_"])
def test_keys_of_hydra_itself_are_no_arguments(nets: str, name: str) -> None:
    with pytest.raises(InputError) as raised:
        target(f"{nets}.anything", **{name: [1]}).check("n_outputs")
    assert str(raised.value) == (
        f"network.{name}: is Hydra's own key, and {nets}.anything is called with arguments by their names; expected "
        f"network.{name} to be left out, and each argument as network.name=value."
    )


def test_a_module_is_run_afresh_when_it_or_one_that_it_imports_has_changed(nets: str, tmp_path: Path) -> None:
    package, inner = tmp_path / f"package_{nets}", f"inner_{nets}"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "blocks.py").write_text("W = 1\n")
    (tmp_path / f"{inner}.py").write_text("W = 5\n")
    (package / "nets.py").write_text(
        f"from . import blocks\nimport {inner}\nclass Net:\n    def __init__(self):\n"
        f"        self.widths = (blocks.W, {inner}.W)\n"
    )
    path = f"package_{nets}.nets.Net"
    first, again = target(path).make(), target(path).make()
    assert type(first) is type(again)  # it is run once
    (package / "blocks.py").write_text("W = 2\n")  # of the same size, within the same second
    second = target(path).make()
    (tmp_path / f"{inner}.py").write_text("W = 6\n")
    with own.kept():
        third = target(path).make()
        (tmp_path / f"{inner}.py").write_text("W = 7\n")
        assert target(path).make().widths == third.widths
    assert [one.widths for one in (first, second, third, target(path).make())] == [(1, 5), (2, 5), (2, 6), (2, 7)]
    assert pickle.loads(pickle.dumps(copy.deepcopy(target(path).make()))).widths == (2, 7)


def test_two_targets_share_the_modules_that_both_import(nets: str, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}_{nets}.py").write_text(f"from {nets} import Net\n")
    for source in (SOURCE, SOURCE + "\n"):
        (tmp_path / f"{nets}.py").write_text(source)
        assert target(f"one_{nets}.Net").callable() is target(f"two_{nets}.Net").callable()


def test_of_two_folders_with_a_module_of_one_name_each_command_gets_its_own(
    nets: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert target(f"{nets}.Net").make(n_outputs=1).given == (1, 4, None)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / f"{nets}.py").write_text(SOURCE.replace("width=4", "width=8"))
    monkeypatch.chdir(tmp_path / "other")
    assert target(f"{nets}.Net").make(n_outputs=1).given == (1, 8, None)
    monkeypatch.chdir(tmp_path)
    assert target(f"{nets}.Net").make(n_outputs=1).given == (1, 4, None)


def test_what_a_program_has_imported_by_itself_is_used_unless_its_file_is_newer_than_the_process(
    nets: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / f"{nets}.py"
    os.utime(file, (1e9, 1e9))
    mine = importlib.import_module(nets)
    assert target(f"{nets}.Net").callable() is mine.Net
    os.utime(file)
    assert target(f"{nets}.Net").callable() is not mine.Net
