"""Networks, and what every network is given before it is trained.

A network takes examples [B, C, H, W] and has the outputs of all contexts. A run wants the active ones alone: the
networks here end in a `Head`, which computes no others (`outputs`); for any other network, a hook takes them from all.
`equip` gives a network what a run and a method find on it, `activate` chooses the outputs, `build` makes one from a
setting, `check` refuses what can't be trained (`building`, `trial`). The networks themselves are in `ours`.
"""

from clsweep.networks.building import build, check
from clsweep.networks.equipment import Classifier, OwnParameters, equip, layout_of
from clsweep.networks.ours import CNN, MLP, Convolution, ResNet18
from clsweep.networks.outputs import Head, Outputs, Selection, activate, outputs_of, select

__all__ = [
    "CNN",
    "MLP",
    "Classifier",
    "Convolution",
    "Head",
    "Outputs",
    "OwnParameters",
    "ResNet18",
    "Selection",
    "activate",
    "build",
    "check",
    "equip",
    "layout_of",
    "outputs_of",
    "select",
]
