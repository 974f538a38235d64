"""`python -m clsweep --help`: the text of `conf/config.yaml`, with what there is to choose from.

Hydra would compose a whole setting first, and read every file of every group: twice as long as all the rest.
"""

from __future__ import annotations

from pathlib import Path
from string import Template

import yaml

from clsweep.paths import config_dir, group_files

_APART = ("tuned",)  # chosen by the benchmark and the method together


def text(own: Path | None) -> str:
    """The help.

    Args:
        own: the folder of `--config-dir`, whose groups are listed, too.
    """
    written = yaml.safe_load((config_dir() / "config.yaml").read_text(encoding="utf-8"))
    return Template(written["hydra"]["help"]["template"]).substitute(APP_CONFIG_GROUPS=_groups(own)).rstrip()


def _groups(own: Path | None) -> str:
    """A line for each group, with the names of its files."""
    choices: dict[str, set[str]] = {}
    for file in group_files("*", own):
        choices.setdefault(file.parent.name, set()).add(file.stem)
    listed = sorted(group for group in choices if group not in _APART and group != "hydra")
    return "".join(f"{group}: {', '.join(sorted(choices[group]))}\n" for group in listed)
