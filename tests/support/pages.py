"""What a user reads: the README and the pages of ``docs/``, with what stands in them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: Every page, by its path from the root.
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in (
        *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "bench/README.md")),
        *sorted((ROOT / "docs").rglob("*.md")),
    )
}
#: All of them in one, as words between single spaces.
WORDS = " ".join(" ".join(PAGES.values()).split())


def blocks(text: str, language: str) -> list[str]:
    """The blocks of code of a page, without indentation."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def links(text: str) -> list[str]:
    """What a page links to inside the repository, without anchors."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [link for link in re.findall(r"\]\(([^)#\s]+)", prose) if ":" not in link]


def commands(text: str) -> list[list[str]]:
    """The calls of ``lowmode-fx`` in a page's blocks for a shell, as words."""
    lines = "".join(blocks(text, "sh")).replace("\\\n", " ").splitlines()
    calls = (shlex.split(line, comments=True) for line in lines)
    return [words[words.index("lowmode-fx") + 1 :] for words in calls if "lowmode-fx" in words]
