"""Your regularizer: two functions. Run it with `python -m clsweep +benchmark=split_mnist`.

The file needs torch alone, so it also drops into any other harness that keeps the same contract:

- The keys of all dicts are the parameters' names with "." replaced by "__".
- `model.param_list` holds functions that yield (name, parameter). `dataset[i]` is an example (x, y); clsweep has all of
  them in `dataset.tensors`, too. `model(x)` gives the logits of the context's classes or, if the harness likes, of
  all; the labels count over what it gives.
- What `estimate_importance` returns is added, key by key, to `model._custom_importance`, which is what
  `compute_regularization_loss` gets as `importance_dict`. A parameter left out has no importance.
- The total loss is: task loss + reg_strength * compute_regularization_loss(...), from the second context on.
- On the model you find `gamma`, `epsilon` and `reg_strength` as configured; `_custom_W`, the path integral of
  -gradient * update over the context; `_custom_importance` and `_custom_prev_params`, carried from earlier contexts.
  You may set attributes of your own.
- `CONFIG_OVERRIDES = {"reg_strength_scale": 10.0}` would multiply `reg_strength`.

As it stands, this is EWC with a Kronecker-factored Fisher information in place of a diagonal one (Ritter,
Botev & Barber, "Online structured Laplace approximations for overcoming catastrophic forgetting", NeurIPS 2018).

For a layer with the parameters W = [weight | bias], whose change since the last context is D, the penalty is

    1/2 <D, G D A>.

Products with all of G and A make a step 3.6 to 5.2 times as long on two MLPs. With the leading parts S S^T of G and
V V^T of A, and d the diagonal of the rest, A - V V^T, the penalty is

    1/2 <D, C>,    C = (G D V) V^T + S (S^T D diag(d)):

all of G acts along the leading directions of the inputs; along the others, its leading part does, with their diagonal.

A is the second moment of the layer's inputs (with a 1 appended for the bias), G that of the gradients of the model's
own log-likelihood with respect to the layer's outputs (Martens & Grosse, "Optimizing neural networks with
Kronecker-factored approximate curvature", ICML 2015). For convolutions, whose gradient is a sum over positions, their
product has the partial traces of the Fisher information, where Grosse & Martens ("A Kronecker-factored approximate
Fisher matrix for convolution layers", ICML 2016) take the positions for uncorrelated. All other parameters, such as
the scales and shifts of batch norm, have a diagonal Fisher information. The Fisher information of each context is
divided by the mean trace of its output Hessian, so that a context of which the network is very sure weighs as much as
another one. Batch norms keep the first context's averages, which would drift where no penalty sees it.
"""

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.utils.data import Dataset, TensorDataset, default_collate
from torch.utils.hooks import RemovableHandle

# ==== editable region: begin ==========================================================================================

STRONGEST = 2.0  # a `reg_strength` above acts as this one: beyond, the network only learns less
HYPERPARAMETERS = {"reg_strength": {"default": 1.0, "space": f"tag(log, interval(0.02, {STRONGEST}))"}}  # of a sweep
USES_PATH_INTEGRAL = False
PENALTY_IS_PURE = True  # what it keeps on the model, the anchor's projections, follows from its arguments

EXAMPLES = 6_000  # how many of the context's examples the estimate is averaged over, at most
BATCH = 1_000  # how many of them at once
CONVOLUTION_EXAMPLES = 1_000  # the same, where there are convolutions: their inputs are patches at every position
CONVOLUTION_BATCH = 250
LOOKED_AT = 32  # examples that show what a module computes
OUTPUT_DIRECTIONS = 16  # the rank of S S^T, at most
INPUT_DIRECTIONS = 32  # the rank of V V^T, at most

Call = tuple[nn.Module, Tensor, Tensor]  # a module, its input and its output
Visit = tuple[nn.Module, Tensor, Any]  # a layer, its output, and what it wants to have with the output's gradient
Window = tuple[tuple[int, int], ...]  # a convolution's kernel size, stride, padding and dilation


