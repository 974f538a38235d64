"""The documents: links lead somewhere, lists are complete, messages are those that the code has."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from builders import ROOT

import clsweep

DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_link_is_dead(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))
    for link in links:
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target), link


def _anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    ("group", "page"), [("regularizer", "methods.md"), ("benchmark", "benchmarks.md"), ("dataset", "benchmarks.md")]
)
def test_a_page_names_all_that_there_is_to_choose(group: str, page: str) -> None:
    text = (ROOT / "docs" / page).read_text()
    missing = [file.stem for file in (ROOT / "conf" / group).glob("*.yaml") if f"`{file.stem}`" not in text]
    assert not missing


def test_the_site_lists_every_page() -> None:
    listed = re.findall(r"^ +- (?:.+: )?([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), flags=re.MULTILINE)
    made = {"index.md", "contributing.md"}  # of README and CONTRIBUTING, by scripts/site.py
    assert sorted(listed) == sorted(made | {page.relative_to(ROOT / "docs").as_posix() for page in DOCS})


def test_the_changelog_begins_with_the_version_and_says_what_breaks_first() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    latest = text.split("\n## ")[1]
    assert re.match(rf"{re.escape(clsweep.__version__)} \(\d{{4}}-\d\d-\d\d\)\n", latest)
    assert re.findall(r"^### (.+)$", latest, flags=re.MULTILINE) == ["Breaks", "Added", "Changed", "Fixed"]
    assert [line for line in text.splitlines() if len(line) > 120 or (line and line[0] not in "#-")] == []


def test_troubleshooting_quotes_messages_that_the_code_has() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    quoted = re.findall(r"^\| `([^`]+)` \|", text, flags=re.MULTILINE)
    assert len(quoted) > 5
    said = "\n".join(message for file in (ROOT / "clsweep").rglob("*.py") for message in _texts(file))
    assert [one for one in quoted if one not in said] == []


def _texts(file: Path) -> list[str]:
    """The texts in a module; what is filled in is left out."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(str(part.value) for part in node.values if isinstance(part, ast.Constant)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    interface = (tmp_path / "site" / "interface" / "index.html").read_text()
    assert all(f'id="clsweep.interface.{name}"' in interface for name in ("run", "sweep", "load_model", "evaluate"))
