"""VCL's gradients and steps against torch.distributions and slow twins, and its posterior where that is known."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from tiny import OUTPUTS, dataset, examples, finished, learner, method, network, optimizer, stream, trainer
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.utils.checkpoint import checkpoint

from clsweep.errors import MethodError, NotFiniteError
from clsweep.methods.undisturbed import Network
from clsweep.methods.vcl import VCL, _Flat, _spread
from clsweep.networks import equip
from clsweep.parameters import NamedTensors, contract_parameters, snapshot
from clsweep.seeding import GlobalStream, generator_states
from clsweep.training.learner import Learner

N = 37  # examples of a context, as far as the method knows
RELATIVE = 1e-10


def vcl_of(made: Learner) -> VCL:
    assert isinstance(made.method, VCL)
    return made.method


def begun(made: Learner, number: int = 0, examples_of: int = N) -> VCL:
    """A learner's method in a context, before its first step."""
    made.activate(range(2 * number, 2 * number + 2))
    made.start_context(examples=examples_of)
    vcl = vcl_of(made)
    vcl.see(*examples(3, next(made.model.parameters()).dtype))
    vcl.abandon()
    return vcl


def posterior_of(made: VCL) -> Any:
    assert made._posterior is not None
    return made._posterior


def copies(values: list[Tensor], made: VCL) -> NamedTensors:
    return {key: one.detach().clone() for key, one in zip(posterior_of(made)._keys, values, strict=True)}


def precisions(made: VCL) -> NamedTensors:
    """S with which the next step samples, by key."""
    return {key: 1 / value for key, value in copies(posterior_of(made)._variance.each, made).items()}


def gradient_of(p: Tensor) -> Tensor:
    assert p.grad is not None
    return p.grad


def noise_of(made: VCL) -> torch.Generator:
    """A copy of what the next step draws from."""
    own = posterior_of(made)._layers._generator
    return torch.Generator().set_state(own.get_state())


def learned(made: Learner, number: int, steps: int = 3, examples_of: int = N) -> None:
    """Learn a context."""
    begun(made, number, examples_of)
    for step in range(steps):
        made.step(*examples(6, torch.float64, seed=10 * number + step))
    made.end_context(dataset(11, torch.float64, seed=number))


def mlp_logits(theta: NamedTensors, variances: NamedTensors, x: Tensor, noise: list[Tensor], active: slice) -> Tensor:
    """Of one example, in the tiny MLP, whose layers are sampled by what they compute."""
    values = x.flatten()
    for layer, eps, rows in (("hidden__0", noise[0], slice(None)), ("head", noise[1], active)):
        weight, bias = (theta[f"{layer}__{name}"][rows] for name in ("weight", "bias"))
        of_weight, of_bias = (variances[f"{layer}__{name}"][rows] for name in ("weight", "bias"))
        values = weight @ values + bias + (of_weight @ values**2 + of_bias).sqrt() * eps
        values = values.relu() if layer != "head" else values
    return values


class Twin(NamedTuple):
    """A sampled loss by a loop over examples, and its gradients."""

    loss: Tensor
    by_mean: NamedTensors
    by_variance: NamedTensors


def naive(
    means: NamedTensors, s: NamedTensors, batch: tuple[Tensor, Tensor], source: torch.Generator, active: slice
) -> Twin:
    """The tiny MLP's mean loss, one example at a time, with the noise that a step draws."""
    inputs, labels = batch
    noise = [torch.randn(len(inputs), width, generator=source, dtype=torch.float64) for width in (7, 2)]
    theta = {key: value.clone().requires_grad_() for key, value in means.items()}
    variances = {key: (1 / value).requires_grad_() for key, value in s.items()}
    losses = [
        F.cross_entropy(mlp_logits(theta, variances, x, [eps[n] for eps in noise], active)[None], y[None])
        for n, (x, y) in enumerate(zip(inputs, labels, strict=True))
    ]
    loss = torch.stack(losses).mean()
    found = torch.autograd.grad(loss, [*theta.values(), *variances.values()])
    return Twin(loss.detach(), *(dict(zip(means, some, strict=True)) for some in (found[: len(s)], found[len(s) :])))


def close(ours: NamedTensors, expected: NamedTensors) -> None:
    assert ours.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(ours[key], value, rtol=RELATIVE, atol=1e-13, msg=key)


# ---- one step