class Layer:
    """The Fisher information of a linear layer or a convolution, as a product of two factors.

    Attributes:
        weight: the weight's key.
        bias: the bias's key; None where there is none or it has always been frozen.
        window: what cuts a convolution's patches; None of a linear layer.
        inputs: A, the second moment of the inputs.
        outputs: G, the second moment of the gradients with respect to the outputs.
        leading_outputs: S [outputs, rank], with S S^T the leading part of G.
        leading_inputs: V [inputs, rank], with V V^T the leading part of A.
        other_inputs: d [inputs], the diagonal of A - V V^T.
        examples: how many examples the factors are summed over; a layer used twice sees each of them twice.
        has_positions: whether it is used at several positions of an example, as a convolution is.
        anchor: the weight that the change is counted from; another tensor in each context.
        projected_anchor: S^T W* and W* V, of the anchor W* = [weight | bias].
    """

    def __init__(self, weight: str, bias: str | None, parameter: Tensor, window: Window | None) -> None:
        matrix = parameter.detach().flatten(1)
        self.weight, self.bias, self.window = weight, bias, window
        n_outputs, n_inputs = matrix.shape[0], matrix.shape[1] + (bias is not None)
        self.inputs = matrix.new_zeros(n_inputs, n_inputs)
        self.outputs = matrix.new_zeros(n_outputs, n_outputs)
        self.leading_outputs = self.leading_inputs = self.other_inputs = matrix.new_zeros(0)
        self.examples, self.has_positions = 0, False
        self.anchor = matrix.new_zeros(0)
        self.projected_anchor = (self.anchor, self.anchor)

    def visit(self, module: nn.Module, values: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """Count a batch; return its inputs, and the rows of the weight that gave the output."""
        self.examples += len(values)
        weight, bias = _own(module)
        assert weight is not None
        if self.window:
            return values, torch.arange(len(weight))
        return values, _computed_rows(weight, bias, values, output)

    def _by_position(self, values: Tensor) -> Tensor:
        """A batch's inputs [examples, positions, inputs], with a 1 for the bias."""
        if self.window:
            kernel, stride, padding, dilation = self.window
            values = F.unfold(values, kernel, dilation, padding, stride).transpose(1, 2)
        rows = values.reshape(len(values), -1, values.shape[-1])
        return rows if self.bias is None else F.pad(rows, (0, 1), value=1.0)

    def add(self, needed: tuple[Tensor, Tensor], gradient: Tensor) -> None:
        """Add a batch: with one position the moments of its inputs and gradients, else the partial traces of its sums.

        An example's gradient W = sum_l g_l a_l^T has products of different positions in its square, which the moments
        of single positions leave out. The sums of W^T W and W W^T are the partial traces of the sum of W ⊗ W.
        """
        inputs, used = self._by_position(needed[0]), needed[1]
        values = gradient.flatten(2).transpose(1, 2) if self.window else gradient
        values = values.reshape(len(inputs), -1, values.shape[-1])
        self.has_positions = inputs.shape[1] > 1
        if not self.has_positions:
            rows, moment = inputs.squeeze(1), values.squeeze(1).T @ values.squeeze(1)
            self.inputs.addmm_(rows.T, rows)
        elif inputs.shape[1] ** 2 < inputs.shape[2] * values.shape[2]:  # then W takes longer than products of positions
            along_inputs = inputs @ inputs.transpose(1, 2) @ values
            along_outputs = values @ values.transpose(1, 2) @ inputs
            moment = values.flatten(0, 1).T @ along_inputs.flatten(0, 1)
            self.inputs.addmm_(inputs.flatten(0, 1).T, along_outputs.flatten(0, 1))
        else:
            sums = values.transpose(1, 2) @ inputs
            by_output = sums.transpose(0, 1).flatten(1)
            moment = by_output @ by_output.T
            self.inputs.addmm_(sums.flatten(0, 1).T, sums.flatten(0, 1))
        if len(used) == len(self.outputs):  # an index would copy the whole matrix
            self.outputs += moment
        else:
            self.outputs[used.unsqueeze(1), used] += moment

    def normalize(self, hessian_trace: float) -> None:
        """Turn sums into A of trace 1 and G of the product's trace, over the mean trace of the output Hessian.

        Partial traces have that trace already. The product of two sums over n examples is n times too large; where a
        layer is used k times, both are sums over its uses: k times too much, as the count of its examples is.
        """
        trace = self.inputs.trace()
        self.inputs /= trace.clamp_min(torch.finfo(trace.dtype).tiny)
        if self.has_positions:
            self.outputs /= hessian_trace
        else:
            self.outputs *= trace * (1 / max(self.examples, 1) / hessian_trace)

    def merge(self, earlier: "Layer") -> None:
        """Take in what earlier contexts left: G adds up, A is averaged, weighted with G's trace.

        The product has the partial traces of the contexts' sum, and contexts that are alike add up exactly.
        """
        self.bias = self.bias or earlier.bias  # it may have been frozen in one of them, which has no column for it
        columns = max(len(self.inputs), len(earlier.inputs))
        now, before = (F.pad(a, (0, columns - len(a)) * 2) for a in (self.inputs, earlier.inputs))
        total = self.outputs + earlier.outputs
        share = self.outputs.trace() / total.trace().clamp_min(torch.finfo(total.dtype).tiny)
        self.inputs = torch.lerp(before, now, share)
        self.outputs = total

    def diagonal(self, parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
        """The product's diagonal, by key, shaped as the parameters."""
        product = torch.outer(self.outputs.diagonal(), self.inputs.diagonal())
        weight = parameters[self.weight]
        result = {self.weight: product[:, : weight[0].numel()].reshape(weight.shape)}
        return result if self.bias is None else result | {self.bias: product[:, -1]}

    def split(self) -> None:
        """Find the leading parts of the factors."""
        self.leading_outputs = _leading(self.outputs, OUTPUT_DIRECTIONS)
        self.leading_inputs = _leading(self.inputs, INPUT_DIRECTIONS)
        self.other_inputs = (self.inputs.diagonal() - self.leading_inputs.square().sum(1)).clamp_min(0)

    def penalty(self, parameters: dict[str, nn.Parameter], anchors: dict[str, Tensor]) -> Tensor:
        """1/2 <D, C> for the change D of the parameters, with the gradient C."""
        keys = [self.weight] if self.bias is None else [self.weight, self.bias]
        if self.anchor is not anchors[self.weight]:  # its projections are the same at every step of a context
            self.anchor = anchors[self.weight]
            self.projected_anchor = self.projected([anchors[key] for key in keys])
        penalty: Tensor = _Quadratic.apply(self, *(parameters[key] for key in keys))
        return penalty

    def projected(self, values: list[Tensor]) -> tuple[Tensor, Tensor]:
        """S^T W and W V, of W = [weight | bias]."""
        s, v = self.leading_outputs, self.leading_inputs
        weight = values[0].flatten(1)
        if self.bias is None:
            return s.T @ weight, weight @ v
        along_outputs = torch.cat([s.T @ weight, (s.T @ values[1]).unsqueeze(1)], 1)
        return along_outputs, torch.addmm(torch.outer(values[1], v[-1]), weight, v[:-1])


class Normalization:
    """The diagonal Fisher information of a batch norm's scale and shift, from the gradients of single examples.

    Where it is used twice, its uses count as examples of their own.

    Args:
        module: the batch norm, which normalizes by its running averages.
        keys: by "weight" and "bias", the keys of those that are trained.
    """

    def __init__(self, module: nn.Module, keys: dict[str, str]) -> None:
        self.keys = keys
        self.squares = {name: torch.zeros_like(module.get_parameter(name)) for name in keys}

    def visit(self, module: nn.Module, values: Tensor, output: Tensor) -> Tensor:
        """Return a batch's normalized inputs."""
        assert isinstance(module, nn.modules.batchnorm._BatchNorm)
        return F.batch_norm(values, module.running_mean, module.running_var, eps=module.eps)

    def add(self, normalized: Tensor, gradient: Tensor) -> None:
        """Add the squares of each example's gradients: summed over positions, the output's and times its input."""
        for name, values in (("weight", gradient * normalized), ("bias", gradient)):
            if name in self.squares:
                self.squares[name] += values.unsqueeze(2).flatten(2).sum(2).square().sum(0)

    def diagonal(self) -> dict[str, Tensor]:
        """The sums over examples, by key."""
        return {self.keys[name]: value for name, value in self.squares.items()}


class FixedAverages:
    """A batch norm's forward pass by the running averages that it has, in training, too.

    They would drift from context to context, and no penalty sees them.

    Args:
        norm: the batch norm.
    """

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm) -> None:
        self.norm = norm

    def __call__(self, values: Tensor) -> Tensor:
        """The values, normalized, scaled and shifted: an affine map of each channel."""
        norm = self.norm
        return F.batch_norm(values, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)


class _Saved(FunctionCtx):
    """What the way back needs: C's two narrow factors and the shapes of weight and bias."""

    factors: tuple[Tensor, Tensor]
    shapes: list[torch.Size]


class _Quadratic(torch.autograd.Function):
    """1/2 <D, C>. The gradient C is one product of narrow matrices: [S | G D V] times [S^T D diag(d); V^T]."""

    @staticmethod
    def forward(ctx: _Saved, layer: Layer, *values: Tensor) -> Tensor:
        """The scalar for a layer's weight and, where it has one, bias."""
        s, v = layer.leading_outputs, layer.leading_inputs
        along_outputs, along_inputs = (
            now.sub_(anchor) for now, anchor in zip(layer.projected(list(values)), layer.projected_anchor, strict=True)
        )
        times_d = along_outputs * layer.other_inputs
        times_g = layer.outputs @ along_inputs
        ctx.factors = torch.cat([s, times_g], 1), torch.cat([times_d, v.T])
        ctx.shapes = [value.shape for value in values]
        return 0.5 * ((along_outputs * times_d).sum() + (along_inputs * times_g).sum())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: _Saved, scale: Tensor) -> tuple[Tensor | None, ...]:
        """C's columns for the weight and for the bias."""
        left, right = ctx.factors
        n_columns = [shape[1:].numel() for shape in ctx.shapes]
        left = scale * left
        gradients = [left @ part for part in right.split(n_columns, 1)]
        # Autograd adds to a gradient in place only where it is no view.
        shaped = (g if g.shape == shape else g.view(shape) for g, shape in zip(gradients, ctx.shapes, strict=True))
        return None, *shaped


