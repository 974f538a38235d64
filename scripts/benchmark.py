"""Time steps and importance estimates, beside what the machine can do.

    python scripts/benchmark.py --benchmarks split_mnist perm_mnist split_cifar100 --repeats 9

Prints five tables for each benchmark:

- the step of every method, beside the plain step, a bare PyTorch loop and the step's matrix products alone;
- the importance estimates, beside their matrix products and a loop over examples;
- the estimators of the Fisher information, beside the exact one;
- the step of every method at the 20th context, beside the 2nd;
- the step with other optimizers, beside Adam's.

Images are random, with the benchmark's real shapes and numbers. What is compared is timed in turns, and a ratio is the
median of the rounds' ratios, so that it holds where the machine's speed drifts.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import TensorDataset

from clsweep import methods, networks
from clsweep.config import Config, parse
from clsweep.curvature import fisher
from clsweep.curvature.per_example import LogitWeights, sum_over_examples
from clsweep.curvature.phi import Absolute, Phi, Square
from clsweep.data import contexts
from clsweep.data.datasets import ImageData, LabelledImages
from clsweep.methods import mas
from clsweep.methods.loading import load
from clsweep.networks import MLP, Classifier
from clsweep.paths import config_dir
from clsweep.training.learner import Learner
from clsweep.training.loop import batch_indices, with_outputs
from clsweep.training.machine import prepare_cpu
from clsweep.training.run import pick_device

BUILT_IN = tuple(sorted(methods.names(), key=lambda name: name != "none"))  # plain training first
METHODS = (*BUILT_IN, "custom")
SHAPES = {"mnist": ((1, 28, 28), 60_000), "cifar100": ((3, 32, 32), 50_000)}
ESTIMATES: dict[str, tuple[LogitWeights, Phi]] = {
    "Fisher, exact": (fisher.exact, Square()),
    "Fisher, sampled labels": (fisher.sampled, Square()),
    "MAS": (mas.squared_norm, Absolute()),
}
BARE_LOOP, PRODUCTS = "bare PyTorch loop", "matrix products alone"
WARM_UP_STEPS = 20
FEW_EXAMPLES = 512
LOOPED_EXAMPLES = 8
LONG = 100_000  # iterations of a context, for a schedule
EARLY, LATE = 2, 20
OPTIMIZERS = {
    "adam": (),
    "adam, a schedule": ("++optimizer.schedule._target_=torch.optim.lr_scheduler.CosineAnnealingLR",),
    "adamw": ("optimizer=adamw",),
    "sgd": ("optimizer=sgd",),
    "sgd, momentum": ("optimizer=sgd", "optimizer.momentum=0.9"),
}
WAYS = {
    "exact": fisher.DiagonalOptions(),
    "exact, 500 examples": fisher.DiagonalOptions(examples=500),
    "sampled": fisher.DiagonalOptions(labels="sampled"),
    "empirical": fisher.DiagonalOptions(labels="empirical"),
    "batched, 128": fisher.DiagonalOptions(labels="batched"),
}
OF_OPTIMIZERS = ("none", "ewc", "si", "custom")

Block = Callable[[], object]


@dataclass(frozen=True)
class Report:
    """One table: a title, and rows of a name and numbers; None where a number makes no sense."""

    title: str
    rows: list[dict[str, str | float | None]]

    def table(self) -> Table:
        table = Table(title=self.title, title_justify="left")
        for column in self.rows[0]:
            table.add_column(column, justify="right" if column else "left")
        for row in self.rows:
            table.add_row(*map(_cell, row.values()))
        return table


def _cell(value: str | float | None) -> str:
    if isinstance(value, float):
        return f"{value:.2f}" if value < 100 else f"{value:.0f}"
    return value or ""


@dataclass(frozen=True)
class Bench:
    """One benchmark on one device: settings, data and a context to learn.

    Attributes:
        name: the benchmark.
        arguments: the command line.
        device: where everything lives.
        stream: the contexts, of random images.
        dataset: the first context's training examples.
        indices: the examples of a timed block's steps, [steps, batch].
    """

    name: str
    arguments: argparse.Namespace
    device: torch.device
    stream: contexts.Stream
    dataset: TensorDataset
    indices: Tensor

    @classmethod
    def of(cls, name: str, arguments: argparse.Namespace) -> Bench:
        config = setting(name, "none", arguments)
        device = pick_device(config.device)
        stream = contexts.build(random_images(config), config, device)
        dataset = stream.contexts[0].train.gathered()
        indices = batch_indices(len(dataset), arguments.steps, config.benchmark.batch_size, torch.Generator())
        return cls(name, arguments, device, stream, dataset, torch.cat(list(indices)).to(device))

    def config(self, method: str, *overrides: str) -> Config:
        """The full-budget setting of one method."""
        return setting(self.name, method, self.arguments, *overrides)

    def model(self) -> Classifier:
        """A new network with the first context's outputs active."""
        config = self.config("none")
        model = networks.build(config.network, self.stream.input_shape, self.stream.n_outputs, seed=0)
        networks.activate(model, self.stream.active(0, 1))
        return model.to(self.device)

    def learner(self, method: str, *overrides: str) -> Learner:
        config = self.config(method, *overrides)
        return Learner(self.model(), load(config.regularizer).method, config.optimizer_setting, config.precision)

    def begun(self, learner: Learner, iterations: int | None = None) -> Callable[[Tensor], None]:
        """Begin a context; trains for one step a row of indices."""
        learner.start_context(iterations, examples=len(self.dataset))
        inputs, labels = self.dataset.tensors
        data = with_outputs(learner, inputs, labels)

        def steps(indices: Tensor) -> None:
            for index in indices:
                learner.step(*(values.index_select(0, index) for values in data))

        return steps

    def seconds(self, block: Block) -> float:
        synchronize(self.device)
        start = time.perf_counter()
        block()
        synchronize(self.device)
        return time.perf_counter() - start

    def rounds(self, blocks: Mapping[str, Block]) -> dict[str, list[float]]:
        """The seconds of every block, timed in turns."""
        for block in blocks.values():
            block()
        timed: dict[str, list[float]] = {name: [] for name in blocks}
        for _ in range(self.arguments.repeats):
            for name, block in blocks.items():
                timed[name].append(self.seconds(block))
        return timed


