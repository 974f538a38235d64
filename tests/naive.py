"""Networks with every kind of layer, and the Fisher information by a loop over examples and labels, in float64."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from tiny import Featured
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from clsweep.networks import CNN, MLP, Classifier, Head, activate, equip
from clsweep.parameters import contract_parameters

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


def assert_same(ours: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert ours.keys() == expected.keys()
    for key, value in expected.items():
        assert value.abs().max() > 0 or not ours[key].any()
        torch.testing.assert_close(ours[key], value, rtol=RELATIVE, atol=float(RELATIVE * value.abs().max()), msg=key)
