"""What is printed, where, and in which letters: results alone on standard output, in whatever encoding it has."""

from __future__ import annotations

import codecs
import contextlib
import io
import sys
import unicodedata
from collections.abc import Iterator

#: Replacements in ASCII, for encodings that lack a printed character.
_PLAIN = {
    **{"×": "x", "→": "->", "…": "...", "−": "-", "–": "-", "±": "+-", "≤": "<=", "≥": ">=", "µ": "u", "¦": "|"},
    **{"█": "#", "░": "-", "⌈": "ceil(", "⌉": ")", "⌊": "floor(", "⌋": ")"},
    **dict.fromkeys("─━╌┄╴╶", "-"),
    **dict.fromkeys("│┃╎┆", "|"),
    **dict.fromkeys("╭╮╰╯┌┐└┘├┤┬┴┼", "+"),
}
_HANDLER = "lowmode_fx.plain"


def _plainly(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(map(_sign, signs)), error.end


def _sign(sign: str) -> str:
    if sign in _PLAIN:
        return _PLAIN[sign]
    return unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode() or "?"


def print_in_any_encoding() -> None:
    """Let standard output and error spell signs that their encoding has not (``×`` as ``x``), instead of failing."""
    codecs.register_error(_HANDLER, _plainly)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)


@contextlib.contextmanager
def results_alone() -> Iterator[None]:
    """Inside, what a user's code prints goes to standard error, so that standard output has the result alone."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
