"""What is written beside a saved network, so that it can be built again; and what the files are called."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, Self

import clsweep
from clsweep import architecture, sources
from clsweep import config as settings
from clsweep.config import ALL_LOGITS, STREAM, Config
from clsweep.data import identity
from clsweep.data.contexts import Stream
from clsweep.errors import InputError, named
from clsweep.paths import short
from clsweep.results.writing import write_text
from clsweep.targets import Target

MODEL_FILE: Final = "model.pt"
DESCRIPTION_FILE: Final = "model.json"
_FORMAT_VERSION: Final = 1
# The part of a setting that a network and its contexts come from; and what earlier files lack, which was null.
_NEEDED: Final = (
    *("benchmark", "dataset", "network", "contract", "seed", "budget", "stream", "validation_fraction", "precision"),
    *("device", "threads"),
)
_LATER: Final = ("seed_order", "seed_init", "seed_batches", "first_contexts")


@dataclass(frozen=True)
class Description:
    """What makes a `state_dict` a network again; the fields are the keys of `model.json`.

    Attributes:
        format_version: of the file.
        clsweep_version: that wrote it.
        setting: the part of the run's setting that the network and its contexts come from.
        input_shape: (C, H, W) of an example.
        n_outputs: the outputs over all contexts.
        active: the first of the active outputs, and the one after the last, after each context.
        dataset_digest: of a data set in files of one's own; see `clsweep.data.identity.digest`.
        code_digests: of the files of one's own that the network and the stream come from, by key; see
            `clsweep.sources.digest`.
        is_whole: whether the network as it is kept gives what it gave in the run.
    """

    format_version: int
    clsweep_version: str
    setting: dict[str, Any]
    input_shape: tuple[int, int, int]
    n_outputs: int
    active: list[tuple[int, int]]
    dataset_digest: str
    code_digests: dict[str, str]
    is_whole: bool = True

    @classmethod
    def of(cls, config: Config, stream: Stream) -> Self:
        """The description of a run's network."""
        values = settings.as_values(config)
        every = range(stream.n_outputs)
        shows_all = config.contract.logits == ALL_LOGITS
        active = [every if shows_all else stream.active(number, number + 1) for number in range(len(stream.contexts))]
        return cls(
            format_version=_FORMAT_VERSION,
            clsweep_version=clsweep.__version__,
            setting={key: values[key] for key in (*_NEEDED, *_LATER)},
            input_shape=stream.input_shape,
            n_outputs=stream.n_outputs,
            active=[(outputs.start, outputs.stop) for outputs in active],
            dataset_digest=identity.digest(config.dataset),
            code_digests={target.key: sources.digest([target]) for target in targets_of(values)},
        )

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The description in a run's folder.

        Raises:
            InputError: there is none that this version can read.
        """
        path = folder / DESCRIPTION_FILE
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise InputError(_nothing_kept(folder)) from error
        except (OSError, ValueError) as error:
            raise InputError(
                f"{short(path)}: can't be read ({named(error)}); expected it as the run left it."
            ) from error
        version = values.get("format_version") if isinstance(values, dict) else None
        if isinstance(version, int) and version > _FORMAT_VERSION:
            raise InputError(
                f"{short(path)}: was written by clsweep {values.get('clsweep_version')}; expected that version or a "
                f"later one to read it, and this is {clsweep.__version__}."
            )
        try:
            made = cls(**{one.name: values[one.name] for one in fields(cls)})
            channels, height, width = map(int, made.input_shape)
            targets_of(made.setting)
            return replace(
                made,
                setting={key: made.setting[key] for key in _NEEDED} | {key: made.setting.get(key) for key in _LATER},
                input_shape=(channels, height, width),
                active=[(int(start), int(stop)) for start, stop in made.active],
            )
        except (InputError, LookupError, TypeError, ValueError) as error:
            raise InputError(
                f"{short(path)}: isn't the description of a network ({named(error)}); expected it as the run left it."
            ) from error

    def write(self, folder: Path) -> None:
        """Write it into a run's folder."""
        write_text(f"{json.dumps(asdict(self), indent=1)}\n", folder / DESCRIPTION_FILE)


def targets_of(setting: Mapping[str, Any]) -> list[Target]:
    """What the network and its contexts come from, in this order."""
    return [architecture.of(setting["network"]), Target.of(STREAM, setting["benchmark"]["stream"])]


def _nothing_kept(folder: Path) -> str:
    if not folder.is_dir():
        return f"{short(folder)}: is no folder; expected that of a run, made with save_model=true."
    below = sorted(file.parent for depth in ("*", "*/*") for file in folder.glob(f"{depth}/{DESCRIPTION_FILE}"))
    if below:
        return f"{short(folder)}: holds several runs; expected the folder of one of them, such as {short(below[0])}."
    return f"{short(folder)}: holds no {DESCRIPTION_FILE}; expected the folder of a run made with save_model=true."


def file_after(learned: int, n_contexts: int) -> str:
    """The name of a file of `save_model=every_context`.

    Args:
        learned: how many contexts have been learned.
        n_contexts: how many there are.
    """
    return f"model_after_{learned:0{max(2, len(str(n_contexts)))}d}.pt"
