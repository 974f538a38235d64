"""What methods and benchmarks are called on the pages: methods as in a report."""

from __future__ import annotations

from typing import Final

from clsweep.report import names

SHIPPED: Final = "shipped"
SHIPPED_RATE: Final = "shipped_rate"
DISTILLED: Final = "distilled"
METHODS: Final = {
    SHIPPED: "`custom_regularization.py`",
    DISTILLED: "`custom_regularization.py` with LwF's loss",
    **names.METHODS,
    SHIPPED_RATE: "`custom_regularization.py`, rate searched",
    "ewc_rate": "EWC, rate searched",
    "kfac_ewc_rate": "Kronecker-factored EWC, rate searched",
    "joint_rate": "joint training at a rate of 0.001",
    "ewc_exact": "exact",
    "ewc_500": "exact, 500 examples",
    "ewc_sampled": "sampled labels",
    "ewc_empirical": "empirical",
    "ewc_batched": "batched (128)",
    "none": "no penalty",
    "joint": "joint training",
}
BENCHMARKS: Final = {"split_mnist": "Split-MNIST", "perm_mnist": "Permuted-MNIST", "split_cifar100": "Split-CIFAR100"}