@pytest.mark.parametrize(("strength", "beta", "rate"), [(1.0, 1.0, 0.1), (50.0, 0.2, 0.01)])
def test_every_step_equals_a_slow_twin(strength: float, beta: float, rate: float) -> None:
    """Examples one at a time, through two contexts of unequal batches."""
    config = method("vcl", reg_strength=strength, beta=beta, rate=rate, prior_std=0.7, initial_std=0.1)
    made = learner(config, network(dtype=torch.float64), lr=0.03)
    prior = 0.7**-2
    twin = {key: value.clone().requires_grad_() for key, value in snapshot(made.model).items()}
    adam = torch.optim.Adam(list(twin.values()), lr=0.03)
    known = {key: torch.full_like(value, prior).detach() for key, value in twin.items()}
    for number, (count, sizes) in enumerate([(23, (6, 4, 5)), (41, (3, 6))]):
        vcl = begun(made, number, count)
        means = {key: value.detach().clone() for key, value in twin.items()}
        h_0 = {key: ((0.1**-2 - s) * beta / count).clamp(min=0) for key, s in known.items()}
        average = {key: torch.zeros_like(value) for key, value in means.items()}
        for step, size in enumerate(sizes):
            batch = examples(size, torch.float64, seed=10 * number + step)
            source = noise_of(vcl)
            loss = made.step(*batch)
            left = (1 - rate) ** step
            s = {key: one + count / beta * (average[key] + left * h_0[key]).clamp(min=0) for key, one in known.items()}
            now = {key: value.detach() for key, value in twin.items()}
            expected = naive(now, s, batch, source, slice(2 * number, 2 * number + 2))
            torch.testing.assert_close(loss, expected.loss, rtol=RELATIVE, atol=0)
            for key, value in twin.items():
                average[key] += rate * (2 * expected.by_variance[key] - average[key])
                pull = strength * (known[key] - prior) + prior
                value.grad = expected.by_mean[key] + beta / count * pull * (value.detach() - means[key])
            adam.step()
            close(snapshot(made.model), {key: value.detach() for key, value in twin.items()})
        made.end_context(dataset(11, torch.float64))
        for key, value in average.items():
            known[key] = known[key] + count / beta * value.clamp(min=0) / (1 - (1 - rate) ** len(sizes))
        close(vcl.precision, known)
    assert max(float(s.max()) for s in known.values()) > 1.1 * prior


class OneStep(NamedTuple):
    """A second context's second step, which is away from the last means, and what was there before it."""

    made: Learner
    start: NamedTensors
    means: NamedTensors
    precision: NamedTensors
    source: torch.Generator


def one_step(beta: float, strength: float = 1.0) -> OneStep:
    config = method("vcl", reg_strength=strength, beta=beta, rate=0.01, prior_std=0.5)
    made = learner(config, network(dtype=torch.float64))
    learned(made, 0)
    vcl, start = begun(made, 1), snapshot(made.model)
    made.step(*examples(5, torch.float64, seed=7))
    means, s, source = snapshot(made.model), precisions(vcl), noise_of(vcl)
    made.step(*examples(6, torch.float64, seed=8))
    return OneStep(made, start, means, s, source)


@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_a_step_has_the_bounds_gradient_in_the_means_and_its_natural_one_in_the_precisions(beta: float) -> None:
    """The divergence and its gradients are those of torch.distributions."""
    made, start, means, before, source = one_step(beta)
    vcl = vcl_of(made)
    sampled = naive(means, before, examples(6, torch.float64, seed=8), source, slice(2, 4))
    moved = 0
    for key, p in contract_parameters(made.model).items():
        mean, log_std = means[key].clone().requires_grad_(), (-0.5 * before[key].log()).requires_grad_()
        last = Normal(start[key], vcl.precision[key] ** -0.5)
        divergence = beta / N * kl_divergence(Normal(mean, log_std.exp()), last).sum()
        by_mean, by_log_std = torch.autograd.grad(divergence, [mean, log_std])
        torch.testing.assert_close(p.grad, sampled.by_mean[key] + by_mean, rtol=1e-9, atol=1e-14)
        # d(1 / S) = 2 / S d(log std); the Fisher information of log std is 2, so its natural gradient is half of it.
        natural = 0.5 * (by_log_std + 2 / before[key] * sampled.by_variance[key])
        expected = before[key] + 0.01 * 2 * before[key] * natural * N / beta
        above, now = expected > vcl.precision[key], precisions(vcl)[key]
        torch.testing.assert_close(now[above], expected[above], rtol=1e-9, atol=0)
        torch.testing.assert_close(now[~above], vcl.precision[key][~above], rtol=1e-12, atol=0)  # the floor
        moved += int(above.sum())
    assert moved > 100


