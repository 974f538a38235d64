"""Streams of one's own, and rotated images."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from builders import image_data, setting
from torch import Tensor

from clsweep.config import Config
from clsweep.data import contexts
from clsweep.data.contexts import Stream
from clsweep.data.transforms import Rotation
from clsweep.errors import InputError

SIX = image_data(n_classes=6)
CPU = torch.device("cpu")


def configured(stream: dict[str, Any], *overrides: str) -> Config:
    """Split-MNIST's setting for three contexts of two classes, with another stream."""
    base = ("+benchmark=split_mnist", "dataset=arrays", "regularizer=none", "benchmark.contexts=3")
    config = setting(*base, "benchmark.batch_size=4", *overrides)
    return dataclasses.replace(config, benchmark=dataclasses.replace(config.benchmark, stream=stream))


def build(stream: dict[str, Any], *overrides: str) -> Stream:
    return contexts.build(SIX, configured(stream, *overrides), CPU)


# ---- rotated


def rotated(*overrides: str, **arguments: Any) -> Stream:
    return build(
        {"_target_": "clsweep.data.streams.rotated", **arguments}, "benchmark.classes_per_context=6", *overrides
    )


def angles(stream: Stream) -> list[float]:
    """Read off the grids: the cosine in the first row of the affine map."""
    found = []
    for context in stream.contexts:
        assert isinstance(context.train.transform, Rotation)
        grid = context.train.transform.grid[0]
        across = grid[0, 1] - grid[0, 0]
        found.append(float(torch.rad2deg(torch.atan2(across[1], across[0]))))
    return found


def test_angles_ascend_one_from_each_part_of_half_a_turn() -> None:
    for number, angle in enumerate(angles(rotated("benchmark.scenario=domain"))):
        assert 60 * number <= angle < 60 * (number + 1)


def test_the_seed_draws_the_angles() -> None:
    first, again, other = (angles(rotated(f"seed={seed}")) for seed in (1, 1, 2))
    assert first == again != other


def test_angles_can_be_given_and_the_range_narrowed() -> None:
    assert angles(rotated(degrees=[0, 45, -90])) == pytest.approx([0, 45, -90], abs=1e-4)
    assert max(angles(rotated(max_degrees=30))) < 30


def test_too_few_angles_are_refused() -> None:
    with pytest.raises(InputError) as caught:
        rotated(degrees=[0, 45])
    assert str(caught.value) == (
        "benchmark.stream.degrees=[0, 45]: has 2 angles; expected 3, one for each of benchmark.contexts."
    )


def test_contexts_that_would_all_be_the_same_are_refused() -> None:
    with pytest.raises(InputError, match=r"^benchmark\.stream\.max_degrees=0: makes all contexts the same; expected "):
        rotated(max_degrees=0)


def test_rotated_contexts_show_every_image_once_rotated() -> None:
    stream = rotated("benchmark.scenario=domain", "validation_fraction=0.5")
    for context in stream.contexts:
        assert context.train.transform is not None
        plain = SIX.train.images[context.train.rows].float() / 255
        torch.testing.assert_close(context.train.tensors[0], context.train.transform(plain), rtol=0, atol=0)
        assert torch.equal(context.train.labels, SIX.train.labels[context.train.rows])
    assert (stream.n_train, stream.n_test, stream.n_outputs) == (18, 18, 6)


# ---- a function of one's own


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    """Writes a module whose name no other test has, and builds its function `stream`."""
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"own_{abs(hash(request.node.name))}"

    def made(source: str, *overrides: str, **arguments: Any) -> Stream:
        head = "import torch\nfrom clsweep.data.streams import ContextData\n"
        (tmp_path / f"{name}.py").write_text(head + dedent(source))
        return build({"_target_": f"{name}.stream", **arguments}, *overrides)

    return made


NOISY = """
    def stream(data, contexts, classes_per_context, seed, flipped=0.5):
        source = torch.Generator().manual_seed(seed)
        for number in range(contexts):
            classes = torch.arange(number * classes_per_context, (number + 1) * classes_per_context)
            train = torch.isin(data.train.labels, classes)
            labels = data.train.labels[train]
            wrong = torch.rand(len(labels), generator=source) < flipped
            labels = torch.where(wrong, 2 * classes.sum() // 2 - labels, labels)
            yield ContextData(classes, train, torch.isin(data.test.labels, classes), train_labels=labels)
"""


