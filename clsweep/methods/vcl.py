"""Variational continual learning, mean-field and without coresets.

The posterior is approximated by q(theta) = prod_i N(mu_i, 1 / S_i). In each context it minimizes

    E_q[loss(theta)] + beta / N * KL_lambda(q || q')                                                            (1)

with the mean loss of the context's N examples and q', the last context's q, with means m and precisions s. At
lambda = beta = 1 that is the negative lower bound of Nguyen, Li, Bui & Turner ("Variational continual learning", ICLR
2018, equation 4) over N. `beta` below 1 tempers the posterior, and `reg_strength`, lambda, weighs what earlier contexts
have said of the means (Loo, Swaroop & Turner, "Generalized variational continual learning", ICLR 2021):

    KL_lambda = 1/2 sum_i [P_i (mu_i - m_i)^2 + s_i / S_i - 1 + log(S_i / s_i)]
    P = lambda (s - 1 / sigma^2) + 1 / sigma^2

The prior is N(theta_0, sigma^2), with sigma = `prior_std`, around the initial parameters as in Dziugaite & Roy
("Computing nonvacuous generalization bounds for deep (stochastic) neural networks", UAI 2017) and not around zero:
then nothing pulls at a head before its context comes, nor pulls a normalization's scale away from one.

The network holds mu, which the run's optimizer moves by the gradient of (1). Linear and convolutional layers are
sampled by what they compute, for each example on its own (local reparameterization; Kingma, Salimans & Welling,
"Variational dropout and the local reparameterization trick", NeurIPS 2015): from inputs x they give
mu x + sqrt(x^2 / S) eps with eps ~ N(0, 1). Parameters of other layers are sampled themselves, once a step: theta =
mu + eps / sqrt(S). In S, (1) has its minimum at S = s + N / beta E_q[H], with H the loss's second derivatives. With the
loss's gradient g,

    E_q[H_ii] = 2 E_q[d loss / d (1 / S_i)] = E_q[g_i eps_i sqrt(S_i)],

from back-propagation, or by Stein's identity where a parameter itself was sampled. So a step is

    h <- (1 - rate) h + rate H_ii,    S = s + N / beta max(h, 0)                                                (2)

which is a step along the natural gradient of (1) in S, whatever the parameters' scale (Khan et al., "Fast and scalable
Bayesian deep learning by weight-perturbation in Adam", ICML 2018; Shen et al., "Variational learning is effective for
large deep networks", ICML 2024). The floor keeps data from taking precision away.

What differs from the papers:

- (2) instead of Adam on log S: it doesn't need hundreds of epochs. The average begins anew in each context, where the
  standard deviation is `initial_std` or less; what is left of this beginning at the end is taken out again, as Adam
  does, so that S stays s where no gradient has come.
- One sample a step, where Nguyen et al. draw ten. A convolution's positions have noise of their own, and so have a
  layer's calls, as if each had weights of its own. Where a parameter itself is sampled, all examples of a batch share
  the sample, and the variance that it adds is not divided by their number.
- The means go on from where they are; Swaroop, Nguyen, Bui & Turner ("Improving and understanding variational continual
  learning", 2019) draw them anew in each context.
- Accuracies are those of the means; the papers average the predictions of 100 samples. Batch norms' running statistics
  are those of the samples, and the reported loss is the task's at the sample.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clsweep.curvature.coverage import is_plain
from clsweep.errors import MethodError
from clsweep.hyperparameters import NOT_NEGATIVE, POSITIVE, SHARE, hyperparameter, option
from clsweep.methods.base import Finished, Quadratic, Squares, state
from clsweep.networks import Head
from clsweep.parameters import NamedTensors, distinct_parameters, layers_of

_KINDS = (Head, nn.Linear, nn.Conv2d)  # of layers that are sampled by what they compute
_FEW = 2  # examples, to see which layers are called
_NOTE = (
    "vcl samples the outputs of {}, and the parameters of {}, which a batch shares: they learn from noisier gradients"
)


@dataclass(eq=False)
class VCL(Quadratic):
    """A Gaussian for each parameter, which is the next context's prior. `transform` adds the divergence's gradient.

    Attributes:
        reg_strength: lambda.
        beta: what the divergence is multiplied with.
        prior_std: sigma.
        initial_std: the largest standard deviation that a context begins with.
        rate: how fast the average of the curvature follows.
        precision: S after the latest context, by key; a parameter that isn't there has the prior's.
    """

    transforms_gradients = True
    takes_batch = True
    reg_strength: float = hyperparameter(1.0, NOT_NEGATIVE, "tag(log, interval(1, 1e4))")
    beta: float = hyperparameter(1.0, POSITIVE, "tag(log, interval(1e-3, 1))")
    rate: float = hyperparameter(1e-3, SHARE, "tag(log, interval(1e-4, 1e-1))")
    prior_std: float = option(1.0, POSITIVE)
    initial_std: float = option(0.05, POSITIVE)
    precision: NamedTensors = state()
    _examples: int | None = field(init=False, default=None)
    _posterior: _Posterior | None = field(init=False, default=None)
    _notes: list[str] = field(init=False, default_factory=list)

    @property
    def strength(self) -> float:
        return self.reg_strength

    def squares(self) -> Squares:
        """Of no parameter: the loss is differentiated at a sample, the penalty at the mean."""
        return Squares({}, {})

    def expect(self, examples: int) -> None:
        """Keep N."""
        self._examples = examples

    def see(self, inputs: Tensor, labels: Tensor) -> None:
        """Sample from now on; in a context's first step the parameters are the prior's means."""
        if self._posterior is None:
            self._posterior = self._begun(inputs)
        self._posterior.sample()

    def transform(self) -> None:
        """Put the means back, learn from the gradients at the sample, and add the divergence's to them."""
        assert self._posterior is not None
        self._posterior.learn()

    def abandon(self) -> None:
        """Put the means back."""
        if self._posterior is not None:
            self._posterior.put_back()

    def learn(self, finished: Finished) -> None:
        """Keep the posterior's precision; a parameter that is frozen keeps its own."""
        if self._posterior is not None:
            self.precision = self.precision | self._posterior.precision()
            self._posterior.close()
        self._posterior = None

    def additions(self) -> list[str]:
        """What is sampled how, where not all is sampled by what its layer computes."""
        return self._notes

    def _begun(self, inputs: Tensor) -> _Posterior:
        assert self._examples is not None, "Learner.start_context(examples=N)"
        parameters = {p: key for key, p in distinct_parameters(self.model).items() if p.requires_grad}
        with self.network.undisturbed(), self.stream.active():
            seed = int(torch.randint(2**63 - 1, ()))
            layers = _called(self.model, inputs[:_FEW])
        inside = {p for layer in layers for p in layer.parameters(recurse=False)}
        computed = layers_of(key for p, key in parameters.items() if p in inside) or "no layer"
        others = layers_of(key for p, key in parameters.items() if p not in inside)
        self._notes = [_NOTE.format(computed, others)] if others else []
        return _Posterior(self, parameters, layers, self._examples, seed)


