"""What is known to be wrong, check by check. It may only shrink.

A habit that is listed here and is right, or is refused with its cause named, fails the test of its check.
"""

from __future__ import annotations

KNOWN_WRONG: dict[str, frozenset[str]] = {
    "full": frozenset(),
    "low": frozenset(),
    "compiled": frozenset(),
}
