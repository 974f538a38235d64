from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import image_data, setting
from torch import Tensor
from torch.utils.data import DataLoader

from clsweep.data import contexts
from clsweep.data.contexts import Context, Part, Stream
from clsweep.data.datasets import ImageData, LabelledImages
from clsweep.errors import InputError

SIX = image_data(n_classes=6)
FOUR = image_data(n_classes=4)
SCENARIOS = ["task", "domain", "class"]


def split(*overrides: str, data: ImageData = SIX) -> Stream:
    """Three contexts of two classes each, unless changed."""
    chosen = ("benchmark.contexts=3", "benchmark.batch_size=4")
    base = ("+benchmark=split_mnist", "dataset=arrays", "regularizer=none", *chosen)
    return contexts.build(data, setting(*base, *overrides), torch.device("cpu"))


def permuted(*overrides: str, data: ImageData = FOUR) -> Stream:
    """Three permutations of all classes, without padding, unless changed."""
    base = ("+benchmark=perm_mnist", "dataset=arrays", "regularizer=none", "benchmark.contexts=3")
    shape = (f"benchmark.classes_per_context={data.n_classes}", "benchmark.image_size=null")
    return contexts.build(data, setting(*base, *shape, *overrides), torch.device("cpu"))


def held_out(context: Context) -> Part:
    assert context.validation is not None
    return context.validation


def labels_by_class(part: Part, classes: Tensor) -> dict[int, set[int]]:
    """The labels that a part gives to each original class."""
    found: dict[int, set[int]] = {}
    for original, label in zip(classes[part.rows].tolist(), part.labels.tolist(), strict=True):
        found.setdefault(original, set()).add(label)
    return found


def classes_of(stream: Stream, data: ImageData) -> list[list[int]]:
    """The original classes of each context, in the order of their labels."""
    maps = [labels_by_class(context.train, data.train.labels) for context in stream.contexts]
    return [sorted(by_class, key=lambda original: min(by_class[original])) for by_class in maps]


# Split benchmarks


def test_split_contexts_share_no_class_and_no_image() -> None:
    stream = split()
    classes = [original for context in classes_of(stream, SIX) for original in context]
    assert sorted(classes) == [0, 1, 2, 3, 4, 5]
    for parts, labels in (
        ([context.train for context in stream.contexts], SIX.train.labels),
        ([context.test for context in stream.contexts], SIX.test.labels),
    ):
        assert torch.cat([part.rows for part in parts]).sort().values.tolist() == list(range(len(labels)))
    assert (stream.n_train, stream.n_test) == (36, 18)


def test_fewer_contexts_leave_the_other_classes_out() -> None:
    stream = split("benchmark.contexts=2")
    assert len(stream.contexts) == 2
    assert (stream.n_train, stream.n_test) == (4 * 6, 4 * 3)
    assert classes_of(stream, SIX) == classes_of(split(), SIX)[:2]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_each_split_label_stands_for_one_original_class_in_training_and_test(scenario: str) -> None:
    for number, context in enumerate(split(f"benchmark.scenario={scenario}").contexts):
        first = 2 * number if scenario == "class" else 0
        train = labels_by_class(context.train, SIX.train.labels)
        assert sorted(train.values(), key=min) == [{first}, {first + 1}]
        assert labels_by_class(context.test, SIX.test.labels) == train


def test_the_seed_decides_the_order_of_classes() -> None:
    data = image_data(n_classes=20)
    orders = {seed: classes_of(split(f"seed={seed}", data=data), data) for seed in (1, 2)}
    assert classes_of(split("seed=1", data=data), data) == orders[1]
    assert orders[1] != orders[2]


def test_holding_out_changes_neither_the_order_of_classes_nor_the_test_sets() -> None:
    for without, with_some in zip(split().contexts, split("validation_fraction=0.5").contexts, strict=True):
        assert torch.equal(without.test.rows, with_some.test.rows)
        assert torch.equal(without.test.labels, with_some.test.labels)