def test_a_fixed_order_and_label_noise(own: Any) -> None:
    for flipped in (0.0, 0.5, 1.0):
        stream = own(NOISY, "seed=3", flipped=flipped)
        for number, context in enumerate(stream.contexts):
            true = SIX.train.labels[context.train.rows] - 2 * number
            assert set(true.tolist()) == {0, 1}
            share = (true != context.train.labels).double().mean()
            assert share == flipped if flipped != 0.5 else 0 < share < 1
            assert torch.equal(SIX.test.labels[context.test.rows] - 2 * number, context.test.labels)


BLURRY = """
    def stream(data, contexts, seed, share):
        home = data.train.labels // 2
        moved = torch.rand(len(home), generator=torch.Generator().manual_seed(seed)) < share
        home = torch.where(moved, (home + 1) % contexts, home)
        for number in range(contexts):
            train = (home == number).nonzero().squeeze(1)
            shown = sorted({2 * number, 2 * number + 1, *data.train.labels[train].tolist()})
            yield ContextData(shown, train, data.test.labels // 2 == number)
"""


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_blurry_contexts_of_unequal_size(own: Any, scenario: str) -> None:
    stream = own(BLURRY, f"benchmark.scenario={scenario}", share=0.3)
    sizes = [len(context.train) for context in stream.contexts]
    assert sum(sizes) == stream.n_train == 36
    assert len(set(sizes)) > 1
    assert stream.n_outputs == {"task": 12, "domain": 4, "class": 6}[scenario]
    for number, context in enumerate(stream.contexts):
        outputs = torch.tensor(list(stream.active(number, number + 1)))
        for part, labels in ((context.train, SIX.train.labels), (context.test, SIX.test.labels)):
            of_class: dict[int, Tensor] = {}
            for original, output in zip(labels[part.rows].tolist(), outputs[part.labels], strict=True):
                assert of_class.setdefault(original, output) == output
            assert len({int(output) for output in of_class.values()}) == len(of_class)


def test_contexts_that_come_again_have_their_outputs_again(own: Any) -> None:
    source = """
        def stream(data):
            for classes in ([4, 5], [0, 1], [4, 5]):
                masks = (torch.isin(part.labels, torch.tensor(classes)) for part in (data.train, data.test))
                yield ContextData(classes, *masks)
    """
    stream = own(source, "benchmark.scenario=class")
    assert stream.n_outputs == 4
    assert [list(stream.active(number, 3)) for number in range(3)] == [[0, 1, 2, 3]] * 3
    first, second, third = (set(context.train.labels.tolist()) for context in stream.contexts)
    assert (first, second, third) == ({0, 1}, {2, 3}, {0, 1})
    assert (stream.n_train, stream.n_test) == (24, 12)
    assert own(source, "benchmark.scenario=task").n_outputs == 4


def test_what_is_held_out_in_one_context_is_trained_on_in_none(own: Any) -> None:
    source = """
        def stream(data):
            every = torch.arange(len(data.train.labels))
            for start in (0, 10, 20):
                yield ContextData(range(6), every[start:start + 16], every[:18])
    """
    stream = own(source, "validation_fraction=0.34", "benchmark.scenario=domain")
    held_out, trained = set(), set()
    for context in stream.contexts:
        held_out |= set(context.validation.rows.tolist())
        trained |= set(context.train.rows.tolist())
        assert len(context.train) + len(context.validation) == 16
    assert held_out.isdisjoint(trained)
    assert held_out | trained == set(range(36))


def test_a_transform_may_be_any_function(own: Any) -> None:
    source = """
        def stream(data, contexts, input_shape):
            every = torch.arange(len(data.train.labels)), torch.arange(len(data.test.labels))
            for number in range(contexts):
                yield ContextData(range(6), *every, transform=lambda images, n=number: images.mul_(1).roll(n, 3))
    """
    before = torch.get_rng_state()
    stream = own(source, "benchmark.scenario=domain", "benchmark.image_size=6")
    assert torch.equal(torch.get_rng_state(), before)
    plain = torch.nn.functional.pad(SIX.test.images.float() / 255, (1, 1, 1, 1))
    for number, context in enumerate(stream.contexts):
        assert torch.equal(context.test.tensors[0], plain.roll(number, 3))


