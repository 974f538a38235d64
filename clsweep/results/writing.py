"""A run's results as typed rows, and the CSV files that they are kept in.

Files are written whole under a temporary name and then renamed, so that a file under its own name is complete.
"""

from __future__ import annotations

import math
import os
import re
import tempfile
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO, Final

import pandas as pd

from clsweep.results.curves import CURVE_FILE, Point, curve_table
from clsweep.results.metrics import Cell, Matrix, matrix_of

ACCURACY_FILE = "accuracy.csv"
SUMMARY_FILE = "summary.csv"
SEEDS_FILE = "seeds.csv"
MATRIX_FIGURE, CURVES_FIGURE, ITERATIONS_FIGURE = "accuracy_matrix.png", "curves.png", "iterations.png"  # of one run
CELL_COLUMNS: Final = ("after_context", "context", "split", "accuracy", "n")
RUNNING, FINISHED, INTERRUPTED, FAILED, PRUNED = "running", "finished", "interrupted", "failed", "pruned"
STATUSES: Final = (RUNNING, FINISHED, INTERRUPTED, FAILED, PRUNED)
FORMAT_VERSION: Final = 3
_PARTIAL: Final = ".partial"
_PARTIALS: Final = re.compile(rf"\..+\.[0-9a-f]{{8}}{re.escape(_PARTIAL)}")  # as `write_by` calls them
# How a formula begins in a spreadsheet, and a text that begins like this with apostrophes before it.
_FORMULA: Final = re.compile("'*[=+@\t\r\n\uff1d\uff0b\uff0d\uff20-]")


