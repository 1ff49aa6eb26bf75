"""Pages that are files of the repository: ``<!-- include: PATH -->`` becomes the file's text, its links moved along."""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_INCLUDE = re.compile(r"^<!-- include: (\S+) -->$", re.MULTILINE)
_LINK = re.compile(r"(\]\()([^)#\s]+)")
_HEADING = re.compile(r"\A# .*\n+")

#: Files of the repository that are pages, by their paths from its root: links to them lead to the page.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing/contributing.md",
    "bench/README.md": "benchmarks/protocol.md",
}


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """mkdocs calls it for each page."""
    return included(markdown, page.file.src_uri)


def included(markdown: str, page: str) -> str:
    """The page's text with what it includes. page: its path in ``docs/``. The file's own title is left out."""

    def text(match: re.Match[str]) -> str:
        path = match[1]
        found = _HEADING.sub("", (ROOT / path).read_text())
        return _LINK.sub(lambda link: link[1] + _moved(link[2], posixpath.dirname(path), page), found)

    return _INCLUDE.sub(text, markdown)


def _moved(target: str, source: str, page: str) -> str:
    """A link of a file in ``source`` as one of the page."""
    if ":" in target:
        return target
    from_root = posixpath.normpath(posixpath.join(source, target))
    return os.path.relpath(from_root, posixpath.join("docs", posixpath.dirname(page)))