REUSED = """
    def stream(data, contexts):
        train, labels, classes = torch.empty(12, dtype=torch.int64), torch.empty(12, dtype=torch.int64), [0, 0]
        for number in range(contexts):
            classes[:] = [2 * number, 2 * number + 1]
            train.copy_(torch.isin(data.train.labels, torch.tensor(classes)).nonzero().squeeze(1))
            labels.copy_(data.train.labels[train])
            yield ContextData(classes, train, torch.isin(data.test.labels, torch.tensor(classes)), labels)
"""


def test_contexts_in_the_same_tensors_keep_what_each_had(own: Any) -> None:
    for number, context in enumerate(own(REUSED).contexts):
        original = SIX.train.labels[context.train.rows]
        assert set(original.tolist()) == {2 * number, 2 * number + 1}
        assert torch.equal(original - 2 * number, context.train.labels)


def test_contexts_of_the_same_images_share_their_numbers(own: Any) -> None:
    source = """
        def stream(data, contexts):
            every = torch.arange(len(data.train.labels)), torch.arange(len(data.test.labels))
            return [ContextData(range(6), *every) for _ in range(contexts)]
    """
    first, *others = own(source, "benchmark.scenario=domain").contexts
    assert all(one.train.rows is first.train.rows for one in others)


def test_a_transform_that_later_contexts_change_is_refused(own: Any) -> None:
    source = """
        def stream(data, contexts):
            every = torch.arange(len(data.train.labels)), torch.arange(len(data.test.labels))
            for number in range(contexts):
                yield ContextData(range(6), *every, transform=lambda images: images.roll(number, 3))
    """
    with pytest.raises(InputError, match=r"context 1 of own_.*: its transform gives other images once later contexts"):
        own(source, "benchmark.scenario=domain")


