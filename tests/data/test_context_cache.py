"""Contexts that are kept from run to run."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import image_data, setting

from clsweep.data.context_cache import ContextCache
from clsweep.errors import InputError
from clsweep.protocol import Protocol


def test_contexts_follow_the_data_when_a_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "images.npz"

    def images(value: int) -> None:
        np.savez(file, images=np.full((40, 4, 4), value, np.uint8), labels=np.arange(40) % 2)

    images(1)
    config = setting(
        "+benchmark=split_mnist",
        "dataset=arrays",
        f"dataset.train={file}",
        f"dataset.test={shutil.copy(file, tmp_path / 'test.npz')}",
        "benchmark.contexts=1",
        "benchmark.image_size=null",
        "benchmark.normalize=false",
    )
    streams, cpu = ContextCache(), torch.device("cpu")
    first = streams(config, cpu)
    assert streams(config, cpu).contexts is first.contexts
    before = Protocol.of(config).dataset_digest
    images(255)
    assert Protocol.of(config).dataset_digest != before
    second = streams(config, cpu)
    assert not torch.equal(first.contexts[0].train.images, second.contexts[0].train.images)
    assert streams(config, cpu).contexts is second.contexts


UNEVEN = """
import torch
from clsweep.data.streams import ContextData


def stream(data):
    for classes in ([0, 1, 2], [3, 4]):
        train, test = (torch.isin(part.labels, torch.tensor(classes)) for part in (data.train, data.test))
        yield ContextData(classes, train, test)
"""


def test_how_a_run_uses_kept_contexts_is_checked_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"uneven_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(UNEVEN)
    monkeypatch.chdir(tmp_path)
    streams, cpu = ContextCache(lambda _: image_data(6)), torch.device("cpu")
    more = (
        "regularizer=none",
        "dataset=arrays",
        f"++benchmark.stream={{_target_:{name}.stream}}",
        "benchmark.contexts=2",
    )
    first = streams(setting("+benchmark=split_mnist", *more), cpu)
    with pytest.raises(InputError, match=r"^stream=joint: the contexts have 2 to 3 classes"):
        streams(setting("+benchmark=split_mnist", *more, "stream=joint"), cpu)
    few, many = (setting("+benchmark=split_mnist", *more, f"benchmark.batch_size={size}") for size in (4, 40))
    assert [len(streams(config, cpu).notes) for config in (many, few, many)] == [1, 0, 1]
    assert streams(few, cpu).contexts is first.contexts