def estimate_importance(
    model: nn.Module, dataset: Dataset[Any], prev_params: dict[str, Tensor], device: torch.device | str
) -> dict[str, Tensor]:
    """The Fisher information of the context that has just been learned.

    Its factors are merged with those of earlier contexts, which are kept on the model, as `_factored_layers`.

    A single pass back for each batch takes the expectation over the model's own labels: the output Hessian
    H = diag(p) - p p^T is the covariance of the noise v = sqrt(p) s - p <sqrt(p), s> with random signs s. Unlike
    sampled labels, v is not zero but for rare events where p is close to one-hot. Since examples have signs of their
    own, the square of a batch's summed gradient is unbiased, too, if noisy: for parameters that are neither in a
    factored layer nor in a batch norm.

    Args:
        model: the network; `model(x)` returns the logits of the context's active classes, or of all (see `_classes`).
        dataset: the context's training examples (x, y).
        prev_params: the parameters at the start of the context, by key.
        device: where the model is.

    Returns:
        By key, shaped as the parameter, the diagonal of this context's Fisher information, which in factored layers is
        that of G ⊗ A and only for information.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    # Some harnesses call this under autocast, too, where gradients this small would be rounded.
    with torch.enable_grad(), _without_autocast(model):
        importance, layers = _estimate(model, dataset, device)
        _keep(model, layers)
    _fix_averages(model)
    for module, mode in modes:
        module.training = mode
    return importance


def _estimate(
    model: nn.Module, dataset: Dataset[Any], device: torch.device | str
) -> tuple[dict[str, Tensor], list[Layer]]:
    """The importance of a context by key, and its layers with factors."""
    parameters = {key: p for key, p in _parameters(model).items() if p.requires_grad}
    n_examples = len(dataset)  # type: ignore[arg-type]
    calls, logits = _called(model, _read(dataset, torch.arange(min(n_examples, LOOKED_AT)))[0].to(device))
    layers, norms = _layers(model, calls, parameters), _norms(calls, parameters)
    convolutional = any(layer.window for layer in layers.values())
    chosen = torch.randperm(n_examples)[: CONVOLUTION_EXAMPLES if convolutional else EXAMPLES]
    inputs, labels = _read(dataset, chosen)
    classes = _classes(model, labels, logits.shape[1])
    covered = {key for layer in layers.values() for key in (layer.weight, layer.bias)}
    covered |= {key for norm in norms.values() for key in norm.keys.values()}
    others = {key: p for key, p in parameters.items() if key not in covered}
    squares = {key: torch.zeros_like(p) for key, p in others.items()}
    hessian_trace = 0.0
    visits: list[Visit] = []
    watched: dict[nn.Module, Layer | Normalization] = {**layers, **norms}
    with _watch(watched, visits):
        for batch in inputs.split(CONVOLUTION_BATCH if convolutional else BATCH):
            visits.clear()
            logits = model(batch.to(device))[:, classes]
            p = logits.detach().softmax(1)
            noise = p.sqrt() * (2 * torch.randint_like(p, 2) - 1)
            noise -= p * noise.sum(1, keepdim=True)
            wanted = [*(output for _, output, _ in visits), *others.values()]
            gradients = _gradients((noise * logits).sum(), wanted)
            for (module, _, needed), gradient in zip(visits, gradients, strict=False):
                watched[module].add(needed, gradient)
            for key, gradient in zip(others, gradients[len(visits) :], strict=True):
                squares[key] += gradient.square()
            hessian_trace += (p - p.square()).sum().item()
    hessian_trace = max(hessian_trace, 1e-12 * len(chosen))  # 0 if every p is one-hot, and with it every gradient
    for norm in norms.values():
        squares |= norm.diagonal()
    importance = {key: value / hessian_trace for key, value in squares.items()}
    for layer in layers.values():
        layer.normalize(hessian_trace)
        importance |= layer.diagonal(parameters)
    return importance, list(layers.values())


def compute_regularization_loss(
    model: nn.Module, importance_dict: dict[str, Tensor], prev_params_dict: dict[str, Tensor]
) -> Tensor:
    """The penalty on changing the parameters: 1/2 sum over layers of <D, C>, and a diagonal one for other parameters.

    Args:
        model: the network, in the middle of learning a new context.
        importance_dict: the summed importance of all earlier contexts, by key.
        prev_params_dict: the parameters at the end of the previous context, by key.

    Returns:
        A differentiable scalar.
    """
    parameters = _parameters(model)
    layers: list[Layer] = getattr(model, "_factored_layers", [])
    covered = {key for layer in layers for key in (layer.weight, layer.bias)}
    # Some harnesses compute the penalty under autocast, too, where a change is too small for bfloat16.
    with _without_autocast(model):
        terms = [layer.penalty(parameters, prev_params_dict) for layer in layers]
    for key, value in importance_dict.items():
        if key not in covered:
            terms.append(0.5 * (value * (parameters[key] - prev_params_dict[key]).square()).sum())
    if not terms:
        return next(model.parameters()).new_zeros(())
    strength = float(getattr(model, "reg_strength", STRONGEST))  # what the harness multiplies the penalty with
    return torch.stack(terms).sum() * (STRONGEST / max(strength, STRONGEST))


def _parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters by key."""
    groups: Any = getattr(model, "param_list", [model.named_parameters])
    return {name.replace(".", "__"): p for group in groups for name, p in group()}


