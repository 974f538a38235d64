from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import setting

from clsweep import defaults
from clsweep.protocol import Protocol

SPLIT_MNIST = Protocol(
    benchmark="split_mnist",
    benchmark_stream="split",
    scenario="task",
    dataset="mnist",
    dataset_digest="",
    contexts=5,
    classes_per_context=2,
    image_size=0,
    normalize=False,
    network="mlp 400 400",
    iters=2000,
    batch_size=128,
    lr=1e-3,
    precision="float32",
    validation_fraction=0.0,
)


def test_the_protocol_of_a_setting() -> None:
    assert Protocol.of(setting("+benchmark=split_mnist")) == SPLIT_MNIST
    quick = Protocol.of(setting("+benchmark=split_mnist", "budget=quick", "precision=bf16", "benchmark.image_size=32"))
    assert quick == dataclasses.replace(SPLIT_MNIST, iters=200, precision="bf16", image_size=32)


def test_an_optimizer_and_a_stream_of_ones_own_are_described() -> None:
    overrides = ("optimizer=sgd", "optimizer.momentum=0.9", "optimizer.reset=true", "benchmark.lr=0.1")
    made = Protocol.of(setting("+benchmark=split_mnist", *overrides))
    assert made == dataclasses.replace(SPLIT_MNIST, optimizer="sgd momentum=0.9", optimizer_reset=True, lr=0.1)


def test_a_digest_is_the_same_on_every_machine_and_in_every_version() -> None:
    assert SPLIT_MNIST.digest == "6e6a4c81"
    assert Protocol.of(setting("+benchmark=perm_mnist", "budget=quick")).digest == "30b07ea1"


def test_networks_with_the_same_widths_in_other_lists_are_told_apart() -> None:
    def made(channels: str, hidden: str) -> Protocol:
        widths = (f"network.channels={channels}", f"network.hidden={hidden}")
        return Protocol.of(setting("+benchmark=split_cifar100", *widths))

    assert made("[16,32]", "[64]").digest != made("[16]", "[32,64]").digest


def test_a_row_of_before_has_the_usual_networks_two_lists() -> None:
    usual = Protocol.of(setting("+benchmark=split_cifar100"))
    row = {**usual.parts, "format_version": 2, "network": "cnn 16 32 64 128 256 2000 2000"}
    assert Protocol.of_row(row) == usual


def test_all_logits_and_the_active_ones_are_the_same_where_all_classes_are_active() -> None:
    def made(benchmark: str, logits: str) -> Protocol:
        return Protocol.of(setting(f"+benchmark={benchmark}", f"contract.logits={logits}"))

    assert made("perm_mnist", "all") == made("perm_mnist", "active")
    assert Protocol.of_row({**made("perm_mnist", "all").parts, "logits": "all"}) == made("perm_mnist", "active")
    assert made("split_mnist", "all").digest != made("split_mnist", "active").digest


OTHER: dict[str, Any] = {"str": "other", "int": 7, "float": 0.125, "bool": True}


@pytest.mark.parametrize("field", [one.name for one in dataclasses.fields(Protocol)])
def test_each_field_tells_protocols_apart(field: str) -> None:
    kind = str(Protocol.__dataclass_fields__[field].type).partition(" ")[0]
    other = dataclasses.replace(SPLIT_MNIST, **{field: OTHER[kind]})
    assert other != SPLIT_MNIST
    assert other.digest != SPLIT_MNIST.digest
    assert other.differences(SPLIT_MNIST) == {field: (OTHER[kind], getattr(SPLIT_MNIST, field))}


@pytest.mark.parametrize(
    "override",
    [
        "seed=3",
        "device=cpu",
        "threads=1",
        "figures=false",
        "save_model=every_context",
        "regularizer=si",
        "dataset.root=here",
        "stream=joint",
    ],
)
def test_what_is_no_field_tells_nothing_apart(override: str) -> None:
    assert Protocol.of(setting("+benchmark=split_mnist", override)) == SPLIT_MNIST


def test_a_field_that_comes_later_leaves_the_digests_of_before() -> None:
    more = [("noise", "float", 0.0)]
    larger: Any = dataclasses.make_dataclass("Larger", more, bases=(Protocol,), frozen=True)
    assert larger(**SPLIT_MNIST.parts).digest == SPLIT_MNIST.digest
    assert larger(**SPLIT_MNIST.parts, noise=0.5).digest != SPLIT_MNIST.digest
    assert larger.of_row({**SPLIT_MNIST.parts}) == larger(**SPLIT_MNIST.parts)


