"""What makes two runs comparable: the one place that says it, by inclusion.

Studies, the leaderboard, contexts that several runs share, published figures and runs that are taken over ask this
module, and nothing else. What is no field here, such as figures, a logger or the number of threads, never tells two
runs apart. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Final, Self

from clsweep import architecture, sources
from clsweep.config import STREAM, Config
from clsweep.data import identity
from clsweep.targets import Target

UNKNOWN: Final = "unknown"
_ACTIVE: Final = "active"
_OURS: Final = "clsweep.data.streams."
# How the contexts of a benchmark were made, for files that don't say it: no other benchmarks were there.
_STREAMS_OF_BEFORE: Final = {"split_mnist": "split", "split_cifar100": "split", "perm_mnist": "permuted"}
SEED_PARTS: Final = ("seed_order", "seed_init", "seed_batches")
_CONTEXTS: Final = (
    *("benchmark_stream", "scenario", "dataset", "dataset_digest", "contexts", "classes_per_context", "image_size"),
    *("normalize", "validation_fraction", "code_digest", "first_contexts"),
)


@dataclass(frozen=True)
class Protocol:
    """Two runs stand in one column of a table only if all of this is the same for both.

    The fields are columns of `summary.csv` of the same name and meaning. `None` stands for what a file of an older
    format really doesn't say, and equals only itself. A field with a default came later, and every earlier run had that
    value: the default is not in the digest, so that one more field leaves all earlier digests as they are.

    Attributes:
        benchmark: its name; the tables have a column for each.
        benchmark_stream: how the contexts are made from the images: split, permuted, or a `_target_` and its arguments.
        scenario: task, domain or class.
        dataset: its name.
        dataset_digest: of files of one's own; see `clsweep.data.identity.digest`.
        contexts: how many.
        classes_per_context: how many.
        image_size: height and width that images are padded to, 0 where they stay as they are.
        normalize: whether images are normalized per channel.
        network: its name and the widths of its layers, a slash between two lists, or a `_target_` and its arguments.
        iters: optimizer steps for each context; 0 where `epochs` decides them.
        batch_size: examples in each step.
        lr: the optimizer's learning rate.
        precision: float32 or bf16.
        validation_fraction: the part of each context's training data that is held out.
        code_digest: of the files of one's own that a `_target_` names; see `clsweep.sources.digest`.
        optimizer: its name and those of its arguments that are not the usual ones, or a `_target_` and its arguments.
        optimizer_reset: whether each context begins with a new state of the optimizer.
        schedule: what changes the learning rate within a context, a `_target_` and its arguments; empty: nothing.
        epochs: passes over each context's training data, 0 where iterations were given.
        logits: active or all: of which classes a method sees the logits; active where those are all.
        seed_order: the part of the seed that is the same whatever the seed, None where it follows the seed; see
            `clsweep.seeding.Seeds`. Runs that have such a part are compared among themselves: their spread is less than
            that over seeds.
        seed_init: likewise.
        seed_batches: likewise.
        first_contexts: how many of the contexts are learned and measured, the first ones; None: all.
    """

    benchmark: str
    benchmark_stream: str | None
    scenario: str
    dataset: str
    dataset_digest: str | None
    contexts: int
    classes_per_context: int | None
    image_size: int | None
    normalize: bool | None
    network: str | None
    iters: int
    batch_size: int
    lr: float
    precision: str
    validation_fraction: float
    code_digest: str = ""
    optimizer: str = "adam"
    optimizer_reset: bool = False
    schedule: str = ""
    epochs: int = 0
    logits: str = _ACTIVE
    seed_order: int | None = None
    seed_init: int | None = None
    seed_batches: int | None = None
    first_contexts: int | None = None

    @classmethod
    def of(cls, config: Config, dataset_digest: str | None = None) -> Self:
        """The protocol of a run's setting; files of one's own are read for their content.

        Args:
            config: the setting.
            dataset_digest: that of the data set, where it is known already: there may be many files.
        """
        benchmark = config.benchmark
        stream, optimizer = Target.of(STREAM, benchmark.stream), config.optimizer_setting
        return cls(
            benchmark=benchmark.name,
            benchmark_stream=stream.described.removeprefix(_OURS),
            scenario=benchmark.scenario,
            dataset=config.dataset.name,
            dataset_digest=identity.digest(config.dataset) if dataset_digest is None else dataset_digest,
            contexts=benchmark.contexts,
            classes_per_context=benchmark.classes_per_context,
            image_size=benchmark.image_size or 0,
            normalize=benchmark.normalize,
            network=architecture.described(config.network),
            iters=0 if benchmark.epochs else benchmark.iters,
            batch_size=benchmark.batch_size,
            lr=benchmark.lr,
            precision=config.precision,
            validation_fraction=float(config.validation_fraction),
            code_digest=sources.digest(targets(config)),
            optimizer=optimizer.described,
            optimizer_reset=optimizer.reset,
            schedule=optimizer.schedule_described,
            epochs=benchmark.epochs or 0,
            logits=_ACTIVE if _shows_all_anyhow(benchmark.scenario) else config.contract.logits,
            seed_order=config.seed_order,
            seed_init=config.seed_init,
            seed_batches=config.seed_batches,
            first_contexts=config.first_contexts,
        )

    @classmethod
    def of_row(cls, row: Mapping[Any, Any]) -> Self:
        """The protocol of a run from its row of `summary.csv`, of any format.

        Args:
            row: as `clsweep.results.load` has it; a missing column means what every earlier run had.
        """
        values = {one.name: _read(row, one.name, str(one.type)) for one in fields(cls)}
        for one in fields(cls):
            if values[one.name] is None and one.default is not MISSING:
                values[one.name] = one.default
        if values["benchmark_stream"] is None:
            values["benchmark_stream"] = _STREAMS_OF_BEFORE.get(str(row["benchmark"]))
        if values["dataset_digest"] is None and (values["dataset"] != "arrays" or _says_its_files(row)):
            values["dataset_digest"] = ""
        if values["network"] is not None:
            values["network"] = architecture.from_results(values["network"])
        if _shows_all_anyhow(values["scenario"]):
            values["logits"] = _ACTIVE
        if values["epochs"]:
            values["iters"] = 0  # a run's row has those that they came to
        return cls(**values)

    @property
    def parts(self) -> dict[str, Any]:
        """Each field by its name."""
        return asdict(self)

    @property
    def digest(self) -> str:
        """Eight characters that say whether two protocols are the same, on every machine."""
        return self.digest_where_searched(())

    def digest_where_searched(self, searched: Collection[str]) -> str:
        """The same of all runs whose search chose some of the fields: these belong to the methods then.

        Args:
            searched: the fields' names. Their values here stand for all that a search may choose.
        """
        implicit = {one.name: one.default for one in fields(self)}
        decisive = {name: value for name, value in self.parts.items() if implicit[name] != value}
        if searched:
            decisive["searched"] = sorted(searched)
        return hashlib.blake2b(json.dumps(decisive, sort_keys=True).encode(), digest_size=4).hexdigest()

    @property
    def of_contexts(self) -> tuple[Any, ...]:
        """The part of it that decides, with a seed, what the contexts hold."""
        return tuple(self.parts[name] for name in _CONTEXTS)

    @property
    def length(self) -> str:
        """How long each context is trained."""
        if not self.epochs:
            return f"{self.iters:,} iterations a context"
        return f"{self.epochs} epoch{'s' if self.epochs > 1 else ''} a context"

    @property
    def contexts_by(self) -> str:
        """What makes the contexts, in words, where it is neither of the usual two; else empty."""
        usual = self.benchmark_stream in ("split", "permuted")
        return "" if usual else f"contexts by {self.benchmark_stream or UNKNOWN}"

    def sentence(self, searched: Collection[str] = ()) -> str:
        """All but the benchmark's name, image size and normalization, in one line; what is usual is not mentioned.

        Args:
            searched: the fields that each method's search chose, whose values aren't said.
        """
        return ", ".join(self._said(searched))

    def _said(self, searched: Collection[str]) -> Iterator[str]:
        per_context = "" if self.classes_per_context is None else f" of {self.classes_per_context} classes"
        yield f"{self.scenario}-incremental, {self.contexts} contexts{per_context}"
        if self.first_contexts:
            yield f"the first {self.first_contexts} of them alone"
        if self.contexts_by:
            yield self.contexts_by
        yield f"{self.dataset} {self.dataset_digest}" if self.dataset_digest else self.dataset
        if self.validation_fraction:
            yield f"{self.validation_fraction:g} held out"
        own = {
            "epochs" if self.epochs else "iters": self.length,
            "batch_size": f"batch {self.batch_size}",
            "optimizer": "Adam" if self.optimizer == "adam" else self.optimizer,
            "lr": f"lr {self.lr:g}",
            "schedule": self.schedule,
            "optimizer_reset": "a new state in each context" if self.optimizer_reset else "",
            "network": self.network or "network not recorded",
            "precision": self.precision,
        }
        told = own | {name: f"{name.replace('_', ' ')} searched" for name in searched}
        if "optimizer" in searched:
            told["optimizer"] = f"{own['optimizer'].partition(' ')[0]} (arguments searched)"
        told["optimizer"] = f"{told['optimizer']} {told.pop('lr')}"
        yield from filter(None, told.values())
        if self.logits != _ACTIVE:
            yield f"logits of {self.logits} classes"
        for part in SEED_PARTS:
            if (given := getattr(self, part)) is not None:
                yield f"{part}={given} whatever the seed"
        if self.code_digest:
            yield f"code of one's own {self.code_digest}"

    def differences(self, other: Protocol) -> dict[str, tuple[Any, Any]]:
        """The fields that differ: this one's value and the other's, by name."""
        mine, others = self.parts, other.parts
        return {name: (mine[name], others[name]) for name in mine if mine[name] != others[name]}


def _shows_all_anyhow(scenario: str) -> bool:
    """Whether the active classes are all that there are, whatever `contract.logits` says."""
    return scenario == "domain"


def targets(config: Config) -> list[Target]:
    """Everything that a run is made of by `_target_`.

    Raises:
        InputError: something isn't known by a file.
    """
    optimizer = config.optimizer_setting
    schedule = [] if optimizer.schedule is None else [optimizer.schedule]
    made = [architecture.of(config.network), Target.of(STREAM, config.benchmark.stream), optimizer.target, *schedule]
    for target in made:
        target.refuse_main()
    return made


_KINDS: Final = {"str": str, "int": int, "float": float, "bool": bool}
_NOTHING: Final = ("", "nan", "None", "<NA>")


def _read(row: Mapping[Any, Any], name: str, kind: str) -> Any:
    """A column's value of a field's kind; None where the file doesn't say."""
    value = row.get(name)
    return None if str(value) in _NOTHING else _KINDS[kind.partition(" ")[0]](value)


def _says_its_files(row: Mapping[Any, Any]) -> bool:
    version = row.get("format_version")
    return str(version) not in _NOTHING and int(str(version)) > 1
