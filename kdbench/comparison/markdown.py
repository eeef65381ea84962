"""Tables in Markdown, whose cells may be names that anybody chose."""

from __future__ import annotations

import html
from collections.abc import Sequence


def cell(text: str) -> str:
    """Text as it reads: no name opens an element, ends a cell or a line."""
    return " ".join(html.escape(text, quote=False).split()).replace("|", "\\|")


def table(header: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """A table.

    Args:
        words: how many columns from the left hold words rather than numbers.
    """
    rule = ["---" if index < words else "---:" for index in range(len(header))]
    lines = [[cell(text) for text in header], rule, *([cell(text) for text in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