def test_the_strength_weighs_what_earlier_contexts_have_said_of_the_means() -> None:
    """The prior's own part isn't weighted, and no precision depends on it."""
    strong, plain = (one_step(0.3, strength=strength) for strength in (20.0, 1.0))
    precision = vcl_of(strong.made).precision
    close(precision, vcl_of(plain.made).precision)
    close(strong.means, plain.means)  # the context's first step begins at the last means, where nothing pulls
    assert max(float((s - 4).max()) for s in precision.values()) > 1
    others = contract_parameters(plain.made.model)
    for key, p in contract_parameters(strong.made.model).items():
        other = others[key].grad
        assert p.grad is not None
        assert other is not None
        away = strong.means[key] - strong.start[key]
        expected = 0.3 / N * 19 * (precision[key] - 4) * away
        torch.testing.assert_close(p.grad - other, expected, rtol=1e-9, atol=1e-14)


def test_a_convolution_is_sampled_with_the_variance_of_its_sums() -> None:
    """A loop over filters, positions and patches."""
    layer = nn.Conv2d(2, 3, 3, stride=2, padding=1, dtype=torch.float64)
    inputs = torch.randn(2, 2, 5, 5, dtype=torch.float64)
    weight, bias = torch.rand_like(layer.weight), torch.rand(3, dtype=torch.float64)
    padded = F.pad(inputs, (1, 1, 1, 1))
    expected = torch.empty(2, 3, 3, 3, dtype=torch.float64)
    for n, out, row, column in itertools.product(range(2), range(3), range(3), range(3)):
        patch = padded[n, :, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
        expected[n, out, row, column] = bias[out] + sum(
            float(w) * float(x) ** 2 for w, x in zip(weight[out].flatten(), patch.flatten(), strict=True)
        )
    torch.testing.assert_close(_spread(layer, inputs.square(), weight, bias), expected, rtol=RELATIVE, atol=0)


def test_parameters_of_other_layers_are_sampled_themselves_and_learn_by_steins_identity() -> None:
    made = learner(method("vcl", rate=0.1, initial_std=0.3), network("cnn", dtype=torch.float64))
    vcl = begun(made)
    made.step(*examples(6, torch.float64))
    seen: list[NamedTensors] = []
    made.model.register_forward_pre_hook(lambda *_: seen.append(snapshot(made.model)))
    means, before, source = snapshot(made.model), precisions(vcl), noise_of(vcl)
    average = copies(posterior_of(vcl)._slope.each, vcl)
    pulls = {key: (means[key] - value) / N for key, value in made._start.items()}
    made.step(*examples(6, torch.float64, seed=1))
    norms = [key for key in means if key.startswith("norms")]
    drawn = torch.randn(sum(means[key].numel() for key in norms), generator=source, dtype=torch.float64)
    parameters = contract_parameters(made.model)
    for key, eps in zip(norms, drawn.split([means[key].numel() for key in norms]), strict=True):
        torch.testing.assert_close(seen[0][key], means[key] + eps / before[key].sqrt(), rtol=RELATIVE, atol=0)
        gradient = parameters[key].grad
        assert gradient is not None
        expected = 0.9 * average[key] + 0.05 * (gradient - pulls[key]) * eps * before[key].sqrt()
        torch.testing.assert_close(copies(posterior_of(vcl)._slope.each, vcl)[key], expected, rtol=1e-9, atol=1e-14)
    assert all(torch.equal(seen[0][key], means[key]) for key in means.keys() - set(norms))
    assert len(norms) == 4


# ---- where the posterior is known


class Regression(nn.Module):
    """Linear regressions on the same inputs, of which each output is one."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, OUTPUTS_KNOWN, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, 60] from [B, 3]."""
        predicted: Tensor = self.head(inputs)
        return predicted


OUTPUTS_KNOWN, STEPS, AVERAGED, RATE = 60, 800, 500, 1e-2


def regress(made: VCL, inputs: Tensor, targets: Tensor) -> None:
    """Learn a context with noise of variance one; the means end as their average over the last steps."""
    model = made.model
    weight = model.get_parameter("head.weight")
    made.expect(len(inputs))
    average = torch.zeros_like(weight)
    for step in range(STEPS):
        model.zero_grad()
        made.see(inputs, targets)
        loss = 0.5 * (model(inputs) - targets).square().sum(1).mean()
        loss.backward()
        made.transform()
        with torch.no_grad():
            weight.sub_(gradient_of(weight), alpha=0.2)
            average += weight / AVERAGED if step >= STEPS - AVERAGED else 0
    with torch.no_grad():
        weight.copy_(average)
    made.learn(finished(model))


@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_the_posterior_of_linear_regressions_is_found(beta: float) -> None:
    """The mean-field one has S = s + X^T X / beta and the exact one's mean; two contexts, one after the other.

    A step's noise has the variance V_n = sum_j x_nj^2 / S_j for example n. With A = X^T X / N and M = A + beta / N
    diag(s), the average of T means has the covariance M^-1 X^T diag(V) X M^-1 / (N^2 T), and with residuals r a
    curvature has the variance sum_n x_nj^4 (2 + r_n^2 / V_n) / N^2, of which the running average keeps rate / 2.
    """
    torch.manual_seed(0)
    model = equip(Regression(), OUTPUTS_KNOWN).double()
    weight = model.get_parameter("head.weight")
    made = VCL(beta=beta, rate=RATE, prior_std=0.4, initial_std=0.2)
    made.stream = GlobalStream(0)
    made.attach(Network(model))
    s = torch.full((3,), 0.4**-2, dtype=torch.float64)
    truth = torch.randn(OUTPUTS_KNOWN, 3, dtype=torch.float64)
    mixing = torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.3, 0.6]], dtype=torch.float64)
    for count in (40, 25):
        mean = weight.detach().clone()
        inputs = torch.randn(count, 3, dtype=torch.float64) @ mixing
        targets = inputs @ truth.T + torch.randn(count, OUTPUTS_KNOWN, dtype=torch.float64)
        regress(made, inputs, targets)
        gram = inputs.T @ inputs
        both = gram / beta + s.diag()
        expected = torch.linalg.solve(both, (targets.T @ inputs / beta + mean * s).T).T
        posterior = s + gram.diagonal() / beta

        v = inputs.square() @ (1 / posterior)
        inverse = torch.linalg.inv(both * beta / count)
        covariance = inverse @ (inputs.T * v) @ inputs @ inverse / (count**2 * AVERAGED)
        errors = (weight.detach() - expected) / covariance.diagonal().sqrt()
        assert errors.abs().max() < 5
        assert 0.3 < float(errors.square().mean()) < 2
        assert (expected - mean).abs().mean() > 10 * covariance.diagonal().sqrt().max()

        residuals = (targets - inputs @ expected.T).square().mean(1)
        variance = inputs.T**4 @ (2 + residuals / v) / count**2 * RATE / 2 / OUTPUTS_KNOWN
        noise = variance.sqrt() * count / beta
        assert ((made.precision["head__weight"].mean(0) - posterior) / noise).abs().max() < 5
        assert (noise < 0.05 * (posterior - s)).all()
        s = posterior
        made.precision["head__weight"].copy_(s.expand(OUTPUTS_KNOWN, 3))  # the next context is compared on its own


