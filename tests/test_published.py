from __future__ import annotations

import dataclasses

import pytest
from builders import setting

from clsweep.config import PublishedConfig
from clsweep.published import figure


@pytest.mark.parametrize(
    ("benchmark", "method", "shown"),
    [
        ("split_mnist contract.logits=all", "ewc", "0.9577 (strength 5000, 2,000 iterations)"),
        ("split_mnist contract.logits=all", "online_ewc", "0.9743 (strength 5000, 2,000 iterations)"),
        ("split_mnist contract.logits=all", "si", "0.9852 (strength 5000, 2,000 iterations)"),
        ("perm_mnist benchmark.iters=2000", "ewc", "0.8381 (strength 10000, 2,000 iterations)"),
        ("perm_mnist benchmark.iters=2000", "online_ewc", "0.8427 (strength 10000, 2,000 iterations)"),
        ("perm_mnist benchmark.iters=2000", "si", "0.4474 (strength 10000, 2,000 iterations)"),
        ("perm_mnist", "si", None),  # 5,000 iterations here
        ("split_cifar100 contract.logits=all", "ewc", "0.5463 (strength 100, 5,000 iterations)"),
        ("split_cifar100 contract.logits=all", "online_ewc", "0.5444 (strength 100, 5,000 iterations)"),
        ("split_cifar100 contract.logits=all", "si", "0.5363 (strength 100, 5,000 iterations)"),
        ("split_mnist", "ewc", None),  # logits of the active classes here
        ("split_cifar100", "si", None),
        ("split_mnist contract.logits=all", "mas", None),
        ("split_mnist contract.logits=all", "none", None),
    ],
)
def test_the_published_figure_of_each_method(benchmark: str, method: str, shown: str | None) -> None:
    assert figure(setting(*f"+benchmark={benchmark}".split(), f"regularizer={method}")) == shown


def test_a_published_figure_of_an_older_setting_is_not_shown() -> None:
    config = setting("+benchmark=split_mnist", "regularizer=si", "contract.logits=all")
    published = config.benchmark.published
    assert published is not None
    assert figure(config) is not None
    older = PublishedConfig({"hidden": [400, 400], "iters": 2000}, published.accuracy)  # as best.yaml had it
    benchmark = dataclasses.replace(config.benchmark, published=older)
    assert figure(dataclasses.replace(config, benchmark=benchmark)) is None


@pytest.mark.parametrize(
    "override",
    [
        "budget=quick",
        "benchmark.iters=2001",
        "benchmark.contexts=4",
        "benchmark.classes_per_context=1",
        "benchmark.scenario=class",
        "benchmark.lr=0.002",
        "benchmark.batch_size=64",
        "benchmark.image_size=32",
        "benchmark.normalize=true",
        "network=mlp_1000",
        "network.hidden=[400]",
        "dataset=mnist_5k",
        "dataset=fashion_mnist",
        "validation_fraction=0.1",
        "stream=joint",
        "precision=bf16",
        "seed_init=42",
    ],
)
def test_no_published_figure_beside_another_protocol(override: str) -> None:
    assert figure(setting("+benchmark=split_mnist", "regularizer=ewc", "contract.logits=all", override)) is None


@pytest.mark.parametrize("override", ["seed=7", "regularizer.reg_strength=1", "device=cpu", "dataset.root=here"])
def test_the_published_figure_stays_where_the_protocol_does(override: str) -> None:
    shown = "0.9577 (strength 5000, 2,000 iterations)"
    assert figure(setting("+benchmark=split_mnist", "regularizer=ewc", "contract.logits=all", override)) == shown
