"""Measure what a run loses as its batch norms' running averages move: its accuracy with averages estimated anew.

    python -m clsweep +benchmark=split_cifar100 validation_fraction=0.1 save_model=true hydra.run.dir=outputs/a
    python scripts/batch_norm_drift.py outputs/a --output outputs/drift.csv

The CSV file has a row for each context and each kind of averages: those of the finished network, those estimated from
the context's own training images, and those estimated from the first context's. The accuracy is on held-out data.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import pandas as pd
import torch
from torch import nn

import clsweep
from clsweep import defaults, networks
from clsweep.data import contexts, datasets
from clsweep.data.contexts import Stream
from clsweep.training.saved.reading import Saved

BATCH = 500
CPU = torch.device("cpu")


def main() -> None:
    """Measure, and write the CSV file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a run with save_model=true and held-out data")
    parser.add_argument("--output", type=Path, required=True, help="the CSV file")
    a = parser.parse_args()
    config = defaults.completed(dict(Saved.of(a.run, None).description.setting))
    stream = contexts.build(datasets.load(config.dataset), config, CPU)
    model = clsweep.load_model(a.run)
    of_first = estimated_anew(model, stream, 0)
    rows = []
    for number in range(len(stream.contexts)):
        kinds = {"final": model, "its own": estimated_anew(model, stream, number), "the first context's": of_first}
        for kind, network in kinds.items():
            found = accuracy(network, stream, number)
            rows.append({"run": a.run.name, "context": number + 1, "averages": kind, "validation_accuracy": found})
    table = pd.DataFrame(rows)
    table.to_csv(a.output, index=False)
    print(table.groupby("averages", sort=False)["validation_accuracy"].mean().round(4).to_string())


@torch.no_grad()
def estimated_anew(model: nn.Module, stream: Stream, number: int) -> nn.Module:
    """A copy whose batch norms have the averages over a context's training examples, in whole batches."""
    made = copy.deepcopy(model)
    networks.activate(made, stream.active(number, number + 1))
    for module in made.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None  # the plain mean over batches
    made.train()
    inputs, _ = stream.contexts[number].train.gathered().tensors
    for batch in inputs[: len(inputs) // BATCH * BATCH].split(BATCH):
        made(batch)
    return made.eval()


@torch.no_grad()
def accuracy(model: nn.Module, stream: Stream, number: int) -> float:
    """The accuracy on a context's held-out examples."""
    networks.activate(model, stream.active(number, number + 1))
    model.eval()
    inputs, labels = dict(stream.contexts[number].measured())["validation"].tensors
    predicted = torch.cat([model(batch).argmax(1) for batch in inputs.split(BATCH)])
    return float((predicted == labels).double().mean())


if __name__ == "__main__":
    main()
