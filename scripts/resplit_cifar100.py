"""Write CIFAR-100, re-split, as `train.npz` and `test.npz`, with which the project's own results were made.

    python scripts/resplit_cifar100.py --root data
    python -m clsweep +benchmark=split_cifar100 dataset=arrays dataset.train=train.npz dataset.test=test.npz

Each class's 600 images are sorted by the SHA-1 of their pixels (height, width, channel). The first 500 are for
training, the other 100 for testing. Accuracies can't be compared with those on the official split.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

import numpy as np

from clsweep.config import DatasetConfig
from clsweep.data import datasets
from clsweep.errors import InputError

N_TRAIN = 500


def resplit(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which images are for training and which for testing.

    Args:
        images: uint8 [N, height, width, channels], of all classes.
        labels: [N].

    Returns:
        Two arrays of indices into the images, each in the order of the SHA-1.
    """
    digests = np.array([hashlib.sha1(image.tobytes()).hexdigest() for image in images])
    order = np.lexsort((labels, digests))  # by digest; a few images are there twice, with two labels
    of_class = [order[labels[order] == label] for label in np.unique(labels)]
    train = np.isin(order, np.concatenate([indices[:N_TRAIN] for indices in of_class]))
    return order[train], order[~train]


def main() -> int:
    """Write both files; 2 where CIFAR-100 can't be read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data", help="where torchvision's files are, or go; default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path(), help="folder of the two files; default: this one")
    a = parser.parse_args()
    try:
        data = datasets.load(DatasetConfig("cifar100", source="torchvision.CIFAR100", root=a.root))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    parts = (data.train, data.test)
    images = np.concatenate([part.images.permute(0, 2, 3, 1).numpy() for part in parts])
    labels = np.concatenate([part.labels.numpy() for part in parts]).astype(np.uint8)
    a.output.mkdir(parents=True, exist_ok=True)
    for name, chosen in zip(("train.npz", "test.npz"), resplit(images, labels), strict=True):
        np.savez_compressed(a.output / name, images=images[chosen], labels=labels[chosen])
        print(f"{a.output / name}: {len(chosen):,} images")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