def _called(model: nn.Module, inputs: Tensor) -> list[nn.Module]:
    """The layers that do what their kind does, and are called: a weight may be used without its layer."""
    called: dict[nn.Module, None] = {}

    def note(layer: nn.Module, *_: Any) -> None:
        called[layer] = None

    handles = [layer.register_forward_hook(note) for layer in model.modules() if is_plain(layer, _KINDS)]
    model.eval()
    try:
        with torch.no_grad():
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return list(called)


class _Flat(NamedTuple):
    """Values for some parameters, in one tensor.

    Attributes:
        all: the tensor.
        each: its parts, each as its parameter.
    """

    all: Tensor
    each: list[Tensor]

    @classmethod
    @torch.no_grad()
    def zeros(cls, parameters: Sequence[Tensor]) -> Self:
        """Zeros, in float32 at least."""
        dtype = reduce(torch.promote_types, (p.dtype for p in parameters), torch.float32)
        sizes = [p.numel() for p in parameters]
        whole = torch.zeros(sum(sizes), dtype=dtype, device=parameters[0].device)
        strides = [torch.empty_like(p, device="meta").stride() for p in parameters]
        parts = zip(whole.split(sizes), parameters, strides, strict=True)
        return cls(whole, [part.as_strided(p.shape, stride) for part, p, stride in parts])