def _without_autocast(model: nn.Module) -> torch.autocast:
    """A context in which the model's device computes in the precision of what it is given."""
    return torch.autocast(next(model.parameters()).device.type, enabled=False)


class _Hooks:
    """Hooks that go when the `with` block ends, whatever happens in it."""

    def __init__(self, handles: list[RemovableHandle]) -> None:
        self.handles = handles

    def __enter__(self) -> None:
        """The hooks are there already."""

    def __exit__(self, *_: object) -> None:
        """Remove them."""
        for handle in self.handles:
            handle.remove()


def _read(dataset: Dataset[Any], index: Tensor) -> tuple[Tensor, Tensor]:
    """The inputs and labels of the examples `index`, as batches."""
    if type(dataset) is TensorDataset:  # another class may do something with an example on its way
        inputs, labels = dataset.tensors[:2]
        return inputs[index.to(inputs.device)], labels[index.to(labels.device)]
    inputs, labels = default_collate([tuple(dataset[int(number)])[:2] for number in index])
    return inputs, labels


def _classes(model: nn.Module, labels: Tensor, n_logits: int) -> Tensor | slice:
    """Which logits are of the context's classes: the labels say it where the model gives more.

    Whether it does is seen in the first context: later, where it learns to tell all classes so far apart, a model gives
    more logits than a context has classes, and all of them count.
    """
    found = labels.unique()
    fewer = 1 < len(found) < n_logits and int(found.max()) < n_logits and not found.is_floating_point()
    if not hasattr(model, "_gives_all_logits"):
        model._gives_all_logits = fewer  # type: ignore[assignment]
    return found if fewer and model._gives_all_logits else slice(None)


