"""Which runs are compared: finished ones under the same protocol, each seed once."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import pandas as pd

from clsweep import config as settings
from clsweep.config import CUSTOM_BUDGET, ON_STREAM
from clsweep.hyperparameters import STANDARD
from clsweep.protocol import SEED_PARTS, Protocol
from clsweep.report.plots.contexts import BOUNDS
from clsweep.results import FAILED, FINISHED, Results

# The columns that say what is compared: the digest of a protocol, its parts, and what goes with them.
PROTOCOL: Final = ("protocol", "searched", *(one.name for one in fields(Protocol)), "budget", "n_train", "n_test")
_BUDGETS: Final = ("full", "quick", CUSTOM_BUDGET, "smoke")
TUNED: Final = "tuned"
_PERHAPS_TUNED: Final = "default, perhaps tuned before"  # of sweeps whose files don't say it
_COMMA: Final = ", "


@dataclass(frozen=True)
class Selection:
    """The runs that are compared.

    Attributes:
        runs: rows of `Results.runs`, those of the protocol that is looked at first before the others. `protocol` is
            the digest of each run's `Protocol`, whatever the format of its file, and `budget` the same for all of one
            protocol. Six columns more: `searched`, the parts of the protocol that a sweep searched, such as the
            learning rate (they are the method's in its final runs, and not in the digest); `method`, the name (for a
            file of one's own the file's, with the beginning of its digest where several files of that name were run);
            `setting`, its hyperparameters, options and `searched` exactly, as text, empty where it has none; `chosen`,
            where the values come from (`origins`) if a sweep's final runs have them, else empty; `tune_on`, what these
            values were tuned on, where a sweep chose them, with commas between several; `failed`, with
            how many seeds the method failed at these values and never finished.
        held_out: how many finished runs were left out because they held training data out to choose values by.
        repeated: how many were left out because a later run has the same protocol, method, values and seed.
    """

    runs: pd.DataFrame
    held_out: int
    repeated: int


def select(results: Results) -> Selection:
    """Choose the runs that are compared: finished, trained on all training data, the latest for each seed.

    Args:
        results: what was read.
    """
    ended = results.runs[results.runs["status"].isin([FINISHED, FAILED])]
    whole = ended[ended["validation_fraction"] == 0].copy()
    protocols = _searched_protocols(whole, results.finals)
    whole["searched"] = [searched for _, searched in protocols]
    whole["setting"] = [_setting(row) for row in whole.to_dict("records")]
    rows = whole.to_dict("records")
    whole["protocol"] = [said or Protocol.of_row(row).digest for (said, _), row in zip(protocols, rows, strict=True)]
    whole, failed = (whole[whole["status"] == status].copy() for status in (FINISHED, FAILED))
    whole["method"] = _methods(whole)
    whole["failed"] = _failed(whole, failed)
    whole["budget"] = whole.groupby("protocol")["budget"].transform(lambda budgets: min(budgets, key=_rank))
    values = ["protocol", "method", "setting"]
    whole["chosen"] = _of_final_runs(whole, results.finals)
    whole["chosen"] = whole.groupby(values)["chosen"].transform("max")  # tuned > default > neither, as it is spelt
    whole["tune_on"] = _tuned_on(whole, results.finals)
    whole["tune_on"] = whole.groupby(values)["tune_on"].transform(_joined)
    whole = whole.sort_values("started_at", kind="stable", na_position="first")
    latest = whole.drop_duplicates([*values, "seed"], keep="last")
    places = {digest: place for place, digest in enumerate(_in_order(latest))}
    latest = latest.assign(place=latest["protocol"].map(places)).sort_values(["place", "method"], kind="stable")
    latest = latest.drop(columns="place")
    held_out = (results.runs["status"] == FINISHED).sum() - len(whole)
    return Selection(latest.reset_index(drop=True), int(held_out), len(whole) - len(latest))


def is_bound(run: Mapping[Hashable, Any]) -> bool:
    """Whether a run is joint training, or training without a regularizer, and not a method of such a name."""
    return bool(run["stream"] == "joint" or (run["regularizer"] == "none" and run["regularizer_file"] == ""))


def _failed(finished: pd.DataFrame, failed: pd.DataFrame) -> list[int]:
    """For each finished run, with how many seeds the same method failed at the same values and never finished.

    Failing is no accident of a run as an interruption is: mostly the method diverges. A mean over the seeds that are
    left is then too good.
    """
    seeds: dict[tuple[Any, ...], set[int]] = {}
    for run in failed.to_dict("records"):
        seeds.setdefault(_of(run), set()).add(run["seed"])
    rows = finished.to_dict("records")
    for run in rows:
        seeds.get(_of(run), set()).discard(run["seed"])
    return [len(seeds.get(_of(run), ())) for run in rows]


def _of(run: Mapping[Hashable, Any]) -> tuple[Any, ...]:
    """What is the same in all runs that a mean is over; a file that was changed since is another method."""
    method = run["stream"] == "joint" if is_bound(run) else (_shown(run), run["regularizer_digest"])
    return run["protocol"], run["setting"], method


def _setting(run: Mapping[Hashable, Any]) -> str:
    """The hyperparameters that the method uses, exactly: runs whose values differ at all are never averaged."""
    searched = [f"{name}={_exact(run[name])}" for name in run["searched"].split()]
    if is_bound(run):
        return ", ".join(searched)
    parts = [f"{name}={_exact(run[name])}" for name in _used(run) if name in run]
    scale = run["reg_strength_scale"]
    if not pd.isna(scale) and scale != 1:
        parts.append(f"reg_strength_scale={_exact(scale)}")
    if run["method_options"] not in USUAL_OPTIONS:
        parts.append(run["method_options"])
    return ", ".join(parts + searched)


def _used(run: Mapping[Hashable, Any]) -> list[str]:
    """The names of those. Files of version 1 don't say: a built-in method had fixed ones, any other method all."""
    if run["format_version"] != 1:
        used = str(run["hyperparameters"]).split()
        return sorted(used, key=lambda name: _PLACES.get(name, len(_PLACES)))
    own = _IN_VERSION_1.get(run["regularizer"]) if not run["regularizer_file"] else None
    return list(STANDARD if own is None else own)


