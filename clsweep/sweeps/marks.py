"""What a sweep records about a trial besides what Optuna does: attributes, and how it ended."""

from __future__ import annotations

from typing import Final

REASON: Final = "reason"
ENDED: Final = "ended"
NOTES: Final = "notes"  # what the user should know of a trial's runs: sentences
CARRIED: Final = "carried_seconds"  # of runs that an earlier trial of the same point made
FAILED, INTERRUPTED, LOST, VOID = "failed", "interrupted", "lost", "void"
CONTINUES: Final = "continues"  # the number of the trial, stopped at a rung, whose point this one goes on with
