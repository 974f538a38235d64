"""What is on the page, protocol by protocol and study by study."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from clsweep.errors import InputError
from clsweep.report import figures, leaderboard, names, stability
from clsweep.report.figures import Drawn, Job, Undrawn
from clsweep.report.plots import style
from clsweep.report.sections import Section, StudySection, section, study_section
from clsweep.report.selection import Selection
from clsweep.report.unit import FRACTION, Unit
from clsweep.results import BEST_FILE, Problem, Results


def contents(
    found: Results, chosen: Selection, table: pd.DataFrame, unit: Unit = FRACTION, every_file: bool = False
) -> tuple[list[Section], list[StudySection]]:
    """Everything on the page; the figures of all parts are drawn together, on several cores.

    Args:
        found: what was read; problems that turn up on the way are added to its own.
        chosen: the runs that are compared.
        table: the leaderboard.
        unit: of accuracies.
        every_file: make PDFs and PNGs of all figures, not only of the protocols on the leaderboard.

    Returns:
        A section for each protocol, and one for each study.
    """
    groups = [part for _, part in table.groupby("protocol", sort=False)]
    titles = names.numbered([names.protocol_title(part.iloc[0].to_dict()) for part in groups])
    slugs = figures.slugs(titles)
    looks = style.looks(table["method"].drop_duplicates())
    study_slugs = figures.slugs([f"study-{name}" for name in figures.study_names(found)])
    study_titles = names.numbered(names.study_titles(found))
    studies = list(found.studies["study"])
    spaces = [space if isinstance(space, dict) else {} for space in found.studies["space"]]
    trials = [found.trials[found.trials["study"] == study] for study in studies]
    jobs: list[list[Job]] = []
    for slug, title, part in zip(slugs, titles, groups, strict=True):
        runs = chosen.runs[chosen.runs["protocol"] == part["protocol"].iloc[0]]
        own = figures.of_protocol(slug, title, part, runs, found.cells, looks, unit)
        jobs.append([*own, *stability.figures(slug, title, part, runs, found.curves, unit)])
    for slug, name, study, mine, space in zip(study_slugs, study_titles, studies, trials, spaces, strict=True):
        jobs.append(_of_study(slug, name, study, mine, space, found, unit))
    first = set(leaderboard.overview(table)["protocol"])
    printed = [every_file or part["protocol"].iloc[0] in first for part in groups] + [every_file] * len(studies)
    parts = _drawn(jobs, printed, found)
    sections = [
        section(slug, title, part, own, unit)
        for slug, title, part, own in zip(slugs, titles, groups, parts, strict=False)
    ]
    study_sections = [
        study_section(slug, name, study, mine, found.finals[found.finals["study"] == study], list(space), own, unit)
        for slug, name, study, mine, space, own in zip(
            study_slugs, study_titles, studies, trials, spaces, parts[len(groups) :], strict=True
        )
    ]
    return sections, study_sections


def _of_study(
    slug: str, name: str, study: str, trials: pd.DataFrame, space: dict[str, str], found: Results, unit: Unit
) -> list[Job]:
    try:
        return list(figures.of_study(slug, name, trials, space, unit))
    except InputError as error:
        found.problems.append(Problem(f"{study}/{BEST_FILE}", f"what was searched can't be read ({error})"))
        return []


def _drawn(jobs: Sequence[Sequence[Job]], printed: Sequence[bool], found: Results) -> list[list[Drawn]]:
    """The figures of each part; one that could not be drawn is a problem that is named."""
    wanted = [one for part, one in zip(jobs, printed, strict=True) for _ in part]
    made = iter(figures.draw([job for part in jobs for job in part], wanted))
    parts: list[list[Drawn]] = []
    for part in jobs:
        own = [next(made) for _ in part]
        parts.append([one for one in own if isinstance(one, Drawn)])
        found.problems.extend(
            Problem(one.name, f"this figure was not drawn ({one.reason})") for one in own if isinstance(one, Undrawn)
        )
    return parts
