"""What a stream function returns, checked against what is expected of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from operator import index

import torch
from torch import Tensor

from clsweep.config import Config
from clsweep.data.datasets import ImageData, LabelledImages, untested
from clsweep.data.streams import ContextData
from clsweep.data.transforms import Transform
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
    where = f"{target.key}: context {{}} of {target.path}"
    given, copies = _each(target, made), _Copies()
    checked: list[ContextData] = []
    transformed: list[Tensor | None] = []
    for number, one in enumerate(islice(given, contexts), 1):  # each before the next, which may be in the same tensors
        checked.append(_checked(where.format(number), one, data, config, copies))
        transformed.append(_check_transform(where.format(number), checked[-1].transform, shape))
    if len(checked) < contexts or any(True for _ in given):
        count = len(checked) if len(checked) < contexts else f"more than {contexts}"
        raise InputError(
            f"{target.key}: {target.path} gave {count} contexts; expected benchmark.contexts={contexts} of them."
        )
    for number, (one, before) in enumerate(zip(checked, transformed, strict=True), 1):
        _check_unchanged(where.format(number), one.transform, shape, before)
    return checked


def _each(target: Target, made: Iterable[object]) -> Iterator[object]:
    """What is returned, one by one; a function with `yield` runs only here.

    Raises:
        InputError: it raised.
    """
    try:
        yield from made
    except ClsweepError:
        raise
    except Exception as error:
        raise InputError(f"{target.key}.{TARGET}={target.path}: running it raised {named(error)}.") from error


class _Copies:
    """Copies of tensors that may be filled anew for the next context; of the same content, one tensor has one copy.

    Contexts that show the same images share their numbers by it.
    """

    def __init__(self) -> None:
        self._made: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, given: Tensor) -> Tensor:
        _, copy = self._made.get(id(given), (given, None))
        if copy is None or not torch.equal(given, copy):
            copy = given.clone()
            self._made[id(given)] = given, copy  # both: the number of a tensor that is gone may be another's
        return copy


def _checked(where: str, given: object, data: ImageData, config: Config, copies: _Copies) -> ContextData:
    if not isinstance(given, ContextData):
        raise InputError(f"{where} is {_kind(given)}; expected a clsweep.data.streams.ContextData.")
    classes = _classes(where, given.classes)
    train = _rows(f"{where}: train", given.train, len(data.train.labels), "training")
    test = _rows(f"{where}: test", given.test, len(data.test.labels), "test", untested(classes, data, config.dataset))
    _check_labels(f"{where}: train", given.train_labels, train, data.train, classes)
    _check_labels(f"{where}: test", given.test_labels, test, data.test, classes)
    return replace(
        given,
        classes=classes,
        train=copies(train) if train is given.train else train,
        test=copies(test) if test is given.test else test,
        train_labels=None if given.train_labels is None else copies(given.train_labels),
        test_labels=None if given.test_labels is None else copies(given.test_labels),
    )


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


def _check_transform(where: str, transform: object, shape: tuple[int, int, int]) -> Tensor | None:
    """Check a transform; returns what it makes of an image, None where there is no transform."""
    if transform is None:
        return None
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
    return alone.clone()  # it may be a buffer of the transform's


def _check_unchanged(
    where: str, transform: Transform | None, shape: tuple[int, int, int], before: Tensor | None
) -> None:
    """Refuse a transform that what came after its context has changed, as a loop's next number does."""
    if transform is None or before is None:
        return
    with GlobalStream(0).active():
        if not _same(_transformed(where, transform, torch.rand(2, *shape)[:1]), before):
            raise InputError(
                f"{where}: its transform gives other images once later contexts are made; expected one that keeps "
                "what it was made with, as in `lambda images, number=number: images.roll(number, 3)`."
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
