"""What runs and sweeps leave behind: writing it (`writing`) and reading it again (`loading`, `load`)."""

from clsweep.paths import short
from clsweep.results.loading import BEST_FILE, FINAL_FILE, REPORT_MARK, TRIALS_FILE, UNFINISHED, Problem, Results, load
from clsweep.results.writing import (
    ACCURACY_FILE,
    FAILED,
    FINISHED,
    FORMAT_VERSION,
    INTERRUPTED,
    PRUNED,
    SUMMARY_FILE,
    Summary,
    accuracy_matrix,
    csv_text,
    refuse_used,
    write,
    write_bytes,
    write_csv,
    write_text,
)

__all__ = [
    "ACCURACY_FILE",
    "BEST_FILE",
    "FAILED",
    "FINAL_FILE",
    "FINISHED",
    "FORMAT_VERSION",
    "INTERRUPTED",
    "PRUNED",
    "REPORT_MARK",
    "SUMMARY_FILE",
    "TRIALS_FILE",
    "UNFINISHED",
    "Problem",
    "Results",
    "Summary",
    "accuracy_matrix",
    "csv_text",
    "load",
    "refuse_used",
    "short",
    "write",
    "write_bytes",
    "write_csv",
    "write_text",
]