def _called(model: nn.Module, examples: Tensor) -> tuple[list[Call], Tensor]:
    """The modules whose forward pass runs, with tensors, and the model's output.

    Some networks read a layer's weight without calling the layer.
    """
    calls: dict[nn.Module, Call] = {}

    def record(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        if len(arguments) == 1 and isinstance(arguments[0], Tensor) and isinstance(output, Tensor):
            calls[module] = module, arguments[0].detach(), output.clone()  # what follows may write to it

    with _Hooks([module.register_forward_hook(record) for module in model.modules()]):
        logits: Tensor = model(examples)
    return [calls[module] for module in model.modules() if module in calls], logits


def _layers(model: nn.Module, calls: list[Call], parameters: dict[str, nn.Parameter]) -> dict[nn.Module, Layer]:
    """The linear layers and convolutions whose weight is among `parameters`; tied weights count once.

    A module is one if it computes what one computes with its own parameters, whatever it is called. The first context
    that sees it decides: what has an importance of one kind can't have another kind added.
    """
    keys = {p: key for key, p in parameters.items()}
    decided: dict[str, Window | bool] = getattr(model, "_decided_layers", {})
    layers = {}
    for module, values, output in calls:
        weight, bias = _own(module)
        if weight is None or weight not in keys:
            continue
        key = keys[weight]
        if key not in decided and weight.dim() == 4:
            decided[key] = _window(weight, bias, values, output) or False
        elif key not in decided:
            decided[key] = weight.dim() == 2 and _is_linear(weight, bias, values, output)
        if found := decided[key]:
            window = None if isinstance(found, bool) else found
            layers[module] = Layer(keys.pop(weight), None if bias is None else keys.get(bias), weight, window)
    model._decided_layers = decided  # type: ignore[assignment]
    return layers


def _own(module: nn.Module) -> tuple[nn.Parameter | None, nn.Parameter | None]:
    """A module's weight and bias: its only parameter of more than one dimension, and its only one of one, if any."""
    own = list(module.parameters(recurse=False))
    weights, biases = [p for p in own if p.dim() > 1], [p for p in own if p.dim() == 1]
    if len(weights) != 1 or len(biases) > 1:
        return None, None
    return weights[0], biases[0] if biases else None


def _is_linear(weight: Tensor, bias: Tensor | None, values: Tensor, output: Tensor) -> bool:
    """Whether the output is that of a linear layer, or some of its columns."""
    if not (values.is_floating_point() and values.dim() > 1 and output.requires_grad):
        return False
    if values.shape[-1] != weight.shape[1] or not 0 < output.shape[-1] <= len(weight):
        return False
    rows = _computed_rows(weight, bias, values, output)
    return _same(output, F.linear(values, weight, bias)[..., rows])


def _window(weight: Tensor, bias: Tensor | None, values: Tensor, output: Tensor) -> Window | None:
    """What cuts the patches where the output is that of a convolution, if it is that of one."""
    if values.dim() != 4 or output.dim() != 4 or values.shape[1] != weight.shape[1]:
        return None
    candidates = []
    for size, kernel, result in zip(values.shape[2:], weight.shape[2:], output.shape[2:], strict=True):
        tried = itertools.product(range(1, max(kernel, 4) + 1), range(kernel + 1), range(1, 5))
        candidates.append(
            [
                (stride, padding, dilation)
                for stride, padding, dilation in tried
                if (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 == result
            ]
        )
    for pair in itertools.product(*candidates):
        stride, padding, dilation = zip(*pair, strict=True)
        if _same(output, F.conv2d(values, weight, bias, stride, padding, dilation)):
            return (weight.shape[2], weight.shape[3]), stride, padding, dilation
    return None


def _same(values: Tensor, expected: Tensor) -> bool:
    """Whether they differ by rounding only."""
    if values.shape != expected.shape:
        return False
    allowed = torch.finfo(values.dtype).eps ** 0.5 * expected.abs().max()
    return bool((values - expected).abs().max() <= allowed)


def _norms(calls: list[Call], parameters: dict[str, nn.Parameter]) -> dict[nn.Module, Normalization]:
    """The batch norms with running averages, as far as their scale and shift are among `parameters`."""
    names = {p: key for key, p in parameters.items()}
    norms: dict[nn.Module, Normalization] = {}
    for module, *_ in calls:
        if _has_averages(module):
            keys = {name: names[p] for name, p in module.named_parameters() if p in names}
            if keys:
                norms[module] = Normalization(module, keys)
    return norms


def _watch(watched: dict[nn.Module, Layer | Normalization], visits: list[Visit]) -> _Hooks:
    """Forward passes visit what is `watched` and append to `visits`."""

    def record(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not output.requires_grad:  # a part that the network runs without gradients
            return output
        visits.append((module, output, watched[module].visit(module, arguments[0].detach(), output)))
        return output.clone()  # what follows may write to it

    return _Hooks([module.register_forward_hook(record) for module in watched])


def _computed_rows(weight: Tensor, bias: Tensor | None, inputs: Tensor, output: Tensor) -> Tensor:
    """The rows of the weight that gave the outputs, in their order: a head may compute those of active classes only.

    With respect to row r, the gradient of sum_j j * output_j is j(r) times the number of outputs for the bias, and j(r)
    times the sum of the inputs for the weight.
    """
    count = output.shape[-1]
    if count == len(weight):
        return torch.arange(len(weight), device=weight.device)
    numbers = torch.arange(1, count + 1, device=output.device)
    trained = weight if bias is None or not bias.requires_grad else bias
    (gradient,) = torch.autograd.grad((output * numbers).sum(), trained, retain_graph=True)
    total = inputs.flatten(0, -2).sum(0) if trained is weight else gradient.new_ones(1)
    number = gradient.view(len(weight), -1) @ total / total.square().sum()
    return number.nan_to_num().topk(count).indices.flip(0)


def _fix_averages(model: nn.Module) -> None:
    """Let each batch norm keep its running averages."""
    for module in model.modules():
        if _has_averages(module):
            module.forward = FixedAverages(module)  # type: ignore[arg-type]


def _has_averages(module: nn.Module) -> bool:
    """Whether it is a batch norm with running averages, and with no forward pass of its own."""
    plain = nn.modules.batchnorm._BatchNorm
    return isinstance(module, plain) and type(module).forward is plain.forward and module.running_mean is not None


def _gradients(value: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    """The gradients of `value`, zero for tensors that it doesn't depend on."""
    if not tensors:
        return []
    gradients = torch.autograd.grad(value, tensors, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(tensors, gradients, strict=True)]


def _leading(matrix: Tensor, rank: int) -> Tensor:
    """S [n, rank] with S S^T the leading part of a positive semidefinite matrix [n, n]; the rank is at most n.

    By subspace iteration (Halko, Martinsson & Tropp, SIAM Review 2011): all eigenvectors take ten times as long.
    """
    vectors, values, _ = torch.svd_lowrank(matrix, min(len(matrix), rank + 16), niter=4)
    return (vectors * values.sqrt())[:, :rank].contiguous()


def _keep(model: nn.Module, layers: list[Layer]) -> None:
    """Put the merged layers on the model, ready for the penalty."""
    earlier: dict[str, Layer] = {layer.weight: layer for layer in getattr(model, "_factored_layers", [])}
    for layer in layers:
        if layer.weight in earlier:
            layer.merge(earlier[layer.weight])
        layer.split()
        earlier[layer.weight] = layer
    model._factored_layers = list(earlier.values())  # type: ignore[assignment]


# ==== editable region: end ============================================================================================