@dataclass(frozen=True)
class Summary:
    """The one row of `summary.csv`; the fields are its columns, in this order, then those of `values`.

    Accuracies run from 0 to 1 and are of the test set unless they say otherwise. What does not apply or was not
    reached is NaN, an empty cell: all metrics of a run that was not finished, the validation accuracy where nothing was
    held out, learning accuracy, forgetting and backward transfer of joint training.

    Attributes:
        format_version: of this file: 3. Those of version 2 don't say optimizer and stream, which were the usual ones;
            those of version 1 don't have this column; see `clsweep.results.load`.
        run_id: unique to the run; the same in `accuracy.csv`.
        status: running (until the run says how it ended; one that was killed stays so), finished, interrupted, failed
            or (in a sweep) pruned.
        protocol: eight characters of all that makes two runs comparable; see `clsweep.protocol.Protocol`.
        benchmark_stream: how the contexts are made from the images: split, permuted, rotated or another `_target_`,
            and its arguments.
        stream: sequential or joint.
        dataset_digest: twelve characters of the SHA-256 of the files of `dataset=arrays` or `dataset=folder`, and of
            how they are read; empty for other data sets.
        n_train: distinct training images, those held out not counted.
        n_test: distinct test images.
        first_contexts: how many of the contexts were learned and measured, the first ones; empty where all were.
        image_size: height and width that images are padded to, 0 where they stay as they are.
        normalize: whether images are normalized per channel.
        regularizer: the method's name; joint for joint training, which uses none.
        regularizer_file: the file of a method of one's own, else empty; a copy of it, and of the modules of one's own
            that it imports, lies beside `summary.csv`.
        regularizer_digest: twelve characters of the SHA-256 of that file, and of those modules where there are any: the
            same name may be another method tomorrow.
        hyperparameters: those that the method uses, with spaces between them: of `reg_strength`, `gamma`, `epsilon` and
            its own, each the name of a column.
        method_options: its other options, as they are typed on the command line.
        reg_strength: as configured; not used by joint training.
        reg_strength_scale: the method's own multiplier on it.
        network: its name and the widths of its layers.
        code_digest: twelve characters of the SHA-256 of the files of one's own that a `_target_` names, and of the
            modules of one's own that they import; empty where there are none.
        seed: of all that is drawn, but for its parts that are given.
        seed_order: the part of the seed that what the contexts hold comes from; empty where it is the seed.
        seed_init: likewise, of the initial parameters.
        seed_batches: likewise, of the order of the examples and what draws while training.
        budget: full, quick, smoke, or custom where `benchmark.iters` is not what the chosen budget says, or epochs are
            given.
        iters: optimizer steps for each context; for the largest one, where `epochs` says how many.
        epochs: passes over each context's training data, 0 where iterations were given.
        logits: active or all: of which classes a method sees the logits.
        optimizer: its name and those of its arguments that are not the usual ones, or a `_target_` and its arguments.
        optimizer_reset: whether each context begins with a new state of the optimizer.
        schedule: what changes the learning rate within a context, a `_target_` and its arguments; empty: nothing.
        train_seconds: training without importance estimation and evaluation, by this run itself.
        shared_seconds: of another run, which trained and measured the first context for this one, too: no part of the
            other times.
        update: what changes the parameters at a step: native (compiled C), foreach (PyTorch's
            operations; they round differently) or torch (an optimizer of PyTorch's kind).
        evaluate_every: the optimizer steps between two measurements within a context, see `curve.csv`; empty where each
            context was measured at its end.
        min_accuracy: min-ACC, the mean of the lowest accuracies on each context but the last, after it was learned;
            empty without `evaluate_every`. See `clsweep.results.curves`.
        worst_case_accuracy: WC-ACC, of that and the accuracy on the last context; likewise.
        eval_seconds: measuring accuracies, those of `curve.csv`, too.
        iters_per_second: steps made over `train_seconds`.
        peak_memory_mib: on CUDA the most that the run allocated on the device; on a CPU the process's largest resident
            memory, with what earlier runs of the same process took.
        git_commit: of the clsweep checkout, `-dirty` where files differ from it; empty for an installed package.
        started_at: UTC, ISO 8601.
        reason: why a run failed or was pruned.
        values: the hyperparameters of the method's own, by name, each a column after the others; see `is_taken`.
    """

    format_version: int
    run_id: str
    status: str
    protocol: str
    benchmark: str
    benchmark_stream: str
    scenario: str
    stream: str
    dataset: str
    dataset_digest: str
    network: str
    code_digest: str
    n_train: int
    n_test: int
    contexts: int
    first_contexts: int | None
    classes_per_context: int
    image_size: int
    normalize: bool
    regularizer: str
    regularizer_file: str
    regularizer_digest: str
    hyperparameters: str
    method_options: str
    reg_strength: float
    reg_strength_scale: float
    gamma: float
    epsilon: float
    seed: int
    seed_order: int | None
    seed_init: int | None
    seed_batches: int | None
    budget: str
    iters: int
    epochs: int
    logits: str
    batch_size: int
    lr: float
    optimizer: str
    optimizer_reset: bool
    schedule: str
    validation_fraction: float
    precision: str
    device: str
    threads: int
    update: str
    evaluate_every: int | None
    average_accuracy: float
    learning_accuracy: float
    forgetting: float
    backward_transfer: float
    validation_average_accuracy: float
    min_accuracy: float
    worst_case_accuracy: float
    train_seconds: float
    importance_seconds: float
    eval_seconds: float
    shared_seconds: float
    iters_per_second: float
    peak_memory_mib: float
    clsweep_version: str
    git_commit: str
    torch_version: str
    started_at: str
    reason: str
    values: dict[str, float | str] = field(default_factory=dict)

    @property
    def row(self) -> dict[str, Any]:
        """All columns by name, in order."""
        fixed = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "values"}
        return fixed | {name: value for name, value in self.values.items() if name not in fixed}


# Columns of `trials.csv`, `final.csv` and the frames of `clsweep.results.load` that are none of `summary.csv`.
_OTHER_COLUMNS: Final = (
    *("number", "state", "setting", "test_average_accuracy", "seconds", "folder", "role", "study", "accuracy"),
    *("method", "chosen", "place", "tune_on", "comparable"),
)
_NUMBERED_COLUMN: Final = re.compile(r"(seed_\d+_)?validation_after_\d+")


def is_taken(name: str) -> bool:
    """Whether a column of clsweep's own has this name: a method's hyperparameter needs another one."""
    own = {one.name for one in fields(Summary)}
    return name in own or name in _OTHER_COLUMNS or _NUMBERED_COLUMN.fullmatch(name) is not None


