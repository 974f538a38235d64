"""The shipped file with learning without forgetting on top: parameters and answers are both held.

    reg_strength * (Kronecker-factored EWC) + distillation * (LwF)

The first term is `custom_regularization.py`, the second `regularizer=lwf`: the cross entropy between the answers that
the network gave at the end of the last context and those of now, to the examples of the step's batch, for the outputs
of all earlier contexts (Li & Hoiem, "Learning without forgetting", ECCV 2016, equations 2 to 4).
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import Dataset

import custom_regularization as shipped
from clsweep.methods.lwf import distillation
from clsweep.networks.outputs import outputs_of

HYPERPARAMETERS = shipped.HYPERPARAMETERS | {
    "distillation": {"default": 1.0, "space": "tag(log, interval(1e-2, 1e2))"},
    "temperature": {"default": 2.0, "space": "interval(1, 10)"},
}
USES_PATH_INTEGRAL = False
PENALTY_IS_PURE = True


def estimate_importance(
    model: nn.Module, dataset: Dataset, prev_params: dict[str, Tensor], device: torch.device
) -> dict[str, Tensor]:
    """The shipped file's importance; the context's outputs are kept on the model, with how many contexts had them."""
    active, heads = outputs_of(model).active, getattr(model, "_heads", {})
    own = (active.start, active.stop)
    apart = {h: n for h, n in heads.items() if h == own or h[1] <= own[0] or own[1] <= h[0]}
    model._heads = apart | {own: apart.get(own, 0) + 1}  # outputs that are a part of these are distilled with them
    return shipped.estimate_importance(model, dataset, prev_params, device)


def compute_regularization_loss(
    model: nn.Module, importance_dict: dict[str, Tensor], prev_params_dict: dict[str, Tensor]
) -> Tensor:
    """Both terms; clsweep multiplies their sum with `reg_strength`, so that the second one is divided by it."""
    inputs, _ = model._custom_batch
    earlier = {name: prev_params_dict[name.replace(".", "__")] for name, _ in model.named_parameters()}
    chosen = outputs_of(model)
    active, chosen.active = chosen.active, chosen.every
    with torch.no_grad():
        before = functional_call(model, earlier, (inputs,))
    held = distillation(model(inputs), before, model._heads, model.temperature)
    chosen.active = active
    kept = shipped.compute_regularization_loss(model, importance_dict, prev_params_dict)
    return kept + model.distillation / model.reg_strength * held
