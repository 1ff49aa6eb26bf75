"""Links that leave ``docs/``: the file is copied into the site, so that every link of the repository leads somewhere."""

from __future__ import annotations

import logging
import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
_LINK = re.compile(r"(\]\()((?:\.\./)[^)\s]*)(\))")
_CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
#: What a browser shows as it is; anything else is shown as text.
_SHOWN = {".png", ".svg", ".json", ".md", ".txt", ".csv"}

_log = logging.getLogger("mkdocs.hooks.repository")


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files, **_: Any) -> str:
    """mkdocs calls it for each page, after ``includes``."""
    pages = {source.src_uri for source in files.documentation_pages()}

    def text(match: re.Match[str]) -> str:
        target, _, anchor = match[2].partition("#")
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.file.src_uri), target))
        if path.startswith("docs/"):
            return match[0]
        found = _place(path, pages, config, files)
        if found is None:
            _log.warning("%s links to %s, which is no file of the repository", page.file.src_uri, path)
            return match[0]
        link = os.path.relpath(found, posixpath.dirname(page.file.src_uri) or ".")
        return f"{match[1]}{link}{'#' + anchor if anchor else ''}{match[3]}"

    return _outside_code(markdown, lambda part: _LINK.sub(text, part))


def _place(path: str, pages: set[str], config: Any, files: Files) -> str | None:
    """Where the site has a file of the repository; ``None`` where there is no such file."""
    from docs.hooks.includes import PAGES

    if path in PAGES and PAGES[path] in pages:
        return PAGES[path]
    source = ROOT / path
    if source.is_dir():  # its first file tells what it is for
        source = next((source / name for name in ("__init__.py", "README.md") if (source / name).is_file()), source)
    if not source.is_file():
        return None
    uri = f"files/{source.relative_to(ROOT).as_posix()}" + ("" if source.suffix in _SHOWN else ".txt")
    uri = uri.replace(".md", ".md.txt")  # not a page
    if files.get_file_from_path(uri) is None:
        files.append(File.generated(config, uri, abs_src_path=str(source)))
    return uri


def _outside_code(markdown: str, change: Any) -> str:
    parts, end = [], 0
    for block in _CODE.finditer(markdown):
        parts += [change(markdown[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*parts, change(markdown[end:])])