def accuracy_matrix(cells: Sequence[Cell], split: str, contexts: int) -> Matrix:
    """The accuracies of one split as `clsweep.results.metrics` wants them.

    Args:
        cells: what was measured.
        split: test or validation.
        contexts: the number of contexts T.

    Returns:
        float64 [T + 1, T], NaN where nothing was measured.
    """
    mine = [cell for cell in cells if cell.split == split]
    after, context = [cell.after_context for cell in mine], [cell.context for cell in mine]
    return matrix_of(after, context, [cell.accuracy for cell in mine], contexts)


def accuracy_table(summary: Summary, cells: Sequence[Cell]) -> pd.DataFrame:
    """The table that `accuracy.csv` holds.

    Args:
        summary: the run's row of `summary.csv`.
        cells: the measured accuracies, in the order of the rows.
    """
    accuracy = pd.DataFrame([asdict(cell) for cell in cells], columns=list(CELL_COLUMNS))
    accuracy.insert(0, "run_id", summary.run_id)
    return accuracy


def write(folder: Path, summary: Summary, cells: Sequence[Cell], curve: Sequence[Point] = ()) -> None:
    """Write `accuracy.csv`, `curve.csv` where the run has one, then `summary.csv`.

    Args:
        folder: the run's folder.
        summary: its row.
        cells: the measured accuracies, in the order of the rows.
        curve: what was measured within contexts, likewise.
    """
    write_csv(accuracy_table(summary, cells), folder / ACCURACY_FILE)
    if summary.evaluate_every is not None:
        write_csv(curve_table(summary.run_id, curve), folder / CURVE_FILE)
    write_csv(pd.DataFrame([summary.row]), folder / SUMMARY_FILE)


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table, whole or not at all; see `csv_text`."""
    write_text(csv_text(table), path)


def csv_text(table: pd.DataFrame) -> str:
    """A table as CSV. A text that a spreadsheet would run as a formula has an apostrophe before it; see `from_csv`."""
    guarded = {
        str(name): column.map(lambda value: f"'{value}" if _is_formula(value) else value)
        for name, column in table.items()
        if any(map(_is_formula, column))
    }
    return table.assign(**guarded).to_csv(index=False, lineterminator="\n")


def _is_formula(value: object) -> bool:
    return isinstance(value, str) and _FORMULA.match(value) is not None


def from_csv(text: str) -> str:
    """A text as it was before `csv_text` wrote it."""
    return text[1:] if text.startswith("'") and _is_formula(text) else text


def write_text(text: str, path: Path) -> None:
    """Write a file of text; see `write_bytes`. What UTF-8 cannot say, such as odd names of folders, is escaped."""
    write_bytes(text.encode("utf-8", "backslashreplace"), path)


def write_bytes(content: bytes, path: Path) -> None:
    """Write a file, whole or not at all; see `write_by`."""
    write_by(lambda file: file.write(content), path)


def write_by(write: Callable[[BinaryIO], object], path: Path) -> None:
    """Write a file, whole or not at all; processes that write the same one at once don't disturb each other.

    Args:
        write: writes the content into a file that is open for it.
        path: of the file.

    Raises:
        OSError: it can't be written; what was there before is as it was.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{_PARTIAL}")
    try:
        with partial.open("wb") as file:
            write(file)
        partial.replace(path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = str(path)  # which the operating system doesn't say
        raise


def remove_partial(folder: Path, idle: float = 0.0) -> None:
    """Remove what processes that were killed while they wrote have left, in a folder and below.

    Args:
        folder: where nobody writes, or others do with pauses shorter than `idle`.
        idle: seconds that a file must not have been touched for, by the clock of who keeps the folder. Where that
            can't be known, nothing is removed.
    """
    try:
        last = _now(folder) - idle if idle else math.inf
    except OSError:
        return
    for place, _, names in os.walk(folder):  # which passes over a folder that is removed meanwhile
        for path in (Path(place, name) for name in names if _PARTIALS.fullmatch(name)):
            with suppress(OSError):  # written to its end, or removed, by now
                if path.stat().st_mtime <= last:
                    path.unlink()


def _now(folder: Path) -> float:
    """The time where a folder is: that of a file server may differ from this machine's."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".now.") as file:
        return os.fstat(file.fileno()).st_mtime