def test_split_images_are_those_of_the_data_set_from_0_to_1() -> None:
    for context in split().contexts:
        for part, source in ((context.train, SIX.train), (context.test, SIX.test)):
            expected = source.images[part.rows].numpy() / np.float32(255)
            np.testing.assert_allclose(part.tensors[0].numpy(), expected, rtol=1e-6)


def test_float_images_are_taken_as_they_are() -> None:
    images = torch.linspace(-3, 3, 36 * 16, dtype=torch.float32).view(36, 1, 4, 4)
    data = ImageData(LabelledImages(images, SIX.train.labels), SIX.test, 6)
    part = split(data=data).contexts[0].train
    assert torch.equal(part.tensors[0], images[part.rows])


# Permuted benchmarks


def counting(shape: tuple[int, int, int]) -> ImageData:
    """Float images: in the first, training and test, each value is its own number; the others are random."""
    n_values = int(np.prod(shape))
    source = torch.Generator().manual_seed(0)

    def part() -> LabelledImages:
        images = torch.rand((4, *shape), generator=source)
        images[0] = torch.arange(n_values).view(shape)
        return LabelledImages(images, torch.tensor([0, 1, 1, 0]))

    return ImageData(part(), part(), 2)


def order_of(part: Part) -> list[int]:
    """The order of the pixels, read off the first image of `counting`."""
    return [int(value) for value in part[0][0].flatten()]


@pytest.mark.parametrize("shape", [(1, 4, 5), (3, 4, 4)])
def test_all_pixels_of_all_images_are_reordered_alike_within_a_context(shape: tuple[int, int, int]) -> None:
    data = counting(shape)
    for context in permuted(data=data).contexts:
        order = order_of(context.train)
        assert sorted(order) == list(range(int(np.prod(shape))))
        assert order != sorted(order)
        for part, source in ((context.train, data.train), (context.test, data.test)):
            expected = source.images.flatten(1)[:, order].view(4, *shape)
            assert torch.equal(part.tensors[0], expected)


