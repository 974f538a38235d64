"""A hook of MkDocs: README and CONTRIBUTING become pages of the site, and no link leads from it into the checkout."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from mkdocs.structure.files import File

ROOT: Final = Path(__file__).resolve().parent.parent
_PAGES: Final = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md"}
_LINK: Final = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s:#]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the two pages."""
    for source, name in _PAGES.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Let links lead to pages of the site; what they say of any other file stays as text."""
    names = {page: source for source, page in _PAGES.items()}
    own = page.file.src_uri
    source = ROOT / names[own] if own in names else ROOT / "docs" / own

    def renewed(found: re.Match[str]) -> str:
        mark, text, target, anchor = found[1], found[2], found[3], found[4] or ""
        path = (source.parent / target).resolve().relative_to(ROOT)
        name = _PAGES.get(str(path)) or (str(path.relative_to("docs")) if path.parts[0] == "docs" else None)
        if name is None:
            return text
        up = "../" * own.count("/")
        return f"{mark}[{text}]({up}{name}{anchor})"

    return _LINK.sub(renewed, markdown)
