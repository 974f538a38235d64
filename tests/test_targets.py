"""`clsweep.targets`: what is found, what is given, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

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
        ("no_such_module.Net", {}, "network._target_=no_such_module.Net: there is no module no_such_module"),
        ("{nets}.Nett", {}, "network._target_={nets}.Nett: {nets} has no Nett; did you mean Net?"),
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
