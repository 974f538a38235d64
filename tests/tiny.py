"""Tiny networks, data, streams and regularizer files for the tests."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any

import torch
from builders import CONF
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from clsweep.config import RegularizerConfig
from clsweep.data.contexts import Context, Part, Stream
from clsweep.data.scenarios import SCENARIOS, Outputs
from clsweep.data.transforms import PixelOrder
from clsweep.methods.base import Anchored, BuiltIn, Finished, Method
from clsweep.methods.base import Path as PathIntegral
from clsweep.methods.contract import FileMethod
from clsweep.methods.loading import load
from clsweep.methods.undisturbed import Network
from clsweep.networks import Classifier, build
from clsweep.optimizers import OptimizerSetting
from clsweep.parameters import NamedTensors, contract_parameters, snapshot
from clsweep.targets import Target
from clsweep.training.learner import Learner
from clsweep.training.loop import Trainer, TrainingProtocol, with_outputs

SHAPE = (1, 4, 4)
CLASSES = 2
VALUES = {"reg_strength": 1.0, "gamma": 0.8, "epsilon": 0.1}
CONTEXTS = 3
OUTPUTS = CLASSES * CONTEXTS


class Featured(nn.Module):
    """A network of a test's own: its features, then its `head`."""

    head: nn.Module

    def features(self, inputs: Tensor) -> Tensor:
        """What the head gets."""
        raise NotImplementedError

    def forward(self, inputs: Tensor) -> Tensor:
        """The logits."""
        logits: Tensor = self.head(self.features(inputs))
        return logits


def mlp(hidden: list[int]) -> dict[str, Any]:
    """What a setting says of an MLP."""
    return {"_target_": "clsweep.networks.MLP", "name": "mlp", "hidden": hidden}


def cnn(channels: list[int], hidden: list[int]) -> dict[str, Any]:
    """What a setting says of a CNN."""
    return {"_target_": "clsweep.networks.CNN", "name": "cnn", "channels": channels, "hidden": hidden}


def network(
    name: str = "mlp", n_outputs: int = OUTPUTS, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Classifier:
    """An MLP 16-7-n, or a CNN with two normalized convolutions."""
    return build(mlp([7]) if name == "mlp" else cnn([3, 4], [7]), SHAPE, n_outputs, seed).to(dtype)


def examples(
    n: int = 12, dtype: torch.dtype = torch.float32, seed: int = 0, classes: int = CLASSES
) -> tuple[Tensor, Tensor]:
    """Noise with a brighter pixel row for each class, and the labels."""
    source = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=source)
    images = torch.randn(n, *SHAPE, generator=source, dtype=dtype)
    images[torch.arange(n), 0, labels] += 2
    return images, labels


def dataset(n: int = 12, dtype: torch.dtype = torch.float32, seed: int = 0) -> TensorDataset:
    """`examples` as a data set."""
    return TensorDataset(*examples(n, dtype, seed))


def outputs(scenario: str, contexts: int = CONTEXTS) -> Outputs:
    """The output layer for contexts of two classes each, no two the same."""
    return SCENARIOS[scenario].outputs([[(number, one) for one in range(CLASSES)] for number in range(contexts)])


def stream(scenario: str = "task", contexts: int = CONTEXTS, validation: bool = False) -> Stream:
    """Contexts of unequal size; in the domain-incremental scenario each has an order of pixels of its own."""
    layer = outputs(scenario, contexts)
    images, labels = examples(20 * contexts, seed=1)
    test_images, test_labels = examples(9 * contexts, seed=2)
    source = torch.Generator().manual_seed(3)

    def context(number: int) -> Context:
        order = torch.randperm(images[0].numel(), generator=source) if scenario == "domain" else None
        first = layer.labels[number][0]

        def part(of: Tensor, its: Tensor, start: int, stop: int) -> Part:
            rows = torch.arange(start, stop).flip(0)
            return Part(of, rows, its[rows] + first, None if order is None else PixelOrder(order))

        train = part(images, labels, 20 * number, 20 * number + 14 + number)
        held_out = part(images, labels, 20 * number + 17, 20 * number + 20) if validation else None
        return Context(train, held_out, part(test_images, test_labels, 9 * number, 9 * number + 9 - number))

    made = [context(number) for number in range(contexts)]
    return Stream(
        made,
        layer,
        SHAPE,
        n_train=sum(len(context.train) for context in made),
        n_test=sum(len(context.test) for context in made),
    )


