"""matplotlib's SVG as a page takes it: in the page's text colour, and a fraction of the size."""

from __future__ import annotations

import re
from typing import Final

from clsweep.report.plots.style import INK

_DROPPED: Final = re.compile(r"<metadata>.*?</metadata>|<!--.*?-->|<style[^>]*>.*?</style>", re.DOTALL)
_COORDINATES: Final = re.compile(r'\b(d|x|y|transform|points)="[^"]*"')
_LONG: Final = re.compile(r"-?\d+\.\d{2,}")
_TURNED_BY_NOTHING: Final = re.compile(r' transform="rotate\(-?0 [^)]*\)"')
_SIZE: Final = re.compile(r' (width|height)="[\d.]+pt"')
_ID: Final = re.compile(r'\bid="([^"]*)"')
_REFERENCE: Final = re.compile(r'(?:href="#|url\(#)([^")]*)')
_STYLE: Final = re.compile(r'\bstyle="([^"]*)"')


class Inlined:
    """The figures of one page, whose styles are classes of one sheet: most of them are the same everywhere."""

    def __init__(self) -> None:
        self._classes: dict[str, str] = {}
        self._figures = 0

    def add(self, svg: bytes) -> str:
        """A figure to be put into the page; its ids are its own.

        Args:
            svg: as matplotlib wrote it.
        """
        self._figures += 1
        text = svg.decode()
        text = _DROPPED.sub("", text[text.index("<svg") :]).replace(INK.lower(), "currentColor")
        text = _TURNED_BY_NOTHING.sub("", _SIZE.sub("", text, count=2))
        text = _COORDINATES.sub(lambda found: _LONG.sub(_rounded, " ".join(found[0].split())), text)
        used = set(_REFERENCE.findall(text))
        text = _ID.sub(lambda found: found[0] if found[1] in used else "", text)
        text = re.sub(r'(\bid="|href="#|url\(#)', rf"\1f{self._figures}-", text)
        text = _STYLE.sub(self._classed, text)
        text = re.sub(r"\s+(?=/?>)", "", text)
        text = re.sub(r">\s+<", "><", text)
        return re.sub(r"<defs></defs>|<defs/>", "", text).strip()

    def sheet(self) -> str:
        """The styles of all figures that were added."""
        return "\n".join(f".{name} {{ {style} }}" for style, name in self._classes.items())

    def _classed(self, found: re.Match[str]) -> str:
        name = self._classes.setdefault(found[1], f"f-{len(self._classes)}")
        return f'class="{name}"'


def _rounded(found: re.Match[str]) -> str:
    """A coordinate, in points, to a hundredth: less than a pixel on any screen."""
    return f"{float(found[0]):.2f}".rstrip("0").rstrip(".")
