"""The diagonal of the Fisher information.

    F_i = (1/N) sum_n E_{y ~ p(y | x_n)} [ (d log p(y | x_n) / d theta_i)^2 ]

over a context's training examples and its active classes: the expectation is over the model's own label
distribution (Kirkpatrick et al., "Overcoming catastrophic forgetting", PNAS 2017; Kunstner, Balles & Hennig,
"Limitations of the empirical Fisher approximation", NeurIPS 2019, on why not the true labels).

The five ways to compute it that van de Ven compares ("On the computation of the Fisher information in continual
learning", ICLR Blogposts 2025, arXiv:2502.11756), each by the name of its subsection in "Different Ways of Computing
the Fisher Information" and of the equation there:

- `labels=exact` (Exact, F_EXACT): the expectation over all labels; the default.
- `examples=N` (Sampling Data Points, F_EXACT(n)): of N examples alone.
- `labels=sampled` (Sampling Labels, F_SAMPLE): one label for each example, drawn from the model's distribution.
- `labels=empirical` (Empirical Fisher, F_EMPIRICAL): the true label.
- `labels=batched` (Batched Approximation of Empirical Fisher, F_BATCHED(b)): see `batched_squares`.

The first four need the gradients of single examples, which `per_example` has without a loop; the last doesn't.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import TensorDataset

from clsweep.curvature.per_example import LogitWeights, sum_over_examples
from clsweep.curvature.phi import Square
from clsweep.errors import InputError
from clsweep.hyperparameters import COUNT_OR_ALL, Allowed, one_of, option
from clsweep.networks import Classifier, layout_of
from clsweep.parameters import NamedTensors, contract_parameters

# `fisher.examples=null` means all examples of the context, up to this many.
MAX_EXAMPLES = 60_000
BATCHED = "batched"
# `fisher.batch_size=null` with `fisher.labels=batched`: that of van de Ven's comparison, F_BATCHED(b=128).
BATCH_SIZE = 128
_NO_FISHER = (
    "regularizer.fisher.labels=batched: a batch's mean gradient, squared, isn't the Fisher information: gradients of "
    "single examples cancel in it; strengths for the others don't fit it"
)
_LABELS = replace(
    one_of("exact", "sampled", "empirical"),
    expected=f"one of exact, sampled, empirical ({BATCHED} is for a diagonal: a batch's gradient has no factors)",
)
_SIZE = Allowed(COUNT_OR_ALL.holds, f"1 or more, or null for {BATCH_SIZE}")


@dataclass(frozen=True)
class FisherOptions:
    """How the Fisher information is estimated, diagonal or not.

    Attributes:
        labels: exact (all labels, weighted by the model's probabilities), sampled (one label from them) or empirical
            (the true one).
        examples: how many training examples; None: all of them, up to 60,000.
    """

    labels: str = option("exact", _LABELS)
    examples: int | None = option(None, COUNT_OR_ALL)


@dataclass(frozen=True)
class DiagonalOptions(FisherOptions):
    """The same for a diagonal alone, for which there is one more way.

    Attributes:
        labels: also batched: see `batched_squares`.
        batch_size: of its batches; None: 128.

    Raises:
        InputError: a batch size is given, but no way that has batches.
    """

    labels: str = option("exact", one_of("exact", "sampled", "empirical", BATCHED), notes={BATCHED: _NO_FISHER})
    batch_size: int | None = option(None, _SIZE, came_later=True)

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.labels != BATCHED:
            raise InputError(
                f"regularizer.fisher.batch_size={self.batch_size}: with fisher.labels={self.labels} each example has a "
                "gradient of its own; expected fisher.labels=batched as well, or no batch size."
            )


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
        batch_size: examples at once, by default a fast number; it doesn't change the result. `batched` has its own.

    Returns:
        By key, a tensor shaped as the parameter, every element 0 or more.

    Raises:
        MethodError: an example's logits depend on the others in its batch.
    """
    if isinstance(options, DiagonalOptions) and options.labels == BATCHED:
        return batched_squares(model, *_used(dataset, options), options.batch_size or BATCH_SIZE)
    inputs, labels, weights = selected(dataset, options)
    sums = sum_over_examples(model, inputs, labels, weights, Square(), batch_size)
    return {key: value / len(inputs) for key, value in sums.items()}


def selected(dataset: TensorDataset, options: FisherOptions) -> tuple[Tensor, Tensor, LogitWeights]:
    """The examples to use, and the treatment of their labels.

    Returns:
        The inputs [N, ...] and labels [N] to use, and the weightings of the logits.
    """
    return *_used(dataset, options), LABEL_MODES[options.labels]


def _used(dataset: TensorDataset, options: FisherOptions) -> tuple[Tensor, Tensor]:
    """The examples to use: inputs [N, ...] and labels [N], drawn anew where they aren't all."""
    inputs, labels = dataset.tensors
    count = options.examples or MAX_EXAMPLES
    if count >= len(inputs):
        return inputs, labels
    chosen = torch.randperm(len(inputs))[:count].to(inputs.device)
    return inputs[chosen], labels[chosen]


def batched_squares(model: Classifier, inputs: Tensor, labels: Tensor, batch_size: int) -> NamedTensors:
    """The mean over mini-batches of the squared gradient of a batch's mean loss, with the true labels.

        (1/|B|) sum_B ( (1/|B_k|) sum_{(x, y) in B_k} d log p(y | x) / d theta_i )^2

    Most published code has it in place of the Fisher information, but it is something else: gradients of single
    examples cancel before they are squared. At a minimum of the loss only their noise is left, about the empirical
    Fisher divided by the batch size. (van de Ven's equation F_BATCHED(b) has a batch's sum where his code takes the
    mean: b^2 times as much.) Batches are drawn at random, since a data set may be sorted by class. All count alike,
    even the last one, which may be shorter.

    Args:
        model: the network; it is put into eval mode.
        inputs: the examples, [N, ...].
        labels: their labels over the active classes, [N].
        batch_size: examples in a batch.

    Returns:
        By key, a tensor shaped as the parameter, every element 0 or more; 0 where the loss doesn't depend on it.
    """
    model.eval()
    trained = {key: p for key, p in contract_parameters(model).items() if p.requires_grad}
    totals = [torch.zeros_like(p) for p in trained.values()]
    if not totals:
        return {}
    batches = torch.randperm(len(inputs)).to(inputs.device).split(batch_size)
    layout = layout_of(model)
    for batch in batches:
        with torch.enable_grad():
            loss = F.cross_entropy(model(inputs[batch].contiguous(memory_format=layout)), labels[batch])
        gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True, materialize_grads=True)
        torch._foreach_addcmul_(totals, gradients, gradients)
    torch._foreach_div_(totals, len(batches))
    return dict(zip(trained, totals, strict=True))


def exact(logits: Tensor, labels: Tensor) -> Iterator[Tensor]:
    """Weightings v_1 .. v_{C-1} of the logits whose squared gradients sum to the expectation over all labels.

    The gradient of log p(y) with respect to the logits is e_y - p, whose covariance under p is diag(p) - p p^T, of
    rank C - 1. Any V with V V^T equal to that covariance gives the same sum of squares; this is its Cholesky
    factor in closed form (Tanabe & Sagae, "An exact Cholesky decomposition and the generalized inverse of the
    variance-covariance matrix of the multinomial distribution", J. R. Statist. Soc. B 54, 1992): with the tail sums
    q_j = p_{j+1} + ... + p_C, column j is sqrt(p_j q_j / q_{j-1}) (e_j - sum_{i>j} (p_i / q_j) e_i). That takes one
    backward pass fewer than there are labels, and nothing cancels when p is close to one-hot.

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