def method(name: str, **values: Any) -> RegularizerConfig:
    """The configuration of a built-in method; an option of a group is `**{"fisher.labels": "sampled"}`."""
    target = OmegaConf.load(CONF / "regularizer" / f"{name}.yaml")._target_
    return RegularizerConfig(name, target, values=VALUES | values)


def file_method(file: Path | str, **values: Any) -> RegularizerConfig:
    """The configuration of a regularizer file."""
    return RegularizerConfig("custom", file=str(file), values=VALUES | values)


def write(folder: Path, source: str, name: str = "method.py") -> Path:
    """Write a regularizer's source text to a file."""
    path = folder / name
    path.write_text(dedent(source), encoding="utf-8")
    return path


def regularizer(folder: Path, source: str, model: Classifier | None = None) -> FileMethod:
    """The method of a source text, attached to a network, by default the tiny MLP."""
    made = attached(file_method(write(folder, source)), model)
    assert isinstance(made, FileMethod)
    return made


def attached(config: RegularizerConfig, model: Classifier | None = None, seed: int = 0) -> Method:
    """The method of `config`, attached to a network, by default the tiny MLP."""
    made = load(config, seed).method
    made.attach(Network(network() if model is None else model))
    return made


def finished(model: Classifier, data: TensorDataset | None = None) -> Finished:
    """A context that has ended where its network is now, without a step."""
    start = snapshot(model)
    path = PathIntegral({key: torch.zeros_like(p) for key, p in contract_parameters(model).items()}, start)
    return Finished(dataset() if data is None else data, start, path, torch.device("cpu"))


def importance(config: RegularizerConfig, model: Classifier, data: TensorDataset) -> NamedTensors:
    """What a built-in method that has seen nothing yet makes of a data set."""
    made = anchored(attached(config, model))
    made.end_context(finished(model, data))
    return made.importance


def anchored(made: Method) -> Anchored:
    """A built-in method with an importance and an anchor."""
    assert isinstance(made, Anchored)
    return made


def built_in(made: Method) -> BuiltIn:
    """A built-in method."""
    assert isinstance(made, BuiltIn)
    return made


def learner(
    config: RegularizerConfig,
    model: Classifier | None = None,
    lr: float = 0.01,
    precision: str = "float32",
    by: OptimizerSetting | None = None,
) -> Learner:
    """A learner of `config`, by default of the tiny MLP and by Adam."""
    made = network() if model is None else model
    return Learner(made, load(config).method, by or optimizer(lr=lr), precision)


def step(made: Learner, inputs: Tensor, labels: Tensor) -> None:
    """A step of any method; one that looks at the outputs of before is shown those of now, in eval mode."""
    made.step(*with_outputs(made, inputs, labels))


def optimizer(
    name: str = "Adam", reset: bool = False, schedule: Target | None = None, **values: Any
) -> OptimizerSetting:
    """One of `torch.optim`."""
    target = Target("optimizer", f"torch.optim.{name}", {"lr": 0.01, **values})
    return OptimizerSetting(target, reset, schedule)


def trainer(
    config: RegularizerConfig, of: Stream | None = None, name: str = "mlp", iters: int = 5, batch_size: int = 6
) -> Trainer:
    """A trainer of a new network on `of`, by default the task-incremental stream."""
    contexts = stream() if of is None else of
    made = learner(config, network(name, contexts.n_outputs))
    return Trainer(made, contexts, TrainingProtocol(iters, batch_size, seed=5))


def trained(
    config: RegularizerConfig, of: Stream | None = None, name: str = "mlp", iters: int = 5, batch_size: int = 6
) -> Classifier:
    """A network trained on the whole stream."""
    return trained_learner(config, of, name, iters, batch_size).model


def trained_learner(
    config: RegularizerConfig, of: Stream | None = None, name: str = "mlp", iters: int = 5, batch_size: int = 6
) -> Learner:
    """A learner that has learned the whole stream."""
    made = trainer(config, of, name, iters, batch_size)
    for _ in made.sequentially():
        pass
    return made.learner