class _Posterior:
    """The posterior of one context, while it is learned.

    Args:
        method: its hyperparameters, and the precision so far.
        parameters: the network's, with their keys; they hold the means, those of the prior at first.
        layers: those that are sampled by what they compute.
        examples: N.
        seed: of the samples.
    """

    def __init__(
        self,
        method: VCL,
        parameters: Mapping[nn.Parameter, str],
        layers: Collection[nn.Module],
        examples: int,
        seed: int,
    ) -> None:
        self._parameters: list[Tensor] = list(parameters)
        self._keys = list(parameters.values())
        self._rate, self._per_slope = method.rate, 2 * examples / method.beta
        made = (_Flat.zeros(self._parameters) for _ in range(5))
        self._prior_means, self._prior, self._slope, self._variance, self._weights = made
        at_first = method.prior_std**-2
        with torch.no_grad():
            torch._foreach_copy_(self._prior_means.each, self._parameters)
            self._prior.all.fill_(at_first)
            for key, precision in zip(self._keys, self._prior.each, strict=True):
                if key in method.precision:
                    precision.copy_(method.precision[key])
        prior = self._prior.all
        weights = method.reg_strength * (prior - at_first) + at_first
        self._weights.all.copy_(weights * method.beta / examples)
        self._beginning = (method.initial_std**-2 - prior).clamp_min_(0) / self._per_slope
        self._steps = 0
        self._set_variance()
        generator = torch.Generator(prior.device).manual_seed(seed)
        variances = dict(zip(self._parameters, self._variance.each, strict=True))
        inside = {p for layer in layers for p in layer.parameters(recurse=False)} & variances.keys()
        self._layers = _Layers(layers, {p: variances[p] for p in inside}, generator)
        self._samples = _Samples({p: one for p, one in variances.items() if p not in inside}, generator)

    def sample(self) -> None:
        """Sample from now on."""
        self._samples.draw()
        self._layers.open()

    @torch.no_grad()
    def learn(self) -> None:
        """Put the means back, learn the variance from the gradients at the sample, add the divergence's to these."""
        self.put_back()
        gradients = [_gradient(p) for p in self._parameters]
        slopes = self._layers.slopes() | self._samples.slopes()
        torch._foreach_lerp_(self._slope.each, [slopes[p] for p in self._parameters], self._rate)
        self._steps += 1
        self._set_variance()
        away = torch._foreach_sub(self._parameters, self._prior_means.each)
        torch._foreach_addcmul_(gradients, away, self._weights.each)

    def put_back(self) -> None:
        """Put the means back, where a sample stands."""
        self._layers.shut()
        self._samples.put_back()

    def close(self) -> None:
        """Leave the network."""
        self._layers.remove()

    @torch.no_grad()
    def precision(self) -> NamedTensors:
        """S, by key, each as its parameter."""
        made = _Flat.zeros(self._parameters)
        made.all.copy_(self._slope.all)
        if self._steps:
            made.all.clamp_min_(0).mul_(self._per_slope / (1 - self._left))
        made.all.add_(self._prior.all)
        return dict(zip(self._keys, made.each, strict=True))

    @property
    def _left(self) -> float:
        """The share of the average that is its beginning's."""
        return (1 - self._rate) ** self._steps

    @torch.no_grad()
    def _set_variance(self) -> None:
        variance = self._variance.all
        torch.add(self._slope.all, self._beginning, alpha=self._left, out=variance).clamp_min_(0)
        torch.add(self._prior.all, variance, alpha=self._per_slope, out=variance).reciprocal_()