def setting(benchmark: str, method: str, arguments: argparse.Namespace, *more: str) -> Config:
    """The full-budget setting of one benchmark and method."""
    values = {"device": arguments.device, "precision": arguments.precision, "regularizer": method}
    overrides = [f"benchmark={benchmark}", *(f"{key}={value}" for key, value in values.items()), *more]
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


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def tensor_mib() -> float:
    """MiB of all tensors that Python knows."""
    gc.collect()  # learners that are done with, whose parts hold each other
    storages: dict[int, int] = {}
    for thing in gc.get_objects():
        if type(thing) in (Tensor, torch.nn.Parameter):
            held = [thing] if thing.grad is None else [thing, thing.grad]
            storages.update({one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in held})
    return sum(storages.values()) / 2**20


# ---- steps


def bare_loop(bench: Bench) -> Block:
    """The same network, optimizer and number of steps in plain PyTorch, on one batch that is already there."""
    model = bench.model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    inputs, labels = (values[bench.indices[0]] for values in bench.dataset.tensors)
    bf16 = bench.arguments.precision == "bf16"

    def block() -> None:
        for _ in bench.indices:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(bench.device.type, torch.bfloat16, enabled=bf16):
                logits = model(inputs)
            F.cross_entropy(logits.float(), labels).backward()
            optimizer.step()

    return block


def step_products(bench: Bench) -> Block:
    """The matrix products that the steps of an MLP can't do without, and nothing else."""
    products: list[tuple[Tensor, Tensor, Tensor]] = []
    dtype = torch.bfloat16 if bench.arguments.precision == "bf16" else torch.float32
    batch = bench.indices.shape[1]

    def add(rows: int, inner: int, columns: int, first_transposed: bool, second_transposed: bool) -> None:
        first = random(inner, rows).T if first_transposed else random(rows, inner)
        second = random(columns, inner).T if second_transposed else random(inner, columns)
        products.append((first, second, random(rows, columns)))

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, device=bench.device).to(dtype)

    for number, (before, after) in enumerate(layer_widths(bench.model())):
        add(batch, before, after, False, True)  # forward
        add(after, batch, before, True, False)  # the weight's gradient
        if number > 0:
            add(batch, after, before, False, False)  # the input's

    def block() -> None:
        for _ in bench.indices:
            for first, second, out in products:
                torch.mm(first, second, out=out)

    return block


