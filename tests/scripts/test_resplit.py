"""The script that re-splits CIFAR-100."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest


def test_each_class_is_split_in_the_order_of_its_images_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).resolve().parent.parent.parent / "scripts")
    import resplit_cifar100

    monkeypatch.setattr(resplit_cifar100, "N_TRAIN", 5)
    source = np.random.default_rng(0)
    images = source.integers(0, 256, (24, 4, 4, 3), dtype=np.uint8)
    labels = np.repeat([0, 1, 2], 8)
    train, test = resplit_cifar100.resplit(images, labels)
    assert sorted([*train, *test]) == list(range(24))
    digests = [hashlib.sha1(image.tobytes()).hexdigest() for image in images]
    for label in range(3):
        expected = sorted(np.flatnonzero(labels == label), key=lambda index: digests[index])
        assert [index for index in train if labels[index] == label] == expected[:5]
        assert [index for index in test if labels[index] == label] == expected[5:]
    again = source.permutation(24)
    assert np.array_equal(again[resplit_cifar100.resplit(images[again], labels[again])[0]], train)
