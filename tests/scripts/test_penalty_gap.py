"""The exact quadratic form of `penalty_gap.py`, beside whole Jacobians and the divergence that it stands for."""

from __future__ import annotations

import copy
from types import ModuleType
from typing import Any

import pytest
import torch
from builders import ROOT
from torch import Tensor, nn

IMAGES = torch.randn(2, 7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Small:
    """A walk of two contexts with seven examples; all outputs are active."""

    after = 2

    def examples(self, number: int, split: str) -> tuple[Tensor, Tensor]:
        return IMAGES[number], torch.zeros(7, dtype=torch.long)

    def activate(self, model: nn.Module, number: int) -> None:
        pass

    def logits(self, model: nn.Module, number: int, inputs: Tensor) -> Any:
        return model(inputs)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import penalty_gap

    return penalty_gap


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()


@pytest.mark.parametrize("chosen", [["0.weight"], ["0.weight", "0.bias", "2.weight", "2.bias"]], ids=len)
def test_the_exact_form_is_that_of_whole_jacobians(script: ModuleType, chosen: list[str]) -> None:
    model = network()
    change = {name: torch.randn_like(p) for name, p in model.named_parameters() if name in chosen}
    expected = 0.0
    for images in IMAGES:
        forms, traces = [], []
        for image in images:
            p = model(image).detach().softmax(0)
            hessian = torch.diag(p) - torch.outer(p, p)
            moved = torch.zeros(3, dtype=torch.float64)
            for output in range(3):
                gradients = torch.autograd.grad(model(image)[output], list(model.parameters()))
                named = zip(dict(model.named_parameters()), gradients, strict=True)
                moved[output] = sum((g * change[name]).sum() for name, g in named if name in change)
            forms.append(0.5 * moved @ hessian @ moved)
            traces.append(hessian.trace())
        expected += (torch.stack(forms).mean() / torch.stack(traces).mean()).item()
    assert script.exact(Small(), model, change) == pytest.approx(expected, rel=1e-10)


def test_the_divergence_of_a_small_change_is_its_exact_form(script: ModuleType) -> None:
    start = network()
    end = copy.deepcopy(start)
    with torch.no_grad():
        for p in end.parameters():
            p.add_(1e-4 * torch.randn_like(p))
    before = dict(start.named_parameters())
    change = {name: p.detach() - before[name].detach() for name, p in end.named_parameters()}
    assert script.divergence(Small(), start, end) == pytest.approx(script.exact(Small(), start, change), rel=1e-2)