def layer_widths(model: Classifier) -> list[tuple[int, int]]:
    """Inputs and active outputs of every linear layer."""
    assert isinstance(model, MLP)
    assert isinstance(model.head.active, range)
    hidden = [layer.weight.shape for layer in model.hidden if isinstance(layer, torch.nn.Linear)]
    return [(before, after) for after, before in hidden] + [(model.head.in_features, len(model.head.active))]


def steps_table(bench: Bench) -> Report:
    """Time every method's steps in its second context."""
    blocks: dict[str, Block] = {}
    importance, memory = {}, {}
    for method in METHODS:
        before = tensor_mib()
        learner = bench.learner(method)
        bench.begun(learner)(bench.indices[:WARM_UP_STEPS])
        importance[method] = bench.seconds(partial(learner.end_context, bench.dataset))
        blocks[method] = partial(bench.begun(learner), bench.indices)
        blocks[method]()
        memory[method] = tensor_mib() - before
    blocks[BARE_LOOP] = bare_loop(bench)
    is_mlp = isinstance(bench.model(), MLP)
    if is_mlp:
        blocks[PRODUCTS] = step_products(bench)
    timed = bench.rounds(blocks)
    return Report(
        title(bench, "steps, second context"),
        [
            {
                "": name,
                "it/s": len(bench.indices) / statistics.median(seconds),
                "step / plain step": ratio(seconds, timed["none"]),
                "matrix products / step": ratio(timed[PRODUCTS], seconds) if is_mlp else None,
                "importance, s": importance.get(name),
                "tensors, MiB": memory.get(name),
            }
            for name, seconds in timed.items()
        ],
    )


def ratio(numerator: list[float], denominator: list[float]) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


def title(bench: Bench, what: str) -> str:
    """What was measured, and on what."""
    threads = f", {torch.get_num_threads()} threads" if bench.device.type == "cpu" else ""
    return f"{bench.name}: {what} ({bench.device}{threads}, {bench.arguments.precision})"


# ---- importance


def estimate_products(bench: Bench, weightings: int, examples: int) -> Block:
    """The matrix products of an MLP's estimate: forward, back to the first layer for each weighting, one a layer."""
    model = bench.model()
    batch = min(2000, examples)
    widths = layer_widths(model)
    values = [torch.rand(batch, before, device=bench.device) for before, _ in widths]
    weights = [torch.randn(after, before, device=bench.device) for before, after in widths]
    gradients = [torch.randn(batch, after, device=bench.device) for _, after in widths]

    def block() -> None:
        for _ in range(round(examples / batch)):
            for value, weight in zip(values, weights, strict=True):
                torch.mm(value, weight.T)
            for _ in range(weightings):
                for gradient, weight in zip(gradients[1:], weights[1:], strict=True):
                    torch.mm(gradient, weight)
            for gradient, value in zip(gradients, values, strict=True):
                torch.mm(gradient.T, value)

    return block


def loop_over_examples(bench: Bench, weighting: LogitWeights, phi: Phi) -> Block:
    """What the estimate would be as a loop, over a few examples: one backward pass for each and each weighting."""
    model = bench.model().eval()
    parameters = list(model.parameters())
    totals = [torch.zeros_like(p) for p in parameters]
    inputs, labels = (values[:LOOPED_EXAMPLES] for values in bench.dataset.tensors)

    def block() -> None:
        for x, y in zip(inputs.split(1), labels.split(1), strict=True):
            logits = model(x)
            for weights in weighting(logits.detach(), y):
                loss = (weights * logits).sum()
                for total, gradient in zip(
                    totals, torch.autograd.grad(loss, parameters, retain_graph=True), strict=True
                ):
                    phi.add_to(total, gradient)

    return block


def importance_table(bench: Bench) -> Report:
    """Time the estimates on a whole context."""
    inputs, labels = bench.dataset.tensors
    n, model = len(labels), bench.model()
    report = Report(title(bench, f"importance of {n:,} examples"), [])
    for name, (weighting, phi) in ESTIMATES.items():
        weightings = len(list(weighting(model(inputs[:1]).detach(), labels[:1])))
        blocks: dict[str, Block] = {
            "ours": partial(sum_over_examples, model, inputs, labels, weighting, phi),
            "loop": loop_over_examples(bench, weighting, phi),
        }
        if isinstance(model, MLP):
            blocks["products"] = estimate_products(bench, weightings, n)
        timed = replace(bench, arguments=argparse.Namespace(**{**vars(bench.arguments), "repeats": 3})).rounds(blocks)
        report.rows.append(
            {
                "": name,
                "s": statistics.median(timed["ours"]),
                "/ its matrix products": ratio(timed["ours"], timed["products"]) if "products" in timed else None,
                "loop over examples / it": ratio(timed["loop"], timed["ours"]) * n / LOOPED_EXAMPLES,
            }
        )
    return report