def test_a_stream_without_an_end_is_refused(own: Any) -> None:
    source = """
        def stream(data):
            while True:
                yield ContextData(range(6), torch.arange(36), torch.arange(18))
    """
    with pytest.raises(InputError, match=r"gave more than 3 contexts; expected benchmark\.contexts=3 of them"):
        own(source, "benchmark.scenario=domain")


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ("None", "benchmark.stream: {} returned None; expected a ContextData a context."),
        ("[]", "benchmark.stream: {} gave 0 contexts; expected benchmark.contexts=3 of them."),
        ("[1, 2, 3]", "benchmark.stream: context 1 of {} is int; expected a clsweep.data.streams.ContextData."),
        ("1 / 0", "benchmark.stream._target_={}: making it raised ZeroDivisionError: division by zero."),
        (
            "(1 / 0 for _ in '123')",
            "benchmark.stream._target_={}: running it raised ZeroDivisionError: division by zero.",
        ),
    ],
)
def test_what_is_no_stream_is_refused(own: Any, returned: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        own(f"def stream(data):\n    return {returned}\n")
    name = str(caught.value).split("own_")[1].split(".")[0]
    assert str(caught.value) == said.format(f"own_{name}.stream")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("[0, 0], rows, rows", ": classes are [0, 0]; expected one or more, each once."),
        ("[], rows, rows", ": classes are []; expected one or more, each once."),
        ("['a'], rows, rows", ": classes is list; expected whole numbers, as in [0, 1]."),
        ("3, rows, rows", ": classes is int; expected whole numbers, as in [0, 1]."),
        ("range(6), rows + 31, rows", ": train has image number 36; expected 0 to 35."),
        ("range(6), rows - 1, rows", ": train has image number -1; expected 0 to 35."),
        ("range(6), rows, rows[:0]", ": test has no test image; expected at least one."),
        ("range(6), rows, rows > 9", ": test is bool of shape [6]; {test}."),
        ("range(6), rows.float(), rows", ": train is float32 of shape [6]; {train}."),
        ("range(6), [0, 1], rows", ": train is list; {train}."),
        (
            "[0], rows, rows",
            ": train shows class {first}, which isn't one of its classes [0]; expected images of these, or more "
            "classes.",
        ),
        (
            "range(6), rows, rows, rows[:2]",
            ": train_labels is int64 of shape [2]; expected [6] int64, the class of each image, or None.",
        ),
        (
            "range(6), rows, rows, None, [1]",
            ": test_labels is list; expected [6] int64, the class of each image, or None.",
        ),
        (
            "range(6), rows, rows, rows + 5",
            ": train shows class 6, which isn't one of its classes [0, 1, 2, 3, 4, 5]; expected images of these, or "
            "more classes.",
        ),
        ("range(6), rows, rows, transform=7", ": transform is int; expected a function of images, or None."),
        (
            "range(6), rows, rows, transform=lambda images: images[:, :, 1:]",
            ": its transform made float32 of shape [1, 1, 3, 4] of float32 of shape [1, 1, 4, 4]; expected the same "
            "again.",
        ),
        (
            "range(6), rows, rows, transform=lambda images: images @ images[:, :, 1:]",
            ": its transform raised RuntimeError: ",
        ),
        (
            "range(6), rows, rows, transform=lambda images: images + 0.5 * torch.randn_like(images)",
            ": its transform gives other images for the same ones; expected one that doesn't draw random numbers: "
            "augmentation belongs into the network's forward, under `if self.training`.",
        ),
        (
            "range(6), rows, rows, transform=lambda images: images.flip(3) if torch.rand(()) < 0.5 else images",
            ": its transform gives other images for the same ones; ",
        ),
        (
            "range(6), rows, rows, transform=lambda images: images - images.mean(0)",
            ": its transform gives another image where it is in a batch with others; expected each image to be "
            "transformed by itself.",
        ),
    ],
)
def test_what_is_wrong_with_a_context_is_said(own: Any, arguments: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        own(f"def stream(data):\n    rows = torch.arange(6)\n    return [ContextData({arguments})] * 3\n")
    expected = "expected the numbers of {} images, [n] int64, or a mask of all, [{}] bool"
    first = int(next(label for label in SIX.train.labels[:6] if label != 0))
    said = said.format(test=expected.format("test", 18), train=expected.format("training", 36), first=first)
    message = str(caught.value)
    assert message.startswith("benchmark.stream: context 1 of own_")
    assert message.split(".stream", 1)[1].removeprefix(": context 1 of own_").split(".stream", 1)[1].startswith(said)


def test_a_context_that_loses_all_its_images_to_validation_is_refused(own: Any) -> None:
    source = """
        def stream(data, contexts):
            every = torch.arange(len(data.train.labels))
            for number in range(contexts):
                yield ContextData(range(6), every[number:number + 1] if number == 1 else every, every[:18])
    """
    with pytest.raises(
        InputError, match=r"^validation_fraction=0.5: leaves context 2 no (training|validation) image; exp"
    ):
        own(source, "validation_fraction=0.5", "benchmark.scenario=domain")


def test_joint_training_needs_heads_of_one_size(own: Any) -> None:
    with pytest.raises(InputError) as caught:
        own(BLURRY.replace("share)", "share=0.1)"), "stream=joint", "seed=1")
    assert str(caught.value) == (
        "stream=joint: the contexts have 2 to 3 classes; expected as many in each, or outputs that all contexts share: "
        "benchmark.scenario=class or benchmark.scenario=domain."
    )


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "++benchmark.stream.max_degree=90",
            "benchmark.stream.max_degree: clsweep.data.streams.rotated takes no max_degree; did you mean "
            "benchmark.stream.max_degrees?",
        ),
        (
            "benchmark.stream._target_=clsweep.data.streams.rotate",
            "benchmark.stream._target_=clsweep.data.streams.rotate: clsweep.data.streams has no rotate; did you mean "
            "rotated?",
        ),
        (
            "benchmark.stream._target_=rotated",
            "benchmark.stream._target_=rotated: expected the dotted path of a class or a function, as in "
            "benchmark.stream._target_=my_module.Name.",
        ),
    ],
)
def test_a_mistyped_stream_is_refused_before_anything_is_read(override: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        setting(
            "+benchmark=perm_mnist",
            "regularizer=none",
            "benchmark.stream._target_=clsweep.data.streams.rotated",
            override,
        )
    assert str(caught.value) == said