def test_a_row_of_the_current_format_says_everything() -> None:
    assert Protocol.of_row({"format_version": 2, **SPLIT_MNIST.parts}) == SPLIT_MNIST
    with_numpys = {"lr": np.float64(1e-3), "iters": np.int64(2000), "normalize": np.False_}
    assert Protocol.of_row({"format_version": 2, **SPLIT_MNIST.parts, **with_numpys}).digest == SPLIT_MNIST.digest


def test_epochs_decide_and_not_the_iterations_that_they_come_to() -> None:
    made = Protocol.of(setting("+benchmark=split_mnist", "benchmark.epochs=2"))
    assert (made.epochs, made.iters) == (2, 0)
    assert "2 epochs a context" in made.sentence()
    assert Protocol.of_row({"format_version": 2, **made.parts, "iters": 190}) == made
    assert made.digest != SPLIT_MNIST.digest


def test_a_row_of_format_2_had_the_streams_that_there_were() -> None:
    row: dict[str, Any] = {"format_version": 2, **SPLIT_MNIST.parts}
    del row["benchmark_stream"]
    assert Protocol.of_row(row) == SPLIT_MNIST
    assert Protocol.of_row({**row, "benchmark": "perm_mnist"}).benchmark_stream == "permuted"
    assert Protocol.of_row({**row, "benchmark": "my_own"}).benchmark_stream is None


def test_what_format_1_does_not_say_is_not_known() -> None:
    row: dict[str, Any] = {**SPLIT_MNIST.parts}
    for name in ("benchmark_stream", "dataset_digest", "classes_per_context"):
        del row[name]
    row |= {"format_version": 1, "image_size": math.nan, "normalize": None}
    made = Protocol.of_row(row)
    unknown: dict[str, Any] = {"classes_per_context": None, "image_size": None, "normalize": None}
    assert made == dataclasses.replace(SPLIT_MNIST, **unknown)
    assert made.sentence().startswith("task-incremental, 5 contexts, mnist, 2,000 iterations")
    assert Protocol.of_row({**row, "dataset": "arrays"}).dataset_digest is None


def test_the_sentence() -> None:
    assert SPLIT_MNIST.sentence() == (
        "task-incremental, 5 contexts of 2 classes, mnist, 2,000 iterations a context, batch 128, Adam lr 0.001, "
        "mlp 400 400, float32"
    )
    other = dataclasses.replace(
        SPLIT_MNIST, benchmark_stream="rotated angle=15", dataset="arrays", dataset_digest="012345", network=None
    )
    trained = dataclasses.replace(
        SPLIT_MNIST, optimizer="sgd momentum=0.9", schedule="a.Step size=3", optimizer_reset=True
    )
    assert (
        ", batch 128, sgd momentum=0.9 lr 0.001, a.Step size=3, a new state in each context, mlp" in trained.sentence()
    )
    held_out = dataclasses.replace(other, validation_fraction=0.1)
    assert held_out.sentence() == (
        "task-incremental, 5 contexts of 2 classes, contexts by rotated angle=15, arrays 012345, 0.1 held out, "
        "2,000 iterations a context, batch 128, Adam lr 0.001, network not recorded, float32"
    )


def test_files_of_ones_own_are_known_by_their_content(tmp_path: Path) -> None:
    def digest(labels: list[int]) -> str | None:
        for part in ("train", "test"):
            np.savez(tmp_path / f"{part}.npz", images=np.zeros((len(labels), 4, 4), np.uint8), labels=labels)
        files = [f"dataset.{part}={tmp_path}/{part}.npz" for part in ("train", "test")]
        return Protocol.of(setting("+benchmark=split_mnist", "dataset=arrays", *files)).dataset_digest

    first = digest([0, 1, 2])
    assert first is not None
    assert len(first) == 12
    assert digest([0, 1, 1]) != first == digest([0, 1, 2])


@pytest.mark.parametrize("benchmark", defaults.names())
def test_the_usual_setting_of_a_benchmark_is_what_hydra_composes(benchmark: str) -> None:
    composed = setting(f"+benchmark={benchmark}", "regularizer=none")
    defaults.usual.cache_clear()  # another test may have asked in another folder, which the images' is relative to
    assert defaults.usual(benchmark) == composed
    assert defaults.protocol(setting(f"+benchmark={benchmark}", "budget=quick", "seed=3")) == Protocol.of(composed)


def test_nothing_here_takes_torch() -> None:
    code = (
        "import sys; from clsweep import defaults, published; published.published(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
