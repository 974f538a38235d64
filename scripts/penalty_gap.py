"""Measure how far methods' penalties are from the exact curvature, along the change that one more context makes.

    python -m clsweep +benchmark=split_cifar100 validation_fraction=0.1 save_model=every_context hydra.run.dir=outputs/a
    python scripts/penalty_gap.py outputs/a outputs/gap --after 5 --files custom_regularization.py --strengths 1 3

A file estimates the importance of the first contexts at the run's networks after each of them. From there, the next
context is trained by a new Adam with the file's penalty.

`transitions.csv` says how that changed accuracy and cross-entropy on held-out data, of the new context and, on average,
of the old ones. `curvature.csv` has the penalty beside the exact quadratic form, for the whole network and for each
layer's part of the change alone. The exact form is the sum over old contexts of 1/2 d^T J^T H J d, averaged over
examples and divided by the mean trace of H, with the logits' Jacobian J and H = diag(p) - p p^T. For the whole network,
the table also has the Kullback-Leibler divergence that the form approximates.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.utils.data import TensorDataset

from clsweep import defaults, networks
from clsweep.config import RegularizerConfig
from clsweep.data import contexts, datasets
from clsweep.data.contexts import Stream
from clsweep.methods.base import Finished, Method
from clsweep.methods.base import Path as PathIntegrals
from clsweep.methods.loading import load
from clsweep.methods.undisturbed import Network
from clsweep.networks import Classifier, layout_of
from clsweep.parameters import snapshot
from clsweep.training.saved.reading import Saved

CPU = torch.device("cpu")
EXAMPLES = 200  # of each old context, for the exact quadratic form
Row = dict[str, object]


@dataclass
class Walk:
    """A saved run up to the context that is to be learned.

    Attributes:
        folder: the run's.
        after: how many contexts have been learned.
        stream: its contexts.
        batch_size, lr: the run's.
    """

    folder: Path
    after: int
    stream: Stream
    batch_size: int
    lr: float

    @classmethod
    def of(cls, folder: Path, after: int) -> Walk:
        config = defaults.completed(dict(Saved.of(folder.absolute(), after).description.setting))
        stream = contexts.build(datasets.load(config.dataset), config, CPU)
        return cls(folder, after, stream, config.benchmark.batch_size, config.benchmark.lr)

    def network(self, learned: int) -> Classifier:
        """The network after so many contexts, in eval mode."""
        return Saved.of(self.folder.absolute(), learned).network(CPU)

    def examples(self, number: int, split: str) -> tuple[Tensor, Tensor]:
        """Inputs and labels of a context, from 0: `train` or `validation`."""
        context = self.stream.contexts[number]
        part = context.train if split == "train" else context.validation
        assert part is not None, "the run has held no examples out: validation_fraction"
        return part.tensors

    def activate(self, model: nn.Module, number: int) -> None:
        """Choose the outputs of a context's classes."""
        networks.activate(model, self.stream.active(number, number + 1))

    def logits(self, model: nn.Module, number: int, inputs: Tensor) -> Tensor:
        """Of a context's classes."""
        self.activate(model, number)
        logits: Tensor = model(inputs.contiguous(memory_format=layout_of(model)))
        return logits


def prepared(walk: Walk, file: Path) -> tuple[Classifier, Method]:
    """The network at the end of the path, with the importance of all contexts on it."""
    method = load(RegularizerConfig(file.stem, file=str(file))).method
    model = walk.network(walk.after)
    method.attach(Network(model))
    for number in range(walk.after):
        model.load_state_dict(walk.network(number + 1).state_dict())
        walk.activate(model, number)
        method.start_context(PathIntegrals({}, {}))
        data = TensorDataset(*walk.examples(number, "train"))
        method.end_context(Finished(data, snapshot(model), method.path, CPU))
    return model, method


def train(walk: Walk, model: nn.Module, method: Method, strength: float, iters: int) -> None:
    inputs, labels = walk.examples(walk.after, "train")
    order = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), walk.lr)
    model.reg_strength = strength  # type: ignore[assignment]  # which a file may look at
    model.train()
    for _ in range(iters):
        batch = torch.randint(len(inputs), (walk.batch_size,), generator=order)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            logits = walk.logits(model, walk.after, inputs[batch])
        loss = F.cross_entropy(logits.float(), labels[batch]) + strength * method.penalty(is_first=False)
        loss.backward()
        optimizer.step()


@torch.no_grad()
def measured(walk: Walk, model: nn.Module) -> pd.DataFrame:
    """Accuracy and cross-entropy on held-out data, a row for each context."""
    model.eval()
    rows = []
    for number in range(walk.after + 1):
        inputs, labels = walk.examples(number, "validation")
        logits = walk.logits(model, number, inputs)
        accuracy = (logits.argmax(1) == labels).double().mean().item()
        rows.append({"accuracy": accuracy, "cross_entropy": F.cross_entropy(logits, labels).item()})
    return pd.DataFrame(rows)