# ---- what stands in the network


def plain_logits(made: Learner) -> Tensor:
    """What a network of these parameters computes, that no method knows."""
    model = network("cnn", dtype=torch.float64, seed=1)
    model.load_state_dict(made.model.state_dict())
    other = learner(method("none"), model)
    other.activate(range(2))
    with other.evaluating():
        return other.logits(examples(6, torch.float64)[0])


def test_the_means_stand_in_the_network_between_steps() -> None:
    made = learner(method("vcl", initial_std=0.5), network("cnn", dtype=torch.float64), by=optimizer("SGD", lr=0.0))
    before = snapshot(made.model)
    vcl = begun(made)
    seen: list[Tensor] = []
    made.model.get_submodule("norms.0").register_forward_pre_hook(
        lambda layer, _: seen.append(layer.get_parameter("weight").detach().clone())
    )
    for step in range(3):
        made.step(*examples(6, torch.float64, seed=step))
        assert all(torch.equal(value, before[key]) for key, value in snapshot(made.model).items())
        with made.evaluating():
            assert torch.equal(made.logits(examples(6, torch.float64)[0]), plain_logits(made))
    assert all(torch.equal(one, before["norms__0__weight"]) for one in seen[1::2])
    assert all(not torch.equal(one, before["norms__0__weight"]) for one in seen[::2])
    assert not torch.equal(seen[0], seen[2])
    made.end_context(dataset(dtype=torch.float64))
    assert vcl._posterior is None
    assert not any(layer._forward_hooks for layer in made.model.modules() if isinstance(layer, nn.Conv2d | nn.Linear))