_ONE: Final = ("reg_strength",)
_IN_VERSION_1: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(("l2", "ewc", "ewc_separate", "kfac_ewc", "mas"), _ONE),
    "online_ewc": (*_ONE, "gamma"),
    "si": (*_ONE, "epsilon"),
    "rwalk": (*_ONE, "gamma", "epsilon"),
}


_PLACES: Final = {name: place for place, name in enumerate(STANDARD)}
USUAL_OPTIONS = ("", "fisher.labels=exact fisher.examples=null")  # of a method without options, and with them


def _exact(value: object) -> str:
    """A number exactly, or a text as it is."""
    try:
        return repr(float(str(value))).removesuffix(".0")
    except ValueError:
        return str(value)


def origins(finals: pd.DataFrame) -> pd.Series:
    """Where the values of final runs come from; default ones may have been tuned for the benchmark before.

    Args:
        finals: rows of `Results.finals`.
    """
    said = finals["origin"].fillna("").replace("", _PERHAPS_TUNED)
    return finals["setting"].where(finals["setting"] == TUNED, said)


def _searched_protocols(runs: pd.DataFrame, finals: pd.DataFrame) -> list[tuple[str, str]]:
    """For each run, the digest and the searched fields of the sweep that it is a final run of; empty for others."""
    searching = finals[finals["searched"].fillna("") != ""]
    said = list(zip(searching["protocol"], searching["searched"], strict=True))
    places = _places(runs, searching)
    known = dict(zip(places, said, strict=True))
    of_study = dict(zip((study for study, _ in places), said, strict=True))
    is_failed = (runs["role"] == "final") & (runs["status"] == FAILED)  # these aren't in the tables of final runs
    return [
        of_study.get(place[0], ("", "")) if failed else known.get(place, ("", ""))
        for place, failed in zip(_own_places(runs), is_failed, strict=True)
    ]


