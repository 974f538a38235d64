"""Contexts that are kept from run to run."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from builders import setting

from clsweep.data.context_cache import ContextCache
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
    assert streams(config, cpu) is first
    before = Protocol.of(config).dataset_digest
    images(255)
    assert Protocol.of(config).dataset_digest != before
    second = streams(config, cpu)
    assert not torch.equal(first.contexts[0].train.images, second.contexts[0].train.images)
    assert streams(config, cpu) is second
