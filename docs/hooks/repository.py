"""What the pages have of the repository: whole files as their text, and links to files, which the site then holds.

``<!-- include: PATH -->`` becomes the file's text, its links moved along. A link that leaves ``docs/`` leads to the
page that includes the file, or to a copy of the file in the site, so that every link leads somewhere.
"""

from __future__ import annotations

import logging
import os
import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
#: Files of the repository that are pages, by their paths from its root.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing/contributing.md",
    "bench/README.md": "benchmarks/protocol.md",
}
#: What a browser shows as it is; anything else gets the suffix of a text.
SHOWN = {".png", ".svg", ".json", ".txt", ".csv"}

_INCLUDE = re.compile(r"^<!-- include: (\S+) -->$", re.MULTILINE)
_TITLE = re.compile(r"\A# .*\n+")
_LINK = re.compile(r"(?<=\]\()([^)#\s]+)")
_CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_log = logging.getLogger("mkdocs.hooks.repository")


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files, **_: Any) -> str:
    """mkdocs calls it for each page."""
    place = posixpath.dirname(page.file.src_uri)

    def moved(link: str) -> str:
        path = posixpath.normpath(posixpath.join("docs", place, link))
        if ":" in link or path.startswith("docs/"):
            return link
        found = PAGES.get(path) or _copied(path, config, files)
        if found is None:
            _log.warning("%s links to %s, which is no file of the repository", page.file.src_uri, path)
            return link
        return os.path.relpath(found, place or ".")

    return _with_links(included(markdown, place), moved)


def included(markdown: str, place: str) -> str:
    """The text of a page in the folder ``place`` of ``docs/`` with what it includes, without the titles of that."""

    def text(match: re.Match[str]) -> str:
        folder = posixpath.dirname(match[1])

        def moved(link: str) -> str:
            return link if ":" in link else os.path.relpath(posixpath.join(folder, link), posixpath.join("docs", place))

        return _with_links(_TITLE.sub("", (ROOT / match[1]).read_text()), moved)

    return _INCLUDE.sub(text, markdown)


def _copied(path: str, config: Any, files: Files) -> str | None:
    """Where the site has a file of the repository, from now on; ``None`` where there is no such file."""
    source = ROOT / path
    if not source.is_file():
        return None
    place = f"files/{path}" + ("" if source.suffix in SHOWN else ".txt")
    if files.get_file_from_path(place) is None:
        files.append(File.generated(config, place, abs_src_path=str(source)))
    return place


def _with_links(markdown: str, moved: Callable[[str], str]) -> str:
    """Markdown with its links moved, those in blocks of code left alone."""
    parts, end = [], 0
    for block in _CODE.finditer(markdown):
        parts += [_LINK.sub(lambda link: moved(link[0]), markdown[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*parts, _LINK.sub(lambda link: moved(link[0]), markdown[end:])])