# ---- ways to compute the Fisher information


def fisher_table(bench: Bench) -> Report:
    """Time the five ways on a whole context, in turn."""
    model, few = bench.model(), replace(bench, arguments=argparse.Namespace(**{**vars(bench.arguments), "repeats": 3}))
    timed = few.rounds(
        {name: partial(fisher.diagonal_fisher, model, bench.dataset, options) for name, options in WAYS.items()}
    )
    rows: list[dict[str, str | float | None]] = [
        {"": name, "s": statistics.median(timed[name]), "/ exact": ratio(timed[name], timed["exact"])} for name in WAYS
    ]
    return Report(title(bench, f"Fisher information of {len(bench.dataset):,} examples"), rows)


# ---- many contexts


def advanced(bench: Bench, method: str, count: int, *overrides: str) -> tuple[Block, float]:
    """The steps of a learner in context `count`, after short ones, and the MiB of its tensors."""
    before = tensor_mib()
    learner = bench.learner(method, *overrides)
    few = TensorDataset(*(values[:FEW_EXAMPLES] for values in bench.dataset.tensors))
    for number in range(1, count + 1):
        steps = bench.begun(learner, LONG)
        steps(bench.indices[:3])
        if number < count:
            learner.end_context(few)
    return partial(steps, bench.indices), tensor_mib() - before


def growth_table(bench: Bench) -> Report:
    """Time every built-in method's steps early and late."""
    report = Report(title(bench, f"context {LATE} beside context {EARLY}"), [])
    for method in BUILT_IN:
        early, early_mib = advanced(bench, method, EARLY)
        late, late_mib = advanced(bench, method, LATE)
        timed = bench.rounds({"early": early, "late": late})
        report.rows.append(
            {
                "": method,
                f"step {LATE} / step {EARLY}": ratio(timed["late"], timed["early"]),
                f"MiB, context {EARLY}": early_mib,
                f"MiB, context {LATE}": late_mib,
            }
        )
    return report


# ---- optimizers


def optimizers_table(bench: Bench) -> Report:
    """Time the steps of some methods with every optimizer."""
    blocks: dict[str, Block] = {}
    for name, overrides in OPTIMIZERS.items():
        for method in OF_OPTIMIZERS:
            blocks[f"{name} {method}"], _ = advanced(bench, method, EARLY, *overrides)
    timed = bench.rounds(blocks)
    plain = timed["adam none"]
    rows: list[dict[str, str | float | None]] = [
        {"": name, **{method: ratio(timed[f"{name} {method}"], plain) for method in OF_OPTIMIZERS}}
        for name in OPTIMIZERS
    ]
    return Report(title(bench, "steps over Adam's plain step"), rows)


TABLES = {
    "steps": steps_table,
    "importance": importance_table,
    "fisher": fisher_table,
    "growth": growth_table,
    "optimizers": optimizers_table,
}


def main() -> None:
    """Read the command line and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmarks", nargs="+", default=["split_mnist", "perm_mnist"])
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), default=list(TABLES))
    parser.add_argument("--steps", type=int, default=50, help="steps in a timed block (default: 50)")
    parser.add_argument("--repeats", type=int, default=9, help="rounds of timed blocks (default: 9)")
    parser.add_argument("--threads", type=int, help="like a run's threads=")
    parser.add_argument("--output", type=Path, help="a folder for the tables as CSV files")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="float32")
    arguments = parser.parse_args()
    prepare_cpu(arguments.threads)
    console = Console(highlight=False, width=120)
    for name in arguments.benchmarks:
        for kind in arguments.tables:
            report = TABLES[kind](Bench.of(name, arguments))
            console.print(report.table())
            if arguments.output is not None:
                arguments.output.mkdir(parents=True, exist_ok=True)
                frame = pd.DataFrame(report.rows).rename(columns={"": report.title})
                frame.to_csv(arguments.output / f"{name}-{kind}-{arguments.precision}.csv", index=False)


if __name__ == "__main__":
    main()
