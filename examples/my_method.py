import torch

HYPERPARAMETERS = ("reg_strength",)  # what a sweep searches


def estimate_importance(model, dataset, prev_params, device):  # once after each context
    x, y = next(iter(torch.utils.data.DataLoader(dataset, batch_size=500, shuffle=True)))
    torch.nn.functional.cross_entropy(model(x.to(device)), y.to(device)).backward()
    return {name.replace(".", "__"): p.grad.abs() for name, p in model.named_parameters()}


def compute_regularization_loss(model, importance_dict, prev_params_dict):  # at every step after that
    now = {name.replace(".", "__"): p for name, p in model.named_parameters()}
    return sum((w * (now[n] - prev_params_dict[n]).square()).sum() for n, w in importance_dict.items())