def transition(walk: Walk, before: pd.DataFrame, after: pd.DataFrame) -> Row:
    """What a context has gained, and what it has cost the old ones."""
    new, old = after.iloc[walk.after], (after - before).iloc[: walk.after].mean()
    return {f"new_{key}": new[key] for key in new.index} | {f"old_{key}_change": old[key] for key in old.index}


def exact(walk: Walk, start: nn.Module, change: dict[str, Tensor]) -> float:
    """The exact quadratic form of a change of some parameters, summed over old contexts."""
    values = {name: value.detach() for name, value in start.state_dict().items()}
    at = {name: values[name] for name in change}
    total = 0.0
    for number in range(walk.after):
        inputs = walk.examples(number, "train")[0][:EXAMPLES]

        def logits_of(some: dict[str, Tensor], inputs: Tensor = inputs) -> Tensor:
            result: Tensor = functional_call(start, {**values, **some}, (inputs,))
            return result

        walk.activate(start, number)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning)  # of what PyTorch imports for it
            logits, moved = jvp(logits_of, (at,), (change,))[:2]
        p = logits.softmax(1)
        form = 0.5 * ((p * moved.square()).sum(1) - (p * moved).sum(1).square()).mean()
        total += (form / (1 - p.square().sum(1)).mean()).item()
    return total


@torch.no_grad()
def divergence(walk: Walk, start: nn.Module, end: nn.Module) -> float:
    """KL(start | end) of the predictions on old contexts, over the mean trace of H, summed."""
    total = 0.0
    for number in range(walk.after):
        inputs = walk.examples(number, "train")[0][:EXAMPLES]
        before, now = (walk.logits(model, number, inputs).log_softmax(1) for model in (start, end))
        p = before.exp()
        total += ((p * (before - now)).sum(1).mean() / (1 - p.square().sum(1)).mean()).item()
    return total


def curvature(walk: Walk, model: nn.Module, method: Method) -> Iterator[Row]:
    """The rows for the change that training has made, with the penalty at a strength of 1.

    The network is at the anchor afterwards.
    """
    model.reg_strength = 1.0  # type: ignore[assignment]  # a file may divide its penalty by a part of it
    start = walk.network(walk.after)
    parameters = dict(model.named_parameters())
    anchor = {name: p.detach() for name, p in start.named_parameters()}
    change = {name: p.detach() - anchor[name] for name, p in parameters.items()}
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in change))
    row: Row = {"part": "all", "divergence": divergence(walk, start, model.eval())}
    yield row | {"exact": exact(walk, start, change), "penalty": method.penalty(is_first=False).item()}
    for layer in layers:
        part = {name: value for name, value in change.items() if name.rpartition(".")[0] == layer}
        put(parameters, anchor, part)
        yield {"part": layer, "exact": exact(walk, start, part), "penalty": method.penalty(is_first=False).item()}
    put(parameters, anchor, {})


@torch.no_grad()
def put(parameters: dict[str, nn.Parameter], anchor: dict[str, Tensor], change: dict[str, Tensor]) -> None:
    """Set the parameters to the anchor plus a change of some of them."""
    for name, p in parameters.items():
        p.copy_(anchor[name] + change[name] if name in change else anchor[name])


def main() -> int:
    """Write both tables, anew after each file and strength."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a run with save_model=every_context")
    parser.add_argument("output", type=Path, help="the folder for the tables")
    parser.add_argument("--files", nargs="+", type=Path, required=True, help="methods: files with the two functions")
    parser.add_argument("--strengths", nargs="+", type=float, default=[1.0], help="reg_strength; default: 1")
    parser.add_argument("--after", type=int, default=5, help="how many contexts have been learned; default: 5")
    parser.add_argument("--iters", type=int, default=150, help="steps on the next context; default: 150")
    a = parser.parse_args()
    torch.set_num_threads(1)
    walk = Walk.of(a.run, a.after)
    a.output.mkdir(parents=True, exist_ok=True)
    before = measured(walk, walk.network(walk.after))
    transitions: list[Row] = []
    rows: list[Row] = []
    for file in a.files:
        model, method = prepared(walk, file)
        state = {name: value.clone() for name, value in model.state_dict().items()}
        for strength in a.strengths:
            model.load_state_dict(state)
            train(walk, model, method, strength, a.iters)
            about: Row = {"file": file.name, "reg_strength": strength, "after": a.after, "iters": a.iters}
            transitions.append(about | transition(walk, before, measured(walk, model)))
            rows += [about | row for row in curvature(walk, model, method)]
            pd.DataFrame(transitions).round(6).to_csv(a.output / "transitions.csv", index=False)
            pd.DataFrame(rows).to_csv(a.output / "curvature.csv", index=False, float_format="%.5g")
    print(pd.DataFrame(transitions).round(4).to_string(index=False))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
