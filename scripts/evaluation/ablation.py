"""The ablation of the shipped file: tables of the runs of `scripts/ablation.py`."""

from __future__ import annotations

import math
from typing import Final

import pandas as pd

from clsweep.results.statistics import compare
from evaluation.experiment import Experiment, Made
from evaluation.keeping import REFERENCE
from evaluation.names import SHIPPED
from evaluation.tables import TO_SHIPPED, markdown

NAME: Final = "ablation"
_DIFFERENCE: Final = f"{TO_SHIPPED}, each at its best strength"
_FILES: Final = {
    "split_mnist-quick": "Split-MNIST, a tenth of the budget",
    "perm_mnist-short": "Permuted-MNIST, 600 iterations a context, bf16",
    "perm_mnist-narrow": "Permuted-MNIST, 20 contexts, hidden layers of 100 units, 1,000 iterations a context",
    "split_cifar100-short": "Split-CIFAR100, 250 iterations a context, bf16",
}
_VARIANTS: Final = {
    SHIPPED: "the shipped file",
    "all_of_both_factors": "whole factors, equation (1)",
    "more_input_directions": "128 leading directions of the inputs, in place of 32",
    "no_output_directions": "no leading directions of the outputs",
    "no_input_directions": "no leading directions of the inputs",
    "diagonal_of_product": "only the diagonal of G ⊗ A",
    "sampled_labels": "labels drawn from the model",
    "summed_factors": "summed factors, (Σ A) ⊗ (Σ G)",
    "not_normalized": "no division by the mean tr H",
}


def tables(experiment: Experiment, made: Made) -> str:
    """A table for each benchmark: a row for each variant, at each of its strengths."""
    return "\n\n".join(
        f"### {title}\n\n{_table(pd.read_csv(REFERENCE / 'ablation' / f'{file}.csv'))}"
        for file, title in _FILES.items()
    )


def _table(runs: pd.DataFrame) -> str:
    lines = [["variant", "strength: validation accuracy", _DIFFERENCE, "learning accuracy"]]
    best = {name: _best(mine) for name, mine in runs.groupby("variant")}
    for name, said in _VARIANTS.items():
        if name in best:
            difference = "" if name == SHIPPED else _difference(best[name], best[SHIPPED])
            learned = f"{best[name]['learning_accuracy'].mean():.4f}"
            lines.append([said, _tried(runs[runs["variant"] == name]), difference, learned])
    return markdown(lines)


def _best(mine: pd.DataFrame) -> pd.DataFrame:
    """The runs at the strength that has the best mean on held-out data."""
    means = mine.groupby("reg_strength")["validation_average_accuracy"].mean()
    return mine[mine["reg_strength"] == means.idxmax()].set_index("seed")


def _tried(mine: pd.DataFrame) -> str:
    means = mine.groupby("reg_strength")["validation_average_accuracy"].mean()
    return ", ".join(f"{strength:g}: {mean:.4f}" for strength, mean in means.items())


def _difference(first: pd.DataFrame, second: pd.DataFrame) -> str:
    made = compare(_by_seed(first), _by_seed(second))
    interval = "" if math.isnan(made.low) else f" [{made.low:+.4f}, {made.high:+.4f}]"
    return f"{made.difference:+.4f}{interval}"


def _by_seed(runs: pd.DataFrame) -> dict[int, float]:
    return {int(str(seed)): float(one) for seed, one in runs["validation_average_accuracy"].items()}
