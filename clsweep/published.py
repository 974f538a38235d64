"""Published figures, which stand beside a run only where its protocol is the one that they were measured under."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

from clsweep import defaults
from clsweep.config import Config, PublishedConfig
from clsweep.protocol import Protocol


@dataclass(frozen=True)
class Published:
    """Published average accuracies, all at one strength that was not tuned.

    Attributes:
        protocol: how they were measured.
        accuracy: by method, from 0 to 1.
        note: what every mention of a figure says with it.
        described: all that is known of how they were measured.
    """

    protocol: Protocol
    accuracy: dict[str, float]
    note: str
    described: str


@cache
def published() -> dict[str, Published]:
    """The published figures of the benchmarks that ship, by the benchmark's name."""
    made = {name: _resolved(defaults.usual(name)) for name in defaults.names()}
    return {name: one for name, one in made.items() if one is not None}


def figure(config: Config) -> str | None:
    """The published average accuracy of a run's method, with a note, where the run follows the same protocol."""
    own = _resolved(config)
    if own is None or config.method not in own.accuracy or Protocol.of(config) != own.protocol:
        return None
    return f"{own.accuracy[config.method]:.4f} ({own.note})"


def _resolved(config: Config) -> Published | None:
    """A benchmark's figures with their whole protocol; None where too little is known of them to be shown.

    Their `protocol` says how it differs from the benchmark's own.
    """
    figures: PublishedConfig | None = config.benchmark.published
    if figures is None or figures.reg_strength is None or not _are_fields(figures.protocol):
        return None
    protocol = replace(defaults.protocol(config), **figures.protocol)
    note = f"strength {figures.reg_strength:g}, {protocol.iters:,} iterations"
    described = f"published by {figures.source}: strength {figures.reg_strength:g} for every method, {figures.setting}"
    return Published(protocol, dict(figures.accuracy), note, described)


def _are_fields(values: Mapping[str, Any]) -> bool:
    """Whether they are a protocol's; an older setting may have others."""
    return set(values) <= {one.name for one in fields(Protocol)}
