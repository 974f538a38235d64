"""The networks that a run saves on request (`save_model`), and how they become networks again.

`model.pt` is the plain `state_dict` of the network as it was built, on the CPU: what a method has put on the network,
such as a teacher or hooks, is not in it. `model.json` beside it has what is needed to build the network without data,
and the contexts with it, each key by inclusion: nothing else of the setting is in it. Reading unpickles nothing.
"""

from clsweep.training.saved.description import file_after
from clsweep.training.saved.keeping import Keeper, are_there, check, refuse_without, remove
from clsweep.training.saved.reading import MOVED, Saved

__all__ = ["MOVED", "Keeper", "Saved", "are_there", "check", "file_after", "refuse_without", "remove"]
