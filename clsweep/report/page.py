"""What the report says, put into the templates `report.html.j2` and `leaderboard.md.j2`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

import clsweep
from clsweep.report import leaderboard
from clsweep.report.leaderboard import TEST
from clsweep.report.pairs import Comparisons
from clsweep.report.regret import Part
from clsweep.report.sections import Section, StudySection, overview, protocols
from clsweep.report.selection import Selection
from clsweep.report.svg import Inlined
from clsweep.report.unit import FRACTION, Unit
from clsweep.results import FINISHED, Results

_SHOWN_OF_A_KIND: Final = 50


def left_out(results: Results) -> pd.DataFrame:
    """The runs that are in no mean because they didn't finish, and the files that weren't read: `left_out.csv`.

    Args:
        results: what was read.

    Returns:
        Columns `path`, `what` (unfinished, failed, interrupted, pruned, or skipped for a file) and `reason`.
    """
    runs = results.runs[results.runs["status"] != FINISHED]
    skipped = [{"path": one.path, "what": "skipped", "reason": one.message} for one in results.problems]
    named = runs[["folder", "status", "reason"]].set_axis(["path", "what", "reason"], axis=1)
    return pd.concat([named, pd.DataFrame(skipped, columns=["path", "what", "reason"])], ignore_index=True)


def counted(results: Results, selection: Selection) -> list[str]:
    """What was found, a sentence each."""
    runs = results.runs
    roles = runs["role"].value_counts()
    statuses = runs["status"].value_counts()
    lines = [
        f"runs: {len(runs)} ({', '.join(f'{count} {status}' for status, count in statuses.items())})",
        f"single runs: {roles.get('single', 0)}; studies: {len(results.studies)}, with the folders of "
        f"{roles.get('trial', 0)} runs of their search and of {roles.get('final', 0)} final ones",
        f"compared: {len(selection.runs)} (finished, trained on all training data, each seed once)",
    ]
    if selection.held_out:
        lines.append(f"not compared, since they held training data out to choose values by: {selection.held_out}")
    if selection.repeated:
        lines.append(f"not compared, since the same values and seed were run again later: {selection.repeated}")
    if results.problems:
        lines.append(f"files that were skipped: {len(results.problems)}")
    return lines


def html(
    table: pd.DataFrame,
    sections: Sequence[Section],
    studies: Sequence[StudySection],
    results: Results,
    selection: Selection,
    compared: Comparisons,
    regret: Sequence[Part],
    folders: Sequence[str],
    now: datetime,
    unit: Unit = FRACTION,
) -> str:
    """The page.

    Args:
        table: the whole leaderboard.
        sections: a protocol each.
        studies: a study each.
        results: what was read.
        selection: what is compared.
        compared: methods in pairs.
        regret: what each way of tuning costs.
        folders: what was asked for.
        now: when.
        unit: of accuracies.
    """
    inlined = Inlined()
    parts: list[Section | StudySection] = [*sections, *studies]
    figures = {one.name: inlined.add(one.svg) for part in parts for one in part.drawn}
    missing = left_out(results)
    groups = {str(what): part for what, part in missing.groupby("what", sort=False)}
    return _rendered(
        "report.html.j2",
        **_common(table, sections, results, selection, unit),
        studies=studies,
        compared=compared,
        regret=regret,
        inlined=figures,
        sheet=inlined.sheet(),
        groups={what: part.head(_SHOWN_OF_A_KIND).to_dict("records") for what, part in groups.items()},
        sizes={what: len(part) for what, part in groups.items()},
        folders=folders,
        now=now,
        version=clsweep.__version__,
    )


def markdown(
    table: pd.DataFrame,
    sections: Sequence[Section],
    results: Results,
    selection: Selection,
    unit: Unit = FRACTION,
) -> str:
    """The leaderboard as Markdown; see `html`."""
    return _rendered("leaderboard.md.j2", **_common(table, sections, results, selection, unit))


def tex(
    table: pd.DataFrame,
    sections: Sequence[Section],
    results: Results,
    selection: Selection,
    unit: Unit = FRACTION,
) -> str:
    """The leaderboard and the tables of its protocols for LaTeX with the package booktabs; see `html`."""
    first = set(protocols(table).values())
    shown = [section for section in sections if section.protocol in first]
    return _rendered("leaderboard.tex.j2", **_common(table, shown, results, selection, unit))


def _common(
    table: pd.DataFrame, sections: Sequence[Section], results: Results, selection: Selection, unit: Unit
) -> dict[str, Any]:
    benchmarks, rows = overview(table, unit)
    return {
        "benchmarks": benchmarks,
        "overview": rows,
        "not_in_it": leaderboard.not_in_it(results, table),
        "protocols": protocols(table),
        "sections": sections,
        "counted": counted(results, selection),
        "test": TEST,
        "unit": unit,
    }


def _rendered(name: str, **values: Any) -> str:
    made = Environment(
        loader=PackageLoader("clsweep.report", "templates"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["plain"] = _plain
    made.filters["latex"] = latex
    made.filters["latex_number"] = _latex_number
    return str(made.get_template(name).render(**values))


def _plain(text: object) -> str:
    """A text as Markdown shows it letter by letter, in a cell of a table too."""
    return re.sub(r"[\\`*_\[\]<>|&~$]", r"\\\g<0>", " ".join(str(text).split()))


def latex(text: object) -> str:
    """A text as LaTeX prints it letter by letter; what pdfLaTeX's fonts lack is printed as its code."""
    escaped = "".join(_LATEX.get(letter) or _known(letter) for letter in " ".join(str(text).split()))
    return re.sub("-(?=-)", "-{}", escaped)  # two would be one dash


def _latex_number(figure: object) -> str:
    """A cell's numbers, with minus signs."""
    return latex(figure).replace("-", "$-$")


_LATEX: Final = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "…": r"\dots{}",
}
_LAST_OF_LATIN_1: Final = "\u00ff"


def _known(letter: str) -> str:
    return letter if letter <= _LAST_OF_LATIN_1 else f"[U+{ord(letter):04X}]"