def broken_forward(made: Learner, error: BaseException) -> None:
    def raises(*_: object) -> None:
        raise error

    made.model.head.register_forward_hook(raises)


def broken_backward(made: Learner, error: BaseException) -> None:
    def raises(gradient: Tensor) -> Tensor:
        raise error

    made.model.head.bias.register_hook(raises)


def broken_sample(made: Learner, error: BaseException) -> None:
    see = vcl_of(made).see

    def raises(inputs: Tensor, labels: Tensor) -> None:
        see(inputs, labels)
        raise error

    vcl_of(made).see = raises  # type: ignore[method-assign]


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("breaks", [broken_forward, broken_backward, broken_sample])
def test_a_step_that_fails_leaves_the_means(
    breaks: Callable[[Learner, BaseException], None], error: BaseException
) -> None:
    made = learner(method("vcl"), network("cnn", dtype=torch.float64))
    begun(made)
    made.step(*examples(6, torch.float64))
    before = snapshot(made.model)
    breaks(made, error)
    with pytest.raises(type(error)):
        made.step(*examples(6, torch.float64))
    assert all(torch.equal(value, before[key]) for key, value in snapshot(made.model).items())
    made.model.head._forward_hooks.clear()
    with made.evaluating():
        assert torch.equal(made.logits(examples(6, torch.float64)[0]), plain_logits(made))


def test_the_path_integral_follows_the_means() -> None:
    made = learner(method("vcl"), network("cnn", dtype=torch.float64))
    vcl_of(made).uses_path_integral = True
    begun(made)
    expected = {key: torch.zeros_like(value) for key, value in snapshot(made.model).items()}
    for step in range(3):
        before = snapshot(made.model)
        made.step(*examples(6, torch.float64, seed=step))
        for key, p in contract_parameters(made.model).items():
            assert p.grad is not None
            expected[key] -= p.grad * (p.detach() - before[key])
    close(made.method.path.totals, expected)


# ---- which parameters learn what


def test_heads_of_contexts_to_come_keep_the_prior() -> None:
    made = learner(method("vcl", prior_std=0.5), network(dtype=torch.float64))
    start = snapshot(made.model)
    learned(made, 0)
    precision, end = vcl_of(made).precision["head__weight"], snapshot(made.model)
    assert torch.equal(precision[2:], torch.full_like(precision[2:], 4.0))
    assert torch.equal(end["head__weight"][2:], start["head__weight"][2:])
    assert bool((precision[:2] > 4).any())
    assert not torch.equal(end["head__weight"][:2], start["head__weight"][:2])


def test_a_context_begins_no_wider_than_it_is_told_and_narrower_where_more_is_known() -> None:
    made = learner(method("vcl", initial_std=0.3), network(dtype=torch.float64))
    close(
        precisions(begun(made)), {key: torch.full_like(value, 0.3**-2) for key, value in snapshot(made.model).items()}
    )
    learned(made, 0, steps=20)
    known = vcl_of(made).precision
    close(precisions(begun(made, 1)), {key: s.clamp(min=0.3**-2) for key, s in known.items()})
    assert max(float(s.max()) for s in known.values()) > 1.1 * 0.3**-2


@pytest.mark.parametrize("part", ["convolutions", "norms", "hidden.0.bias"])
def test_frozen_parameters_are_not_sampled_and_keep_what_they_have(part: str) -> None:
    made = learner(method("vcl"), network("cnn", dtype=torch.float64))
    learned(made, 0)
    before, values = dict(vcl_of(made).precision), snapshot(made.model)
    frozen = {key for key in before if key.startswith(part.replace(".", "__"))}
    parameters = contract_parameters(made.model)
    for key in frozen:
        parameters[key].requires_grad_(False)
    begun(made, 1)
    seen: list[NamedTensors] = []
    made.model.register_forward_pre_hook(lambda *_: seen.append(snapshot(made.model)))
    for step in range(3):
        made.step(*examples(6, torch.float64, seed=step))
    made.end_context(dataset(dtype=torch.float64))
    for key in frozen:
        assert torch.equal(vcl_of(made).precision[key], before[key])
        assert all(torch.equal(one[key], values[key]) for one in (*seen, snapshot(made.model)))
    assert not torch.equal(vcl_of(made).precision["head__weight"], before["head__weight"])
    for key in frozen:
        parameters[key].requires_grad_(True)
    learned(made, 2)
    assert all(not torch.equal(vcl_of(made).precision[key], before[key]) for key in frozen)


