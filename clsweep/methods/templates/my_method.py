"""Memory Aware Synapses (Aljundi et al., 2018), to be changed into a method of your own.

Parameters go by their names with "__" for ".". What else a method can rely on: docs/methods.md.
"""

import torch

EXAMPLES = 500  # that importance is estimated from, after each context
HYPERPARAMETERS = {"reg_strength": {"default": 1.0, "space": "tag(log, interval(1e-3, 1e5))"}}  # a sweep (--multirun)


def estimate_importance(model, dataset, prev_params, device):
    """Called after each context: how much each parameter matters to it; this is added to what it had before."""
    parameters = {name.replace(".", "__"): p for name, p in model.named_parameters()}
    importance = {key: torch.zeros_like(p) for key, p in parameters.items()}
    model.eval()
    chosen = torch.randperm(len(dataset))[:EXAMPLES].tolist()
    for index in chosen:
        x, _ = dataset[index]  # the image, [channels, height, width], and its label
        logits = model(x.unsqueeze(0).to(device))  # of the context's classes
        gradients = torch.autograd.grad(logits.square().sum(), list(parameters.values()))
        for key, gradient in zip(parameters, gradients, strict=True):
            importance[key] += gradient.abs() / len(chosen)
    return importance


def compute_regularization_loss(model, importance_dict, prev_params_dict):
    """Called at each step from the second context on: what is added to the loss, times reg_strength."""
    parameters = {name.replace(".", "__"): p for name, p in model.named_parameters()}
    changes = {key: parameters[key] - prev_params_dict[key] for key in importance_dict}
    return sum((importance_dict[key] * change.square()).sum() for key, change in changes.items())
