# %% [markdown]
# # clsweep from Python
# VS Code and Jupytext open this file as a notebook. The budget is tiny.

# %%
import tempfile

import pandas as pd
import torch

import clsweep

SMALL = ["dataset=mnist_5k", "benchmark.contexts=3", "benchmark.iters=20", "network.hidden=[50]", "threads=1"]

# %% A built-in method. The display is that of the command line; quiet=True prints nothing.
result = clsweep.run("split_mnist", method="si", overrides=SMALL)
print(result)
print(result.accuracy.query("split == 'test'").pivot(index="after_context", columns="context", values="accuracy"))

# %% Any key of the command line is an override, and every run is a row.
rows = [
    clsweep.run(
        "split_mnist", method="ewc", overrides=[*SMALL, f"regularizer.reg_strength={strength}"], quiet=True
    ).summary
    for strength in (0, 100)
]
print(pd.DataFrame(rows)[["regularizer", "reg_strength", "average_accuracy", "forgetting"]])


# %% A method of your own: two functions (docs/methods.md).
def estimate_importance(model, dataset, prev_params, device):
    return {name.replace(".", "__"): torch.ones_like(p) for name, p in model.named_parameters()}


def compute_regularization_loss(model, importance_dict, prev_params_dict):
    parameters = {name.replace(".", "__"): p for name, p in model.named_parameters()}
    return sum((importance_dict[n] * (parameters[n] - prev_params_dict[n]).square()).sum() for n in importance_dict)


mine = clsweep.run(
    "split_mnist",
    method=(estimate_importance, compute_regularization_loss),
    overrides=[*SMALL, "regularizer.reg_strength=0.01"],
    quiet=True,
)
print(mine)

# %% The trained network is an ordinary module. It gives logits of the classes of the last context.
print(mine.model(torch.zeros(1, 1, 28, 28)).shape)

# %% save_model=true keeps it in the run's folder, so another notebook can load it or measure it again.
with tempfile.TemporaryDirectory() as folder:
    clsweep.run("split_mnist", method="si", overrides=[*SMALL, "save_model=true"], folder=folder, quiet=True)
    print(clsweep.load_model(folder), clsweep.evaluate(folder), sep="\n")

# %% A small sweep tunes each method on held-out data, then trains it with the best values.
tuned = clsweep.sweep(
    "split_mnist",
    ["si", "none"],
    n_trials=2,
    overrides=[*SMALL, "search.final_seeds=1", "search.workers=1"],
    quiet=True,
)
print(tuned)
print(tuned.best["si"])
