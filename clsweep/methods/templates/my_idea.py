"""A method to start from: a parameter matters as much as the network's outputs change with it.

With BATCH = 1 this is Memory Aware Synapses (Aljundi et al., 2018). Larger batches are faster, but measure something
else: the gradients of single examples partly cancel. docs/methods.md says what a method can rely on.
"""

import torch

EXAMPLES, BATCH = 1000, 50  # examples for the estimate after each context, and how many at once
HYPERPARAMETERS = {"reg_strength": {"default": 1.0, "space": "tag(log, interval(1e-3, 1e5))"}}  # for --multirun


def estimate_importance(model, dataset, prev_params, device):
    """Called after each context: how much each parameter matters to it. clsweep adds this to earlier importance."""
    parameters = {name.replace(".", "__"): p for name, p in model.named_parameters()}
    importance = {key: torch.zeros_like(p) for key, p in parameters.items()}
    model.eval()
    chosen = torch.randperm(len(dataset))[:EXAMPLES].tolist()
    images = torch.stack([dataset[index][0] for index in chosen])  # [N, channels, height, width]; [1] is the label
    for batch in images.to(device).split(BATCH):
        logits = model(batch)  # [B, classes of the context]
        gradients = torch.autograd.grad(logits.square().sum(1).mean(), list(parameters.values()))
        for key, gradient in zip(parameters, gradients, strict=True):
            importance[key] += gradient.abs() * len(batch) / len(chosen)
    return importance


def compute_regularization_loss(model, importance_dict, prev_params_dict):
    """Called at each step from the second context on: the penalty, which the loss adds times reg_strength."""
    parameters = {name.replace(".", "__"): p for name, p in model.named_parameters()}
    changes = {key: parameters[key] - prev_params_dict[key] for key in importance_dict}
    return sum((importance_dict[key] * change.square()).sum() for key, change in changes.items())