class Tied(nn.Module):
    """A weight with two names; one that is used without its layer; and a layer that the loss doesn't depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 16)
        self.second.weight = self.first.weight
        self.third = nn.Linear(16, 16, bias=False)
        self.unused = nn.Linear(16, 16, bias=False)
        self.head = nn.Linear(16, OUTPUTS)

    def forward(self, inputs: Tensor) -> Tensor:
        values = self.second(self.first(inputs.flatten(1)).relu()).relu()
        logits: Tensor = self.head(F.linear(values, self.third.weight).relu())
        return logits


def test_weights_with_two_names_or_without_their_layer() -> None:
    model = equip(Tied(), OUTPUTS).double()
    model.param_list = [*model.param_list, lambda: iter([("second.weight", model.get_parameter("second.weight"))])]
    assert "second__weight" in contract_parameters(model)
    made = learner(method("vcl", prior_std=0.5), model, by=optimizer("SGD", lr=0.0))
    before = snapshot(model)
    vcl = begun(made)
    seen: list[NamedTensors] = []
    model.get_submodule("first").register_forward_pre_hook(lambda *_: seen.append(snapshot(model)))
    made.step(*examples(6, torch.float64))
    assert {key for key, value in seen[0].items() if not torch.equal(value, before[key])} == {
        "third__weight",
        "unused__weight",
    }
    assert all(torch.equal(value, before[key]) for key, value in snapshot(model).items())
    made.end_context(dataset(dtype=torch.float64))
    assert before.keys() - vcl.precision.keys() == {"second__weight"}
    assert bool((vcl.precision["unused__weight"] == 4).all())
    assert all(bool((value > 4).any()) for key, value in vcl.precision.items() if key != "unused__weight")
    learned(made, 1)


class TwoTypes(nn.Module):
    """Begins in float64 and ends in float32, with parameters of either kind of layer in both."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.wide = nn.Linear(16, 8).double(), nn.LayerNorm(8).double()
        self.narrow, self.last = nn.LayerNorm(8), nn.Linear(8, OUTPUTS)

    def forward(self, inputs: Tensor) -> Tensor:
        values = self.wide(self.first(inputs.double().flatten(1)))
        logits: Tensor = self.last(self.narrow(values.float()))
        return logits


def test_parameters_of_two_types_learn_with_each_layer_in_its_own() -> None:
    torch.manual_seed(0)
    made = learner(method("vcl", rate=0.1, initial_std=0.3), equip(TwoTypes(), OUTPUTS), by=optimizer("SGD", lr=0.0))
    vcl, means = begun(made), snapshot(made.model)
    last = made.model.get_submodule("last")
    seen: list[tuple[Tensor, Tensor]] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        output.retain_grad()
        seen.append((inputs[0].detach(), output))

    last.register_forward_hook(note)
    variances = {key: 1 / value for key, value in precisions(vcl).items()}
    average = copies(posterior_of(vcl)._slope.each, vcl)
    source = noise_of(vcl)
    made.step(*examples(6))
    sizes = [means[key].numel() for key in means if not key.startswith(("first", "last"))]
    torch.randn(sum(sizes), generator=source, dtype=torch.float64)  # of the other layers' parameters
    torch.randn(6, 8, generator=source, dtype=torch.float64)  # of the first layer
    inputs, output = seen[0]
    spread = inputs.square().double() @ variances["last__weight"].T + variances["last__bias"]
    noise = torch.randn(6, OUTPUTS, generator=source)
    expected = F.linear(inputs, means["last__weight"], means["last__bias"]) + spread.sqrt() * noise
    torch.testing.assert_close(output.double(), expected, rtol=1e-5, atol=1e-6)
    slope = (gradient_of(output) * noise / (2 * spread.sqrt())).T @ inputs.square().double()
    learned_slope = copies(posterior_of(vcl)._slope.each, vcl)["last__weight"]
    torch.testing.assert_close(learned_slope, 0.9 * average["last__weight"] + 0.1 * slope, rtol=1e-4, atol=1e-7)
    assert all(torch.equal(value, means[key]) for key, value in snapshot(made.model).items())


