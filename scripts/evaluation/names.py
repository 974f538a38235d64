"""What methods and settings are called on the pages."""

from __future__ import annotations

from typing import Final

SHIPPED: Final = "shipped"
METHODS: Final = {
    SHIPPED: "`custom_regularization.py`",
    "ewc": "EWC",
    "online_ewc": "Online EWC",
    "si": "SI",
    "kfac_ewc": "EWC with whole Kronecker factors (`kfac_ewc`)",
    "rwalk": "RWalk",
    "mas": "MAS",
    "l2": "L2",
    "ewc_separate": "EWC with a spring for each context (`ewc_separate`)",
    "lwf": "LwF",
    "owm": "OWM",
    "gpm": "GPM",
    "ncl": "NCL",
    "vcl": "VCL",
    "ewc_exact": "EWC, exact",
    "ewc_500": "EWC, exact, of 500 examples",
    "ewc_sampled": "EWC, sampled labels",
    "ewc_empirical": "EWC, empirical",
    "ewc_batched": "EWC, batched (128)",
    "none": "no penalty",
    "joint": "all contexts jointly",
}
PUBLISHED_ORDER: Final = "published_order"
SETTINGS: Final = {
    "split_mnist": "Split-MNIST",
    "perm_mnist": "Permuted-MNIST",
    "split_cifar100": "Split-CIFAR100",
    PUBLISHED_ORDER: "With the published class order",
}
