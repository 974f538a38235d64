"""The diagonal of the Fisher information.

    F_i = (1/N) sum_n E_{y ~ p(y | x_n)} [ (d log p(y | x_n) / d theta_i)^2 ]

over a context's training examples and its active classes: the expectation is over the model's own label
distribution (Kirkpatrick et al., "Overcoming catastrophic forgetting", PNAS 2017; Kunstner, Balles & Hennig,
"Limitations of the empirical Fisher approximation", NeurIPS 2019, on why not the true labels).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import TensorDataset

from clsweep.curvature.per_example import LogitWeights, sum_over_examples
from clsweep.curvature.phi import Square
from clsweep.hyperparameters import COUNT_OR_ALL, one_of, option
from clsweep.networks import Classifier
from clsweep.parameters import NamedTensors

# `fisher.examples=null` means all examples of the context, up to this many.
MAX_EXAMPLES = 60_000


@dataclass(frozen=True)
class FisherOptions:
    """How the Fisher information is estimated.

    Attributes:
        labels: exact (all labels, weighted by the model's probabilities), sampled (one label from them) or empirical
            (the true one).
        examples: how many training examples; None: all of them, up to 60,000.
    """

    labels: str = option("exact", one_of("exact", "sampled", "empirical"))
    examples: int | None = option(None, COUNT_OR_ALL)


def diagonal_fisher(
    model: Classifier,
    dataset: TensorDataset,
    options: FisherOptions = FisherOptions(),
    batch_size: int | None = None,
) -> NamedTensors:
    """The diagonal Fisher information of a context, averaged over its examples.

    Args:
        model: the network.
        dataset: the context's training examples; `dataset.tensors` are the inputs [N, ...] and labels [N].
        options: how to treat labels, and how many examples to use.
        batch_size: examples at once, by default what is fast; it doesn't change the result.

    Returns:
        By key, a tensor shaped as the parameter, every element 0 or more.

    Raises:
        MethodError: an example's logits depend on the others in its batch.
    """
    inputs, labels, weights = selected(dataset, options)
    sums = sum_over_examples(model, inputs, labels, weights, Square(), batch_size)
    return {key: value / len(inputs) for key, value in sums.items()}


def selected(dataset: TensorDataset, options: FisherOptions) -> tuple[Tensor, Tensor, LogitWeights]:
    """The examples to use, and the treatment of their labels.

    Returns:
        The inputs [N, ...] and labels [N] to use, and the weightings of the logits.
    """
    inputs, labels = dataset.tensors
    inputs, labels = _subset(inputs, labels, options.examples or MAX_EXAMPLES)
    return inputs, labels, LABEL_MODES[options.labels]


def _subset(inputs: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    if count >= len(inputs):
        return inputs, labels
    chosen = torch.randperm(len(inputs))[:count].to(inputs.device)
    return inputs[chosen], labels[chosen]


def exact(logits: Tensor, labels: Tensor) -> Iterator[Tensor]:
    """Weightings v_1 .. v_{C-1} of the logits whose squared gradients sum to the expectation over all labels.

    The gradient of log p(y) with respect to the logits is e_y - p, whose covariance under p is diag(p) - p p^T, of
    rank C - 1. Any V with V V^T equal to that covariance gives the same sum of squares; this is its Cholesky
    factor in closed form (Tanabe & Sagae, "An exact Cholesky decomposition and the generalized inverse of the
    variance-covariance matrix of the multinomial distribution", J. R. Statist. Soc. B 54, 1992): with the tail sums
    q_j = p_{j+1} + ... + p_C, column j is sqrt(p_j q_j / q_{j-1}) (e_j - sum_{i>j} (p_i / q_j) e_i). One backward
    pass fewer than one a label, half as many for two classes, and no cancellation when p is close to one-hot.

    Args:
        logits: [B, C], over the active classes.
        labels: [B], not used.

    Yields:
        [B, C], C - 1 times.
    """
    p = logits.softmax(1)
    tails = p.flip(1).cumsum(1).flip(1)  # tails[:, j] = p_j + ... + p_C
    tiny = torch.finfo(p.dtype).tiny
    for j in range(p.shape[1] - 1):
        rest = tails[:, j + 1]
        column = torch.zeros_like(p)
        column[:, j] = 1
        column[:, j + 1 :] = -p[:, j + 1 :] / rest.clamp_min(tiny).unsqueeze(1)
        variance = p[:, j] * rest / tails[:, j].clamp_min(tiny)
        yield column * variance.sqrt().unsqueeze(1)


def sampled(logits: Tensor, labels: Tensor) -> Iterator[Tensor]:
    """One label for each example, drawn from the model's distribution: unbiased, one backward pass.

    Args:
        logits: [B, C], over the active classes.
        labels: [B], not used.

    Yields:
        e_y - p, [B, C], once.
    """
    p = logits.softmax(1)
    drawn = torch.multinomial(p, 1).squeeze(1)
    yield F.one_hot(drawn, p.shape[1]).to(p.dtype) - p


def empirical(logits: Tensor, labels: Tensor) -> Iterator[Tensor]:
    """The true labels: the "empirical Fisher", which is not the Fisher information.

    Args:
        logits: [B, C], over the active classes.
        labels: [B], over the active classes.

    Yields:
        e_y - p, [B, C], once.
    """
    p = logits.softmax(1)
    yield F.one_hot(labels, p.shape[1]).to(p.dtype) - p


LABEL_MODES: dict[str, LogitWeights] = {"exact": exact, "sampled": sampled, "empirical": empirical}