def test_pixels_move_across_channels() -> None:
    order = order_of(permuted(data=counting((3, 4, 4))).contexts[0].train)
    assert {value // 16 for value in order[:16]} == {0, 1, 2}


def test_every_context_has_a_permutation_of_its_own() -> None:
    orders = [order_of(context.train) for context in permuted(data=counting((1, 4, 4))).contexts]
    assert len({tuple(order) for order in orders}) == 3


def test_the_seed_decides_the_permutations() -> None:
    data = counting((1, 4, 4))
    orders = {
        seed: [order_of(context.train) for context in permuted(f"seed={seed}", data=data).contexts] for seed in (1, 2)
    }
    assert [order_of(context.train) for context in permuted("seed=1", data=data).contexts] == orders[1]
    assert all(one != two for one, two in zip(orders[1], orders[2], strict=True))


def test_more_contexts_leave_the_first_permutations_as_they_were() -> None:
    data = counting((1, 4, 4))
    few, many = (permuted(f"benchmark.contexts={count}", data=data).contexts for count in (2, 5))
    assert [order_of(context.train) for context in few] == [order_of(context.train) for context in many[:2]]


def test_the_padding_is_reordered_too() -> None:
    stream = permuted("benchmark.image_size=6", data=counting((1, 4, 4)))
    assert stream.input_shape == (1, 6, 6)
    border = np.pad(np.zeros((4, 4), bool), 1, constant_values=True)
    for context in stream.contexts:
        always_zero = (context.train.tensors[0] == 0).all(dim=0)[0].numpy()
        assert always_zero.sum() == border.sum()
        assert (always_zero != border).any()


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_permuted_contexts_hold_every_image_and_class(scenario: str) -> None:
    stream = permuted(f"benchmark.scenario={scenario}")
    for number, context in enumerate(stream.contexts):
        first = 4 * number if scenario == "class" else 0
        for part, source in ((context.train, FOUR.train), (context.test, FOUR.test)):
            assert part.rows.tolist() == list(range(len(source.labels)))
            assert labels_by_class(part, source.labels) == {original: {first + original} for original in range(4)}
    assert (stream.n_train, stream.n_test) == (24, 12)


# Padding and normalization


@pytest.mark.parametrize(("size", "before", "after"), [(4, 0, 0), (8, 2, 2), (7, 1, 2)])
def test_images_are_padded_with_centred_zeros(size: int, before: int, after: int) -> None:
    part = split(f"benchmark.image_size={size}").contexts[0].train
    images = SIX.train.images[part.rows].numpy() / np.float32(255)
    edges = (before, after)
    np.testing.assert_allclose(part.tensors[0].numpy(), np.pad(images, ((0, 0), (0, 0), edges, edges)), rtol=1e-6)


def coloured() -> ImageData:
    """Three channels, each with a mean and spread of its own."""
    plain = image_data(n_classes=6, shape=(3, 4, 4))
    scale, shift = torch.tensor([1.0, 0.5, 0.1]).view(3, 1, 1), torch.tensor([0.0, 64.0, 200.0]).view(3, 1, 1)

    def part(source: LabelledImages) -> LabelledImages:
        return LabelledImages((source.images * scale + shift).to(torch.uint8), source.labels)

    return ImageData(part(plain.train), part(plain.test), 6)


def test_normalization_is_by_channel_and_by_the_training_images_alone() -> None:
    data = coloured()
    stream = split("benchmark.normalize=true", data=data)
    train = torch.cat([context.train.tensors[0] for context in stream.contexts]).double()
    np.testing.assert_allclose(train.mean(dim=(0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(train.var(dim=(0, 2, 3)), 1, rtol=5e-3)
    raw = data.train.images.numpy() / 255.0
    mean, spread = (value.reshape(1, 3, 1, 1) for value in (raw.mean((0, 2, 3)), raw.std((0, 2, 3))))
    for part in (context.test for context in stream.contexts):
        expected = (data.test.images[part.rows].numpy() / 255.0 - mean) / spread
        np.testing.assert_allclose(part.tensors[0].numpy(), expected, rtol=5e-3, atol=5e-3)


def test_padding_comes_after_normalization() -> None:
    padded = split("benchmark.normalize=true", "benchmark.image_size=6", data=coloured()).contexts[0].train.tensors[0]
    assert (padded[:, :, [0, -1]] == 0).all()
    assert (padded[:, :, :, [0, -1]] == 0).all()


def test_a_channel_that_is_constant_in_training_is_centred_and_not_divided() -> None:
    train, test = (torch.full_like(part.images, value) for part, value in ((SIX.train, 77), (SIX.test, 78)))
    data = ImageData(LabelledImages(train, SIX.train.labels), LabelledImages(test, SIX.test.labels), 6)
    context = split("benchmark.normalize=true", data=data).contexts[0]
    np.testing.assert_allclose(context.train.tensors[0].numpy(), 0, atol=1e-6)
    np.testing.assert_allclose(context.test.tensors[0].numpy(), 1 / 255, rtol=1e-4)


# Validation


@pytest.mark.parametrize(("fraction", "count"), [(0.5, 3), (0.2, 1), (0.8, 5)])
def test_the_same_part_of_every_class_is_held_out(fraction: float, count: int) -> None:
    for context in split(f"validation_fraction={fraction}").contexts:
        assert held_out(context).labels.bincount().tolist() == [count, count]
        assert context.train.labels.bincount().tolist() == [6 - count, 6 - count]


def test_training_and_validation_images_together_are_the_whole_and_share_none() -> None:
    stream = split("validation_fraction=0.5")
    for context, whole in zip(stream.contexts, split().contexts, strict=True):
        both = context.train.rows.tolist() + held_out(context).rows.tolist()
        assert sorted(both) == whole.train.rows.tolist()
        assert labels_by_class(held_out(context), SIX.train.labels) == labels_by_class(whole.train, SIX.train.labels)
    assert stream.n_train == 18


def test_the_same_images_are_held_out_in_every_permuted_context() -> None:
    stream = permuted("validation_fraction=0.5")
    rows = [held_out(context).rows for context in stream.contexts]
    assert all(torch.equal(rows[0], other) for other in rows)
    assert stream.n_train == 12
    for context in stream.contexts:
        assert held_out(context).labels.bincount().tolist() == [3] * 4
        assert set(context.train.rows.tolist()) == set(range(24)) - set(rows[0].tolist())


def test_the_held_out_images_are_permuted_as_the_training_images() -> None:
    data = counting((1, 4, 4))
    whole = permuted(data=data).contexts
    for context, complete in zip(permuted("validation_fraction=0.5", data=data).contexts, whole, strict=True):
        part = held_out(context)
        assert torch.equal(part.tensors[0], complete.train.tensors[0][part.rows])


def test_the_seed_decides_what_is_held_out() -> None:
    rows = {
        seed: permuted("validation_fraction=0.5", f"seed={seed}").contexts[0].train.rows.tolist() for seed in (1, 2)
    }
    assert permuted("validation_fraction=0.5", "seed=1").contexts[0].train.rows.tolist() == rows[1]
    assert rows[1] != rows[2]


@pytest.mark.parametrize(("fraction", "splits"), [("0", ["test"]), ("0.5", ["test", "validation"])])
def test_validation_is_measured_only_where_something_is_held_out(fraction: str, splits: list[str]) -> None:
    for context in split(f"validation_fraction={fraction}").contexts:
        assert [name for name, _ in context.measured()] == splits


# Active outputs


@pytest.mark.parametrize(
    ("scenario", "context", "learned", "outputs"),
    [
        ("task", 0, 3, [0, 1]),
        ("task", 2, 0, [4, 5]),
        ("domain", 2, 1, [0, 1]),
        ("class", 0, 0, [0, 1]),
        ("class", 0, 2, [0, 1, 2, 3]),
        ("class", 1, 2, [0, 1, 2, 3]),
        ("class", 2, 1, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_the_active_outputs_of_each_scenario(scenario: str, context: int, learned: int, outputs: list[int]) -> None:
    assert list(split(f"benchmark.scenario={scenario}").active(context, learned)) == outputs


@pytest.mark.parametrize(
    ("scenario", "split_size", "permuted_size"), [("task", 6, 12), ("domain", 2, 4), ("class", 6, 12)]
)
def test_the_size_of_the_output_layer(scenario: str, split_size: int, permuted_size: int) -> None:
    assert split(f"benchmark.scenario={scenario}").n_outputs == split_size
    assert permuted(f"benchmark.scenario={scenario}").n_outputs == permuted_size


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_label_is_among_the_active_outputs(scenario: str) -> None:
    for stream in (split(f"benchmark.scenario={scenario}"), permuted(f"benchmark.scenario={scenario}")):
        for number, context in enumerate(stream.contexts):
            active = stream.active(number, number + 1)
            assert int(context.train.labels.min()) >= 0
            assert int(context.train.labels.max()) < len(active)


# What doesn't fit


def no_test_image() -> ImageData:
    missing = SIX.test.labels < 2
    return ImageData(SIX.train, LabelledImages(SIX.test.images[missing], SIX.test.labels[missing]), 6)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("benchmark.image_size=3", "images of 4x4.*3x3.*benchmark.image_size=4"),
        ("benchmark.contexts=4", "benchmark.contexts=4.* 8 classes.* has 6: expected at most 3"),
        ("benchmark.classes_per_context=7", "benchmark.classes_per_context of at most 6"),
        ("validation_fraction=0.05", "validation_fraction=0.05 of the 6 examples.* is 0"),
        ("validation_fraction=0.95", "validation_fraction=0.95 of the 6 examples.* is 6"),
    ],
)
def test_a_setting_that_does_not_fit_the_data_set_is_refused(override: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        split(override)


def test_a_permuted_benchmark_is_refused_where_the_classes_do_not_fit() -> None:
    with pytest.raises(InputError, match=r"benchmark.classes_per_context=3: expected 4"):
        permuted("benchmark.classes_per_context=3")


@pytest.mark.parametrize(("per_context", "classes"), [(2, "classes [2-5], [2-5]"), (1, "class [2-5]")])
def test_a_context_without_a_test_image_is_refused(per_context: int, classes: str) -> None:
    with pytest.raises(
        InputError,
        match=r"^benchmark.stream: context \d of clsweep.data.streams.split: test has no test image "
        rf"\(dataset.test=b.npz has no example of {classes}\); expected at least one\.$",
    ):
        split(f"benchmark.classes_per_context={per_context}", "dataset.test=b.npz", data=no_test_image())


def test_a_class_that_nothing_measures_gets_a_note() -> None:
    """Among the classes of the contexts that are learned."""
    kept = SIX.test.labels != 5
    data = ImageData(SIX.train, LabelledImages(SIX.test.images[kept], SIX.test.labels[kept]), 6)
    said = "dataset.test=b.npz has no example of class 5: no accuracy says how well that is learned"
    assert split("dataset.test=b.npz", data=data).notes == (said,)
    place = next(number for number, classes in enumerate(classes_of(split(), SIX)) if 5 in classes)
    for learned in (1, 2):
        notes = split("dataset.test=b.npz", f"first_contexts={learned}", data=data).notes
        assert (said in notes) is (learned > place)
    assert permuted(data=no_test_image()).notes[0] == (
        "dataset=arrays has no test example of classes 2, 3, 4, 5: no accuracy says how well that is learned"
    )


# One part


@pytest.mark.parametrize("make", [split, permuted])
def test_a_part_gives_the_same_examples_one_by_one_together_and_through_a_loader(make: Callable[[str], Stream]) -> None:
    part = make("validation_fraction=0.5").contexts[1].train
    inputs, labels = part.tensors
    assert len(part) == len(labels) == len(inputs) > 1
    assert labels.dtype == torch.int64
    assert torch.equal(part.take(torch.tensor([1, 0]))[0], inputs[[1, 0]])
    for number, (x, y) in enumerate(DataLoader(part, batch_size=1)):
        assert torch.equal(x[0], inputs[number])
        assert torch.equal(part[number][0], inputs[number])
        assert y.tolist() == [int(part[number][1])] == [int(labels[number])]
    assert number == len(part) - 1
    gathered = part.gathered()
    assert torch.equal(gathered.tensors[0], inputs)
    assert torch.equal(gathered.tensors[1], labels)


# What is said of the images, and what is refused before it is made


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), "1x4x4, uint8 0 to 255; divided by 255"),
        (("benchmark.image_size=6",), "1x4x4, uint8 0 to 255; divided by 255, padded to 6x6"),
        (("benchmark.image_size=4",), "1x4x4, uint8 0 to 255; divided by 255"),
        (("benchmark.normalize=true",), "1x4x4, uint8 0 to 255; divided by 255, normalized per channel"),
    ],
)
def test_what_the_images_are_and_what_is_done_with_them_is_said(overrides: tuple[str, ...], expected: str) -> None:
    assert SIX.train.images.max() == 255
    stream = split(*overrides)
    assert stream.images == expected
    assert stream.notes == ()


def scaled(factor: float, dtype: torch.dtype) -> ImageData:
    parts = [LabelledImages((part.images * factor).to(dtype), part.labels) for part in (SIX.train, SIX.test)]
    return ImageData(parts[0], parts[1], 6, channels_first=True, notes=("of the files",))


def test_float_images_that_go_beyond_one_get_a_note() -> None:
    stream = split(data=scaled(1, torch.float32))
    assert stream.images == "1x4x4 (channels first), float32 0 to 255; taken as they are"
    assert stream.notes == (
        "of the files",
        "float images are taken as they are, here up to 255, while uint8 images are divided by 255: the same images as "
        "uint8 give other accuracies; save them as uint8, or as floats from 0 to 1, if that is what is meant",
    )
    assert split("benchmark.normalize=true", data=scaled(1, torch.float32)).notes == ("of the files",)
    assert split(data=scaled(1.5 / 255, torch.float32)).notes == ("of the files",)


@pytest.mark.parametrize("normalize", ["true", "false"])
def test_training_and_test_images_of_two_scales_get_a_note(normalize: str) -> None:
    wide, narrow = scaled(1, torch.float32), scaled(1 / 255, torch.float32)
    stream = split(f"benchmark.normalize={normalize}", data=replace(wide, test=narrow.test))
    assert stream.notes[1] == (
        "training images go up to 255 and test images up to 1, and what is done with both is the same: give them one "
        "scale, if they were saved in two"
    )


def test_uint8_images_of_zeros_and_ones_get_a_note() -> None:
    stream = split(data=scaled(1 / 255, torch.uint8))
    assert stream.images == "1x4x4 (channels first), uint8 0 to 1; divided by 255"
    assert stream.notes[1:] == (
        "uint8 images are divided by 255, and none of these has a value above 1: where 0 to 1 is meant, save them as "
        "float32",
    )


@pytest.mark.parametrize(
    ("batch_size", "overrides", "said"),
    [
        (12, (), None),
        (13, (), "context 1 has 12 training examples"),
        (36, ("stream=joint",), None),
        (37, ("stream=joint",), "all contexts together have 36 training examples"),
        (10, ("validation_fraction=0.2",), None),
        (11, ("validation_fraction=0.2",), "context 1 has 10 training examples"),
    ],
)
def test_a_batch_larger_than_a_context_gets_a_note(
    batch_size: int, overrides: tuple[str, ...], said: str | None
) -> None:
    notes = split(f"benchmark.batch_size={batch_size}", *overrides).notes
    expected = f"benchmark.batch_size={batch_size}, but {said}: a batch shows some of them several times"
    assert notes == (() if said is None else (expected,))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("benchmark.image_size=1000000", "36 images of 1,000,000,000,000 values need 131.0 TiB of memory"),
        ("benchmark.contexts=1000000", "1,000,001,000,000 accuracies (each context, after each context)"),
    ],
)
def test_what_cannot_fit_into_memory_is_refused_before_it_is_made(override: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        permuted(override)
    assert str(caught.value).startswith(f"{override}: {said}")
    assert " are free; expected fewer" in str(caught.value)


def test_a_class_that_no_context_shows_needs_no_example_to_hold_out() -> None:
    """One example of the class that comes last in the seed's order: a fifth of it is none."""
    whole = split("validation_fraction=0.2", "benchmark.contexts=2")
    last = classes_of(split(), SIX)[2][0]
    kept = (SIX.train.labels != last) | ((SIX.train.labels == last).cumsum(0) <= 1)
    few = ImageData(LabelledImages(SIX.train.images[kept], SIX.train.labels[kept]), SIX.test, 6)
    with pytest.raises(InputError, match=rf"of the 1 examples of class {last} is 0"):
        split("validation_fraction=0.2", data=few)
    stream = split("validation_fraction=0.2", "benchmark.contexts=2", data=few)
    assert [len(held_out(context)) for context in stream.contexts] == [2, 2]
    for ours, theirs in zip(stream.contexts, whole.contexts, strict=True):
        assert torch.equal(ours.train.labels, theirs.train.labels)
