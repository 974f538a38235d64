"""Your regularizer: two functions. Run it with `python -m clsweep +benchmark=split_mnist`.

The file needs torch alone, so it also drops into any other harness that keeps the same contract:

- The keys of all dicts are the parameters' names with "." replaced by "__".
- What `estimate_importance` returns is added, key by key, to `model._custom_importance`, which is what
  `compute_regularization_loss` gets as `importance_dict`. A parameter left out has no importance.
- The total loss is: task loss + reg_strength * compute_regularization_loss(...), from the second context on.
- On the model you find `gamma`, `epsilon` and `reg_strength` as configured; `_custom_W`, the path integral of
  -gradient * update over the context; `_custom_importance` and `_custom_prev_params`, carried from earlier contexts.
  You may set attributes of your own.
- `CONFIG_OVERRIDES = {"reg_strength_scale": 10.0}` would multiply `reg_strength`.

As it stands, this is EWC with a diagonal Fisher information from sampled labels (Kirkpatrick et al., 2017).
"""

import torch
import torch.nn.functional as F

# ==== editable region: begin ==========================================================================================

EXAMPLES = 500  # how many of the context's examples the estimate is averaged over
CHUNK = 25  # how many per-example gradients are held in memory at once
HYPERPARAMETERS = ("reg_strength",)  # of reg_strength, gamma and epsilon, those that a sweep should search


def estimate_importance(
    model: torch.nn.Module,
    dataset: torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]],
    prev_params: dict[str, torch.Tensor],
    device: torch.device,
) -> dict[str, torch.Tensor]:
    """How important each parameter was for the context that has just been learned.

    The mean over examples x of the squared gradient of log p(y|x), with y drawn from the model's own prediction.

    Args:
        model: the network; `model(x)` returns the logits of the context's active classes.
        dataset: the context's training examples (x, y).
        prev_params: the parameters at the start of the context, by key.
        device: where the model and the data are.

    Returns:
        By key, a tensor shaped as the parameter.
    """
    model.eval()
    parameters = {n: p.detach() for group in model.param_list for n, p in group() if p.requires_grad}  # type: ignore[union-attr]
    loader = torch.utils.data.DataLoader(dataset, batch_size=CHUNK, shuffle=True)

    def log_likelihood(values: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        logits = torch.func.functional_call(model, values, (x.unsqueeze(0),))
        return F.log_softmax(logits, dim=1)[0].gather(0, y.unsqueeze(0)).squeeze(0)

    per_example_gradients = torch.func.vmap(torch.func.grad(log_likelihood), in_dims=(None, 0, 0))
    sums = {n: torch.zeros_like(p) for n, p in parameters.items()}
    seen = 0
    for x, _ in loader:
        x = x.to(device)
        with torch.no_grad():
            y = torch.multinomial(model(x).softmax(dim=1), num_samples=1).squeeze(1)
        for n, gradients in per_example_gradients(parameters, x, y).items():
            sums[n] += gradients.square().sum(dim=0)
        seen += len(x)
        if seen >= EXAMPLES:
            break
    return {n.replace(".", "__"): total / seen for n, total in sums.items()}


def compute_regularization_loss(
    model: torch.nn.Module, importance_dict: dict[str, torch.Tensor], prev_params_dict: dict[str, torch.Tensor]
) -> torch.Tensor:
    """The penalty on changing the parameters: 1/2 sum_i importance_i * (theta_i - previous_i)^2.

    Args:
        model: the network, in the middle of learning a new context.
        importance_dict: the summed importance of all earlier contexts, by key.
        prev_params_dict: the parameters at the end of the previous context, by key.

    Returns:
        A differentiable scalar.
    """
    penalty = torch.zeros((), device=next(model.parameters()).device)
    for group in model.param_list:  # type: ignore[union-attr]
        for n, p in group():
            key = n.replace(".", "__")
            if key in importance_dict:
                penalty = penalty + (importance_dict[key] * (p - prev_params_dict[key]) ** 2).sum()
    return 0.5 * penalty


# ==== editable region: end ============================================================================================
