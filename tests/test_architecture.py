"""What a setting may say of its network, and how results tell it."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from builders import compose, setting
from tiny import cnn, mlp

from clsweep import architecture
from clsweep import config as settings
from clsweep.errors import InputError
from clsweep.targets import files

OURS = ", ".join(dict.fromkeys(values["name"] for values in files("network").values()))


def own(path: str, **arguments: Any) -> dict[str, Any]:
    return {"name": "own", "_target_": path, **arguments}


@pytest.mark.parametrize(
    ("node", "described"),
    [
        (mlp([400, 400]), "mlp 400 400"),
        (mlp([]), "mlp"),
        (cnn([16, 32], [200]), "cnn 16 32 / 200"),
        (cnn([16], [32, 200]), "cnn 16 / 32 200"),
        (cnn([16, 32], []), "cnn 16 32 /"),
        ({"_target_": "clsweep.networks.ResNet18", "name": "resnet18", "width": 20}, "resnet18 20"),
        (own("my_nets.Net", width=64, depth=2), "my_nets.Net depth=2 width=64"),
    ],
)
def test_results_tell_ours_by_name_and_widths_and_others_as_they_are_typed(
    node: dict[str, Any], described: str
) -> None:
    assert architecture.described(node) == described


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("cnn 16 32 64 128 256 2000 2000", "cnn 16 32 64 128 256 / 2000 2000"),
        ("cnn 16 32 64 128 256 500", "cnn 16 32 64 128 256 / 500"),
        ("cnn 16 32 64 128 256", "cnn 16 32 64 128 256 /"),
        ("cnn 16 32 200", "cnn 16 32 200"),  # it isn't known where the first list ends
        ("cnn 16 32 64 128 2560 9", "cnn 16 32 64 128 2560 9"),
        ("cnn 16 32 / 200", "cnn 16 32 / 200"),
        ("mlp 400 400", "mlp 400 400"),
        ("my_nets.Net width=64", "my_nets.Net width=64"),
    ],
)
def test_lists_of_widths_that_stood_end_to_end_are_told_apart_where_it_is_known(before: str, now: str) -> None:
    assert architecture.from_results(before) == now


@pytest.mark.parametrize(
    ("node", "sentence"),
    [
        (mlp([4, 0]), "network.hidden=[4,0]: expected widths of 1 or more."),
        (mlp([4, 0.5]), "network.hidden=[4,0.5]: expected a list of integers, as in network.hidden=[400,400]."),  # type: ignore[list-item]
        (cnn([], [4]), "network.channels=[]: expected at least one convolution for network.name=cnn."),
        (cnn([0], [4]), "network.channels=[0]: expected widths of 1 or more."),
        (mlp([4]) | {"name": "transformer"}, f"network.name=transformer: expected one of {OURS}."),
        (
            mlp([4]) | {"name": "cnn"},
            "network.name=cnn: isn't clsweep.networks.MLP; expected network=cnn, which chooses it.",
        ),
        (
            mlp([4]) | {"hiden": [4]},
            "network.hiden: clsweep.networks.MLP takes no hiden; did you mean network.hidden?",
        ),
        (
            mlp([4]) | {"channels": [4]},
            "network.channels: clsweep.networks.MLP takes no channels; expected network.hidden.",
        ),
        (
            own("torch.nn.Linear", in_features=1, out_feature=1),
            "network.out_feature: torch.nn.Linear takes no out_feature; did you mean network.out_features?",
        ),
        (
            {"name": "own", "_target_": None},
            "network._target_=null: expected the dotted path of a class or a function, as in "
            "network._target_=my_module.Name.",
        ),
    ],
)
def test_what_is_out_of_range_or_unknown_is_refused_by_name(node: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        architecture.check(node)
    assert str(caught.value) == sentence


def test_a_target_alone_leaves_nothing_of_another_network_in_the_node() -> None:
    typed = ("+benchmark=split_mnist", "regularizer=si", "network._target_=torch.nn.Linear", "network.in_features=3")
    assert settings.parse(compose(*typed, "network.out_features=2")).network == own(
        "torch.nn.Linear", in_features=3, out_features=2
    )


def test_a_node_of_before_networks_had_targets_is_read() -> None:
    config = setting("+benchmark=split_cifar100", "regularizer=si", "network=mlp")
    values = dataclasses.asdict(config) | {"network": {"name": "mlp", "hidden": [9], "channels": []}}
    assert settings.from_values(values).network == mlp([9])


def test_the_setting_of_a_network_of_ours_is_checked_without_torch() -> None:
    program = (
        "import sys; from clsweep import architecture; architecture.check({node}); assert 'torch' not in sys.modules"
    )
    code = program.format(node=mlp([4]))
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)
