"""Which files of a data set are the published ones."""

from __future__ import annotations

import hashlib
from pathlib import Path

# MD5, as torchvision has it of the compressed files. CIFAR10 and CIFAR100 are compared by torchvision itself.
_PUBLISHED = {
    "torchvision.MNIST": {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    "torchvision.FashionMNIST": {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
}


def names(source: str) -> list[str]:
    """The names of a data set's published files; none where torchvision itself has them."""
    return list(_PUBLISHED.get(source, {}))


def not_as_published(source: str, folder: Path) -> list[str]:
    """The names of a data set's files that differ from the published ones.

    Args:
        source: the data set's, as in `dataset.source`.
        folder: where its files are.
    """
    published = _PUBLISHED.get(source, {})
    there = [name for name in published if (folder / name).is_file()]  # torchvision reads older layouts, too
    return [name for name in there if _md5(folder / name) != published[name]]


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
