"""Networks with every kind of layer, and their Fisher information by loops over examples and labels, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from tiny import Featured
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from clsweep.curvature.kronecker import Curvature, Factors, Keys
from clsweep.networks import CNN, MLP, Classifier, Head, activate, equip
from clsweep.parameters import NamedTensors, contract_parameters, snapshot

RELATIVE = 1e-10
EXAMPLES, BATCH = 11, 4  # uneven: the last batch has three


class Normalized(Featured):
    """Layer, group and batch normalization, a convolution and linear layers with and without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, kernel_size=3, stride=2, padding=1, dilation=2)
        self.group_norm = nn.GroupNorm(2, 4)
        self.no_bias = nn.Linear(4 * 2 * 2, 6, bias=False)
        self.batch_norm = nn.BatchNorm1d(6)
        self.layer_norm = nn.LayerNorm(6)
        self.head = Head(6, 6)

    def features(self, inputs: Tensor) -> Tensor:
        values = F.relu(self.group_norm(self.convolution(inputs)))
        values = self.batch_norm(self.no_bias(values.flatten(1)))
        return F.relu(self.layer_norm(values))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: MLP((3, 6, 6), 6, [7, 5]),
    "cnn": lambda: CNN((3, 6, 6), 6, [4, 5], [9]),
    "normalized": Normalized,
}
ACTIVE = {"single head": range(6), "one of several heads": range(2, 5), "two classes": range(4, 6)}


def make(network: str, active: range) -> tuple[Classifier, TensorDataset]:
    torch.manual_seed(0)
    model = equip(NETWORKS[network](), 6).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm):
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias)
    activate(model, active)
    inputs = 2 * torch.randn(EXAMPLES, 3, 6, 6, dtype=torch.float64)
    return model, TensorDataset(inputs, torch.randint(0, len(active), (EXAMPLES,)))


def gradients_of(value: Tensor, model: Classifier) -> dict[str, Tensor]:
    parameters = contract_parameters(model)
    found = torch.autograd.grad(value, list(parameters.values()), retain_graph=True)
    return dict(zip(parameters, found, strict=True))


def naive_fisher(model: Classifier, dataset: TensorDataset, empirical: bool = False) -> dict[str, Tensor]:
    """One example and one label at a time."""
    model.eval()
    total = {key: torch.zeros_like(p) for key, p in contract_parameters(model).items()}
    for x, y in zip(*dataset.tensors, strict=True):
        log_p = F.log_softmax(model(x.unsqueeze(0)), dim=1)[0]
        for label in [int(y)] if empirical else range(len(log_p)):
            weight = 1.0 if empirical else log_p[label].exp().detach()
            for key, gradient in gradients_of(log_p[label], model).items():
                total[key] += weight * gradient**2 / len(dataset)
    return total


def naive_batched(model: Classifier, dataset: TensorDataset, batches: Sequence[Tensor]) -> dict[str, Tensor]:
    """One example at a time: the squares of the batches' mean gradients, averaged over the batches."""
    model.eval()
    total = {key: torch.zeros_like(p) for key, p in contract_parameters(model).items()}
    for batch in batches:
        mean = {key: torch.zeros_like(value) for key, value in total.items()}
        for n in batch.tolist():
            x, y = (tensor[n] for tensor in dataset.tensors)
            for key, gradient in gradients_of(F.log_softmax(model(x.unsqueeze(0)), dim=1)[0, y], model).items():
                mean[key] += gradient / len(batch)
        for key, value in mean.items():
            total[key] += value**2 / len(batches)
    return total


def assert_same(ours: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert ours.keys() == expected.keys()
    for key, value in expected.items():
        assert value.abs().max() > 0 or not ours[key].any()
        torch.testing.assert_close(ours[key], value, rtol=RELATIVE, atol=float(RELATIVE * value.abs().max()), msg=key)


# ---- Kronecker factors


def input_rows(layer: nn.Module, values: Tensor) -> list[Tensor]:
    """What one example's input shows the weights at each position; the filters' windows cut out one by one."""
    if isinstance(layer, nn.Linear):
        rows = [values]
    else:
        assert isinstance(layer, nn.Conv2d)
        assert isinstance(layer.padding, tuple)
        step, wide = layer.stride[0], layer.dilation[0]
        size = wide * (layer.kernel_size[0] - 1) + 1
        padded = F.pad(values, 2 * layer.padding)
        starts = range(0, padded.shape[1] - size + 1, step)
        rows = [padded[:, i : i + size : wide, j : j + size : wide].flatten() for i in starts for j in starts]
    return [torch.cat([row, row.new_ones(1)]) for row in rows] if layer.bias is not None else rows


def gradient_rows(layer: nn.Module, gradient: Tensor) -> list[Tensor]:
    """One example's output gradient at each position, over all outputs of the layer."""
    if isinstance(layer, Head):
        full = gradient.new_zeros(layer.out_features)
        assert isinstance(layer.active, range)
        for value, output in zip(gradient, layer.active, strict=True):
            full[output] = value
        return [full]
    return list(gradient.flatten(1).T) if gradient.ndim == 3 else [gradient]


def naive_factors(model: Classifier, dataset: TensorDataset, empirical: bool = False) -> Curvature:
    """One example, one label and one position at a time."""
    model.eval()
    names = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def record(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen[layer] = (inputs[0].detach()[0], output)

    handles = [layer.register_forward_hook(record) for layer in names.values()]
    sums: dict[str, list[Tensor]] = {}
    for x, y in zip(*dataset.tensors, strict=True):
        log_p = F.log_softmax(model(x.unsqueeze(0)), dim=1)[0]
        for name, layer in names.items():
            rows = input_rows(layer, seen[layer][0])
            a = torch.stack([torch.outer(row, row) for row in rows]).sum(0)
            g = torch.zeros(len(layer.weight), len(layer.weight), dtype=a.dtype)
            for label in [int(y)] if empirical else range(len(log_p)):
                weight = 1.0 if empirical else log_p[label].exp().detach()
                (gradient,) = torch.autograd.grad(log_p[label], seen[layer][1], retain_graph=True)
                for row in gradient_rows(layer, gradient[0]):
                    g += weight * torch.outer(row, row) / len(rows)
            before = sums.get(name, [torch.zeros_like(a), torch.zeros_like(g)])
            sums[name] = [before[0] + a / len(dataset), before[1] + g / len(dataset)]
    for handle in handles:
        handle.remove()
    return {keys_of(name, names[name]): Factors(*pair) for name, pair in sums.items()}


def keys_of(name: str, layer: nn.Module) -> Keys:
    key = name.replace(".", "__")
    return (f"{key}__weight",) if layer.bias is None else (f"{key}__weight", f"{key}__bias")


def moved(model: Classifier) -> NamedTensors:
    """Move the parameters; where they were."""
    anchors = snapshot(model)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return anchors


def naive_sum(first: Curvature, second: Curvature) -> Curvature:
    """The Kronecker product with the partial traces of the sum, from the matrices."""
    joined = {}
    for keys in first:
        pairs = [(curvature[keys].inputs, curvature[keys].outputs) for curvature in (first, second)]
        trace = sum(float(a.trace() * g.trace()) for a, g in pairs)
        inputs = torch.stack([a * g.trace() for a, g in pairs]).sum(0) / trace
        joined[keys] = Factors(inputs, torch.stack([g * a.trace() for a, g in pairs]).sum(0))
    return joined