class Stack(nn.Module):
    """Layers of which a part is computed as `part` does it, some of them several times."""

    def __init__(self, part: Callable[..., Tensor], times: int = 1) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(16, 8), nn.Linear(8, 8), nn.Linear(8, OUTPUTS)
        self.part, self.times = part, times

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.last(self.part(self.inside, self.first(inputs.flatten(1)).relu()))
        return logits

    def inside(self, values: Tensor) -> Tensor:
        for _ in range(self.times):
            values = self.middle(values).tanh()
        return values


def checkpointed(part: Callable[..., Tensor], values: Tensor) -> Tensor:
    given: Tensor = checkpoint(part, values, use_reentrant=False)
    return given


def test_a_checkpointed_part_is_computed_again_at_the_same_sample() -> None:
    found = []
    for part in (checkpointed, lambda inside, values: inside(values)):
        torch.manual_seed(0)
        made = learner(method("vcl", rate=0.1, initial_std=0.3), equip(Stack(part), OUTPUTS).double())
        learned(made, 0)
        learned(made, 1)
        found.append((vcl_of(made).precision, snapshot(made.model)))
    for again, once in zip(*found, strict=True):
        close(again, once)


def test_a_layer_that_a_checkpointed_part_calls_several_times_is_refused() -> None:
    made = learner(method("vcl"), equip(Stack(checkpointed, times=2), OUTPUTS).double())
    with pytest.raises(MethodError, match=r"^a Linear that is called several times is in a checkpointed part, .*\.$"):
        learned(made, 0)


def test_values_lie_in_memory_as_their_parameters() -> None:
    first = torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last)
    flat = _Flat.zeros([first, torch.zeros(3, dtype=torch.bfloat16), torch.zeros(2, dtype=torch.float64)])
    assert [one.shape for one in flat.each] == [(2, 3, 4, 5), (3,), (2,)]
    assert flat.each[0].stride() == first.stride()
    for number, one in enumerate(flat.each):
        one.fill_(number)
    assert flat.all.tolist() == [0.0] * 120 + [1.0] * 3 + [2.0] * 2
    assert flat.all.dtype == torch.float64
    assert _Flat.zeros([torch.zeros(3, dtype=torch.bfloat16)]).all.dtype == torch.float32


# ---- the run around it


def test_the_loop_says_how_many_examples_a_context_has(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    expect = VCL.expect

    def noted(self: VCL, examples: int) -> None:
        told.append(examples)
        expect(self, examples)

    monkeypatch.setattr(VCL, "expect", noted)
    of = stream()
    for _ in trainer(method("vcl"), of).sequentially():
        pass
    assert told == [len(context.train) for context in of.contexts]
    assert len(set(told)) == 3


def test_it_draws_numbers_of_its_own() -> None:
    def step(seed: int, outside: int) -> NamedTensors:
        made = learner(method("vcl"), network("cnn", dtype=torch.float64))
        vcl_of(made).stream = GlobalStream(seed)
        torch.manual_seed(outside)
        before = generator_states()
        begun(made)
        made.step(*examples(6, torch.float64))
        assert generator_states() == before
        return snapshot(made.model)

    first, same, other = step(1, 1), step(1, 2), step(2, 1)
    assert all(torch.equal(value, same[key]) for key, value in first.items())
    assert all(not torch.equal(value, other[key]) for key, value in first.items() if "convolutions" not in key)


def test_the_first_context_is_its_own() -> None:
    assert not learner(method("vcl")).method.leaves_first_context_alone


def test_bf16_learns_in_float32() -> None:
    made = learner(method("vcl"), network("cnn"), precision="bf16")
    begun(made)
    losses = [made.step(*examples(6, seed=step)) for step in range(3)]
    made.end_context(dataset())
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses)
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in vcl_of(made).precision.values())
    assert max(float(value.max()) for value in vcl_of(made).precision.values()) > 1


def test_a_loss_that_runs_away_is_refused() -> None:
    made = learner(method("vcl"))
    begun(made)
    made.step(*examples(6))
    inputs, labels = examples(6)
    made.step(inputs * float("inf"), labels)
    with pytest.raises(NotFiniteError, match=r"^regularizer=vcl: after a context its precision of .* holds NaN"):
        made.end_context(dataset())
