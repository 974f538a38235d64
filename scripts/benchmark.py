"""Steps a second of every method beside the plain step, and the seconds of its importance estimation.

    python scripts/benchmark.py --benchmarks split_mnist perm_mnist --repeats 5

Images are random, of the benchmark's real shapes and numbers. Blocks of steps are timed in turns, one method after the
other, and the medians printed: ratios within one run hold where the machine's speed drifts.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass, field
from itertools import cycle

import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import TensorDataset

from clsweep import contexts, contract, networks
from clsweep.allocator import keep_freed_memory
from clsweep.config import Config, config_dir, parse
from clsweep.datasets import ImageData, LabelledImages
from clsweep.learner import Learner
from clsweep.run import pick_device
from clsweep.training import batch_indices

METHODS = ("none", "l2", "ewc", "ewc_separate", "online_ewc", "si", "mas", "custom")
SHAPES = {"mnist": ((1, 28, 28), 60_000), "cifar100": ((3, 32, 32), 50_000)}
WARM_UP_STEPS = 20


@dataclass
class Timed:
    """A learner in its second context, ready for timed steps."""

    learner: Learner
    inputs: Tensor
    labels: Tensor
    importance_seconds: float
    seconds: list[float] = field(default_factory=list)

    def run(self, indices: Tensor) -> None:
        """Time one block of steps, one for each row of `indices`; seconds a step are kept."""
        synchronize(self.learner.device)
        start = time.perf_counter()
        for index in indices:
            self.learner.step(self.inputs.index_select(0, index), self.labels.index_select(0, index))
        synchronize(self.learner.device)
        self.seconds.append((time.perf_counter() - start) / len(indices))


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def setting(benchmark: str, method: str, device: str, precision: str) -> Config:
    """The full-budget setting of one benchmark and method."""
    overrides = [f"+benchmark={benchmark}", f"regularizer={method}", f"device={device}", f"precision={precision}"]
    with initialize_config_dir(version_base="1.3", config_dir=str(config_dir())):
        return parse(compose("config", overrides=overrides))


def random_images(config: Config) -> ImageData:
    """Random images as many and as large as the benchmark's own."""
    shape, count = SHAPES[config.dataset.name]
    classes = config.dataset.n_classes or 10
    source = torch.Generator().manual_seed(0)

    def part(n: int) -> LabelledImages:
        images = torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=source)
        return LabelledImages(images, torch.arange(n) % classes)

    return ImageData(part(count), part(classes), classes)


def prepare(config: Config, stream: contexts.Stream, dataset: TensorDataset, device: torch.device) -> Timed:
    """A learner after a short first context, its importance estimation timed, at the start of the second one."""
    model = networks.build(config.network, stream.input_shape, stream.n_outputs, seed=0).to(device)
    regularizer = contract.load(config.regularizer)
    learner = Learner(model, regularizer, config.regularizer, config.benchmark.lr, config.precision)
    model.activate(stream.active(0, 1))
    inputs, labels = dataset.tensors
    learner.start_context()
    timed = Timed(learner, inputs, labels, 0.0)
    indices = batch_indices(len(labels), WARM_UP_STEPS, config.benchmark.batch_size, torch.Generator()).to(device)
    timed.run(indices)
    synchronize(device)
    start = time.perf_counter()
    learner.end_context(dataset)
    synchronize(device)
    timed.importance_seconds = time.perf_counter() - start
    model.activate(stream.active(1, 2))
    learner.start_context()
    timed.run(indices)
    timed.seconds.clear()
    return timed


def measure(benchmark: str, arguments: argparse.Namespace) -> Table:
    """Time every method on one benchmark."""
    plain = setting(benchmark, "none", arguments.device, arguments.precision)
    device = pick_device(plain.device)
    keep_freed_memory()
    torch.set_flush_denormal(True)  # as a run does
    stream = contexts.build(random_images(plain), plain, device)
    dataset = stream.contexts[0].train.gathered()
    learners = {
        method: prepare(setting(benchmark, method, arguments.device, arguments.precision), stream, dataset, device)
        for method in METHODS
    }
    n = len(stream.contexts[0].train)
    indices = batch_indices(n, arguments.steps, plain.benchmark.batch_size, torch.Generator()).to(device)
    for _, timed in zip(range(arguments.repeats * len(learners)), cycle(learners.values()), strict=False):
        timed.run(indices)
    return as_table(benchmark, learners, f"{device}, {torch.get_num_threads()} threads, {arguments.precision}", n)


def as_table(benchmark: str, learners: dict[str, Timed], machine: str, examples: int) -> Table:
    """Medians, and ratios to the plain step."""
    table = Table(title=f"{benchmark} ({machine})", title_justify="left")
    for column in ("method", "it/s", "step / plain step", f"importance, s ({examples:,} examples)"):
        table.add_column(column, justify="left" if column == "method" else "right")
    plain = statistics.median(learners["none"].seconds)
    for method, timed in learners.items():
        median = statistics.median(timed.seconds)
        table.add_row(method, f"{1 / median:.1f}", f"{median / plain:.2f}", f"{timed.importance_seconds:.2f}")
    return table


def main() -> None:
    """Read the command line and print a table for each benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmarks", nargs="+", default=["split_mnist", "perm_mnist"])
    parser.add_argument("--steps", type=int, default=60, help="steps in a timed block (default: 60)")
    parser.add_argument("--repeats", type=int, default=5, help="timed blocks for each method (default: 5)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="float32")
    arguments = parser.parse_args()
    console = Console(highlight=False)
    for benchmark in arguments.benchmarks:
        console.print(measure(benchmark, arguments))


if __name__ == "__main__":
    main()