class _Layers:
    """Layers that are sampled by what they compute, between `open` and `shut`.

    Args:
        layers: which.
        variances: of their trained parameters.
        generator: of the noise.
    """

    def __init__(
        self, layers: Collection[nn.Module], variances: Mapping[Tensor, Tensor], generator: torch.Generator
    ) -> None:
        self._variances = {p: one.requires_grad_() for p, one in variances.items()}
        self._generator = generator
        self._is_open = False
        self._drawn: dict[nn.Module, list[Tensor]] = {}
        trained = [layer for layer in layers if self._variances.keys() & set(layer.parameters(recurse=False))]
        self._handles = [layer.register_forward_hook(self._sampled) for layer in trained]

    def open(self) -> None:
        """Sample from now on."""
        for one in self._variances.values():
            one.grad = None
        self._is_open = True

    def shut(self) -> None:
        """Give the mean again."""
        self._is_open = False
        self._drawn.clear()

    def slopes(self) -> dict[Tensor, Tensor]:
        """The loss's gradient with respect to the variance, by parameter."""
        return {p: _gradient(one) for p, one in self._variances.items()}

    def remove(self) -> None:
        """Leave the layers."""
        for handle in self._handles:
            handle.remove()

    def _sampled(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if not self._is_open:
            return None
        variance = _spread(layer, inputs[0].square(), *(self._variance_of(p) for p in (layer.weight, layer.bias)))
        noise = self._noise(layer, output)
        # The root of zero, where nothing comes in, would have no gradient.
        return torch.addcmul(output, (variance + torch.finfo(variance.dtype).tiny).sqrt(), noise)

    def _noise(self, layer: nn.Module, output: Tensor) -> Tensor:
        """New noise; the same again where a checkpointed part is computed once more, on the way back.

        Raises:
            MethodError: which of several it was can't be told.
        """
        drawn = self._drawn.setdefault(layer, [])
        if torch._C._current_graph_task_id() < 0:  # no backward pass is on its way; torch's checkpoints ask likewise
            drawn.append(torch.empty_like(output).normal_(generator=self._generator))
        elif len(drawn) > 1:
            raise MethodError(
                f"a {type(layer).__name__} that is called several times is in a checkpointed part, for which vcl can't "
                "tell its samples apart; expected it outside of torch.utils.checkpoint."
            )
        return drawn[-1]

    def _variance_of(self, p: Any) -> Tensor | None:
        """A parameter's variance, of its type: zero where it is frozen, None where there is none."""
        return None if p is None else self._variances[p].to(p.dtype) if p in self._variances else torch.zeros_like(p)


def _spread(layer: nn.Module, squares: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """The variance of what a layer computes, from its inputs' squares and its parameters' variances."""
    assert weight is not None
    if isinstance(layer, nn.Conv2d):
        spread: Tensor = layer._conv_forward(squares, weight, bias)
        return spread
    if isinstance(layer, Head):
        assert isinstance(layer.active, range)
        outputs = slice(layer.active.start, layer.active.stop)
        weight, bias = weight[outputs], None if bias is None else bias[outputs]
    return F.linear(squares, weight, bias)


class _Samples:
    """Parameters that are sampled themselves.

    Args:
        variances: by parameter.
        generator: of the noise.
    """

    def __init__(self, variances: Mapping[Tensor, Tensor], generator: torch.Generator) -> None:
        self._parameters, self._variances = list(variances), list(variances.values())
        self._generator = generator
        self._is_there = False
        if self._parameters:
            self._noise, self._means = (_Flat.zeros(self._parameters) for _ in range(2))

    @torch.no_grad()
    def draw(self) -> None:
        """Put a sample into the parameters, and keep the means."""
        if not self._parameters:
            return
        self.put_back()
        torch._foreach_copy_(self._means.each, self._parameters)
        self._is_there = True
        self._noise.all.normal_(generator=self._generator)
        self._stds = torch._foreach_sqrt(self._variances)
        torch._foreach_addcmul_(self._parameters, self._noise.each, self._stds)

    @torch.no_grad()
    def put_back(self) -> None:
        """Put the means back, where a sample stands."""
        if self._is_there:
            torch._foreach_copy_(self._parameters, self._means.each)
        self._is_there = False

    def slopes(self) -> dict[Tensor, Tensor]:
        """Half of the loss's gradient times eps sqrt(S), which estimates its gradient with respect to the variance."""
        if not self._parameters:
            return {}
        slopes = torch._foreach_div(self._noise.each, self._stds)
        torch._foreach_mul_(slopes, [_gradient(p) for p in self._parameters])
        torch._foreach_mul_(slopes, 0.5)
        return dict(zip(self._parameters, slopes, strict=True))


def _gradient(p: Tensor) -> Tensor:
    """A gradient; zero where the loss doesn't depend on it."""
    if p.grad is None:
        p.grad = torch.zeros_like(p)
    return p.grad
