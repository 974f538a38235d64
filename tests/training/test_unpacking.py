"""What a file that somebody else has written can't name."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from clsweep.checkpoints.code import Code
from clsweep.checkpoints.packing import DamagedError, Packer, UnpackableError, Unpacker


@pytest.fixture
def code() -> Code:
    module = ModuleType("mine")
    exec("from pathlib import Path\nclass Own: pass", vars(module))
    module.Own.__module__ = "mine"
    return Code(lambda: {"mine": module}, {"mine"})


def unpacked(code: Code, *nodes: Any) -> Any:
    return Unpacker([code], list(nodes), torch.device("cpu")).unpack(("node", 0))


def test_a_class_of_the_code_and_of_pytorch_is_made(code: Code) -> None:
    own = unpacked(code, ("object", ("own", ("node", 1)), [("n", 3)]), ("place", 0, ("mine", "Own")))
    assert (type(own).__name__, own.n) == ("Own", 3)
    layer = unpacked(code, ("object", ("torch", "torch.nn.modules.linear", "Identity"), []))
    assert type(layer) is torch.nn.Identity


@pytest.mark.parametrize(
    "of",
    [
        ("own", ("node", 1)),  # imported there: with it a file could be removed
        ("torch", "torch.utils.data.dataloader.os", "PathLike"),
        ("torch", "torch.utils.data.dataloader.threading", "Thread"),
        ("torch", "torch.nn.modules.linear", "Parameter"),
        ("torch", "os", "PathLike"),
    ],
    ids=str,
)
def test_no_other_class_is_made(of: tuple[Any, ...], code: Code) -> None:
    assert code.at(("mine", "Path")) is Path
    with pytest.raises(DamagedError, match="is no class of"):
        unpacked(code, ("object", of, []), ("place", 0, ("mine", "Path")))


def test_a_class_that_could_not_be_found_again_is_not_packed(code: Code) -> None:
    class Local(torch.nn.Linear):
        pass

    Local.__module__ = "torch.nn.modules.linear"
    for name in ("Local", "Linear"):
        Local.__qualname__ = name
        with pytest.raises(UnpackableError, match="it is an object of the type torch"):
            Packer([code]).pack(Local(1, 1), "it")


def test_tensors_that_share_a_part_of_their_memory_are_not_packed(code: Code) -> None:
    whole = torch.zeros(6)
    for pair in ([whole, whole[1:]], [whole[1:4], whole[3:]]):
        with pytest.raises(UnpackableError, match=r"it\[1\] is a tensor that shares memory with another one"):
            Packer([code]).pack(pair, "it")
    packer = Packer([code])
    packer.pack([whole[:2], whole[2:], whole[2:], torch.ones(2)], "it")
    assert [len(node[1]) for node in packer.nodes] == [4, 2, 4, 4, 2]


def test_no_other_module_is_imported(code: Code) -> None:
    with pytest.raises(DamagedError, match="antigravity is no module of this code"):
        unpacked(code, ("place", 0, ("antigravity", "fly_to")))