def _of_final_runs(runs: pd.DataFrame, finals: pd.DataFrame) -> list[str]:
    """Where each run's values come from if it is a final run, else empty; default values that won ran only once."""
    chosen: dict[tuple[str, str], str] = {}
    # Of studies that differ in what they were tuned on, the whole stream's counts; `regret` compares them.
    is_on_stream = finals["tune_on"] == ON_STREAM
    has_other = finals["comparable"].isin(finals.loc[is_on_stream, "comparable"])
    usual = finals[(finals["setting"] != TUNED) | is_on_stream | ~has_other]
    for place, origin in zip(_places(runs, usual), origins(usual), strict=True):
        chosen[place] = max(chosen.get(place, ""), origin)  # tuned > default, as it is spelt
    return [chosen.get(place, "") for place in _own_places(runs)]


def _tuned_on(runs: pd.DataFrame, finals: pd.DataFrame) -> list[str]:
    """What the values of each run were tuned on; empty where no sweep chose them."""
    tuned = finals[finals["setting"] == TUNED]
    ways: dict[tuple[str, str], list[str]] = {}
    for place, way in zip(_places(runs, tuned), tuned["tune_on"], strict=True):
        ways.setdefault(place, []).append(way)
    return [_joined(ways.get(place, [])) for place in _own_places(runs)]


def _joined(ways: Iterable[str]) -> str:
    """Each way once, the whole stream first."""
    single = {one for way in ways for one in way.split(_COMMA) if one}
    return _COMMA.join(sorted(single, key=lambda way: (way != ON_STREAM, way)))


def _places(runs: pd.DataFrame, finals: pd.DataFrame) -> list[tuple[str, str]]:
    """The study that trained each final run, and the name of the run's folder there."""
    studies = {*runs["study"]}
    of = zip(finals["study"], map(Path, finals["folder"]), strict=True)
    return [(_trained_by(study, folder, studies), folder.name) for study, folder in of]


def _own_places(runs: pd.DataFrame) -> list[tuple[str, str]]:
    """The same for runs."""
    return [(study, Path(folder).name) for study, folder in zip(runs["study"], runs["folder"], strict=True)]


def _trained_by(study: str, folder: Path, studies: Collection[str]) -> str:
    """The study in whose folder a final run lies: another one beside it may have trained it first.

    Args:
        study: whose final run it is.
        folder: where it was trained; the folder of all of these studies may have been moved since.
        studies: all that have runs.
    """
    beside = str(Path(study).parent / folder.parent.name)
    return beside if beside in studies else study


def _methods(runs: pd.DataFrame) -> list[str]:
    """Names, each with its file's digest where several files have that name, or where a bound has it."""
    rows = runs.to_dict("records")
    files: dict[str, set[str]] = {}
    for run in rows:
        files.setdefault(_shown(run), set()).add(run["regularizer_digest"])
    names = []
    for run in rows:
        name, digest = _shown(run), run["regularizer_digest"]
        if is_bound(run):
            names.append("joint" if run["stream"] == "joint" else "none")
        else:
            names.append(f"{name} @{digest[:6]}" if name in BOUNDS or (digest and len(files[name]) > 1) else name)
    return names


def _shown(run: Mapping[Hashable, Any]) -> str:
    return settings.shown_name(str(run["regularizer"]), str(run["regularizer_file"]))


def _in_order(runs: pd.DataFrame) -> list[str]:
    """The protocols: by benchmark, the fuller budget, whole seeds, more runs, more methods, the later ones first."""
    parted = runs[list(SEED_PARTS)].notna().any(axis=1)
    groups = runs.assign(parted=parted).groupby("protocol", sort=True)
    table = groups.agg(
        benchmark=("benchmark", "first"),
        budget=("budget", "first"),
        parted=("parted", "first"),
        methods=("method", "nunique"),
        size=("run_id", "size"),
        latest=("started_at", "max"),
    ).reset_index()
    table = table.assign(rank=table["budget"].map(_rank)).sort_values("latest", ascending=False, kind="stable")
    ordered = table.sort_values(
        ["benchmark", "rank", "parted", "size", "methods"], ascending=[True, True, True, False, False], kind="stable"
    )
    return list(ordered["protocol"])


def _rank(budget: str) -> int:
    return _BUDGETS.index(budget) if budget in _BUDGETS else len(_BUDGETS)
