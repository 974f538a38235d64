"""What a stream function returns, checked against what is expected of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from operator import index

import torch
from torch import Tensor

from clsweep.config import Config
from clsweep.data.datasets import ImageData, LabelledImages, untested
from clsweep.data.streams import ContextData
from clsweep.errors import ClsweepError, InputError, named
from clsweep.seeding import GlobalStream, Seeds
from clsweep.targets import TARGET, Target

_CALLS = 20  # what is drawn may be no more than whether to flip the images


def contexts_of(target: Target, data: ImageData, config: Config, shape: tuple[int, int, int]) -> list[ContextData]:
    """Call a stream function, and check what it returns.

    Args:
        target: the function and its own arguments.
        data: the images, on the CPU.
        config: the setting.
        shape: (C, H, W) of the prepared images.

    Returns:
        One for each context; image numbers are int64, never masks.

    Raises:
        InputError: it raised, or returned what it shouldn't.
    """
    contexts, classes = config.benchmark.contexts, config.benchmark.classes_per_context
    seed = Seeds.of(config).order
    provided = {"contexts": contexts, "classes_per_context": classes, "seed": seed, "input_shape": shape}
    made = target.make(data, **provided)
    if not isinstance(made, Iterable):
        raise InputError(f"{target.key}: {target.path} returned {_kind(made)}; expected a ContextData a context.")
    try:
        given = list(made)  # a function with `yield` runs only here
    except ClsweepError:
        raise
    except Exception as error:
        raise InputError(f"{target.key}.{TARGET}={target.path}: running it raised {named(error)}.") from error
    if len(given) != contexts:
        raise InputError(
            f"{target.key}: {target.path} gave {len(given)} contexts; expected benchmark.contexts={contexts} of them."
        )
    return [
        _checked(f"{target.key}: context {number} of {target.path}", one, data, config, shape)
        for number, one in enumerate(given, 1)
    ]


def _checked(where: str, given: object, data: ImageData, config: Config, shape: tuple[int, int, int]) -> ContextData:
    if not isinstance(given, ContextData):
        raise InputError(f"{where} is {_kind(given)}; expected a clsweep.data.streams.ContextData.")
    classes = _classes(where, given.classes)
    train = _rows(f"{where}: train", given.train, len(data.train.labels), "training")
    test = _rows(f"{where}: test", given.test, len(data.test.labels), "test", untested(classes, data, config.dataset))
    _check_labels(f"{where}: train", given.train_labels, train, data.train, classes)
    _check_labels(f"{where}: test", given.test_labels, test, data.test, classes)
    _check_transform(where, given.transform, shape)
    return replace(given, classes=classes, train=train, test=test)


def _classes(where: str, given: object) -> tuple[int, ...]:
    try:
        classes = tuple(map(index, given))  # type: ignore[call-overload]  # of a list, a range, an array, a tensor
    except TypeError as error:
        raise InputError(f"{where}: classes is {_kind(given)}; expected whole numbers, as in [0, 1].") from error
    if not classes or len(set(classes)) < len(classes):
        raise InputError(f"{where}: classes are {list(classes)}; expected one or more, each once.")
    return classes


def _rows(where: str, given: object, count: int, kind: str, lacking: str | None = None) -> Tensor:
    """Numbers of images, [n] int64, from numbers or a mask; `lacking` may say why there are none."""
    expected = f"expected the numbers of {kind} images, [n] int64, or a mask of all, [{count}] bool"
    if not isinstance(given, Tensor):
        raise InputError(f"{where} is {_kind(given)}; {expected}.")
    is_mask = given.dtype == torch.bool and given.shape == (count,)
    if not (is_mask or (given.dtype == torch.int64 and given.ndim == 1)):
        raise InputError(f"{where} is {_described(given)}; {expected}.")
    rows = given.nonzero().squeeze(1) if is_mask else given
    if len(rows) == 0:
        why = f" ({lacking})" if lacking else ""
        raise InputError(f"{where} has no {kind} image{why}; expected at least one.")
    for number in (int(rows.min()), int(rows.max())):
        if not 0 <= number < count:
            raise InputError(f"{where} has image number {number}; expected 0 to {count - 1}.")
    return rows


def _check_labels(where: str, labels: object, rows: Tensor, images: LabelledImages, classes: tuple[int, ...]) -> None:
    if labels is None:
        labels = images.labels[rows]
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != rows.shape:
        what = _described(labels) if isinstance(labels, Tensor) else _kind(labels)
        raise InputError(f"{where}_labels is {what}; expected [{len(rows)}] int64, the class of each image, or None.")
    foreign = labels[~torch.isin(labels, torch.tensor(classes))]
    if len(foreign):
        raise InputError(
            f"{where} shows class {int(foreign[0])}, which isn't one of its classes {list(classes)}; "
            "expected images of these, or more classes."
        )


def _check_transform(where: str, transform: object, shape: tuple[int, int, int]) -> None:
    if transform is None:
        return
    if not callable(transform):
        raise InputError(f"{where}: transform is {_kind(transform)}; expected a function of images, or None.")
    with GlobalStream(0).active():
        images = torch.rand(2, *shape)
        alone = _transformed(where, transform, images[:1])
        if not all(_same(_transformed(where, transform, images[:1]), alone) for _ in range(_CALLS)):
            raise InputError(
                f"{where}: its transform gives other images for the same ones; expected one that doesn't draw random "
                "numbers: augmentation belongs into the network's forward, under `if self.training`."
            )
        if not _same(_transformed(where, transform, images)[:1], alone):
            raise InputError(
                f"{where}: its transform gives another image where it is in a batch with others; expected each image "
                "to be transformed by itself."
            )


def _transformed(where: str, transform: Callable[[Tensor], object], images: Tensor) -> Tensor:
    try:
        made = transform(images.clone())  # it may change them in place
    except Exception as error:
        raise InputError(f"{where}: its transform raised {named(error)}.") from error
    if not isinstance(made, Tensor) or made.shape != images.shape or made.dtype != images.dtype:
        what = _described(made) if isinstance(made, Tensor) else _kind(made)
        raise InputError(f"{where}: its transform made {what} of {_described(images)}; expected the same again.")
    return made


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-3, atol=1e-5, equal_nan=True)


def _kind(value: object) -> str:
    return "None" if value is None else type(value).__name__


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {list(tensor.shape)}"
